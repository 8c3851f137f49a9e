package storetest

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// CheckModel runs a property on as many cases as -rapid.checks asks for or,
// where nothing is asked for, on at most so many; on few with the race detector.
// Once a case has failed, rapid may look for smaller ones without a limit.
func CheckModel(t *testing.T, most int, property func(rt *rapid.T, check int)) {
	most = min(most, maxChecks)
	flag.Visit(func(f *flag.Flag) {
		if f.Name == "rapid.checks" {
			most = math.MaxInt
		}
	})
	check, failed := 0, false
	rapid.Check(t, func(rt *rapid.T) {
		if check++; check > most && !failed {
			return
		}
		defer func() { failed = failed || rt.Failed() }()
		property(rt, check)
	})
}

// newRapidModel returns a model whose choices are rapid's, on taps of the
// stores, with two sites of its own in a database that is common to all checks.
func newRapidModel(rt *rapid.T, check int, stores []ledger.Store, serve Serve) (*storeModel, *acceptLog) {
	policy := rapid.SampledFrom([]ledger.Policy{ledger.Strict, ledger.Strict, ledger.Open}).Draw(rt, "policy")
	taps, log := tapped(stores, rapid.IntRange(1, 20).Draw(rt, "records in a transaction"))
	m := newStoreModel(rt, func() ledger.Store { return taps[0] }, policy)
	m.stores, m.serve = taps, serve
	m.pick = func(n int) int { return rapid.IntRange(0, n-1).Draw(rt, "pick") }
	for m.whenFree(m.service.LoadSome).Batches > 0 { // what a check that failed has left
	}
	m.maxQueued = rapid.SampledFrom([]int64{0, 10}).Draw(rt, "limit of the queue")
	m.move()
	for _, name := range []string{"PSC", "SDSC"} {
		m.site(fmt.Sprint(name, check))
	}
	return m, log
}

// testStoreModel sends, corrects, loads, clears and imports in any order, for
// sites with the same names, on any of two replicas at each step, and after
// each step compares all that can be seen of all sites: every charge counts
// once, what was accepted last stands, nothing vanishes, everything adds up,
// and no site sees what is another's.
func testStoreModel(t *testing.T, open func() ledger.Store, serve Serve) {
	stores := []ledger.Store{open(), open()}
	CheckModel(t, 100, func(rt *rapid.T, check int) {
		m, _ := newRapidModel(rt, check, stores, serve)
		steps := map[string]func(s *modelSite){
			"send":          func(s *modelSite) { m.sendSome(s, m.someItems) },
			"correct":       func(s *modelSite) { m.sendSome(s, m.corrections) },
			"send again":    func(s *modelSite) { m.sendSome(s, m.sentBefore) },
			"load":          func(*modelSite) { m.loadSome() },
			"load all":      func(*modelSite) { m.load() },
			"clear":         m.clearSome,
			"import":        m.importSome,
			"import, wrong": m.importWrong,
			"another key":   m.anotherKey,
			"clock": func(*modelSite) {
				m.now = m.now.Add(one(m, -5*time.Hour, 1, time.Hour, 40*24*time.Hour))
			},
			"another site": func(*modelSite) {
				if len(m.sites) < 3 {
					m.site(fmt.Sprint("NCSA", check))
				}
			},
			"look back": m.checkRevisions,
		}
		actions := map[string]func(*rapid.T){
			"": func(*rapid.T) {
				m.move()
				m.glance()
			},
		}
		for name, step := range steps {
			actions[name] = func(*rapid.T) {
				m.move()
				step(m.someSite())
			}
		}
		rt.Repeat(actions)
		m.load()
		m.compare()
		for _, s := range m.sites {
			m.checkRevisions(s)
		}
		if check%10 == 0 {
			m.verify()
		}
	})
}

// A drawItems draws what to send: items of one kind.
type drawItems func(s *modelSite) (amieusage.UsageType, []json.RawMessage)

func (m *storeModel) sendSome(s *modelSite, draw drawItems) {
	kind, items := draw(s)
	m.sendItems(s, kind, items)
}

