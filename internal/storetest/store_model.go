package storetest

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

type modelSite struct {
	name      string
	who       ledger.Caller
	resources map[string]bool
	users     map[string]bool // all that the registry has a number for
	projects  map[string]*ledger.ProjectSpec
	queue     [][]modelRecord
	batches   int // that were loaded
	counts    ledger.Counts
	gross     int64
	loadedAt  time.Time // of the last transaction of loading
	entries   map[amieusage.Identity]*modelEntry
	failed    []*modelFailed // in order of failing
	cursors   []modelCursor  // some of those that were given
}

// A modelRecord is a record as it was accepted.
type modelRecord struct {
	amieusage.Record
	raw        []byte // as it was sent
	acceptedAt time.Time
	keyID      int64
}

// A modelCursor is a cursor and the place in the order of loading behind which
// it goes on.
type modelCursor struct {
	text     string
	loadedAt time.Time
	id       int64
}

// A modelEntry is a record in the ledger: all its revisions, oldest first.
type modelEntry struct {
	id        int64 // 0 until the store has told it
	revisions []modelRevision
}

type modelRevision struct {
	modelRecord
	batch    int // the site's batch that brought it, from 1
	loadedAt time.Time
}

func (e *modelEntry) newest() modelRevision { return e.revisions[len(e.revisions)-1] }

type modelFailed struct {
	id      int64 // 0 until the store has told it
	record  modelRecord
	failure ledger.Failure
	at      time.Time
	open    bool
}

// accept queues a batch.
func (s *modelSite) accept(batch []modelRecord) {
	s.queue = append(s.queue, batch)
	s.counts.Accepted += int64(len(batch))
	s.counts.Queued += int64(len(batch))
}

// nextLoading is the time of a transaction of loading that begins now: times
// of loading never go back.
func (s *modelSite) nextLoading(now time.Time) time.Time {
	if !now.After(s.loadedAt) {
		now = s.loadedAt.Add(1)
	}
	s.loadedAt = now
	return now
}

// loadBatch loads the oldest batch of the queue.
func (s *modelSite) loadBatch(policy ledger.Policy, at time.Time, report *ledger.LoadReport) {
	batch := s.queue[0]
	s.queue = s.queue[1:]
	s.batches++
	report.Batches++
	for _, r := range batch {
		s.loadRecord(r, policy, at, report)
	}
}

func (s *modelSite) loadRecord(r modelRecord, policy ledger.Policy, at time.Time, report *ledger.LoadReport) {
	s.counts.Queued--
	id := r.Identity()
	e := s.entries[id]
	for _, f := range s.failed {
		f.open = f.open && f.record.Identity() != id
	}
	if policy == ledger.Open {
		s.register(r.Record)
	}
	failure := s.judge(r.Record, policy)
	charge := millionths(r.Record)
	var before int64
	if e != nil {
		before = millionths(e.newest().Record)
	}
	if failure != "" && s.lessens(r.Record) {
		failure = ""
	}
	if failure == "" {
		s.users[r.Common().Username] = true
	}
	if failure == "" && charge > math.MaxInt64-(s.gross-before) {
		failure = ledger.TotalTooLarge
	}
	if failure != "" {
		report.Failed++
		s.counts.Failed++
		s.failed = append(s.failed, &modelFailed{record: r, failure: failure, at: at, open: true})
		return
	}
	report.Loaded++
	s.counts.Loaded++
	if e == nil {
		e = &modelEntry{}
		s.entries[id] = e
	} else if amieusage.ContentDigest(e.newest().Record) == amieusage.ContentDigest(r.Record) {
		report.Unchanged++
		return
	} else {
		report.Corrected++
	}
	e.revisions = append(e.revisions, modelRevision{r, s.batches, at})
	s.gross += charge - before
}

// register takes the names of a record into the registry.
func (s *modelSite) register(r amieusage.Record) {
	c := r.Common()
	s.resources[c.Resource] = true
	if s.projects[c.LocalProjectID] == nil {
		s.projects[c.LocalProjectID] = &ledger.ProjectSpec{ID: c.LocalProjectID}
	}
}

// close closes failed records by their numbers.
func (s *modelSite) close(ids []int64) {
	for _, f := range s.failed {
		f.open = f.open && !slices.Contains(ids, f.id)
	}
}

