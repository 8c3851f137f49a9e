package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/decimal"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/siterules"
)

// enqueueItems is how many jobs or records one transaction stores.
const enqueueItems = 2000

// Collect reads the source's jobs, decides by the site's rules and by what is
// known of each what is to be sent, and stores it. The cursor (nil: none) moves
// with the last of them, and only when the source was read to its end. Rows
// that cannot be used are counted, and kept with their reasons; they stop
// nothing.
//
// Jobs of one source that have the same identity but not the same content are
// counted as bad too: a ledger holds one of them, the last.
//
// With preview, nothing is stored: it is called with each record that would be
// sent.
func (a *Agent) Collect(ctx context.Context, source scheduler.Source, cursor *outbox.Cursor, preview func(outbox.Item)) error {
	c := a.collecting(preview)
	c.cursor = cursor
	return errors.Join(c.run(ctx, source), a.settle(ctx, preview))
}

// settle does what follows from all that was collected.
func (a *Agent) settle(ctx context.Context, preview func(outbox.Item)) error {
	if preview != nil {
		return nil
	}
	ctx = context.WithoutCancel(ctx) // what was read is kept, and so is what follows from it
	return errors.Join(a.judgeTracking(ctx), a.FollowRefunds(ctx))
}

func (a *Agent) collecting(preview func(outbox.Item)) *collecting {
	return &collecting{Agent: a, preview: preview, seen: idSet{}, decider: outbox.Decider{Reprice: a.Reprice}}
}

// A collecting is one run of Collect.
type collecting struct {
	*Agent
	cursor  *outbox.Cursor
	preview func(outbox.Item)
	seen    idSet // the entries that it has met
	decider outbox.Decider
	chunk   []outbox.Reading
	ids     []string // of the chunk's records
	bad     []outbox.BadRow
	well    []string         // ids of jobs that were read
	ahead   int              // entries of which Deliver was not told yet
	home    string           // the cluster whose jobs need no rule that names it; "": not known yet
	others  map[string]int64 // jobs of clusters that nothing names
}

func (c *collecting) run(ctx context.Context, source scheduler.Source) error {
	var failed error
	var err error
	if c.home, err = c.Queue.Home(ctx, ""); err != nil {
		return err
	}
	defer c.tellOthers()
	for job, err := range source.Jobs(ctx) {
		if err == nil {
			err = c.assess(ctx, job)
		}
		if row, ok := errors.AsType[*scheduler.RowError](err); ok {
			c.badRow(row)
		} else if err != nil {
			failed = err
			break
		}
		if len(c.chunk) == enqueueItems || len(c.bad) == enqueueItems {
			if err := c.store(ctx, nil); err != nil {
				return err
			}
		}
	}
	if failed == nil {
		failed = ctx.Err()
	}
	if failed != nil {
		// What was read is good all the same; the cursor stays.
		return errors.Join(failed, c.store(context.WithoutCancel(ctx), nil))
	}
	return c.store(ctx, c.cursor)
}

// assess applies today's rules to a job, and adds it to the chunk. The error is
// that of a row, or ends the source.
func (c *collecting) assess(ctx context.Context, job *scheduler.Job) error {
	today, err := c.Rules.Assess(job)
	if err != nil {
		return err
	}
	if named, err := c.isNamed(ctx, job, &today); !named || err != nil {
		c.Count(func(s *Summary) { s.Read++ })
		return err
	}
	c.Count(func(s *Summary) {
		s.Read++
		if today.Skip != "" {
			s.Skip(string(today.Skip), 1)
			s.leftOut(job, c.Rules.AccountOf(job), string(today.Skip))
		}
	})
	if job.Warning != "" && today.Skip == "" {
		c.Warn(job.Place.String() + ": job " + job.DisplayID + ": " + job.Warning)
	}
	id, idErr := c.Rules.RecordIDOf(job)
	if job.Finished() && idErr == nil {
		kept := *job
		kept.TRES = slices.Clone(job.TRES)
		c.chunk = append(c.chunk, outbox.Reading{Job: &kept, RecordID: id, Today: today})
		c.ids = append(c.ids, id)
	}
	if today.Problem != nil {
		return today.Problem
	}
	if today.Skip == "" && !today.Made.Untracked {
		if c.tracked == nil {
			c.tracked = map[string]bool{}
		}
		c.tracked[today.Made.Rate.Text()] = true
	}
	c.well = append(c.well, job.DisplayID)
	return nil
}

