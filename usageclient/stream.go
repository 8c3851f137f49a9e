package usageclient

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"

	"github.com/amieusage/amieusage"
)

// maxFailedRequests is the number of requests in a row that the service may
// refuse as a whole before a stream ends.
const maxFailedRequests = 3

// A stream is one run of SendStream. Its methods return only errors of report.
type stream struct {
	*Client
	ctx    context.Context
	report func(*SendResult) error
	open   map[amieusage.UsageType]*batch
	// scratch holds the JSON of the record that is being added.
	scratch []byte
	// limit is the largest body that the service is known to want: the
	// client's own limit, or less as answers teach.
	limit int
	// fitBytes and fitRecords are the largest accepted so far.
	fitBytes, fitRecords int
	apart                bool  // requests are not tried again, as the service takes others
	alone                int   // records that the service fails at
	inRow                int   // requests in a row that failed while apart
	single               bool  // it is one record, which is to go alone
	failed               int   // requests refused as a whole, in a row
	first                error // the first error that left a record unsent
	ended                error // why nothing is sent any more, or nil
}

func (c *Client) newStream(ctx context.Context, report func(*SendResult) error) *stream {
	s := &stream{
		Client: c,
		ctx:    ctx,
		report: report,
		open:   make(map[amieusage.UsageType]*batch),
		limit:  c.maxBytes,
	}
	if n := c.RequestBytes(); n > 0 {
		s.limit = min(n, s.limit)
	}
	return s
}

// learn keeps the size of a request that the service wants.
func (s *stream) learn(limit int) {
	s.limit = limit
	s.SetRequestBytes(limit)
}

// note keeps the first error, but for those of single records if there is
// another.
func (s *stream) note(err error) {
	if s.first == nil || errors.Is(s.first, ErrRecord) && !errors.Is(err, ErrRecord) {
		s.first = err
	}
}

// add takes a record into the open batch of its kind, and delivers a batch that
// is full.
func (s *stream) add(index int, r amieusage.Record) error {
	if isNil(r) {
		return s.refuse("", item{index: index, record: r, refusal: invalid("the record is nil", "")})
	}
	t := r.UsageType()
	if s.validate {
		if err := r.Validate(); err != nil {
			return s.refuse(t, item{index: index, record: r, refusal: err})
		}
	}
	s.scratch = r.AppendJSON(s.scratch[:0])
	b := s.batch(t)
	if alone := b.sizeOf(s.scratch); alone > s.maxBytes {
		return s.refuse(t, item{index: index, record: r, refusal: tooLarge("the record takes "+strconv.Itoa(alone)+
			" bytes in a request of its own, and a request may have "+strconv.Itoa(s.maxBytes), nil)})
	}
	if b.records > 0 && b.size()+len(",")+len(s.scratch) > s.limit {
		full := b
		b = newBatch(t, len(full.body))
		s.open[t] = b
		if err := s.deliver(full); err != nil {
			return err
		}
	}
	b.append(index, r, s.scratch)
	return s.deliverFull(b)
}

// refuse takes a record that is not sent into the open batch of its kind, so
// that it is reported in its place.
func (s *stream) refuse(t amieusage.UsageType, it item) error {
	b := s.batch(t)
	b.refuse(it)
	return s.deliverFull(b)
}

func (s *stream) batch(t amieusage.UsageType) *batch {
	if s.open[t] == nil {
		s.open[t] = newBatch(t, 0)
	}
	return s.open[t]
}

func (s *stream) deliverFull(b *batch) error {
	if len(b.items) < s.maxRecords {
		return nil
	}
	s.open[b.usageType] = newBatch(b.usageType, len(b.body))
	return s.deliver(b)
}

// flush delivers the open batches, that with the first record first.
func (s *stream) flush() error {
	rest := slices.DeleteFunc(slices.Collect(maps.Values(s.open)), func(b *batch) bool { return len(b.items) == 0 })
	slices.SortFunc(rest, func(a, b *batch) int { return cmp.Compare(a.items[0].index, b.items[0].index) })
	for _, b := range rest {
		if err := s.deliver(b); err != nil {
			return err
		}
	}
	return nil
}

