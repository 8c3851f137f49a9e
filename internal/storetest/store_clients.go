package storetest

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// A call is one thing that a client does, without the model: its error says
// what is wrong with the answer.
type call func(ctx context.Context, api API) error

// testStoreClients has several clients follow scripts at the same time, each on
// one of several replicas: they send and correct the same few records of two
// sites, clear, and look, while two replicas load. When all is loaded, the
// model loads the same batches in their order of acceptance, and all that can
// be seen must be the same.
func testStoreClients(t *testing.T, open func() ledger.Store, serve Serve) {
	stores := []ledger.Store{open(), open(), open()}
	CheckModel(t, 100, func(rt *rapid.T, check int) {
		m, log := newRapidModel(rt, check, stores, serve)
		m.coarse, m.maxQueued = true, 0
		for range rapid.IntRange(1, 2).Draw(rt, "rounds") {
			for range m.pick(4) {
				m.move()
				s := m.someSite()
				m.sendSome(s, m.someItems)
			}
			if m.pick(2) == 0 {
				m.load()
			}
			m.compare()
			m.together(log, m.scripts())
			m.compare()
		}
		for _, s := range m.sites {
			m.checkRevisions(s)
		}
		if check%10 == 0 {
			m.verify()
		}
	})
}

// scripts draws what two to five clients do, one call after the other.
func (m *storeModel) scripts() [][]call {
	m.tick()
	scripts := make([][]call, 2+m.pick(4))
	for i := range scripts {
		for range 1 + m.pick(5) {
			s := m.someSite()
			switch m.pick(8) {
			case 0:
				if len(s.failed) > 0 {
					scripts[i] = append(scripts[i], m.clearCall(s))
				}
			case 1:
				scripts[i] = append(scripts[i], summaryCall(s))
			case 2:
				scripts[i] = append(scripts[i], loadedCall(s))
			case 3:
				scripts[i] = append(scripts[i], m.sendCall(s, m.corrections))
			default:
				scripts[i] = append(scripts[i], m.sendCall(s, m.someItems))
			}
		}
	}
	return scripts
}

func (m *storeModel) sendCall(s *modelSite, draw drawItems) call {
	kind, items := draw(s)
	message := messageOf(kind, items)
	_, answer := m.judgeItems(s, kind, items)
	want := asRead(answer)
	who, resources := s.who, s.resources
	return func(ctx context.Context, api API) error {
		got, err := api.Accept(ctx, who, resources, message)
		if err != nil {
			return err
		}
		if diff := cmp.Diff(want, asRead(got), cmpopts.EquateEmpty(), byText); diff != "" {
			return fmt.Errorf("answer to a send differs (-want +got):\n%s", diff)
		}
		return nil
	}
}

// clearCall clears what has failed before, and closes it in the model: whether
// it is cleared or superseded, it is not open when the clients are done.
func (m *storeModel) clearCall(s *modelSite) call {
	var ids []int64
	for _, f := range s.failed[m.pick(len(s.failed)):] {
		if f.id > 0 {
			ids = append(ids, f.id)
		}
	}
	who := s.who
	if other := m.someSite(); other != s { // it is not theirs: nothing happens
		who := other.who
		return func(ctx context.Context, api API) error {
			if err := api.Clear(ctx, who, ids); err == nil && len(ids) > 0 {
				return fmt.Errorf("%s has cleared %v of another site", who.Name, ids)
			}
			return nil
		}
	}
	s.close(ids)
	return func(ctx context.Context, api API) error {
		if len(ids) == 0 {
			return nil
		}
		return api.Clear(ctx, who, ids)
	}
}

// summaryCall looks at the usage of all time, of which the roll-ups of usage
// and the balances say the same.
func summaryCall(s *modelSite) call {
	who := s.who
	return func(ctx context.Context, api API) error {
		summary, err := api.Summary(ctx, who, amieusage.SummaryQuery{GroupBy: []amieusage.GroupKey{amieusage.ByProject}})
		if err != nil {
			return err
		}
		for _, r := range summary.Rows {
			if r.Deducted.String() != r.Balance.Used.String() || r.GivenBack.String() != r.Balance.GivenBack.String() {
				return fmt.Errorf("usage of %+v and its balance %+v differ", r, *r.Balance)
			}
		}
		return nil
	}
}

