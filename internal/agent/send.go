package agent

import (
	"context"
	"iter"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/usageclient"
)

// Send sends what is pending, and stores each answer as it comes. The error is
// the first that left a record unsent; it stays pending.
func (a *Agent) Send(ctx context.Context) error {
	if err := a.meet(ctx); err != nil {
		return err
	}
	// under way holds what was taken from the outbox and not yet answered.
	underWay := map[int]outbox.Entry{}
	pending := func(yield func(amieusage.Record, error) bool) {
		index := 0
		for entry, err := range a.pending(ctx) {
			if err == nil {
				underWay[index] = entry
				index++
			}
			if !yield(entry.Record, err) {
				return
			}
		}
	}
	err := a.Client.SendStream(ctx, pending, func(part *usageclient.SendResult) error {
		var deliveries []outbox.Delivery
		for _, o := range part.Outcomes {
			entry := underWay[o.Index]
			delete(underWay, o.Index)
			switch o.State {
			case usageclient.Accepted:
				deliveries = append(deliveries, outbox.Delivery{ID: entry.ID, Revision: entry.Revision})
			case usageclient.Refused:
				deliveries = append(deliveries, outbox.Delivery{
					ID: entry.ID, Revision: entry.Revision, Rejected: true, Reason: o.Err.Error(),
				})
			}
		}
		// The service has them: that is stored even when the run is being cut
		// off.
		if _, err := a.Queue.Sent(context.WithoutCancel(ctx), deliveries); err != nil {
			return err
		}
		a.Count(func(s *Summary) {
			for _, o := range part.Outcomes {
				switch o.State {
				case usageclient.Accepted:
					s.Sent++
				case usageclient.Refused:
					s.Rejected++
					s.problem(Problem{Kind: "rejected", Record: o.Record.String(), Reason: o.Err.Error()})
				}
			}
		})
		a.progress("sending")
		return nil
	})
	if err == nil && a.enqueued == nil { // nobody collects any more
		err = a.adopt(ctx, outbox.Note{Kind: "adopt", Who: "an earlier report --adopt"})
	}
	return err
}

// pending takes what is pending out of the outbox, page by page; what was taken
// may have left, whatever becomes of this program.
func (a *Agent) pending(ctx context.Context) iter.Seq2[outbox.Entry, error] {
	return func(yield func(outbox.Entry, error) bool) {
		for after := outbox.ID(0); ; {
			page, err := a.Queue.Leave(ctx, after)
			if err != nil {
				yield(outbox.Entry{}, err)
				return
			}
			if len(page) == 0 {
				return
			}
			for _, e := range page {
				if !yield(e, nil) {
					return
				}
				after = e.ID
			}
		}
	}
}
