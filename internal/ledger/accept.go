package ledger

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/amieusage/amieusage"
)

// Accept judges each record of a message on its own, stores the valid ones as
// one batch, and returns only when that is on stable storage. The refused ones
// come back in the answer with their reasons.
//
// Errors are *amieusage.Error: [amieusage.CodeInvalid] for what is no message,
// [amieusage.CodeTooLarge] for one of too many records,
// [amieusage.CodeTooManyRequests] where the site's queue is too deep; nothing
// is stored then.
func (s *Service) Accept(ctx context.Context, who Caller, resources map[string]bool, message []byte) (*amieusage.SendResponse, error) {
	usageType, items, err := amieusage.DecodeMessage(message)
	if err != nil {
		return nil, err
	}
	if len(items) > maxMessageRecords {
		return nil, &amieusage.Error{
			Code:    amieusage.CodeTooLarge,
			Message: fmt.Sprintf("the message has %d records, more than %d", len(items), maxMessageRecords),
			Hint:    "send fewer records in each message",
		}
	}
	answer := &amieusage.SendResponse{}
	policy := cmp.Or(who.Policy, s.policy)
	batch := &Batch{
		Site:       who.Site,
		KeyID:      who.KeyID,
		UsageType:  usageType,
		AcceptedAt: s.clock(),
		Records:    make([][]byte, 0, len(items)),
	}
	for _, raw := range items {
		record, err := amieusage.CheckRecord(usageType, raw)
		if err == nil && s.noAhead {
			err = timesAhead(record, s.latest(batch.AcceptedAt).Add(maxAhead))
		}
		if err == nil && policy != Open && !resources[record.Common().Resource] {
			err = &amieusage.ValidationError{Fields: []amieusage.FieldError{
				{Field: "Resource", Problem: "is not a resource of this site"},
			}}
		}
		if err != nil {
			answer.FailedRecords = append(answer.FailedRecords, amieusage.FailedRecord{
				UsageType: usageType, Error: err.Error(), Record: record, Problem: err, Raw: raw,
			})
			continue
		}
		batch.Records = append(batch.Records, raw)
	}
	if len(batch.Records) > 0 {
		if err := s.store.Accept(ctx, batch, s.maxQueued); err != nil {
			return nil, err
		}
		s.Wake()
	}
	s.stats.accepted.Add(int64(len(batch.Records)))
	s.stats.refused.Add(int64(len(answer.FailedRecords)))
	answer.Message = amieusage.QueuedMessage(len(batch.Records), len(answer.FailedRecords))
	return answer, nil
}

// maxAhead is how far a site's clock may be ahead of the service's.
const maxAhead = 24 * time.Hour

// timesAhead refuses compute and storage records with times after the last one that
// is believed: they would be in no period that anybody looks at. Adjustments may be
// for what is to come, such as reservations.
func timesAhead(record amieusage.Record, last time.Time) error {
	type named struct {
		field string
		time  time.Time
	}
	var times []named
	switch r := record.(type) {
	case *amieusage.ComputeRecord:
		times = []named{{"SubmitTime", r.SubmitTime}, {"StartTime", r.StartTime}, {"EndTime", r.EndTime}}
	case *amieusage.StorageRecord:
		times = []named{{"CollectionTime", r.CollectionTime}}
	}
	var fields []amieusage.FieldError
	for _, t := range times {
		if t.time.After(last) {
			fields = append(fields, amieusage.FieldError{Field: t.field, Problem: "is more than a day ahead: " + amieusage.FormatTime(t.time)})
		}
	}
	if fields == nil {
		return nil
	}
	return &amieusage.ValidationError{Fields: fields}
}

// latest returns the latest time that the service's clock has shown: where it steps
// back, what was right before is not refused.
func (s *Service) latest(now time.Time) time.Time {
	for {
		seen := s.seen.Load()
		if Nanos(now) <= seen {
			return TimeOf(seen)
		}
		if s.seen.CompareAndSwap(seen, Nanos(now)) {
			return now
		}
	}
}

// Wake tells Run that there is something to load.
func (s *Service) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// ErrQueueFull is what a send is refused with while too many records of its
// site are queued.
var ErrQueueFull = &amieusage.Error{
	Code:    amieusage.CodeTooManyRequests,
	Message: "too many records of this site are waiting to be loaded",
	Hint:    "send again later",
}

type hangUpKey struct{}

// WithHangUp returns the context of requests whose client has given up waiting
// when hungUp says so. Their context ends then, too, but not at once in a process
// that was stopped meanwhile.
func WithHangUp(ctx context.Context, hungUp func() bool) context.Context {
	return context.WithValue(ctx, hangUpKey{}, hungUp)
}

// Awaited returns an error when nobody waits any more for what a context is of:
// when it has ended, and also when its deadline is over, or its client has hung
// up (see [WithHangUp]), and the process was stopped meanwhile, and could not
// notice.
//
// A store asks at the end of Accept, while it holds what lets no other batch of
// the site in: who has given up waiting may have sent the batch again, and
// something newer behind it, which this one must not replace.
func Awaited(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	if hungUp, ok := ctx.Value(hangUpKey{}).(func() bool); ok && hungUp() {
		return context.Canceled
	}
	return ctx.Err()
}
