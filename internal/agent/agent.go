// Package agent is the site's cycle: it collects finished jobs, converts them
// by the site's rules, enqueues the records in the outbox, sends what is
// pending, and confirms what was loaded.
//
// Each stage stands on its own and may be cut off at any point: what was done
// is in the outbox, and the next run goes on from there.
package agent

import (
	"cmp"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/apd/v3"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/decimal"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/siterules"
	"github.com/amieusage/amieusage/usageclient"
)

// An Agent runs the stages of the cycle, and keeps count of them.
type Agent struct {
	// Rules convert jobs; Collect needs them.
	Rules *siterules.Rules
	// Queue is the outbox.
	Queue outbox.Queue
	// Client reaches the service; Send and Confirm need it.
	Client *usageclient.Client
	Clock  func() time.Time
	Log    *slog.Logger
	// Progress is called now and then with what was done so far; nil: nothing.
	Progress func(stage string, s *Summary)
	// Bad is called with each row or record that cannot be used; nil: nothing.
	// It and Progress are called by one stage at a time.
	Bad func(p Problem)
	// Clusters are those of which jobs are reported, whatever rule is for them.
	Clusters []string
	// Reprice charges jobs that were charged before anew, by today's rules.
	Reprice bool
	// Summary is what was done so far. While stages run, it is for Count alone.
	Summary Summary

	counting sync.Mutex    // guards Summary, and the calls of Progress and Bad
	ahead    *confirmation // what Deliver has confirmed, for Confirm to go on from
	enqueued chan struct{} // tells Deliver of entriesAhead more entries; nil: nobody waits

	fails     map[outbox.ID]bool // records that the service failed at in this run
	runCharge apd.Decimal        // what the run has charged so far, against its limit
	tracked   map[string]bool    // the texts of rates of which some job had what they are for
}

// Count calls f with the summary, for it to be changed.
func (a *Agent) Count(f func(s *Summary)) {
	a.counting.Lock()
	defer a.counting.Unlock()
	f(&a.Summary)
}

// A Summary counts what a run did.
type Summary struct {
	Read       int64                  `json:"read"`                 // jobs read
	Skipped    map[string]int64       `json:"skipped"`              // jobs that are not to be reported, by reason
	Bad        int64                  `json:"bad"`                  // rows and records that could not be used
	Problems   []Problem              `json:"problems,omitempty"`   // the first of all that went wrong
	New        int64                  `json:"new"`                  // records enqueued for the first time
	Changed    int64                  `json:"changed"`              // records enqueued with a new content
	Unchanged  int64                  `json:"unchanged"`            // records that were known already
	Sent       int64                  `json:"sent"`                 // records that the service accepted
	Rejected   int64                  `json:"rejected"`             // records that the service refused at once
	Loaded     int64                  `json:"loaded"`               // records confirmed in the service's ledger
	Failed     int64                  `json:"failed"`               // records that the service could not load
	Decided    int64                  `json:"decided,omitempty"`    // jobs that stay as a person has decided, of those unchanged
	Held       int64                  `json:"held,omitempty"`       // jobs that are above a limit, and held
	Shifted    int64                  `json:"shifted,omitempty"`    // jobs that are known at another submit time, and not sent
	Untracked  int64                  `json:"untracked,omitempty"`  // jobs of which none of the rated TRES was recorded, charged 0
	Costly     Costly                 `json:"would_cost,omitzero"`  // jobs that would cost otherwise by today's rules
	AtService  int64                  `json:"at_service,omitempty"` // records that the service had before, and that are not sent
	Adopted    int64                  `json:"adopted,omitempty"`    // records that the service had before, taken as reported
	Unsendable int64                  `json:"not_sent,omitempty"`   // records that the service fails at, while it takes others
	Waiting    int64                  `json:"waiting,omitempty"`    // records that wait for another one, which has failed
	BadRows    int64                  `json:"bad_rows,omitempty"`   // rows of all runs that could not be used yet
	Charge     map[string]Charge      `json:"charge"`               // of new and changed records, by resource
	WouldSend  []json.RawMessage      `json:"would_send,omitempty"` // the records that a dry run would send
	Outbox     map[outbox.State]int64 `json:"outbox,omitempty"`     // all entries, by state

	skipped map[skipKey]*outbox.Skipped
}

// Costly counts jobs that were charged by rules that have changed since.
type Costly struct {
	Jobs  int64            `json:"jobs"`
	Was   amieusage.Charge `json:"was"`
	Would amieusage.Charge `json:"would"`

	by map[costlyKey]*CostlyTotal
}

// A CostlyTotal is the part of Costly of a resource and a project.
type CostlyTotal struct {
	Resource string           `json:"resource"`
	Project  string           `json:"project"`
	Jobs     int64            `json:"jobs"`
	Was      amieusage.Charge `json:"was"`
	Would    amieusage.Charge `json:"would"`
}

type costlyKey struct{ resource, project string }

// By returns the parts, in order of resources and projects.
func (c *Costly) By() []*CostlyTotal {
	return slices.SortedFunc(maps.Values(c.by), func(a, b *CostlyTotal) int {
		return cmp.Or(cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Project, b.Project))
	})
}

