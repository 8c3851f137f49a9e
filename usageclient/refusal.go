package usageclient

import "github.com/amieusage/amieusage"

// A service lists the records that it refuses, but not by their place in the
// message. They are told by what they say: of the likenesses below, from the
// best to the faintest, each returns a comparable key, or nil where the record
// has none.
var likenesses = []func(amieusage.Record) any{
	// The service gave the record back as it was.
	func(r amieusage.Record) any { return amieusage.ContentDigest(r) },
	// It wrote some field in its own way.
	func(r amieusage.Record) any {
		if id := r.Identity(); id.LocalRecordID != "" {
			return id
		}
		return nil
	},
	// It could not read the time, and left it out.
	func(r amieusage.Record) any {
		if c := r.Common(); c.LocalRecordID != "" && c.Resource != "" {
			return nameKey{c.Resource, c.LocalRecordID}
		}
		return nil
	},
	// It gave back little but the site's own key.
	func(r amieusage.Record) any {
		if c := r.Common(); c.LocalReference != "" {
			return c.LocalReference
		}
		return nil
	},
	func(r amieusage.Record) any {
		if c := r.Common(); c.LocalRecordID != "" {
			return c.LocalRecordID
		}
		return nil
	},
}

type nameKey struct{ resource, localRecordID string }

// judged returns the outcomes of a batch that the service has taken, but for
// the records in its list of failed ones.
//
// It is exact where there is no doubt which those are. It is not where a
// refusal is like no record of the batch, or like several that differ: two
// revisions of one identity, say, that the service gave back in part. Then the
// batch is to be sent again in halves, until each record stands alone: no
// record counts as accepted that may be the refused one. An earlier failed
// record that the service lists, which has an id and is like none of the batch,
// leaves no doubt.
func (b *batch) judged(failed []amieusage.FailedRecord, redact func(string) string) (result *SendResult, exact bool) {
	reasons := make(map[int]error, len(failed)) // by place among the items
	exact = true
	for level, likeness := range likenesses {
		if len(failed) == 0 {
			break
		}
		candidates := make(map[any][]int)
		for i, it := range b.items {
			if it.refusal == nil && reasons[i] == nil {
				if key := likeness(it.record); key != nil {
					candidates[key] = append(candidates[key], i)
				}
			}
		}
		var rest []amieusage.FailedRecord
		hits := make(map[any][]amieusage.FailedRecord)
		for _, f := range failed {
			var key any
			if r := b.echoed(f); r != nil {
				key = likeness(r)
			}
			if key != nil && candidates[key] != nil {
				hits[key] = append(hits[key], f)
			} else {
				rest = append(rest, f)
			}
		}
		for key, fs := range hits {
			places := candidates[key]
			// Equal content has one fate, even where the service lists it once.
			exact = exact && (level == 0 || len(fs) >= len(places))
			for n, i := range places {
				reasons[i] = refusedFor(fs[min(n, len(fs)-1)], redact)
			}
		}
		failed = rest
	}
	var unmatched []amieusage.FailedRecord
	for _, f := range failed {
		switch {
		case f.FailedRecordID != 0:
			unmatched = append(unmatched, f)
		case b.records == 1:
			for i := range b.items { // the refused one is the one that was sent
				if reasons[i] == nil {
					reasons[i] = refusedFor(f, redact)
				}
			}
		default:
			exact = false
		}
	}
	result = b.resultOf(func(i int) (State, error) {
		if reasons[i] != nil {
			return Refused, reasons[i]
		}
		return Accepted, nil
	})
	result.Unmatched = unmatched
	return result, exact
}

// echoed returns the record of a refusal as far as it can be read, or nil. One
// that does not say its kind is of the batch's.
func (b *batch) echoed(f amieusage.FailedRecord) amieusage.Record {
	if f.Record != nil {
		return f.Record
	}
	r := amieusage.NewRecord(b.usageType)
	// What can be read is set even where some of it cannot.
	_ = r.UnmarshalJSON(f.Raw)
	return r
}

func refusedFor(f amieusage.FailedRecord, redact func(string) string) error {
	reason := redact(f.Error)
	if reason == "" {
		reason = "the service gives no reason"
	}
	return &amieusage.Error{Code: amieusage.CodeInvalid, Message: reason}
}
