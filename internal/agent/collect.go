package agent

import (
	"context"
	"errors"
	"iter"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/scheduler"
)

// enqueueItems is how many records one transaction enqueues.
const enqueueItems = 2000

// Collect converts the source's jobs and enqueues their records. The cursor
// (nil: none) moves with the last of them, and only when the source was read
// to its end. Rows that cannot be used are counted; they stop nothing.
//
// Jobs of one source that have the same identity but not the same content are
// counted as bad too: a ledger holds one of them, the last.
//
// With preview, nothing is enqueued: it is called with each record that would
// be.
func (a *Agent) Collect(ctx context.Context, source scheduler.Source, cursor *outbox.Cursor, preview func(outbox.Item)) error {
	e := &enqueuing{Agent: a, cursor: cursor, preview: preview, seen: idSet{}}
	return e.run(ctx, a.convert(ctx, source))
}

// convert yields an item for each job that is to be reported.
func (a *Agent) convert(ctx context.Context, source scheduler.Source) iter.Seq2[outbox.Item, error] {
	return func(yield func(outbox.Item, error) bool) {
		for job, err := range source.Jobs(ctx) {
			var item outbox.Item
			if err == nil {
				record, skip, rowErr := a.Rules.Convert(job)
				a.Count(func(s *Summary) {
					s.Read++
					if skip != "" {
						s.Skip(string(skip), 1)
					}
				})
				if skip != "" {
					continue
				}
				if err = rowErr; err == nil {
					item = outbox.Item{Record: record, Place: job.Place.String()}
				}
			}
			if !yield(item, err) {
				return
			}
		}
	}
}

// Enqueue enqueues records that come from elsewhere than a scheduler; of
// several contents of one record the last counts. An error of type
// *scheduler.RowError concerns one record only.
func (a *Agent) Enqueue(ctx context.Context, items iter.Seq2[outbox.Item, error]) error {
	return (&enqueuing{Agent: a}).run(ctx, items)
}

// An enqueuing is one run of Collect or Enqueue.
type enqueuing struct {
	*Agent
	cursor  *outbox.Cursor
	preview func(outbox.Item)
	seen    idSet // the entries that it has met; nil: they may come again
	chunk   []outbox.Item
	ahead   int // entries of which Deliver was not told yet
}

func (e *enqueuing) run(ctx context.Context, items iter.Seq2[outbox.Item, error]) error {
	var failed error
	for item, err := range items {
		if row, ok := errors.AsType[*scheduler.RowError](err); ok {
			e.bad(Problem{Place: row.Place.String(), Reason: row.Error()})
			continue
		}
		if err != nil {
			failed = err
			break
		}
		if e.chunk = append(e.chunk, item); len(e.chunk) == enqueueItems {
			if err := e.store(ctx, nil); err != nil {
				return err
			}
		}
	}
	if failed == nil {
		failed = ctx.Err()
	}
	if failed != nil {
		// What was read is good all the same; the cursor stays.
		return errors.Join(failed, e.store(context.WithoutCancel(ctx), nil))
	}
	return e.store(ctx, e.cursor)
}

// store enqueues the chunk and counts what that did.
func (e *enqueuing) store(ctx context.Context, cursor *outbox.Cursor) error {
	if e.seen != nil {
		e.keepLast()
	}
	var outcomes []outbox.Outcome
	var err error
	if e.preview != nil {
		outcomes, err = e.Queue.Preview(ctx, e.chunk)
	} else {
		outcomes, err = e.Queue.Enqueue(ctx, e.chunk, cursor)
	}
	if err != nil {
		return err
	}
	var overwriting []Problem
	e.Count(func(s *Summary) {
		for i, o := range outcomes {
			// The IDs of entries that are new to a preview come again.
			again := e.seen != nil && (e.preview == nil || o.Change != outbox.Added) && e.seen.add(o.ID)
			switch o.Change {
			case outbox.Unchanged:
				s.Unchanged++
				continue
			case outbox.Added:
				s.New++
			case outbox.Revised:
				s.Changed++
				if again {
					overwriting = append(overwriting, overwrites(e.chunk[i], "an earlier row"))
				}
			}
			e.ahead++
			s.charge(e.chunk[i].Record)
			if e.preview != nil {
				e.preview(e.chunk[i])
			}
		}
	})
	for _, p := range overwriting {
		e.bad(p)
	}
	e.chunk = e.chunk[:0]
	e.progress("collecting")
	if e.ahead >= entriesAhead {
		select {
		case e.enqueued <- struct{}{}:
			e.ahead = 0
		default: // nobody waits, or has been told
		}
	}
	return nil
}

// keepLast leaves of the chunk's jobs with the same identity only the last, so
// that reading them again changes nothing.
func (e *enqueuing) keepLast() {
	last := make(map[amieusage.Identity]int, len(e.chunk))
	for i, item := range e.chunk {
		last[item.Record.Identity()] = i
	}
	if len(last) == len(e.chunk) {
		return
	}
	kept := e.chunk[:0] // what is still to be read lies behind it
	for i, item := range e.chunk {
		j := last[item.Record.Identity()]
		switch {
		case i == j:
			kept = append(kept, item)
		case amieusage.ContentDigest(item.Record) == amieusage.ContentDigest(e.chunk[j].Record):
			e.Count(func(s *Summary) { s.Unchanged++ })
		default:
			e.bad(overwrites(e.chunk[j], item.Place))
		}
	}
	e.chunk = kept
}

// overwrites is the problem of an item that stands for another one of the
// same source.
func overwrites(item outbox.Item, other string) Problem {
	return Problem{
		Place:  item.Place,
		Record: item.Record.String(),
		Reason: item.Place + " is another job with the id and submit time of " + other +
			": only this one is reported; correct the accounting, or report the other with amieusage send",
	}
}

// An idSet is a set of entries' IDs, a bit for each, so that it stays small
// beside any number of jobs. IDs are given one after the other: the set holds
// pages of those that share all bits but the last twelve.
type idSet map[outbox.ID]*[64]uint64

// add reports whether the ID was in the set already.
func (s idSet) add(id outbox.ID) bool {
	page := s[id>>12]
	if page == nil {
		page = new([64]uint64)
		s[id>>12] = page
	}
	word, bit := &page[id>>6&63], uint64(1)<<(id&63)
	known := *word&bit != 0
	*word |= bit
	return known
}
