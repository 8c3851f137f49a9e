package usageclient

import (
	"cmp"
	"context"
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
	failed               int   // requests refused as a whole, in a row
	first                error // the first error that left a record unsent
	ended                error // why nothing is sent any more, or nil
}

func (c *Client) newStream(ctx context.Context, report func(*SendResult) error) *stream {
	return &stream{
		Client: c,
		ctx:    ctx,
		report: report,
		open:   make(map[amieusage.UsageType]*batch),
		limit:  c.maxBytes,
	}
}

// note keeps the first error.
func (s *stream) note(err error) {
	if s.first == nil {
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
	response, err := s.post(s.ctx, b)
	if err == nil {
		result, exact := b.judged(response.FailedRecords, s.redact)
		if !exact {
			s.log.WarnContext(s.ctx, "usage request is split: the service refused records that cannot be told apart",
				"records", b.records, "refused", len(response.FailedRecords))
			return s.deliverBoth(b.halves())
		}
		s.failed = 0
		s.fitBytes, s.fitRecords = max(s.fitBytes, b.size()), max(s.fitRecords, b.records)
		return s.report(result)
	}
	e, ok := err.(*Error)
	switch {
	case ok && s.isTooLarge(e, b) && b.records > 1:
		left, right := b.halves()
		s.limit = max(left.size(), right.size())
		s.log.WarnContext(s.ctx, "usage request is split: the service finds it too large",
			"error", e.Error(), "records", b.records, "bytes", b.size(), "limit", s.limit)
		return s.deliverBoth(left, right)
	case ok && s.isTooLarge(e, b):
		return s.report(b.result(Refused, tooLarge("the record is too large for the service", err)))
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
