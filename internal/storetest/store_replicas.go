package storetest

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// testReplicasTurns has a site with a long queue. What another sends through
// any replica is soon loaded, whichever replica loads: at once by the one that
// has accepted it, after a while by another.
func testReplicasTurns(m *storeModel) {
	const queue, once, aWhile = 200, 3, 40
	one, two := m.site("PSC"), m.site("SDSC")
	stores := m.replicas(2)
	ctx := context.Background()
	for i := range queue {
		m.noError(stores[0].Accept(ctx, m.batch(one, job(fmt.Sprint(i), "1")), math.MaxInt64))
	}
	for i, c := range []struct {
		accepts, loads ledger.Store
		within         int
	}{
		{stores[0], stores[0], once},
		{stores[0], stores[0], once},
		{stores[0], stores[1], aWhile},
		{stores[1], stores[1], once},
		{stores[1], stores[0], aWhile},
	} {
		var records []amieusage.Record
		for n := range 10 {
			records = append(records, job(fmt.Sprint(i, ".", n), "1"))
		}
		m.noError(c.accepts.Accept(ctx, m.batch(two, records...), math.MaxInt64))
		for loads := 1; ; loads++ {
			m.whenFree(func(ctx context.Context) (ledger.LoadReport, error) { return c.loads.Load(ctx, m.now, 1, readAll{}) })
			counts, err := c.loads.Counts(ctx, two.who.Site)
			m.noError(err)
			if counts.Queued == 0 {
				break
			}
			if loads == c.within {
				m.t.Errorf("send %d: not loaded within %d transactions", i, loads)
				break
			}
		}
		counts, err := c.loads.Counts(ctx, one.who.Site)
		m.noError(err)
		if counts.Queued == 0 {
			m.t.Errorf("send %d was loaded when the other site's queue had come to its end", i)
		}
	}
	m.loadWhile(stores, one, 50, readAll{}, func() {})
	for s, want := range map[*modelSite]int64{one: queue, two: 50} {
		counts, err := m.service.Counts(ctx, s.who)
		m.noError(err)
		m.equal("counts of "+s.name, ledger.Counts{Accepted: want, Loaded: want}, counts)
	}
	m.verify()
	m.sites = nil // the model has nothing of it
}

// testReplicasFind loads on replicas that have accepted nothing.
func testReplicasFind(m *storeModel) {
	one, two := m.site("PSC"), m.site("SDSC")
	first, second := m.replicas(2)[0], m.replicas(2)[1]
	m.loadOn(second) // finds nothing
	for i := range 3 {
		m.use(first)
		m.send(one, job(fmt.Sprint(i), "1"))
		m.send(two, job(fmt.Sprint(i), "1"))
		m.loadOn(second)
		m.check()
		m.loadOn(first)
	}
	m.send(one, job("late", "1"))
	m.loadOn(m.replicas(3)[2]) // opened after the send
	m.check()
	// A site that is new to the replica.
	m.use(first)
	three := m.site("NCSA")
	m.send(three, job("1", "1"))
	m.loadOn(second)
	m.equal("loaded", int64(1), three.counts.Loaded)
}