// isNamed reports whether a job is of the cluster that the first job was of, or
// of one that site.yaml names. Another one may have resources and rates of its
// own: its jobs are not sent until a rule is for them.
func (c *collecting) isNamed(ctx context.Context, job *scheduler.Job, today *siterules.Assessment) (bool, error) {
	if job.Cluster == "" || job.Cluster == c.home || today.Skip != "" || today.Problem != nil ||
		len(today.Made.Rule.Match.Clusters) > 0 || slices.Contains(c.Clusters, job.Cluster) {
		return true, nil
	}
	if c.home == "" {
		var err error
		if c.home = job.Cluster; c.preview == nil {
			c.home, err = c.Queue.Home(ctx, job.Cluster)
		}
		if err != nil || c.home == job.Cluster {
			return true, err
		}
	}
	if c.others == nil {
		c.others = map[string]int64{}
	}
	c.others[job.Cluster]++
	return false, nil
}

// tellOthers names the clusters whose jobs are not sent.
func (c *collecting) tellOthers() {
	for _, cluster := range slices.Sorted(maps.Keys(c.others)) {
		c.problem(Problem{Kind: "bad", Reason: fmt.Sprintf("%d jobs are of cluster %s, and others of %s: they are not sent; name the cluster in site.yaml, "+
			"under match: clusters: of the resource that they ran on, or in its section, as in slurm: clusters: or pbs: clusters:", c.others[cluster], cluster, c.home)})
	}
}

// badRow counts a row that cannot be used, and keeps it with its reason.
func (c *collecting) badRow(row *scheduler.RowError) {
	c.Agent.bad(Problem{Place: row.Place.String(), Reason: row.Error()})
	reason := row.Problem
	if row.Field != "" {
		reason = row.Field + ": " + reason
	}
	if row.Err != nil {
		reason += ": " + row.Err.Error()
	}
	c.bad = append(c.bad, outbox.BadRow{JobID: row.JobID, Reason: reason, Place: row.Place.String()})
}

// maxStale is how often a chunk is decided anew because what it went by has
// changed: a send has left meanwhile.
const maxStale = 10

// store decides about the chunk, stores what that comes to, and counts it.
func (c *collecting) store(ctx context.Context, cursor *outbox.Cursor) error {
	c.keepLast()
	for stale := 0; ; stale++ {
		known, err := c.Queue.Known(ctx, names(c.chunk))
		if err != nil {
			return err
		}
		plans := make([]outbox.Plan, len(c.chunk))
		var writes []outbox.Write
		ends := make([]int, len(c.chunk)) // where each plan's writes end
		for i := range c.chunk {
			plans[i] = c.decider.Decide(known[i], c.chunk[i])
			c.brake(&plans[i])
			writes = append(writes, plans[i].Writes...)
			ends[i] = len(writes)
		}
		if c.preview != nil {
			c.count(plans, nil, ends)
			break
		}
		ids, err := c.Queue.Apply(ctx, writes, cursor)
		if e, ok := errors.AsType[*amieusage.Error](err); ok && e.Code == amieusage.CodeConflict && stale < maxStale {
			continue
		}
		if err != nil {
			return err
		}
		c.count(plans, ids, ends)
		break
	}
	if c.preview == nil && len(c.well) > 0 {
		if err := c.Queue.ReadWell(ctx, c.well); err != nil {
			return err
		}
	}
	if c.preview == nil && len(c.bad) > 0 {
		if err := c.Queue.Note(ctx, c.bad, nil); err != nil {
			return err
		}
	}
	c.chunk, c.ids, c.bad, c.well = c.chunk[:0], c.ids[:0], c.bad[:0], c.well[:0]
	c.progress("collecting")
	if c.ahead >= entriesAhead {
		select {
		case c.enqueued <- struct{}{}:
			c.ahead = 0
		default: // nobody waits, or has been told
		}
	}
	return nil
}

