package agent

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/scheduler"
)

// A Restating says of which days a table tells all that there is.
type Restating struct {
	// Source is that of the table's jobs.
	Source string
	// Days returns the ends of the first and the last day that the table tells of, once it was read; zero: of none.
	Days func() (first, last time.Time)
	// Since is before what nothing goes to 0 any more.
	Since time.Time
	// AcceptMissing takes it that most of what was there is gone.
	AcceptMissing bool
}

// CollectCounted collects a table of usage that was counted elsewhere, as Collect does. What it had said of one of its days
// before, and says no more, goes to 0. Nothing does where the table cannot be all there is: it ends in an error, a row of it
// cannot be read, or most of what was there is gone.
func (a *Agent) CollectCounted(ctx context.Context, table scheduler.Source, r Restating, preview func(outbox.Item)) error {
	c := a.collecting(preview)
	badBefore := a.Summary.Bad
	shown := 0
	err := c.run(ctx, scheduler.SourceFunc(func(ctx context.Context) iter.Seq2[*scheduler.Job, error] {
		return func(yield func(*scheduler.Job, error) bool) {
			for job, err := range table.Jobs(ctx) {
				shown++
				if !yield(job, err) {
					return
				}
			}
		}
	}))
	if err == nil && a.Summary.Bad == badBefore {
		err = c.withdrawGone(ctx, &r, shown)
	}
	return errors.Join(err, a.settle(ctx, preview))
}

// withdrawGone brings to 0 what is in the table no more.
func (c *collecting) withdrawGone(ctx context.Context, r *Restating, shown int) error {
	first, last := r.Days()
	if first.IsZero() {
		return nil
	}
	if first.Before(r.Since) {
		first = r.Since
	}
	var gone []*scheduler.Job
	var names []string
	for e, err := range c.Queue.EndedJobs(ctx, first, last.Add(time.Nanosecond)) {
		if err != nil {
			return err
		}
		if e.Job == nil || e.Superseded || c.seen.has(e.ID) || e.Job.Facts.Source != r.Source || usesNothing(&e.Job.Facts) {
			continue
		}
		job := e.Job.Facts.Clone()
		for i := range job.TRES {
			job.TRES[i].Count, job.TRES[i].Nanos = 0, 0
		}
		job.Place = scheduler.Place{File: "gone from the table"}
		gone = append(gone, job)
		if len(names) < maxNamed {
			names = append(names, job.DisplayID)
		}
	}
	if len(gone) > shown && !r.AcceptMissing {
		return &scheduler.IncompleteError{
			Problem: fmt.Sprintf("the table has %d rows, and %d of its days that were reported are in it no more (%s): none of these was changed", shown, len(gone), strings.Join(names, ", ")),
			Remedy:  "see whether the table is whole; where it is: amieusage report --accept-missing",
		}
	}
	return c.run(ctx, scheduler.SourceFunc(func(context.Context) iter.Seq2[*scheduler.Job, error] {
		return func(yield func(*scheduler.Job, error) bool) {
			for _, job := range gone {
				if !yield(job, nil) {
					return
				}
			}
		}
	}))
}

func usesNothing(job *scheduler.Job) bool {
	return !slices.ContainsFunc(job.TRES, func(t scheduler.TRES) bool { return t.Count != 0 || t.Nanos != 0 })
}