func (s *Summary) costly(plan *outbox.Plan) {
	s.Costly.Jobs++
	s.Costly.Was = plus(s.Costly.Was, plan.Was)
	s.Costly.Would = plus(s.Costly.Would, plan.Would)
	c := plan.Known.Record.Common()
	key := costlyKey{c.Resource, c.LocalProjectID}
	if s.Costly.by == nil {
		s.Costly.by = map[costlyKey]*CostlyTotal{}
	}
	t := s.Costly.by[key]
	if t == nil {
		t = &CostlyTotal{Resource: c.Resource, Project: c.LocalProjectID}
		s.Costly.by[key] = t
	}
	t.Jobs++
	t.Was, t.Would = plus(t.Was, plan.Was), plus(t.Would, plan.Would)
}

func plus(a, b amieusage.Charge) amieusage.Charge {
	sum := decimal.Of(a)
	// Charges of valid records are far within the precision.
	_, _ = sums.Add(sum, sum, decimal.Of(b))
	return decimal.Charge(sum)
}

// A Charge is a sum of charges, less what adjustments give back.
type Charge struct {
	Records int64            `json:"records"`
	Free    int64            `json:"free"` // records of a charge of 0
	Total   amieusage.Charge `json:"total"`
}

// A Problem is one row, record or entry that needs somebody's attention.
type Problem struct {
	Kind   string `json:"kind"` // bad, rejected or failed
	Place  string `json:"place,omitempty"`
	Record string `json:"record,omitempty"`
	Reason string `json:"reason"`
}

// maxProblems is how many problems a summary names; all are counted. Those that
// it does not name are in the outbox, or were told by Bad.
const maxProblems = 1000

// problem adds a problem behind those of its kind: what a summary names, and in
// what order, is the same whatever the stages did at the same time.
func (s *Summary) problem(p Problem) {
	at := len(s.Problems)
	for at > 0 && slices.Index(kinds, s.Problems[at-1].Kind) > slices.Index(kinds, p.Kind) {
		at--
	}
	s.Problems = slices.Insert(s.Problems, at, p)
	s.Problems = s.Problems[:min(len(s.Problems), maxProblems)]
}

// kinds are the kinds of problems in the order of the stages that find them.
var kinds = []string{"bad", "held", "not sent", "rejected", "failed"}

// OK reports whether nothing of the run needs anybody's attention.
func (s *Summary) OK() bool {
	return s.Bad == 0 && s.Rejected == 0 && s.Failed == 0 && s.Held == 0 && s.Unsendable == 0 && s.Waiting == 0 && s.AtService == 0
}

// leftOut counts a job that is not reported, by account, partition and reason.
func (s *Summary) leftOut(job *scheduler.Job, account, reason string) {
	if s.skipped == nil {
		s.skipped = map[skipKey]*outbox.Skipped{}
	}
	key := skipKey{account, job.Partition, reason}
	k := s.skipped[key]
	if k == nil {
		if len(s.skipped) == maxSkips {
			return // counted in all, and not by account
		}
		k = &outbox.Skipped{Account: account, Partition: job.Partition, Reason: reason}
		s.skipped[key] = k
	}
	k.Jobs++
	k.Seconds += job.ElapsedSeconds
}

type skipKey struct{ account, partition, reason string }

// maxSkips bounds how many accounts and partitions are told apart.
const maxSkips = 100_000

// Skips returns what was left out, by account, partition and reason.
func (s *Summary) Skips() []outbox.Skipped {
	skips := make([]outbox.Skipped, 0, len(s.skipped))
	for _, k := range s.skipped {
		skips = append(skips, *k)
	}
	return skips
}

// Skip counts n jobs that are not to be reported.
func (s *Summary) Skip(reason string, n int64) {
	if n == 0 {
		return
	}
	if s.Skipped == nil {
		s.Skipped = map[string]int64{}
	}
	s.Skipped[reason] += n
}

// SkipReasons lists the reasons in order.
func (s *Summary) SkipReasons() []string { return slices.Sorted(maps.Keys(s.Skipped)) }

// sums adds up charges without loss.
var sums = apd.Context{Precision: 60, MaxExponent: apd.MaxExponent, MinExponent: apd.MinExponent, Rounding: apd.RoundHalfEven}

func (s *Summary) charge(r amieusage.Record) {
	if s.Charge == nil {
		s.Charge = map[string]Charge{}
	}
	c := r.Common()
	sum := s.Charge[c.Resource]
	total, charge := decimal.Of(sum.Total), decimal.Of(c.Charge)
	if charge.IsZero() {
		sum.Free++
	}
	if adjustment, ok := r.(*amieusage.AdjustmentRecord); ok && adjustment.AdjustmentType.GivesBack() {
		charge.Neg(charge)
	}
	// Charges of valid records are far within the precision.
	_, _ = sums.Add(total, total, charge)
	s.Charge[c.Resource] = Charge{Records: sum.Records + 1, Free: sum.Free, Total: decimal.Charge(total)}
}

func (a *Agent) progress(stage string) {
	if a.Progress != nil {
		a.Count(func(s *Summary) { a.Progress(stage, s) })
	}
}

// bad notes a row or record that cannot be used. Everything else goes on.
func (a *Agent) bad(p Problem) {
	p.Kind = "bad"
	a.problem(p)
}

// problem notes a problem, and tells of it at once where it is a bad row.
func (a *Agent) problem(p Problem) {
	a.Count(func(s *Summary) {
		s.problem(p)
		if p.Kind != "bad" {
			return
		}
		s.Bad++
		if a.Bad != nil {
			a.Bad(p)
		}
	})
}

// Warn tells of what a person should look at, and what counts all the same.
func (a *Agent) Warn(text string) { a.Log.Warn(text) }