func (m *storeModel) someSite() *modelSite { return m.sites[m.pick(len(m.sites))] }

func one[T any](m *storeModel, of ...T) T { return of[m.pick(len(of))] }

// someItems returns up to six records of one kind, of few identities and few
// contents; some are refused, and some fail.
func (m *storeModel) someItems(*modelSite) (amieusage.UsageType, []json.RawMessage) {
	kind := one(m, amieusage.Compute, amieusage.Compute, amieusage.Storage, amieusage.Adjustment)
	items := make([]json.RawMessage, m.pick(7))
	for i := range items {
		if m.pick(20) == 0 {
			items[i] = one(m, json.RawMessage(`"no record"`), json.RawMessage(`{"Charge":-1,"Note":"kept"}`))
			continue
		}
		items[i] = m.someContent(amieusage.Identity{
			Resource: one(m, bulk, bulk, gpus, "elsewhere"), UsageType: kind, LocalRecordID: one(m, "1", "2", "3"), KeyTime: m.someTime(),
		})
	}
	return kind, items
}

// someTime is one of the times at which usage begins: near the ends of days,
// months, years and allocations.
func (m *storeModel) someTime() time.Time {
	return one(m,
		time.Date(2026, 1, 31, 23, 30, 0, 0, time.UTC),
		time.Date(2026, 10, 1, 20, 0, 0, 0, time.UTC),
		time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC))
}

// someContent returns a record of the identity.
func (m *storeModel) someContent(id amieusage.Identity) json.RawMessage {
	user, project := one(m, "alice", "bob", "eve"), one(m, alpha, alpha, beta, "p.none")
	charge := chargeOf(one(m, "1", "2.5", "2.50", "0", "0.0000005", "0.0000015", "7e-6", "3000000000000", "9000000000000", "-1"))
	switch id.UsageType {
	case amieusage.Compute:
		return (&amieusage.ComputeRecord{
			Username: user, LocalProjectID: project, LocalRecordID: id.LocalRecordID, Resource: id.Resource, Charge: charge,
			SubmitTime: id.KeyTime, StartTime: id.KeyTime, EndTime: id.KeyTime.Add(time.Duration(m.pick(4)) * 10 * time.Minute),
			NodeCount: amieusage.CountOf(1), JobName: one(m, "train", "eval"),
		}).AppendJSON(nil)
	case amieusage.Storage:
		return (&amieusage.StorageRecord{
			Username: user, LocalProjectID: project, LocalRecordID: id.LocalRecordID, Resource: id.Resource, Charge: charge,
			CollectionTime: id.KeyTime,
		}).AppendJSON(nil)
	}
	return (&amieusage.AdjustmentRecord{
		AdjustmentType: one(m, amieusage.AdjustmentTypes...), StartTime: m.someTime(),
		Username: user, LocalProjectID: project, LocalRecordID: id.LocalRecordID, Resource: id.Resource, Charge: charge,
	}).AppendJSON(nil)
}

// corrections returns new contents of records that are loaded or have failed,
// of one kind.
func (m *storeModel) corrections(s *modelSite) (kind amieusage.UsageType, items []json.RawMessage) {
	var ids []amieusage.Identity
	for _, e := range s.sorted() {
		ids = append(ids, e.newest().Identity())
	}
	for _, f := range s.failed {
		ids = append(ids, f.record.Identity())
	}
	if len(ids) == 0 {
		return m.someItems(s)
	}
	kind = ids[m.pick(len(ids))].UsageType
	ids = slices.DeleteFunc(ids, func(id amieusage.Identity) bool { return id.UsageType != kind })
	for range 1 + m.pick(3) {
		items = append(items, m.someContent(ids[m.pick(len(ids))]))
	}
	return kind, items
}