// brake holds what would charge more than the limits allow, and what cannot be
// charged because nothing that its rate is for is tracked.
func (c *collecting) brake(plan *outbox.Plan) {
	for i := range plan.Writes {
		e := &plan.Writes[i].Entry
		if !plan.Writes[i].Content || e.Superseded || e.Job == nil || e.State != outbox.Pending && e.State != outbox.Waiting ||
			e.Decision == outbox.DecidedRelease {
			continue
		}
		switch limit := c.Rules.Limits.PerJob; {
		case e.Job.Made.Untracked && !c.tracked[e.Job.Rate]:
			e.State, e.Decision, e.Reason = outbox.Held, outbox.NotTracked, "no job that was read has any of what its rate is for"
		case limit.IsSet() && e.Job.Made.Charge.Cmp(limit) > 0:
			e.State, e.Decision, e.Reason = outbox.Held, outbox.DecidedByLimit, "its charge is above limits: per_job, "+limit.String()
		case c.overRun(e.Job.Made.Charge):
			e.State, e.Decision, e.Reason = outbox.Held, outbox.DecidedByLimit, "the run's charge is above limits: per_run, "+c.Rules.Limits.PerRun.String()
		default:
			e.Decision = ""
		}
	}
}

// overRun reports whether a charge takes that of the run above its limit, and
// adds it where it does not.
func (c *collecting) overRun(charge amieusage.Charge) bool {
	limit := c.Rules.Limits.PerRun
	if !limit.IsSet() {
		return false
	}
	sum := c.runCharge
	_, _ = sums.Add(&sum, &c.runCharge, decimal.Of(charge))
	if sum.Cmp(decimal.Of(limit)) > 0 {
		return true
	}
	c.runCharge = sum
	return false
}

// count adds what the plans came to to the summary.
func (c *collecting) count(plans []outbox.Plan, ids []outbox.ID, ends []int) {
	var problems []Problem
	c.Count(func(s *Summary) {
		for i := range plans {
			plan, reading := &plans[i], &c.chunk[i]
			id := outbox.ID(0)
			if ids != nil && len(plan.Writes) > 0 {
				id = ids[ends[i]-1]
			} else if plan.Known != nil {
				id = plan.Known.ID
			}
			again := id != 0 && c.seen.add(id)
			switch plan.Effect {
			case outbox.EffectNone:
				continue
			case outbox.EffectUnchanged:
				if reading.Today.Skip == "" && reading.Today.Problem == nil {
					s.Unchanged++
				}
				continue
			case outbox.EffectDecided:
				if reading.Today.Skip == "" {
					s.Unchanged++
					s.Decided++
				}
				continue
			case outbox.EffectShifted:
				s.Shifted++
				problems = append(problems, shifted(reading))
				continue
			case outbox.EffectRenamed:
				s.Shifted++
				problems = append(problems, renamed(reading, plan.Known))
				continue
			case outbox.EffectCluster:
				problems = append(problems, otherCluster(reading, plan.Known))
				continue
			case outbox.EffectCostly:
				s.costly(plan)
				if plan.Sent == nil {
					s.Unchanged++
					continue
				}
				s.Changed++
			case outbox.EffectNew:
				s.New++
			case outbox.EffectChanged:
				s.Changed++
				if again {
					problems = append(problems, overwrites(reading, "an earlier row"))
				}
			}
			if plan.Sent == nil {
				continue
			}
			c.ahead++
			if last := plan.Writes[len(plan.Writes)-1].Entry; last.Decision == outbox.NotTracked {
				s.Untracked++
				continue // whether they are sent shows when all is read
			} else if last.State == outbox.Held {
				s.Held++
				problems = append(problems, Problem{Kind: "held", Place: reading.Job.Place.String(), Record: plan.Sent.String(),
					Reason: last.Reason + " (see: amieusage records release)"})
				continue
			}
			if reading.Today.Made.Untracked {
				s.Untracked++
			}
			s.charge(plan.Sent)
			if c.preview != nil {
				c.preview(outbox.Item{Record: plan.Sent, Place: reading.Job.Place.String()})
			}
		}
	})
	for _, p := range problems {
		c.problem(p)
	}
}