// loadedCall looks at the loaded records, which are there once, in order of
// loading.
func loadedCall(s *modelSite) call {
	who := s.who
	return func(ctx context.Context, api API) error {
		page, err := api.Loaded(ctx, who, amieusage.LoadedQuery{PageSize: 1000})
		if err != nil {
			return err
		}
		seen := map[amieusage.Identity]bool{}
		for i, r := range page.Records {
			if seen[r.Identity()] || i > 0 && r.LoadedTime.Before(page.Records[i-1].LoadedTime) {
				return fmt.Errorf("%s is there twice, or out of order", r)
			}
			seen[r.Identity()] = true
		}
		return nil
	}
}

// A crew is what works at the same time, and what it found wrong.
type crew struct {
	sync.WaitGroup
	mu    sync.Mutex
	wrong []string
}

func (c *crew) find(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wrong = append(c.wrong, fmt.Sprintf(format, args...))
}

// together runs the scripts while replicas load, and then the same in the
// model, in order of acceptance.
func (m *storeModel) together(log *acceptLog, scripts [][]call) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	log.batches = nil
	var clients, loaders crew
	for i, script := range scripts {
		store := m.stores[i%len(m.stores)]
		api := m.apiOf(store, m.serviceOf(store))
		clients.Go(func() {
			for n, do := range script {
				if err := do(ctx, api); err != nil {
					clients.find("client %d, call %d: %v", i, n, err)
				}
			}
		})
	}
	var over atomic.Bool
	reports := make([]ledger.LoadReport, 2)
	for i := range reports {
		service := m.serviceOf(m.stores[i])
		loaders.Go(func() { m.loadUntil(ctx, service, &over, &reports[i], &loaders) })
	}
	clients.Wait()
	over.Store(true)
	loaders.Wait()
	for _, text := range slices.Concat(clients.wrong, loaders.wrong) {
		m.t.Errorf("%s", text)
	}
	if len(log.early) > 0 {
		m.t.Errorf("sends %v have numbers below that of one answered before they began", log.early)
	}
	var got, want ledger.LoadReport
	for _, r := range reports {
		got.Batches += r.Batches
		got.Loaded += r.Loaded
		got.Unchanged += r.Unchanged
		got.Corrected += r.Corrected
		got.Failed += r.Failed
	}
	for _, s := range m.sites {
		m.replay(s, log.batches, &want)
	}
	m.equal("what the replicas report in all", want, got)
}

// loadUntil loads until the clients are done and nothing is queued. At every
// moment the counts of each site add up.
func (m *storeModel) loadUntil(ctx context.Context, service *ledger.Service, over *atomic.Bool, sum *ledger.LoadReport, crew *crew) {
	for {
		last := over.Load()
		report, err := service.LoadSome(ctx)
		if err != nil {
			crew.find("load: %v", err)
			return
		}
		sum.Batches += report.Batches
		sum.Loaded += report.Loaded
		sum.Unchanged += report.Unchanged
		sum.Corrected += report.Corrected
		sum.Failed += report.Failed
		for _, s := range m.sites {
			if c, err := service.Counts(ctx, s.who); err != nil || c.Accepted != c.Loaded+c.Failed+c.Queued {
				crew.find("counts of %s: %+v, %v", s.name, c, err)
				return
			}
		}
		if last && report.Batches == 0 && !report.Busy {
			return
		}
		runtime.Gosched()
	}
}

// replay has the model accept and load what a site's clients have sent, in
// order of acceptance.
func (m *storeModel) replay(s *modelSite, accepted []ledger.Batch, report *ledger.LoadReport) {
	m.t.Helper()
	var batches []ledger.Batch
	for _, b := range accepted {
		if b.Site == s.who.Site {
			batches = append(batches, b)
		}
	}
	slices.SortFunc(batches, func(a, b ledger.Batch) int { return int(a.ID - b.ID) })
	for i, b := range batches {
		if i > 0 && b.ID == batches[i-1].ID {
			m.t.Errorf("two sends of %s have the number %d", s.name, b.ID)
		}
		var records []modelRecord
		for _, raw := range b.Records {
			r, err := amieusage.CheckRecord(b.UsageType, raw)
			m.noError(err)
			records = append(records, modelRecord{Record: r, raw: raw, acceptedAt: b.AcceptedAt, keyID: b.KeyID})
		}
		s.accept(records)
	}
	for len(s.queue) > 0 {
		s.loadBatch(m.policy, m.now, report)
	}
	s.loadedAt = m.now.Add(time.Second)
}