// testReplicasRegistry changes the registry on one replica: what another loads
// next goes by it.
func testReplicasRegistry(m *storeModel) {
	s := m.site("PSC")
	first, second := m.replicas(2)[0], m.replicas(2)[1]
	site := func(change func(spec *ledger.SiteSpec)) *ledger.RegistrySpec {
		spec := standard("PSC")
		change(&spec.Sites[0])
		return spec
	}
	users := func(users ...string) *ledger.RegistrySpec {
		return site(func(spec *ledger.SiteSpec) { spec.Projects[0].Users = users })
	}
	gamma := func(r *amieusage.ComputeRecord) { r.LocalProjectID, r.Username, r.Resource = "p.gamma", "dora", "new" }
	addGamma := site(func(spec *ledger.SiteSpec) {
		spec.Resources = append(spec.Resources, "new")
		spec.Projects = append(spec.Projects, ledger.ProjectSpec{ID: "p.gamma", Users: []string{"dora"},
			Allocations: []ledger.AllocationSpec{allocation("new", 1, 1, 13)}})
	})
	endGamma := site(func(spec *ledger.SiteSpec) {
		spec.Projects = []ledger.ProjectSpec{{ID: "p.gamma", Users: []string{}, Allocations: []ledger.AllocationSpec{}}}
	})
	m.send(s, job("0", "1"))
	m.loadOn(first)
	m.send(s, job("0", "2"))
	m.loadOn(second)
	for i, c := range []struct {
		spec   *ledger.RegistrySpec
		record amieusage.Record
		want   ledger.Failure
	}{
		{users("bob"), job("1", "1"), ledger.UnknownUser},
		{users("alice", "bob"), job("2", "1"), ""},
		{users("alice", "eve"), job("3", "1", func(r *amieusage.ComputeRecord) { r.Username = "eve" }), ""},
		{site(func(spec *ledger.SiteSpec) { spec.Projects[0].Allocations = []ledger.AllocationSpec{} }), job("4", "1"), ledger.NoAllocation},
		{site(func(*ledger.SiteSpec) {}), job("5", "1"), ""},
		{addGamma, job("6", "1", gamma), ""},
		{endGamma, job("7", "1", gamma), ledger.UnknownUser},
		{addGamma, job("8", "1", gamma), ""},
	} {
		stores := []ledger.Store{first, second}
		if i%2 == 1 {
			slices.Reverse(stores)
		}
		m.use(stores[0])
		m.importSpec(c.spec)
		before := len(s.openFailed())
		m.send(s, c.record)
		m.loadOn(stores[1])
		m.check()
		var got ledger.Failure
		if open := s.openFailed(); len(open) > before {
			got = open[before].failure
		}
		m.equal("failure of "+c.record.String(), c.want, got)
	}
}

// testReplicasOpen has replicas that meet the same new names, one after the
// other and at the same time.
func testReplicasOpen(m *storeModel) {
	s := m.site("PSC")
	m.policy = ledger.Open
	stores := m.replicas(2)
	unknown := func(n int) func(r *amieusage.ComputeRecord) {
		return func(r *amieusage.ComputeRecord) {
			r.Resource, r.LocalProjectID, r.Username = fmt.Sprint("new", n), fmt.Sprint("p.new", n), fmt.Sprint("user", n)
		}
	}
	for i := range 6 {
		m.use(stores[i%2])
		m.send(s, job(fmt.Sprint(i), "1"), job("same", fmt.Sprint(i), unknown(i)), job(fmt.Sprint(i), "1", unknown(i-1)))
		m.loadOn(stores[i%2])
		m.check()
	}
	other := m.site("SDSC")
	const rounds, perRound = 10, 3
	m.loadWhile(stores, other, perRound, readAll{}, func() {
		var group sync.WaitGroup
		for i, store := range stores {
			group.Go(func() {
				for n := range rounds {
					var records []amieusage.Record
					for k := range perRound {
						records = append(records, job(fmt.Sprint(i), "1", unknown(n*perRound+k)))
					}
					if err := store.Accept(context.Background(), m.batch(other, records...), math.MaxInt64); err != nil {
						m.t.Errorf("accept: %v", err)
					}
				}
			})
		}
		group.Wait()
	})
	for _, store := range stores {
		authority, err := store.Authority(context.Background(), "SDSC")
		m.noError(err)
		m.equal("resources of SDSC", rounds*perRound+2, len(authority.Resources))
		summary, err := store.Summary(context.Background(), other.who.Site, amieusage.SummaryQuery{
			GroupBy: []amieusage.GroupKey{amieusage.ByUser, amieusage.ByProject, amieusage.ByResource}}, 1000)
		m.noError(err)
		m.equal("groups", rounds*perRound, len(summary.Rows))
		for _, row := range summary.Rows {
			m.equal("records of "+row.Username, int64(len(stores)), row.RecordCount)
		}
	}
	m.sites = []*modelSite{s} // the model has nothing of the other
}