// sentBefore returns the records of a batch that is queued, or one that is
// loaded or has failed, as they were sent.
func (m *storeModel) sentBefore(s *modelSite) (amieusage.UsageType, []json.RawMessage) {
	batches := slices.Clone(s.queue)
	for _, e := range s.sorted() {
		for _, r := range e.revisions {
			batches = append(batches, []modelRecord{r.modelRecord})
		}
	}
	for _, f := range s.failed {
		batches = append(batches, []modelRecord{f.record})
	}
	if len(batches) == 0 {
		return m.someItems(s)
	}
	batch := batches[m.pick(len(batches))]
	items := make([]json.RawMessage, len(batch))
	for i, r := range batch {
		items[i] = r.raw
	}
	return batch[0].UsageType(), items
}

// clearSome clears some of what has failed, and now and then what is another
// site's or not there.
func (m *storeModel) clearSome(s *modelSite) {
	var ids []int64
	for _, f := range s.failed {
		if f.id > 0 && m.pick(2) == 0 {
			ids = append(ids, f.id)
		}
	}
	if m.pick(4) == 0 {
		ids = append(ids, 1<<40)
		for _, f := range m.someSite().failed {
			if f.id > 0 {
				ids = append(ids, f.id)
			}
		}
	}
	if len(ids) > 0 {
		m.clear(s, ids...)
	}
}

// importSome changes a project; a second import of the same changes nothing.
func (m *storeModel) importSome(s *modelSite) {
	p := ledger.ProjectSpec{ID: one(m, alpha, beta, "p.none")}
	if m.pick(3) > 0 {
		p.Users = []string{}
		for _, user := range []string{"alice", "bob", "eve"} {
			if m.pick(2) == 0 {
				p.Users = append(p.Users, user)
			}
		}
	}
	resources := []string{bulk, gpus}
	spec := ledger.SiteSpec{Name: s.name}
	if m.pick(5) == 0 {
		spec.Resources = []string{"elsewhere"}
	}
	if s.resources["elsewhere"] || spec.Resources != nil {
		resources = append(resources, "elsewhere")
	}
	if m.pick(3) > 0 {
		p.Allocations = []ledger.AllocationSpec{}
		for _, resource := range resources {
			for start := time.Month(1); m.pick(3) > 0 && start < 12; {
				from := start + time.Month(m.pick(int(13-start)))
				start = from + 1 + time.Month(m.pick(12))
				p.Allocations = append(p.Allocations, allocation(resource, int64(m.pick(1000)), from, start))
			}
		}
	}
	spec.Projects = []ledger.ProjectSpec{p}
	m.importSpec(&ledger.RegistrySpec{Sites: []ledger.SiteSpec{spec}})
	m.importSpec(&ledger.RegistrySpec{Sites: []ledger.SiteSpec{spec}})
}

// importWrong imports what is refused, for two sites: it changes neither.
func (m *storeModel) importWrong(s *modelSite) {
	backwards := allocation(bulk, 1, 6, 1)
	wrong := one(m, backwards, allocation("none", 1, 1, 6))
	spec := &ledger.RegistrySpec{Sites: []ledger.SiteSpec{
		{Name: m.sites[0].name, Resources: []string{"elsewhere"}, Projects: []ledger.ProjectSpec{{ID: alpha, Users: []string{}}}},
		{Name: m.sites[1].name, Projects: []ledger.ProjectSpec{{ID: beta, Allocations: []ledger.AllocationSpec{wrong}}}},
	}}
	_, err := m.store.Import(context.Background(), spec)
	m.hasCode(err, amieusage.CodeInvalid)
	// Nothing is left to change of what the registry was.
	for _, s := range m.sites[:2] {
		if p := s.projects[alpha]; p != nil {
			m.importSpec(&ledger.RegistrySpec{Sites: []ledger.SiteSpec{{Name: s.name, Projects: []ledger.ProjectSpec{*p}}}})
		}
	}
}

// anotherKey goes on with a new key, and may revoke the one before.
func (m *storeModel) anotherKey(s *modelSite) {
	before := s.who
	m.newKey(s, "another")
	if m.pick(2) == 0 {
		return
	}
	m.noError(m.store.RevokeKey(context.Background(), s.name, before.KeyID, m.now))
	m.move()
	_, _, err := m.service.Authenticate(context.Background(), s.name, m.secrets[before])
	m.hasCode(err, amieusage.CodeForbidden)
}
