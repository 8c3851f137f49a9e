package agent

import (
	"context"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/outbox"
)

// FollowRefunds makes the records of all refunds what they are to be now: a part
// of a job's charge follows the charge, and a refund is on the resource on which
// its job is charged. A refund whose job has moved goes to 0 where it was.
func (a *Agent) FollowRefunds(ctx context.Context) error {
	refunds, err := a.Queue.Refunds(ctx)
	if err != nil {
		return err
	}
	_, adopted, err := a.Queue.Met(ctx)
	if err != nil {
		return err
	}
	var items []outbox.Item
	var writes []outbox.Write
	for _, r := range refunds {
		job, err := a.present(ctx, r.Job)
		if err != nil {
			return err
		}
		record := r.Record(job)
		old, err := a.Queue.List(ctx, outbox.Filter{LocalRecordID: record.LocalRecordID})
		if err != nil {
			return err
		}
		known := false
		for _, e := range old {
			switch at := e.Record.Common(); {
			case at.Resource == record.Resource:
				known = true
			case at.Charge.Cmp(amieusage.ChargeOfMillionths(0)) != 0:
				w := outbox.Write{ID: e.ID, Was: e.Version(), Content: true, Revise: true, Entry: e}
				w.Entry.Record, w.Entry.State, w.Entry.Superseded = amieusage.WithCharge(e.Record, amieusage.ChargeOfMillionths(0)), outbox.Pending, true
				writes = append(writes, w)
			}
		}
		if r.Undone && !known && !adopted {
			continue // there is nothing to take back; an outbox that was lost may have given something
		}
		items = append(items, outbox.Item{Record: record, Place: "refund of job " + job.Record.Common().LocalRecordID})
	}
	if len(writes) > 0 {
		if _, err := a.Queue.Apply(ctx, writes, nil); err != nil {
			return err
		}
	}
	if len(items) == 0 {
		return nil
	}
	outcomes, err := a.Queue.Enqueue(ctx, items, nil)
	if err != nil {
		return err
	}
	a.Count(func(s *Summary) {
		for i, o := range outcomes {
			switch o.Change {
			case outbox.Added:
				s.New++
				s.charge(items[i].Record)
			case outbox.Revised:
				s.Changed++
				s.charge(items[i].Record)
			}
		}
	})
	return nil
}

// JobOf returns the entry by which the job of a refund is charged now.
func (a *Agent) JobOf(ctx context.Context, r *outbox.Refund) (*outbox.Entry, error) {
	return a.present(ctx, r.Job)
}

// present returns the entry by which the job of an entry is charged now.
func (a *Agent) present(ctx context.Context, id outbox.ID) (*outbox.Entry, error) {
	e, err := a.Queue.Get(ctx, id)
	if err != nil || !e.Superseded {
		return &e, err
	}
	identity := e.Record.Identity()
	same, err := a.Queue.Known(ctx, []outbox.Names{{RecordID: identity.LocalRecordID}})
	if err != nil {
		return nil, err
	}
	for i := range same[0] {
		if o := &same[0][i]; !o.Superseded && o.Record.Identity().KeyTime.Equal(identity.KeyTime) {
			return o, nil
		}
	}
	return &e, nil
}
