package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// storeModel is a ledger of plain Go beside the one under test: what is done to
// the one is done to the other, and check compares all that can be seen.
type storeModel struct {
	t         testReporter
	open      func() ledger.Store
	serve     Serve
	stores    []ledger.Store // replicas on one database
	store     ledger.Store   // the one in use
	service   *ledger.Service
	api       API // the service as its sites reach it
	served    map[front]API
	secrets   map[ledger.Caller]string
	policy    ledger.Policy
	maxQueued int64
	now       time.Time
	sites     []*modelSite
	// pick draws one of n.
	pick func(n int) int
	// coarse: times of loading are known to the second only.
	coarse bool
}

// A front is what makes a service different from another of the same model.
type front struct {
	store     ledger.Store
	policy    ledger.Policy
	maxQueued int64
}

// A loadFunc runs one transaction of loading.
type loadFunc func(ctx context.Context) (ledger.LoadReport, error)

// patience is how long the tests wait for what takes an instant.
const patience = time.Minute

// newStoreModel returns the model of the database on which open opens Stores;
// the first of them is in use.
func newStoreModel(t testReporter, open func() ledger.Store, policy ledger.Policy) *storeModel {
	random := rand.New(rand.NewPCG(1, 2))
	m := &storeModel{
		t: t, open: open, serve: itself, policy: policy, now: storeEpoch, pick: random.IntN,
		served: map[front]API{}, secrets: map[ledger.Caller]string{},
	}
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
func (m *storeModel) use(store ledger.Store) {
	m.store, m.service = store, m.serviceOf(store)
	m.api = m.apiOf(store, m.service)
}

// move goes on with any of the replicas.
func (m *storeModel) move() { m.use(m.stores[m.pick(len(m.stores))]) }

// serviceOf returns a service on a replica, with the model's policy and clock.
func (m *storeModel) serviceOf(store ledger.Store) *ledger.Service {
	return ledger.New(ledger.Config{
		Store: store, Policy: m.policy, Logger: discard(), MaxQueued: m.maxQueued,
		Clock: func() time.Time { return m.now },
	})
}

// apiOf returns how a service on a replica is reached.
func (m *storeModel) apiOf(store ledger.Store, service *ledger.Service) API {
	f := front{store, m.policy, m.maxQueued}
	if m.served[f] == nil {
		m.served[f] = m.serve(service, func(who ledger.Caller) string { return m.secrets[who] })
	}
	return m.served[f]
}

// tick moves the clock.
func (m *storeModel) tick() { m.now = m.now.Add(19 * time.Minute) }

// site adds a site with the standard registry, and with a key.
func (m *storeModel) site(name string) *modelSite {
	m.t.Helper()
	s := &modelSite{
		name:      name,
		resources: map[string]bool{},
		users:     map[string]bool{},
		projects:  map[string]*ledger.ProjectSpec{},
		entries:   map[amieusage.Identity]*modelEntry{},
	}
	m.sites = append(m.sites, s)
	spec := standard(name)
	_, err := m.store.Import(context.Background(), spec)
	m.noError(err)
	s.imports(&spec.Sites[0])
	m.newKey(s, "first")
	return s
}

// newKey makes a key for the site, which it uses from now on.
func (m *storeModel) newKey(s *modelSite, label string) {
	m.t.Helper()
	secret, _, err := ledger.CreateKey(context.Background(), m.store, s.name, label, m.now)
	m.noError(err)
	s.who, _, err = m.service.Authenticate(context.Background(), s.name, secret)
	m.noError(err)
	m.secrets[s.who] = secret
}

// importSpec imports into both.
func (m *storeModel) importSpec(spec *ledger.RegistrySpec) []ledger.Change {
	m.t.Helper()
	changes, err := m.store.Import(context.Background(), spec)
	m.noError(err)
	var got, want []string
	for _, c := range changes {
		got = append(got, c.Action+" "+c.What)
	}
	for i := range spec.Sites {
		j := slices.IndexFunc(m.sites, func(s *modelSite) bool { return s.name == spec.Sites[i].Name })
		if j < 0 {
			return changes // the model has nothing of it
		}
		want = append(want, m.sites[j].imports(&spec.Sites[i])...)
	}
	// That the site itself is new is told where it is.
	got = slices.DeleteFunc(got, func(text string) bool {
		return slices.ContainsFunc(spec.Sites, func(s ledger.SiteSpec) bool { return text == "added site "+s.Name })
	})
	slices.Sort(got)
	slices.Sort(want)
	m.equal("changes", want, got, cmpopts.EquateEmpty())
	return changes
}

// send sends records of one kind, and returns the answer.
func (m *storeModel) send(s *modelSite, records ...amieusage.Record) *amieusage.SendResponse {
	m.t.Helper()
	return m.sendItems(s, records[0].UsageType(), itemsOf(records))
}

func itemsOf(records []amieusage.Record) []json.RawMessage {
	items := make([]json.RawMessage, len(records))
	for i, r := range records {
		items[i] = r.AppendJSON(nil)
	}
	return items
}

func recordsMessage(records ...amieusage.Record) []byte {
	return messageOf(records[0].UsageType(), itemsOf(records))
}

// sendItems sends what may be records, and returns the answer; nil where the
// site is asked to wait.
func (m *storeModel) sendItems(s *modelSite, t amieusage.UsageType, items []json.RawMessage) *amieusage.SendResponse {
	m.t.Helper()
	m.tick()
	batch, want := m.judgeItems(s, t, items)
	got, err := m.api.Accept(context.Background(), s.who, s.resources, messageOf(t, items))
	if m.maxQueued > 0 && s.counts.Queued >= m.maxQueued && len(batch) > 0 {
		m.hasCode(err, amieusage.CodeTooManyRequests)
		return nil
	}
	m.noError(err)
	m.equal("answer to a send", asRead(want), asRead(got), cmpopts.EquateEmpty())
	if len(batch) > 0 {
		s.accept(batch)
	}
	return got
}

// judgeItems returns the records that are accepted of a message, and the
// answer to it.
func (m *storeModel) judgeItems(s *modelSite, t amieusage.UsageType, items []json.RawMessage) ([]modelRecord, *amieusage.SendResponse) {
	var batch []modelRecord
	answer := &amieusage.SendResponse{}
	for _, raw := range items {
		r, err := amieusage.CheckRecord(t, raw)
		if err == nil && m.policy == ledger.Strict && !s.resources[r.Common().Resource] {
			err = &amieusage.ValidationError{Fields: []amieusage.FieldError{{Field: "Resource", Problem: "is not a resource of this site"}}}
		}
		if err != nil {
			answer.FailedRecords = append(answer.FailedRecords,
				amieusage.FailedRecord{UsageType: t, Error: err.Error(), Record: r, Problem: err, Raw: raw})
			continue
		}
		batch = append(batch, modelRecord{Record: r, raw: raw, acceptedAt: m.now, keyID: s.who.KeyID})
	}
	answer.Message = amieusage.QueuedMessage(len(batch), len(answer.FailedRecords))
	return batch, answer
}

// asRead is an answer as a client reads it: what is no valid record may be
// spelled in another way when it is written again.
func asRead(answer *amieusage.SendResponse) *amieusage.SendResponse {
	read := &amieusage.SendResponse{}
	text, err := answer.MarshalJSON()
	if err == nil {
		err = read.UnmarshalJSON(text)
	}
	if err != nil {
		return &amieusage.SendResponse{Message: err.Error()}
	}
	return read
}

// messageOf is a message of one kind of records.
func messageOf(t amieusage.UsageType, items []json.RawMessage) []byte {
	dst := amieusage.AppendMessageStart(nil, t)
	for i, raw := range items {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, raw...)
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
		at := s.nextLoading(m.now)
		for range min(report.Batches, len(s.queue)) {
			s.loadBatch(m.policy, at, &want)
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

// clear clears failed records.
func (m *storeModel) clear(s *modelSite, ids ...int64) {
	m.t.Helper()
	m.tick()
	err := m.api.Clear(context.Background(), s.who, ids)
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
	s.close(ids)
}

// isUnknownFailed checks that err names these ids.
func (m *storeModel) isUnknownFailed(err error, ids ...int64) {
	m.t.Helper()
	want := &ledger.UnknownFailedError{IDs: slices.Compact(slices.Sorted(slices.Values(ids)))}
	if got, ok := errors.AsType[*ledger.UnknownFailedError](err); ok {
		m.equal("unknown ids", want.IDs, slices.Sorted(slices.Values(got.IDs)))
		return
	}
	if e, ok := errors.AsType[*amieusage.Error](err); !ok || e.Code != amieusage.CodeNotFound || e.Message != want.Error() {
		m.t.Fatalf("error %v, want %v", err, want)
	}
}
