package agent

import (
	"context"
	"errors"
	"iter"

	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/scheduler"
)

// Enqueue enqueues records that come from elsewhere than a scheduler; of
// several contents of one record the last counts. An error of type
// *scheduler.RowError concerns one record only. With preview nothing is stored,
// and it is called with what would be sent.
func (a *Agent) Enqueue(ctx context.Context, items iter.Seq2[outbox.Item, error], preview func(outbox.Item)) error {
	chunk := make([]outbox.Item, 0, enqueueItems)
	store := func(ctx context.Context) (err error) {
		var outcomes []outbox.Outcome
		if preview != nil {
			outcomes, err = a.Queue.Preview(ctx, chunk)
		} else {
			outcomes, err = a.Queue.Enqueue(ctx, chunk, nil)
		}
		if err != nil {
			return err
		}
		a.Count(func(s *Summary) {
			for i, o := range outcomes {
				switch o.Change {
				case outbox.Unchanged:
					s.Unchanged++
					continue
				case outbox.Added:
					s.New++
				case outbox.Revised:
					s.Changed++
				}
				s.charge(chunk[i].Record)
				if preview != nil {
					preview(chunk[i])
				}
			}
		})
		chunk = chunk[:0]
		a.progress("collecting")
		return nil
	}
	var failed error
	for item, err := range items {
		if row, ok := errors.AsType[*scheduler.RowError](err); ok {
			a.bad(Problem{Place: row.Place.String(), Reason: row.Error()})
			continue
		}
		if err != nil {
			failed = err
			break
		}
		if chunk = append(chunk, item); len(chunk) == enqueueItems {
			if err := store(ctx); err != nil {
				return err
			}
		}
	}
	if failed == nil {
		failed = ctx.Err()
	}
	// What was read is good all the same.
	return errors.Join(failed, store(context.WithoutCancel(ctx)))
}
