package storetest

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// storeModel is a ledger of plain Go beside the one under test: what is done to
// the one is done to the other, and check compares all that can be seen.
type storeModel struct {
	t         testReporter
	open      func() ledger.Store
	stores    []ledger.Store // replicas on one database
	store     ledger.Store   // the one in use
	service   *ledger.Service
	policy    ledger.Policy
	maxQueued int64
	now       time.Time
	sites     []*modelSite
	// pick draws one of n.
	pick func(n int) int
}

// A loadFunc runs one transaction of loading.
type loadFunc func(ctx context.Context) (ledger.LoadReport, error)

// patience is how long the tests wait for what takes an instant.
const patience = time.Minute

// whenFree loads as soon as no other replica is in the way.
func (m *storeModel) whenFree(load loadFunc) ledger.LoadReport {
	m.t.Helper()
	for end := time.Now().Add(patience); ; runtime.Gosched() {
		report, err := load(context.Background())
		m.noError(err)
		if !report.Busy {
			return report
		}
		m.equal("report of what is busy", ledger.LoadReport{Busy: true}, report)
		if time.Now().After(end) {
			m.t.Fatal("another replica is loading, and never ends")
		}
	}
}

type modelSite struct {
	name      string
	who       ledger.Caller
	resources map[string]bool
	projects  map[string]*ledger.ProjectSpec
	queue     [][]modelRecord
	counts    ledger.Counts
	gross     int64
	entries   map[amieusage.Identity]*modelEntry
	failed    []*modelFailed // in order of failing
}

// A modelRecord is a record as it was accepted.
type modelRecord struct {
	amieusage.Record
	acceptedAt time.Time
}

// A modelEntry is a record in the ledger: all its revisions, oldest first.
type modelEntry struct {
	id        int64 // 0 until the store has told it
	revisions []modelRevision
}

