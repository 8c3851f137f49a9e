package agent

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/scheduler"
)

// A Window is what is asked of an accounting: the jobs that ended in [From, To).
type Window struct {
	From, To time.Time
	// Slice is how much of the window is asked for at once; 0: all of it.
	Slice time.Duration
	// Source names the cursor, and Cursor is where it stands; zero: nowhere yet.
	Source string
	Cursor time.Time
	// Others says that the site has other accountings, too: their jobs are not
	// missing in this one.
	Others bool
	// Caller is the user who asks: an accounting that shows only this user's jobs
	// may be hiding the others. "": nobody is taken for that.
	Caller string
	// AcceptMissing takes jobs that the accounting does not have any more for
	// purged: they stay as they were charged.
	AcceptMissing bool
}

// CollectWindow collects a window of an accounting, a slice at a time. The cursor
// moves behind each slice that was read whole, and never back. A slice is whole
// when the accounting has read it to its end and shows every job that it has
// shown before: what is missing is asked for by id first.
//
// The error is a *scheduler.IncompleteError where the accounting cannot be all
// there is; what was read is kept all the same.
func (a *Agent) CollectWindow(ctx context.Context, accounting scheduler.Accounting, w Window, preview func(outbox.Item)) error {
	known, err := a.Queue.KnowsJobs(ctx)
	if err != nil {
		return err
	}
	if w.Others && w.Cursor.IsZero() {
		known = false // what is known is of another accounting
	}
	s := &sliced{Agent: a, Window: w, accounting: accounting, told: map[string]bool{}}
	moves := w.Cursor.IsZero() || !w.From.After(w.Cursor)
	if w.Slice <= 0 {
		w.Slice = w.To.Sub(w.From)
	}
	for from := w.From; from.Before(w.To); from = from.Add(w.Slice) {
		to := from.Add(w.Slice)
		if to.After(w.To) {
			to = w.To
		}
		c := a.collecting(preview)
		err := c.run(ctx, s.source(from, to))
		if err == nil {
			err = s.find(ctx, c, from, to)
		}
		if err != nil {
			return errors.Join(err, a.settle(ctx, preview))
		}
		if preview != nil || !moves || !to.After(w.Cursor) || !known && s.others == 0 {
			continue
		}
		if _, err := a.Queue.Apply(ctx, nil, &outbox.Cursor{Source: w.Source, At: to}); err != nil {
			return err
		}
	}
	return errors.Join(s.plausible(known), a.settle(ctx, preview))
}

// sliced is one run of CollectWindow.
type sliced struct {
	*Agent
	Window
	accounting scheduler.Accounting
	told       map[string]bool // bad rows, which come again in other days
	rows       int64           // jobs and bad rows that were shown
	others     int64           // those of others than the caller
}

// source yields the jobs of a day. A job that ran for several is shown in each,
// and counts in the one in which it ended; what has no end, or another, counts
// in the last day, or the first.
func (s *sliced) source(from, to time.Time) scheduler.Source {
	first, last := !from.After(s.From), !to.Before(s.To)
	return scheduler.SourceFunc(func(ctx context.Context) iter.Seq2[*scheduler.Job, error] {
		return func(yield func(*scheduler.Job, error) bool) {
			for job, err := range s.accounting.Ended(ctx, from, to) {
				if row, ok := errors.AsType[*scheduler.RowError](err); ok {
					s.rows, s.others = s.rows+1, s.others+1
					text := row.JobID + row.Field + row.Problem
					if s.told[text] {
						continue
					}
					if len(s.told) < maxProblems {
						s.told[text] = true
					}
					s.Count(func(sum *Summary) { sum.Read++ })
				} else if err == nil {
					job.Source = s.Source
					s.rows++
					if s.Caller == "" || job.User != s.Caller {
						s.others++
					}
					if job.End.IsZero() || !job.Finished() {
						if !last {
							continue
						}
					} else if job.End.Before(from) && !first || !job.End.Before(to) && !last {
						continue
					}
				}
				if !yield(job, err) {
					return
				}
			}
		}
	})
}

