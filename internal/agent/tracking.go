package agent

import (
	"context"
	"fmt"

	"github.com/amieusage/amieusage/internal/outbox"
)

// judgeTracking sends, with a charge of 0, the jobs that had none of what their
// rate is for, where other jobs of the rate had some: those are jobs without
// GPUs, say. Where no job had any, the accounting does not track it
// (AccountingStorageTRES in slurm.conf), and nobody knows what they cost: they
// stay held, and the run says so.
func (a *Agent) judgeTracking(ctx context.Context) error {
	var writes []outbox.Write
	held := map[string]int64{}     // by resource
	example := map[string]string{} // a job of each
	for e, err := range outbox.All(ctx, a.Queue, outbox.Filter{States: []outbox.State{outbox.Held}}) {
		if err != nil {
			return err
		}
		if e.Decision != outbox.NotTracked || e.Job == nil {
			continue
		}
		if !a.tracked[e.Job.Rate] {
			held[e.Job.Made.Resource]++
			example[e.Job.Made.Resource] = e.Job.Facts.DisplayID
			continue
		}
		w := outbox.Write{ID: e.ID, Was: e.Version(), Entry: e}
		w.Entry.State, w.Entry.Decision, w.Entry.Reason = outbox.Pending, "", ""
		if e.WaitsFor != 0 {
			w.Entry.State = outbox.Waiting
		}
		if writes = append(writes, w); len(writes) == enqueueItems {
			if _, err := a.Queue.Apply(ctx, writes, nil); err != nil {
				return err
			}
			writes = nil
		}
	}
	if len(writes) > 0 {
		if _, err := a.Queue.Apply(ctx, writes, nil); err != nil {
			return err
		}
	}
	for resource, n := range held {
		a.Count(func(s *Summary) { s.Held += n })
		a.problem(Problem{Kind: "held", Record: resource, Reason: fmt.Sprintf(
			"no job that was read has any of what %s is charged by: its %d jobs (such as %s) are not sent; see what the accounting records (Slurm: AccountingStorageTRES in slurm.conf), or release them: amieusage records release",
			resource, n, example[resource])})
	}
	return nil
}