// deliver sends a batch, in parts where it has to be, and reports what became
// of it.
func (s *stream) deliver(b *batch) error {
	switch {
	case s.ended != nil:
		return s.report(b.result(Unsent, s.ended))
	case b.records == 0:
		return s.report(b.result(Accepted, nil))
	case b.records > 1 && b.size() > s.limit:
		return s.deliverBoth(b.halves())
	}
	response, err := s.post(s.ctx, b, s.apart)
	if err == nil {
		result, exact := b.judged(response.FailedRecords, s.redact)
		result.Responses = append(result.Responses, response)
		if !exact {
			s.log.WarnContext(s.ctx, "usage request is split: the service refused records that cannot be told apart",
				"records", b.records, "refused", len(response.FailedRecords))
			return s.deliverBoth(b.halves())
		}
		s.failed, s.inRow = 0, 0
		s.fitBytes, s.fitRecords = max(s.fitBytes, b.size()), max(s.fitRecords, b.records)
		return s.report(result)
	}
	e, ok := err.(*Error)
	switch {
	case ok && s.isTooLarge(e, b) && b.records > 1:
		left, right := b.halves()
		s.learn(max(left.size(), right.size()))
		s.log.WarnContext(s.ctx, "usage request is split: the service finds it too large",
			"error", e.Error(), "records", b.records, "bytes", b.size(), "limit", s.limit)
		return s.deliverBoth(left, right)
	case ok && s.isTooLarge(e, b):
		return s.report(b.result(Refused, tooLarge("the record is too large for the service", err)))
	}
	if ok && s.ctx.Err() == nil && s.mayBeParted(e) {
		switch {
		case s.apart && s.isOutage(e, b.records == 1):
		case s.apart && b.records > 1:
			return s.deliverBoth(b.halves())
		case s.apart:
			s.alone++
			err = &recordError{err}
			s.note(err)
			return s.report(b.result(Unsent, err))
		case b.records > 1:
			if parted, err := s.deliverParted(b); parted || err != nil {
				return err
			}
		}
	}
	s.note(err)
	s.failed++
	if !ok || !concernsRequestAlone(e) || s.failed == maxFailedRequests {
		s.ended = err
	}
	return s.report(b.result(Unsent, err))
}

func (s *stream) deliverBoth(left, right *batch) error {
	if err := s.deliver(left); err != nil {
		return err
	}
	return s.deliver(right)
}

// A recordError is the failure of a service at one record.
type recordError struct{ err error }

func (e *recordError) Error() string { return ErrRecord.Error() + ": " + e.err.Error() }

func (e *recordError) Is(target error) bool { return target == ErrRecord }

// As gives the failure of the request. What that is otherwise, such as
// ErrUnavailable, is not true of the service.
func (e *recordError) As(target any) bool {
	failure, ok := target.(**Error)
	return ok && errors.As(e.err, failure)
}

// mayBeParted reports whether a service that fails at a request may still take
// its parts. One that says in a code of its own what is wrong means all of it, and
// amieusage's own judges each record by itself: where it fails, it fails at all.
// One of which nothing is known yet may be that.
func (s *stream) mayBeParted(e *Error) bool {
	return !e.coded && !s.IsAmieusage() && (s.met.foreign.Load() || s.single) && (concernsRequestAlone(e) || e.Status == 0 && e.retry || e.Status == http.StatusGatewayTimeout)
}

