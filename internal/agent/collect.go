package agent

import (
	"context"
	"errors"
	"iter"

	"github.com/amieusage/amieusage/internal/batch"
	"github.com/amieusage/amieusage/internal/outbox"
)

// enqueueItems is how many records one transaction enqueues.
const enqueueItems = 2000

// Collect converts the source's jobs and enqueues their records. The cursor
// (nil: none) moves with the last of them, and only when the source was read
// to its end. Rows that cannot be used are counted; they stop nothing.
//
// With preview, nothing is enqueued: it is called with each record that would
// be.
func (a *Agent) Collect(ctx context.Context, source batch.Source, cursor *outbox.Cursor, preview func(outbox.Item)) error {
	return a.enqueue(ctx, a.convert(ctx, source), cursor, preview)
}

// convert yields an item for each job that is to be reported.
func (a *Agent) convert(ctx context.Context, source batch.Source) iter.Seq2[outbox.Item, error] {
	return func(yield func(outbox.Item, error) bool) {
		for job, err := range source.Jobs(ctx) {
			if err != nil {
				if !yield(outbox.Item{}, err) {
					return
				}
				continue
			}
			a.Summary.Read++
			record, skip, err := a.Rules.Convert(job)
			switch {
			case err != nil:
				if !yield(outbox.Item{}, err) {
					return
				}
			case skip != "":
				a.Summary.Skip(string(skip), 1)
			default:
				if !yield(outbox.Item{Record: record, Place: job.Place.String()}, nil) {
					return
				}
			}
		}
	}
}

// Enqueue enqueues records that come from elsewhere than a scheduler. An error
// of type *batch.RowError concerns one record only.
func (a *Agent) Enqueue(ctx context.Context, items iter.Seq2[outbox.Item, error]) error {
	return a.enqueue(ctx, items, nil, nil)
}

func (a *Agent) enqueue(ctx context.Context, items iter.Seq2[outbox.Item, error], cursor *outbox.Cursor, preview func(outbox.Item)) error {
	chunk := make([]outbox.Item, 0, enqueueItems)
	store := func(cursor *outbox.Cursor) error {
		defer a.progress("collecting")
		if err := a.store(ctx, chunk, cursor, preview); err != nil {
			return err
		}
		chunk = chunk[:0]
		return nil
	}
	for item, err := range items {
		if _, ok := errors.AsType[*batch.RowError](err); ok {
			a.bad(err)
			continue
		}
		if err != nil {
			// What was read is good all the same; the cursor stays.
			return errors.Join(err, store(nil))
		}
		if chunk = append(chunk, item); len(chunk) == enqueueItems {
			if err := store(nil); err != nil {
				return err
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return store(cursor)
}

// store enqueues one chunk and counts what it did.
func (a *Agent) store(ctx context.Context, chunk []outbox.Item, cursor *outbox.Cursor, preview func(outbox.Item)) error {
	var outcomes []outbox.Outcome
	var err error
	if preview != nil {
		outcomes, err = a.Queue.Preview(ctx, chunk)
	} else {
		outcomes, err = a.Queue.Enqueue(ctx, chunk, cursor)
	}
	if err != nil {
		return err
	}
	for i, o := range outcomes {
		switch o.Change {
		case outbox.Unchanged:
			a.Summary.Unchanged++
			continue
		case outbox.Added:
			a.Summary.New++
		case outbox.Revised:
			a.Summary.Changed++
		}
		a.Summary.charge(chunk[i].Record)
		if preview != nil {
			preview(chunk[i])
		}
	}
	return nil
}