// imports imports a spec that is right, and returns what it changes.
func (s *modelSite) imports(spec *ledger.SiteSpec) (changes []string) {
	changed := func(format string, args ...any) { changes = append(changes, fmt.Sprintf(format, args...)) }
	for _, r := range spec.Resources {
		if !s.resources[r] {
			s.resources[r] = true
			changed("added resource %s of site %s", r, s.name)
		}
	}
	for _, p := range spec.Projects {
		known := s.projects[p.ID]
		if known == nil {
			known = &ledger.ProjectSpec{ID: p.ID}
			s.projects[p.ID] = known
			changed("added project %s of site %s", p.ID, s.name)
		}
		if p.Users != nil {
			users := slices.Compact(slices.Sorted(slices.Values(p.Users)))
			for _, user := range users {
				s.users[user] = true
				if !slices.Contains(known.Users, user) {
					changed("added user %s to project %s", user, p.ID)
				}
			}
			for _, user := range known.Users {
				if !slices.Contains(users, user) {
					changed("removed user %s from project %s", user, p.ID)
				}
			}
			known.Users = users
		}
		if p.Allocations == nil {
			continue
		}
		grantedBy := func(all []ledger.AllocationSpec, a ledger.AllocationSpec) *ledger.AllocationSpec {
			for i := range all {
				if all[i].Resource == a.Resource && all[i].Start.Equal(a.Start) {
					return &all[i]
				}
			}
			return nil
		}
		for _, a := range p.Allocations {
			action, was := "added", ""
			if before := grantedBy(known.Allocations, a); before != nil {
				if before.Amount == a.Amount && before.End.Equal(a.End) {
					continue
				}
				action = "changed"
				was = fmt.Sprintf(" (was %s until %s)", amieusage.ChargeOfMillionths(before.Amount), amieusage.FormatTime(ledger.TimeOf(ledger.Nanos(before.End))))
			}
			changed("%s allocation of project %s on %s from %s: %s until %s%s", action, p.ID, a.Resource,
				amieusage.FormatTime(a.Start), amieusage.ChargeOfMillionths(a.Amount), amieusage.FormatTime(ledger.TimeOf(ledger.Nanos(a.End))), was)
		}
		for _, a := range known.Allocations {
			if grantedBy(p.Allocations, a) == nil {
				changed("removed allocation of project %s on %s from %s (was %s until %s)", p.ID, a.Resource, amieusage.FormatTime(a.Start),
					amieusage.ChargeOfMillionths(a.Amount), amieusage.FormatTime(ledger.TimeOf(ledger.Nanos(a.End))))
			}
		}
		known.Allocations = p.Allocations
	}
	return changes
}

// judge is what loading finds wrong with a record.
func (s *modelSite) judge(r amieusage.Record, policy ledger.Policy) ledger.Failure {
	if policy == ledger.Open {
		return ""
	}
	c := r.Common()
	p := s.projects[c.LocalProjectID]
	switch {
	case p == nil:
		return ledger.UnknownProject
	case !slices.Contains(p.Users, c.Username):
		return ledger.UnknownUser
	}
	failure := ledger.NoAllocation
	for _, a := range p.Allocations {
		if a.Resource == c.Resource {
			if at := r.AllocationTime(); !at.Before(a.Start) && at.Before(a.End) {
				return ""
			}
			failure = ledger.AllocationInvalid
		}
	}
	return failure
}

// lessens says that the record charges no more than what is loaded of it, or is
// a refund that the project's charges on the resource cover.
func (s *modelSite) lessens(r amieusage.Record) bool {
	c := r.Common()
	e := s.entries[r.Identity()]
	same := func() bool {
		old := e.newest().Record
		return old.Common().LocalProjectID == c.LocalProjectID && givesBack(old) == givesBack(r)
	}
	if e != nil && amieusage.ContentDigest(e.newest().Record) == amieusage.ContentDigest(r) {
		return false
	}
	if e != nil && same() && e.newest().Common().Username == c.Username && millionths(r) <= millionths(e.newest().Record) {
		return true
	}
	a, ok := r.(*amieusage.AdjustmentRecord)
	if !ok || a.AdjustmentType != amieusage.Refund || s.projects[c.LocalProjectID] == nil || !s.users[c.Username] {
		return false
	}
	var charged int64
	for id, other := range s.entries {
		newest := other.newest()
		if id.Resource != c.Resource || newest.Common().LocalProjectID != c.LocalProjectID {
			continue
		}
		if !givesBack(newest.Record) {
			charged += millionths(newest.Record)
		} else if id != r.Identity() {
			charged -= millionths(newest.Record)
		}
	}
	return charged > 0 && millionths(r) <= charged
}

// millionths is the charge of a valid record.
func millionths(r amieusage.Record) int64 {
	n, err := r.Common().Charge.Millionths()
	if err != nil {
		panic(err)
	}
	return n
}

func givesBack(r amieusage.Record) bool {
	a, ok := r.(*amieusage.AdjustmentRecord)
	return ok && slices.Contains([]amieusage.AdjustmentType{amieusage.Credit, amieusage.Refund, amieusage.StorageCredit}, a.AdjustmentType)
}

// sorted returns the entries in an order that is the same in each run.
func (s *modelSite) sorted() []*modelEntry {
	var entries []*modelEntry
	for _, e := range s.entries {
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b *modelEntry) int {
		return cmp.Compare(identityText(a.newest()), identityText(b.newest()))
	})
	return entries
}

// identityText tells identities apart, for people and for sorting.
func identityText(r amieusage.Record) string {
	id := r.Identity()
	return fmt.Sprintf("%q %q %q %v", id.Resource, id.UsageType, id.LocalRecordID, id.KeyTime)
}

// openFailed returns the model's open failed records.
func (s *modelSite) openFailed() []*modelFailed {
	var open []*modelFailed
	for _, f := range s.failed {
		if f.open {
			open = append(open, f)
		}
	}
	return open
}