// deliverParted sends a request at which the service has failed in parts, if it
// accepts the first of its records, or the second one, alone. Otherwise it is the
// service that fails, and nothing is reported.
func (s *stream) deliverParted(b *batch) (parted bool, err error) {
	s.apart, s.inRow = true, 0
	defer func() { s.apart = false }()
	first, rest := b.part(1)
	var failure error // of the first one, where the second one is accepted
	response, err := s.post(s.ctx, first, true)
	if err != nil {
		failure = &recordError{err}
		second, others := rest, (*batch)(nil)
		if rest.records > 1 {
			second, others = rest.part(1)
		}
		if response, err = s.post(s.ctx, second, true); err == nil {
			s.alone++
			s.note(failure)
			if err := s.report(first.result(Unsent, failure)); err != nil {
				return true, err
			}
			first, rest = second, others
		}
	}
	if err != nil {
		return false, nil
	}
	s.log.WarnContext(s.ctx, "usage request is split: the service takes a record of it alone, and fails at all of them together",
		"records", b.records, "bytes", b.size())
	result, _ := first.judged(response.FailedRecords, s.redact) // it is one record
	result.Responses = append(result.Responses, response)
	if err := s.report(result); err != nil {
		return true, err
	}
	s.failed = 0
	if rest == nil {
		return true, nil
	}
	if s.IsAmieusage() { // this was its first answer
		s.apart = false
		return true, s.deliver(rest)
	}
	alone, fit := s.alone, s.fitBytes
	s.fitBytes = first.size()
	err = s.deliver(rest)
	if s.alone == alone && failure == nil && s.fitBytes < rest.size() {
		s.learn(s.fitBytes) // nothing is wrong with any of them: it was the size
	}
	s.fitBytes = max(s.fitBytes, fit)
	return true, err
}

// isOutage counts a failure while apart, and reports whether the service has come
// to fail at everything. One record that it fails at is reached in as many
// failures as the request can be halved; then it must still answer another call.
func (s *stream) isOutage(e *Error, one bool) bool {
	const halvings, neighbours = 16, 16
	if one && e.Status == 0 {
		r := &request{method: http.MethodGet, path: failedPath, once: true}
		if _, err := s.do(s.ctx, r); err != nil {
			other, ok := err.(*Error)
			if !ok || other.Status == 0 {
				return true
			}
		}
	}
	s.inRow++
	if e.Status == 0 {
		return s.inRow > halvings
	}
	return s.inRow > halvings+neighbours
}

// concernsRequestAlone reports whether the service, having failed at one
// request, may still serve the next one.
func concernsRequestAlone(e *Error) bool {
	switch e.Status {
	case http.StatusBadRequest, http.StatusConflict, http.StatusUnprocessableEntity, http.StatusInternalServerError:
		return true
	}
	return false
}

// isTooLarge reports whether the service refused the batch for its size. Status
// and code say so. A service that gives no code is known to say it with status
// 400 and in words only: these are believed as long as no request of the same
// size was accepted, so that words about something else do not split every
// request into its records.
func (s *stream) isTooLarge(e *Error, b *batch) bool {
	switch {
	case e.Status == http.StatusRequestEntityTooLarge || e.Status == http.StatusBadRequest && e.Code == amieusage.CodeTooLarge:
		return true
	case e.Status != http.StatusBadRequest || e.coded:
		return false
	}
	return saysTooLarge.MatchString(e.Message) && (b.size() > s.fitBytes || b.records > s.fitRecords)
}

// saysTooLarge matches a sentence on the size of a request: what is too large
// must be the request, not a field.
var saysTooLarge = regexp.MustCompile(
	`(?i)\b(request|body|payload|entity|content|message|packet|post)\b.*\b(too (large|big|long)|exceed\w*|larger than|limit)\b` +
		`|\btoo (large|big|long)\b.*\b(request|body|payload|entity|packet)\b|\btoo many records\b`)

func tooLarge(message string, cause error) error {
	return &amieusage.Error{
		Code:    amieusage.CodeTooLarge,
		Message: message,
		Hint:    "shorten its text fields",
		Err:     cause,
	}
}

// isNil reports whether there is no record to look at.
func isNil(r amieusage.Record) bool {
	switch r := r.(type) {
	case *amieusage.ComputeRecord:
		return r == nil
	case *amieusage.StorageRecord:
		return r == nil
	case *amieusage.AdjustmentRecord:
		return r == nil
	}
	return true
}