// testReplicasImport imports the same through all replicas at once: everything
// is added once.
func testReplicasImport(m *storeModel) {
	stores := m.replicas(3)
	var lock sync.Mutex
	added := map[string]int{}
	var group sync.WaitGroup
	for i := range 2 * len(stores) {
		group.Go(func() {
			for _, name := range []string{"PSC", "SDSC", "NCSA"} {
				changes, err := stores[i%len(stores)].Import(context.Background(), standard(name))
				if err != nil {
					m.t.Errorf("import: %v", err)
				}
				lock.Lock()
				for _, c := range changes {
					added[name+": "+c.Action+" "+c.What]++
				}
				lock.Unlock()
			}
		})
	}
	group.Wait()
	// All sites at once, in orders that differ: imports wait for each other.
	all := func(names ...string) *ledger.RegistrySpec {
		spec := &ledger.RegistrySpec{}
		for _, name := range names {
			spec.Sites = append(spec.Sites, standard(name).Sites...)
		}
		return spec
	}
	for i := range 2 * len(stores) {
		group.Go(func() {
			for range 3 {
				spec := all("PSC", "SDSC", "NCSA")
				if i%2 == 0 {
					slices.Reverse(spec.Sites)
				}
				if _, err := stores[i%len(stores)].Import(context.Background(), spec); err != nil {
					m.t.Errorf("import: %v", err)
				}
			}
		})
	}
	group.Wait()
	for what, times := range added {
		m.equal("times of "+what, 1, times)
	}
	m.equal("changes", 3*11, len(added))
	m.site("PSC") // works as it would
	for _, store := range stores {
		m.use(store)
		for _, name := range []string{"PSC", "SDSC", "NCSA"} {
			m.changed(standard(name))
		}
		m.send(m.sites[0], job("1", "1"))
		m.loadOn(store)
	}
}

// testReplicasKeys creates keys on all replicas at once, and revokes on one
// what another knows.
func testReplicasKeys(m *storeModel) {
	const each = 10
	ctx := context.Background()
	m.site("PSC")
	m.sites = nil
	stores := m.replicas(3)
	var lock sync.Mutex
	var keys []ledger.Key
	secrets := map[int64]string{}
	var group sync.WaitGroup
	for i, store := range stores {
		group.Go(func() {
			for n := range each {
				secret, key, err := ledger.CreateKey(ctx, store, "PSC", fmt.Sprint(i, ".", n), m.now)
				if err != nil {
					m.t.Errorf("create a key: %v", err)
				}
				lock.Lock()
				keys = append(keys, key)
				secrets[key.ID] = secret
				lock.Unlock()
			}
		})
	}
	group.Wait()
	slices.SortFunc(keys, func(a, b ledger.Key) int { return int(a.ID - b.ID) })
	m.equal("different numbers", len(stores)*each, len(secrets))
	for i, store := range stores {
		got, err := store.Keys(ctx, "PSC")
		m.noError(err)
		m.equal("keys", keys, got, cmpopts.IgnoreSliceElements(func(k ledger.Key) bool { return k.Label == "first" }))
		for n := i * each; n < i*each+3; n++ {
			k := &keys[n]
			for _, other := range stores {
				_, _, err := m.serviceOf(other).Authenticate(ctx, "PSC", secrets[k.ID])
				m.noError(err)
			}
			m.noError(store.RevokeKey(ctx, "PSC", k.ID, m.now))
			k.RevokedAt = m.now
			for _, other := range stores {
				_, _, err := m.serviceOf(other).Authenticate(ctx, "PSC", secrets[k.ID])
				m.hasCode(err, amieusage.CodeForbidden)
			}
		}
	}
	// Revoked on all at once: all know the same time of it.
	last := keys[len(keys)-1].ID
	for i, store := range stores {
		group.Go(func() {
			if err := store.RevokeKey(ctx, "PSC", last, m.now.Add(time.Duration(i)*time.Second)); err != nil {
				m.t.Errorf("revoke: %v", err)
			}
		})
	}
	group.Wait()
	var revoked []time.Time
	for _, store := range stores {
		got, err := store.Keys(ctx, "PSC")
		m.noError(err)
		revoked = append(revoked, got[len(got)-1].RevokedAt)
	}
	if revoked = slices.Compact(revoked); len(revoked) != 1 || revoked[0].IsZero() {
		m.t.Errorf("key %d was revoked at %v", last, revoked)
	}
}
