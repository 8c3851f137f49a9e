package agent

import (
	"context"
	"errors"
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
	known, err := a.Queue.RequestBytes(ctx)
	if err != nil {
		return err
	}
	if known > 0 && a.Client.RequestBytes() == 0 {
		grown := known + known/8 // it may take more by now
		if grown >= amieusage.MaxRequestBytes {
			grown = 0
		}
		a.Client.SetRequestBytes(grown)
	}
	defer func() {
		if n := a.Client.RequestBytes(); n != known {
			_ = a.Queue.SetRequestBytes(context.WithoutCancel(ctx), n) // or it is found out again
		}
	}()
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
	take := func(part *usageclient.SendResult) error {
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
			case usageclient.Unsent:
				if errors.Is(o.Err, usageclient.ErrRecord) {
					deliveries = append(deliveries, outbox.Delivery{ID: entry.ID, Revision: entry.Revision, Fails: true, Reason: o.Err.Error()})
					a.failing(entry.ID)
				}
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
				case usageclient.Unsent:
					if errors.Is(o.Err, usageclient.ErrRecord) {
						s.Unsendable++
						s.problem(Problem{Kind: "not sent", Record: o.Record.String(), Reason: o.Err.Error()})
					}
				}
			}
		})
		a.progress("sending")
		return nil
	}
	err = a.Client.SendStream(ctx, pending, take)
	if errors.Is(err, usageclient.ErrRecord) {
		err = nil // the others are sent
	}
	if err == nil && a.enqueued == nil {
		err = a.sendAlone(ctx, func(e outbox.Entry, o usageclient.Outcome) error {
			underWay[o.Index] = e
			return take(&usageclient.SendResult{Outcomes: []usageclient.Outcome{o}})
		})
	}
	if err == nil && a.enqueued == nil { // nobody collects any more
		err = a.adopt(ctx, outbox.Note{Kind: "adopt", Who: "an earlier report --adopt"})
	}
	return err
}

// failing notes that the service fails at a record: it is not tried again in this
// run, and alone in the next one.
func (a *Agent) failing(id outbox.ID) {
	if a.fails == nil {
		a.fails = map[outbox.ID]bool{}
	}
	a.fails[id] = true
}

// sendAlone sends the records at which the service failed in an earlier run, each
// in a request of its own, and once.
func (a *Agent) sendAlone(ctx context.Context, take func(outbox.Entry, usageclient.Outcome) error) error {
	after := outbox.ID(0)
	for {
		page, err := a.Queue.Leave(ctx, after)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, e := range page {
			after = e.ID
			if e.Reason == "" || a.fails[e.ID] {
				continue
			}
			outcome, err := a.Client.SendOnce(ctx, e.Record)
			if err != nil && !errors.Is(err, usageclient.ErrRecord) {
				return err
			}
			if err := take(e, outcome); err != nil {
				return err
			}
		}
	}
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
				after = e.ID
				if e.Reason == "" && !yield(e, nil) {
					return
				}
			}
		}
	}
}