// shifted is the problem of a job that is known at another submit time.
func shifted(r *outbox.Reading) Problem {
	return Problem{
		Kind: "bad", Place: r.Job.Place.String(),
		Reason: r.Job.Place.String() + ": job " + r.Job.DisplayID + " was reported with other times, all apart by the same difference: it is not sent, " +
			"or it would be charged twice; see whether slurm: time_zone: in site.yaml is that of the accounting",
	}
}

// renamed is the problem of a job that is known by another id.
func renamed(r *outbox.Reading, known *outbox.Entry) Problem {
	return Problem{
		Kind: "bad", Place: r.Job.Place.String(),
		Reason: r.Job.Place.String() + ": job " + r.Job.DisplayID + " was reported as record " + known.Record.Common().LocalRecordID + ", and would be " +
			r.RecordID + " now: it is not sent, or it would be charged twice; see whether local_record_id in site.yaml, or JobIDRaw and JobID in the dump, have changed",
	}
}

// names returns what the jobs of readings are known by.
func names(readings []outbox.Reading) []outbox.Names {
	names := make([]outbox.Names, len(readings))
	for i := range readings {
		names[i] = outbox.Names{RecordID: readings[i].RecordID, ID: readings[i].Job.ID, DisplayID: readings[i].Job.DisplayID}
	}
	return names
}

func otherCluster(r *outbox.Reading, known *outbox.Entry) Problem {
	return Problem{
		Kind: "bad", Place: r.Job.Place.String(),
		Reason: r.Job.Place.String() + ": job " + r.Job.DisplayID + " of cluster " + r.Job.Cluster + " has the id and submit time of one of cluster " +
			known.Job.Facts.Cluster + ": it is not sent; give jobs ids of their own (local_record_id: \"{cluster}-{job_id}\"), or name the cluster in its section, as in slurm: clusters: or pbs: clusters:",
	}
}

// keepLast leaves of the chunk's jobs with the same identity only the last, so
// that reading them again changes nothing.
func (c *collecting) keepLast() {
	type key struct {
		id     string
		submit int64
	}
	last := make(map[key]int, len(c.chunk))
	for i, r := range c.chunk {
		last[key{c.ids[i], r.Job.Submit.UnixNano()}] = i
	}
	if len(last) == len(c.chunk) {
		return
	}
	kept, ids := c.chunk[:0], c.ids[:0] // what is still to be read lies behind them
	for i, r := range c.chunk {
		j := last[key{c.ids[i], r.Job.Submit.UnixNano()}]
		switch {
		case i == j:
			kept, ids = append(kept, r), append(ids, c.ids[i])
		case r.Today.Skip != "" || r.Today.Problem != nil:
		case outbox.SameFacts(r.Job, c.chunk[j].Job):
			c.Count(func(s *Summary) { s.Unchanged++ })
		default:
			c.Agent.bad(overwrites(&c.chunk[j], r.Job.Place.String()))
		}
	}
	c.chunk, c.ids = kept, ids
}

// overwrites is the problem of a job that stands for another one of the same
// source.
func overwrites(r *outbox.Reading, other string) Problem {
	place := r.Job.Place.String()
	p := Problem{
		Kind: "bad", Place: place,
		Reason: place + " is another job with the id and submit time of " + other +
			": only this one is reported; correct the accounting, or report the other with amieusage send",
	}
	if r.Today.Skip == "" && r.Today.Problem == nil {
		p.Record = siterules.Record(r.Job, &r.Today.Made).String()
	}
	return p
}

// An idSet is a set of entries' IDs, a bit for each, so that it stays small
// beside any number of jobs. IDs are given one after the other: the set holds
// pages of those that share all bits but the last twelve.
type idSet map[outbox.ID]*[64]uint64

// has reports whether the ID is in the set.
func (s idSet) has(id outbox.ID) bool {
	page := s[id>>12]
	return page != nil && page[id>>6&63]&(1<<(id&63)) != 0
}

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
