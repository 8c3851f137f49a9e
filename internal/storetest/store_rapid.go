package storetest

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// testStoreModel sends, loads, clears and imports in any order, for two sites
// with the same names, on any of two replicas at each step, and compares what
// can be seen, in one way after each step and in all ways at the end:
// every charge counts once, what was accepted last stands, nothing vanishes,
// everything adds up, and no site sees what is the other's.
func testStoreModel(t *testing.T, open func() ledger.Store) {
	stores := []ledger.Store{open(), open()}
	checks, failed := 0, false
	rapid.Check(t, func(rt *rapid.T) {
		if checks++; checks > maxChecks && !failed {
			return
		}
		defer func() { failed = failed || rt.Failed() }()
		policy := rapid.SampledFrom([]ledger.Policy{ledger.Strict, ledger.Strict, ledger.Open}).Draw(rt, "policy")
		m := newStoreModel(rt, func() ledger.Store { return stores[0] }, policy)
		m.stores = stores
		m.pick = func(n int) int { return rapid.IntRange(0, n-1).Draw(rt, "pick") }
		for m.whenFree(m.service.LoadSome).Batches > 0 { // what a check that failed has left
		}
		// Sites of their own for each check, in a database that is common to all.
		for _, name := range []string{"PSC", "SDSC"} {
			m.site(fmt.Sprint(name, checks))
		}
		steps := map[string]func(*rapid.T){
			"": func(rt *rapid.T) {
				looks := m.looks(m.someSite())
				looks[m.pick(len(looks))]()
			},
			"send": func(rt *rapid.T) {
				records := m.someRecords()
				m.send(m.someSite(), records...)
			},
			"send again": func(rt *rapid.T) {
				if s := m.someSite(); len(s.queue) > 0 {
					var records []amieusage.Record
					for _, r := range s.queue[m.pick(len(s.queue))] {
						records = append(records, r.Record)
					}
					m.send(s, records...)
				}
			},
			"load one": func(rt *rapid.T) { m.loadSome() },
			"load all": func(rt *rapid.T) { m.load() },
			"clear":    func(rt *rapid.T) { m.clearSome() },
			"import":   func(rt *rapid.T) { m.importSome() },
			"look back": func(rt *rapid.T) {
				for _, s := range m.sites {
					m.checkRevisions(s)
				}
			},
		}
		for name, step := range steps {
			steps[name] = func(rt *rapid.T) {
				m.move()
				step(rt)
			}
		}
		rt.Repeat(steps)
		m.load()
		m.compare()
		if checks%10 == 0 {
			m.verify()
		}
	})
}

func (m *storeModel) someSite() *modelSite { return m.sites[m.pick(len(m.sites))] }

func one[T any](m *storeModel, of ...T) T { return of[m.pick(len(of))] }

// someRecords returns up to six records of one kind, of few identities and few
// contents; some are refused, and some fail.
func (m *storeModel) someRecords() []amieusage.Record {
	kind := one(m, amieusage.Compute, amieusage.Compute, amieusage.Storage, amieusage.Adjustment)
	records := make([]amieusage.Record, 1+m.pick(6))
	for i := range records {
		user, project := one(m, "alice", "bob", "eve"), one(m, alpha, alpha, beta, "p.none")
		id, resource := one(m, "1", "2", "3"), one(m, bulk, bulk, gpus, "elsewhere")
		charge := chargeOf(one(m, "1", "2.5", "0", "0.0000005", "0.0000015", "7e-6", "3000000000000", "-1"))
		at := one(m,
			time.Date(2026, 1, 31, 23, 30, 0, 0, time.UTC),
			time.Date(2026, 10, 1, 20, 0, 0, 0, time.UTC),
			time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC))
		switch kind {
		case amieusage.Compute:
			records[i] = &amieusage.ComputeRecord{
				Username: user, LocalProjectID: project, LocalRecordID: id, Resource: resource, Charge: charge,
				SubmitTime: at, StartTime: at, EndTime: at.Add(time.Duration(m.pick(4)) * 10 * time.Minute),
				NodeCount: amieusage.CountOf(1), JobName: one(m, "train", "eval"),
			}
		case amieusage.Storage:
			records[i] = &amieusage.StorageRecord{
				Username: user, LocalProjectID: project, LocalRecordID: id, Resource: resource, Charge: charge, CollectionTime: at,
			}
		default:
			records[i] = &amieusage.AdjustmentRecord{
				AdjustmentType: one(m, amieusage.AdjustmentTypes...), StartTime: at,
				Username: user, LocalProjectID: project, LocalRecordID: id, Resource: resource, Charge: charge,
			}
		}
	}
	return records
}

// clearSome clears some of what has failed, and now and then what is not there
// or another site's.
func (m *storeModel) clearSome() {
	s := m.someSite()
	var ids []int64
	for _, f := range s.failed {
		if f.id > 0 && m.pick(2) == 0 {
			ids = append(ids, f.id)
		}
	}
	if m.pick(4) == 0 {
		for _, f := range m.someSite().failed {
			if f.id > 0 {
				ids = append(ids, f.id)
			}
		}
	}
	m.clear(s, ids...)
}

// importSome changes a project; a second import of the same changes nothing.
func (m *storeModel) importSome() {
	p := ledger.ProjectSpec{ID: one(m, alpha, beta, "p.none")}
	if m.pick(3) > 0 {
		p.Users = []string{}
		for _, user := range []string{"alice", "bob", "eve"} {
			if m.pick(2) == 0 {
				p.Users = append(p.Users, user)
			}
		}
	}
	if m.pick(3) > 0 {
		p.Allocations = []ledger.AllocationSpec{}
		for _, resource := range []string{bulk, gpus} {
			if m.pick(3) > 0 {
				from := time.Month(1 + m.pick(11))
				p.Allocations = append(p.Allocations, allocation(resource, int64(m.pick(1000)), from, from+1+time.Month(m.pick(12))))
			}
		}
	}
	spec := &ledger.RegistrySpec{Sites: []ledger.SiteSpec{{Name: m.someSite().name, Projects: []ledger.ProjectSpec{p}}}}
	m.importSpec(spec)
	m.changed(spec)
}