// find looks for the jobs that ended in a day and were known before, but are not
// shown: by their ids, which an accounting that answers by halves still knows.
func (s *sliced) find(ctx context.Context, c *collecting, from, to time.Time) error {
	missing, err := s.missing(ctx, c, from, to)
	if err != nil || len(missing) == 0 {
		return err
	}
	byCluster := map[string][]string{}
	for _, e := range missing {
		byCluster[e.Job.Facts.Cluster] = append(byCluster[e.Job.Facts.Cluster], e.Job.Facts.ID)
	}
	for cluster, ids := range byCluster {
		wanted := map[string]bool{}
		for _, id := range ids {
			wanted[id] = true
		}
		source := scheduler.SourceFunc(func(ctx context.Context) iter.Seq2[*scheduler.Job, error] {
			return func(yield func(*scheduler.Job, error) bool) {
				for job, err := range s.accounting.ByID(ctx, cluster, ids) {
					if err == nil && !wanted[job.ID] {
						continue
					}
					if err == nil {
						job.Source = s.Source
					}
					if !yield(job, err) {
						return
					}
				}
			}
		})
		if err := c.run(ctx, source); err != nil {
			return err
		}
	}
	if missing, err = s.missing(ctx, c, from, to); err != nil || len(missing) == 0 {
		return err
	}
	if s.AcceptMissing {
		var ids []outbox.ID
		for _, e := range missing {
			ids = append(ids, e.ID)
		}
		return s.Queue.AcceptMissing(ctx, ids)
	}
	var names []string
	for _, e := range missing {
		if len(names) == maxNamed {
			names = append(names, "…")
			break
		}
		names = append(names, e.Job.Facts.DisplayID)
	}
	return &scheduler.IncompleteError{
		Problem: fmt.Sprintf("the accounting shows %d jobs less of the time from %s than before (%s): nothing was changed for that, and it will be read again",
			len(missing), from.UTC().Format("2006-01-02 15:04"), strings.Join(names, ", ")),
		Remedy: "see whether all of it is there (Slurm: slurmdbd has all of its tables, and this user may see all jobs, PrivateData); where the jobs were purged: amieusage report --accept-missing",
	}
}

// maxNamed is how many jobs an error names.
const maxNamed = 10

// maxMissing is how many missing jobs of a day are asked for: beyond that, most
// of the accounting is gone.
const maxMissing = 10_000

// missing returns the entries of jobs that ended in a day and were not met.
func (s *sliced) missing(ctx context.Context, c *collecting, from, to time.Time) ([]outbox.Entry, error) {
	var missing []outbox.Entry
	for e, err := range s.Queue.EndedJobs(ctx, from, to) {
		if err != nil {
			return nil, err
		}
		if e.Job == nil || e.Superseded || c.seen.has(e.ID) || !s.isOwn(e.Job.Facts.Source) {
			continue
		}
		if missing = append(missing, e); len(missing) == maxMissing {
			break
		}
	}
	return slices.Clip(missing), nil
}

// isOwn reports whether jobs of a source are to be shown by this accounting: its own, and, where it is the only one, those
// that were read from files.
func (s *sliced) isOwn(source string) bool { return source == s.Source || source == "" && !s.Others }

// plausible refuses an accounting that shows nothing, or only the caller's own
// jobs, where nothing is known to hold it against.
func (s *sliced) plausible(known bool) error {
	if known || s.others > 0 {
		return nil
	}
	problem := "the accounting shows no job at all from " + s.From.UTC().Format("2006-01-02 15:04") + " on"
	if s.rows > 0 {
		problem = "the accounting shows only jobs of " + strconv.Quote(s.Caller) + ", who asks"
	}
	return &scheduler.IncompleteError{
		Problem: problem + ", which an accounting that may not be read looks like, too",
		Remedy:  "run as a user who may see all jobs (Slurm: PrivateData in slurmdbd.conf; sacctmgr show user), see whether the accounting is where site.yaml says, or ask for a longer time with --since",
	}
}