type modelRevision struct {
	modelRecord
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

// newStoreModel returns the model of the database on which open opens Stores;
// the first of them is in use.
func newStoreModel(t testReporter, open func() ledger.Store, policy ledger.Policy) *storeModel {
	random := rand.New(rand.NewPCG(1, 2))
	m := &storeModel{t: t, open: open, policy: policy, now: storeEpoch, pick: random.IntN}
	m.use(m.replicas(1)[0])
	return m
}

// replicas returns n Stores on the database, and opens those that are not.
func (m *storeModel) replicas(n int) []ledger.Store {
	for len(m.stores) < n {
		m.stores = append(m.stores, m.open())
	}
	return m.stores[:n]
}

// use goes on with another replica.
func (m *storeModel) use(store ledger.Store) { m.store, m.service = store, m.serviceOf(store) }

// move goes on with any of the replicas.
func (m *storeModel) move() { m.use(m.stores[m.pick(len(m.stores))]) }

// serviceOf returns a service on a replica, with the model's policy and clock.
func (m *storeModel) serviceOf(store ledger.Store) *ledger.Service {
	return ledger.New(ledger.Config{
		Store: store, Policy: m.policy, Logger: discard(), MaxQueued: m.maxQueued,
		Clock: func() time.Time { return m.now },
	})
}

// tick moves the clock.
func (m *storeModel) tick() { m.now = m.now.Add(19 * time.Minute) }

// site adds a site with the standard registry, and with a key.
func (m *storeModel) site(name string) *modelSite {
	m.t.Helper()
	s := &modelSite{
		name:      name,
		resources: map[string]bool{},
		projects:  map[string]*ledger.ProjectSpec{},
		entries:   map[amieusage.Identity]*modelEntry{},
	}
	m.sites = append(m.sites, s)
	m.importSpec(standard(name))
	secret, _, err := ledger.CreateKey(context.Background(), m.store, name, "first", m.now)
	m.noError(err)
	s.who, _, err = m.service.Authenticate(context.Background(), name, secret)
	m.noError(err)
	return s
}

// importSpec imports into both.
func (m *storeModel) importSpec(spec *ledger.RegistrySpec) []ledger.Change {
	m.t.Helper()
	changes, err := m.store.Import(context.Background(), spec)
	m.noError(err)
	for _, site := range spec.Sites {
		i := slices.IndexFunc(m.sites, func(s *modelSite) bool { return s.name == site.Name })
		if i < 0 {
			continue
		}
		s := m.sites[i]
		for _, r := range site.Resources {
			s.resources[r] = true
		}
		for _, p := range site.Projects {
			known := s.projects[p.ID]
			if known == nil {
				known = &ledger.ProjectSpec{ID: p.ID}
				s.projects[p.ID] = known
			}
			if p.Users != nil {
				known.Users = p.Users
			}
			if p.Allocations != nil {
				known.Allocations = p.Allocations
			}
		}
	}
	return changes
}

// send sends records of one kind, and returns the answer.
func (m *storeModel) send(s *modelSite, records ...amieusage.Record) *amieusage.SendResponse {
	m.t.Helper()
	m.tick()
	answer, err := m.service.Accept(context.Background(), s.who, s.resources, messageOf(records))
	m.noError(err)
	var batch []modelRecord
	for _, r := range records {
		if r.Validate() == nil && (m.policy == ledger.Open || s.resources[r.Common().Resource]) {
			batch = append(batch, modelRecord{r, m.now})
		}
	}
	if got := len(answer.FailedRecords); got != len(records)-len(batch) {
		m.t.Errorf("%d of %d records were refused, want %d", got, len(records), len(records)-len(batch))
	}
	m.equal("message", amieusage.QueuedMessage(len(batch)), answer.Message)
	if len(batch) > 0 {
		s.queue = append(s.queue, batch)
		s.counts.Accepted += int64(len(batch))
		s.counts.Queued += int64(len(batch))
	}
	return answer
}

func messageOf(records []amieusage.Record) []byte {
	dst := amieusage.AppendMessageStart(nil, records[0].UsageType())
	for i, r := range records {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = r.AppendJSON(dst)
	}
	return append(dst, amieusage.MessageEnd...)
}

// load loads all that is queued.
func (m *storeModel) load() {
	m.t.Helper()
	for m.loadSome().Batches > 0 {
	}
}

// loadSome runs one transaction of loading on any of the replicas.
func (m *storeModel) loadSome() ledger.LoadReport {
	m.t.Helper()
	m.move()
	return m.follow(m.service.LoadSome)
}

// loadOn loads all that is queued on one replica, and goes on with it.
func (m *storeModel) loadOn(store ledger.Store) {
	m.t.Helper()
	m.use(store)
	for m.follow(m.service.LoadSome).Batches > 0 {
	}
}

// follow runs one transaction of loading, finds out which site it was for, and
// does the same.
func (m *storeModel) follow(load loadFunc) ledger.LoadReport {
	m.t.Helper()
	m.tick()
	report := m.whenFree(load)
	var want ledger.LoadReport
	for _, s := range m.sites {
		counts, err := m.service.Counts(context.Background(), s.who)
		m.noError(err)
		if counts.Queued == s.counts.Queued {
			continue
		}
		if want.Batches > 0 {
			m.t.Fatalf("one transaction has loaded batches of two sites")
		}
		for range min(report.Batches, len(s.queue)) {
			want.Batches++
			m.loadBatch(s, s.queue[0], &want)
			s.queue = s.queue[1:]
		}
	}
	m.equal("load report", want, report)
	if report.Batches == 0 {
		for _, s := range m.sites {
			if len(s.queue) > 0 {
				m.t.Errorf("%d batches of site %s were not loaded", len(s.queue), s.name)
			}
		}
	}
	return report
}

func (m *storeModel) loadBatch(s *modelSite, batch []modelRecord, report *ledger.LoadReport) {
	for _, r := range batch {
		s.counts.Queued--
		id := r.Identity()
		e := s.entries[id]
		for _, f := range s.failed {
			f.open = f.open && f.record.Identity() != id
		}
		failure := s.judge(r.Record, m.policy)
		charge := millionths(r.Record)
		var before int64
		if e != nil {
			before = millionths(e.newest().Record)
		}
		if failure == "" && charge > math.MaxInt64-(s.gross-before) {
			failure = ledger.TotalTooLarge
		}
		if failure != "" {
			report.Failed++
			s.counts.Failed++
			s.failed = append(s.failed, &modelFailed{record: r, failure: failure, at: m.now, open: true})
			continue
		}
		report.Loaded++
		s.counts.Loaded++
		if e == nil {
			e = &modelEntry{}
			s.entries[id] = e
		} else if amieusage.ContentDigest(e.newest().Record) == amieusage.ContentDigest(r.Record) {
			report.Unchanged++
			continue
		}
		e.revisions = append(e.revisions, modelRevision{r, m.now})
		s.gross += charge - before
	}
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
	return ok && a.AdjustmentType.GivesBack()
}

// clear clears failed records.
func (m *storeModel) clear(s *modelSite, ids ...int64) {
	m.t.Helper()
	m.tick()
	err := m.service.Clear(context.Background(), s.who, ids)
	var unknown []int64
	for _, id := range ids {
		if !slices.ContainsFunc(s.failed, func(f *modelFailed) bool { return f.id == id }) {
			unknown = append(unknown, id)
		}
	}
	if len(unknown) > 0 {
		m.isUnknownFailed(err, unknown...)
		return
	}
	m.noError(err)
	for _, f := range s.failed {
		f.open = f.open && !slices.Contains(ids, f.id)
	}
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
