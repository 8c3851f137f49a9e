package storetest

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// changed checks what an import reports, each as "action what".
func (m *storeModel) changed(spec *ledger.RegistrySpec, want ...string) {
	m.t.Helper()
	var got []string
	for _, c := range m.importSpec(spec) {
		got = append(got, c.Action+" "+c.What)
	}
	m.equal("changes", want, got, cmpopts.EquateEmpty())
}

// testImport tells the story of a registry.
func testImport(m *storeModel) {
	site := func(projects ...ledger.ProjectSpec) *ledger.RegistrySpec {
		return &ledger.RegistrySpec{Sites: []ledger.SiteSpec{{Name: "PSC", Projects: projects}}}
	}
	m.changed(&ledger.RegistrySpec{})
	m.changed(site(), "added site PSC")
	s := m.site("PSC") // imports the standard registry
	m.changed(standard("PSC"))
	m.changed(site())
	m.changed(standard("SDSC"),
		"added site SDSC", "added resource "+bulk+" of site SDSC", "added resource "+gpus+" of site SDSC",
		"added project "+alpha+" of site SDSC", "added user alice to project "+alpha, "added user bob to project "+alpha,
		"added allocation of project "+alpha+" on "+bulk+" from 2026-01-01T00:00:00Z: 1000 until 2027-01-01T00:00:00Z",
		"added allocation of project "+alpha+" on "+gpus+" from 2026-01-01T00:00:00Z: 10 until 2027-01-01T00:00:00Z",
		"added project "+beta+" of site SDSC", "added user bob to project "+beta,
		"added allocation of project "+beta+" on "+bulk+" from 2026-01-01T00:00:00Z: 5 until 2027-01-01T00:00:00Z")
	m.changed(site(ledger.ProjectSpec{ID: alpha, Users: []string{"eve", "eve", "bob"}}),
		"added user eve to project "+alpha, "removed user alice from project "+alpha)
	m.changed(site(ledger.ProjectSpec{ID: alpha}, ledger.ProjectSpec{ID: beta, Users: []string{}}), "removed user bob from project "+beta)
	m.changed(site(ledger.ProjectSpec{ID: alpha, Users: []string{"alice", "bob"}}),
		"added user alice to project "+alpha, "removed user eve from project "+alpha)
	year := allocation(bulk, 1000, 1, 13)
	longer := year
	longer.End = longer.End.AddDate(1, 0, 0)
	next := allocation(bulk, 1, 13, 15)
	m.changed(site(ledger.ProjectSpec{ID: alpha, Allocations: []ledger.AllocationSpec{longer, next}}),
		"changed allocation of project "+alpha+" on "+bulk+" from 2026-01-01T00:00:00Z: 1000 until 2028-01-01T00:00:00Z (was 1000 until 2027-01-01T00:00:00Z)",
		"added allocation of project "+alpha+" on "+bulk+" from 2027-01-01T00:00:00Z: 1 until 2027-03-01T00:00:00Z",
		"removed allocation of project "+alpha+" on "+gpus+" from 2026-01-01T00:00:00Z (was 10 until 2027-01-01T00:00:00Z)")
	less := year
	less.Amount--
	m.changed(site(ledger.ProjectSpec{ID: alpha, Allocations: []ledger.AllocationSpec{less}}),
		"changed allocation of project "+alpha+" on "+bulk+" from 2026-01-01T00:00:00Z: 999.999999 until 2027-01-01T00:00:00Z (was 1000 until 2028-01-01T00:00:00Z)",
		"removed allocation of project "+alpha+" on "+bulk+" from 2027-01-01T00:00:00Z (was 1 until 2027-03-01T00:00:00Z)")
	zoned := less
	zoned.Start = zoned.Start.In(time.FixedZone("", -4*3600))
	m.changed(site(ledger.ProjectSpec{ID: alpha, Allocations: []ledger.AllocationSpec{zoned}}))
	far := less
	far.End = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)
	if changes := m.importSpec(site(ledger.ProjectSpec{ID: alpha, Allocations: []ledger.AllocationSpec{far}})); len(changes) != 1 {
		m.t.Errorf("changes %v, want one", changes)
	}
	m.changed(site(ledger.ProjectSpec{ID: alpha, Allocations: []ledger.AllocationSpec{far}}))
	// What was loaded goes by the registry as it is.
	m.send(s, job("1", "1"), job("2", "1", onResource(gpus)), job("3", "1", func(r *amieusage.ComputeRecord) { r.Username = "eve" }),
		job("4", "1", submittedAt(time.Date(2199, 1, 1, 0, 0, 0, 0, time.UTC))))
	m.load()
	m.check()
	m.equal("failed", []string{"2", "3"}, openIDs(s))
	m.changed(site(ledger.ProjectSpec{ID: alpha, Allocations: []ledger.AllocationSpec{}}),
		"removed allocation of project "+alpha+" on "+bulk+" from 2026-01-01T00:00:00Z (was 999.999999 until 2262-04-10T23:47:16.854775807Z)")
	m.send(s, job("5", "1"))
	m.load()
	m.equal("failed", []string{"2", "3", "5"}, openIDs(s))
}

// testImportRefused has specs of which nothing may be taken over.
func testImportRefused(m *storeModel) {
	s := m.site("PSC")
	one := allocation(bulk, 1, 1, 6)
	backwards := allocation(bulk, 1, 6, 1)
	negative, huge, most := one, one, one
	negative.Amount, huge.Amount, most.Amount = -1, math.MaxInt64, amieusage.MaxCharge*1_000_000
	more := most
	more.Start = more.Start.Add(time.Hour)
	early := func(year int) ledger.AllocationSpec { // starts in 1970, as times are kept
		a := one
		a.Start = time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)
		return a
	}
	project := func(allocations ...ledger.AllocationSpec) ledger.SiteSpec {
		return ledger.SiteSpec{Name: "PSC", Resources: []string{"new"}, Projects: []ledger.ProjectSpec{
			{ID: "p.new", Users: []string{"eve"}, Allocations: allocations}}}
	}
	for name, sites := range map[string][]ledger.SiteSpec{
		"unknown resource":         {project(one, allocation("none", 1, 1, 6))},
		"another site's resource":  {{Name: "SDSC", Resources: []string{"comet"}}, project(allocation("comet", 1, 1, 6))},
		"two of one start":         {project(one, one)},
		"ends before it starts":    {project(backwards)},
		"negative":                 {project(negative)},
		"more than a charge":       {project(huge)},
		"more in all than is held": {project(most, more)},
		"a site twice":             {project(one), project(one)},
		"a site without a name":    {project(one), {}},
		"a project twice":          {{Name: "PSC", Projects: []ledger.ProjectSpec{{ID: "p.new"}, {ID: "p.new"}}}},
		"a project without an id":  {{Name: "PSC", Projects: []ledger.ProjectSpec{{}}}},
		"a user without a name":    {{Name: "PSC", Projects: []ledger.ProjectSpec{{ID: "p.new", Users: []string{"eve", ""}}}}},
		"a resource without one":   {{Name: "PSC", Resources: []string{"new", ""}}},
		"a name that is no text":   {{Name: "PSC", Resources: []string{"new\x00"}}},
		"a name in another code":   {{Name: "PSC", Projects: []ledger.ProjectSpec{{ID: "caf\xe9"}}}},
		"a name that is too long":  {{Name: "PSC", Projects: []ledger.ProjectSpec{{ID: "p.new", Users: []string{strings.Repeat("x", 1025)}}}}},
		"starts that are the same": {project(early(1901), early(1902))},
	} {
		changes, err := m.store.Import(context.Background(), &ledger.RegistrySpec{Sites: sites})
		if m.hasCode(err, amieusage.CodeInvalid); len(changes) > 0 {
			m.t.Errorf("%s: changes %v", name, changes)
		}
	}
	authority, err := m.store.Authority(context.Background(), "PSC")
	m.noError(err)
	m.equal("resources", map[string]bool{bulk: true, gpus: true}, authority.Resources)
	_, err = m.store.Authority(context.Background(), "SDSC")
	m.hasCode(err, amieusage.CodeNotFound)
	m.send(s, job("1", "1", func(r *amieusage.ComputeRecord) { r.LocalProjectID, r.Username = "p.new", "eve" }))
	m.load()
	m.equal("failure", ledger.UnknownProject, s.openFailed()[0].failure)
	m.changed(&ledger.RegistrySpec{Sites: []ledger.SiteSpec{{Name: "PSC", Projects: []ledger.ProjectSpec{{ID: "p.new"}}}}},
		"added project p.new of site PSC")
}

// testImportWhileLoading changes the registry on one replica while records are
// sent and loaded on all.
func testImportWhileLoading(m *storeModel) {
	s := m.site("PSC")
	ctx := context.Background()
	stores := m.replicas(2)
	m.loadWhile(stores, s, 2, onlyKnown{}, func() {
		var group sync.WaitGroup
		group.Go(func() {
			for i := range 10 {
				spec := standard("PSC")
				spec.Sites[0].Projects[0].Users = append(spec.Sites[0].Projects[0].Users, fmt.Sprint("user", i))
				if _, err := stores[0].Import(ctx, spec); err != nil {
					m.t.Errorf("import: %v", err)
				}
			}
		})
		group.Go(func() {
			for i := range 30 {
				record := job(fmt.Sprint(i), "1", func(r *amieusage.ComputeRecord) { r.Username = fmt.Sprint("user", i%10) })
				if err := stores[1].Accept(ctx, m.batch(s, record), math.MaxInt64); err != nil {
					m.t.Errorf("accept: %v", err)
				}
			}
		})
		group.Wait()
	})
	counts, err := m.service.Counts(ctx, s.who)
	m.noError(err)
	m.equal("accepted", int64(30), counts.Accepted)
	m.verify()
	m.sites = nil // the model has nothing of it
}

func testKeys(m *storeModel) {
	ctx := context.Background()
	m.site("PSC")
	m.changed(&ledger.RegistrySpec{Sites: []ledger.SiteSpec{{Name: "NCSA"}}}, "added site NCSA")
	create := func(site, label string) (string, ledger.Key) {
		m.t.Helper()
		m.tick()
		secret, key, err := ledger.CreateKey(ctx, m.store, site, label, m.now)
		m.noError(err)
		m.equal("key", ledger.Key{ID: key.ID, Site: site, Label: label, CreatedAt: m.now}, key)
		return secret, key
	}
	may := func(site, secret string, want amieusage.Code) {
		m.t.Helper()
		who, resources, err := m.service.Authenticate(ctx, site, secret)
		if want != "" {
			m.hasCode(err, want)
			return
		}
		m.noError(err)
		if who.Name != site || site == "PSC" && !resources[bulk] || site == "NCSA" && len(resources) > 0 {
			m.t.Errorf("%+v may send to %v", who, resources)
		}
	}
	one, oneKey := create("PSC", "one")
	two, twoKey := create("PSC", "")
	three, threeKey := create("NCSA", "é")
	if oneKey.ID == twoKey.ID {
		m.t.Errorf("two keys bear the number %d", oneKey.ID)
	}
	may("PSC", one, "")
	may("PSC", two, "")
	may("NCSA", three, "")
	for _, wrong := range [][2]string{{"PSC", three}, {"NCSA", one}, {"psc", one}, {"none", one}, {"", one}, {"PSC", ""},
		{"PSC", strings.ToUpper(one)}, {"PSC", one + " "}} {
		may(wrong[0], wrong[1], amieusage.CodeUnauthorized)
	}
	m.tick()
	m.noError(m.store.RevokeKey(ctx, "PSC", oneKey.ID, m.now))
	oneKey.RevokedAt = m.now
	m.tick()
	m.noError(m.store.RevokeKey(ctx, "PSC", oneKey.ID, m.now)) // it was revoked when it was
	may("PSC", one, amieusage.CodeForbidden)
	may("PSC", two, "")
	may("NCSA", three, "")
	m.hasCode(m.store.RevokeKey(ctx, "PSC", 9999, m.now), amieusage.CodeNotFound)
	m.hasCode(m.store.RevokeKey(ctx, "none", twoKey.ID, m.now), amieusage.CodeNotFound)
	_, _, err := ledger.CreateKey(ctx, m.store, "none", "", m.now)
	m.hasCode(err, amieusage.CodeNotFound)
	_, err = m.store.Keys(ctx, "none")
	m.hasCode(err, amieusage.CodeNotFound)
	_, err = m.store.Authority(ctx, "none")
	m.hasCode(err, amieusage.CodeNotFound)

	ignoreFirst := cmpopts.IgnoreSliceElements(func(k ledger.Key) bool { return k.Label == "first" })
	keys, err := m.store.Keys(ctx, "PSC")
	m.noError(err)
	m.equal("keys of PSC", []ledger.Key{oneKey, twoKey}, keys, ignoreFirst)
	keys, err = m.store.Keys(ctx, "")
	m.noError(err)
	m.equal("keys", []ledger.Key{threeKey, oneKey, twoKey}, keys, ignoreFirst)
	// A number is not given again.
	_, fourKey := create("PSC", "four")
	if fourKey.ID <= twoKey.ID {
		m.t.Errorf("key %d follows %d", fourKey.ID, twoKey.ID)
	}
}

// testWalls does to one site whatever can be done; another, of the same names,
// stays what it was.
func testWalls(m *storeModel) {
	one, two := m.site("PSC"), m.site("SDSC")
	eve := func(r *amieusage.ComputeRecord) { r.Username = "eve" }
	for _, s := range m.sites {
		m.send(s, job("1", "1"), job("2", "2"), job("3", "3", eve))
		m.send(s, adjustment(amieusage.Credit, "1", "0.5"))
	}
	m.load()
	m.check()
	before := m.view(two)
	m.send(one, job("1", "100"), job("4", "4"), job("3", "5", eve))
	m.load()
	m.checkFailed(one)
	m.clear(one, one.failed[1].id)
	m.clear(one, two.failed[0].id)
	m.importSpec(&ledger.RegistrySpec{Sites: []ledger.SiteSpec{{Name: "PSC", Projects: []ledger.ProjectSpec{
		{ID: alpha, Users: []string{"eve"}, Allocations: []ledger.AllocationSpec{}},
	}}}})
	m.noError(m.store.RevokeKey(context.Background(), "PSC", one.who.KeyID, m.now))
	m.newKey(one, "another")
	m.send(one, job("1", "7"), job("5", "4", eve))
	m.load()
	m.check()
	if diff := cmp.Diff(before, m.view(two), byText, asText); diff != "" {
		m.t.Errorf("what was done to PSC has changed SDSC (-before +after):\n%s", diff)
	}
	m.send(two, job("1", "9"), job("3", "3", eve))
	m.load()
}

// storeView is what a site sees.
type storeView struct {
	Counts    ledger.Counts
	Failed    []amieusage.FailedRecord
	Loaded    []amieusage.LoadedRecord
	Status    amieusage.Status
	Summary   *amieusage.Summary
	Revisions []ledger.Revision
	Authority *ledger.Authority
	Keys      []ledger.Key
}

func (m *storeModel) view(s *modelSite) (v storeView) {
	m.t.Helper()
	ctx := context.Background()
	all := amieusage.StatusQuery{From: storeEpoch.AddDate(-1, 0, 0)}
	v.Failed, v.Loaded = m.failed(s), m.loaded(s, amieusage.LoadedQuery{PageSize: 100})
	for _, look := range []func() (err error){
		func() (err error) { v.Counts, err = m.service.Counts(ctx, s.who); return err },
		func() (err error) { v.Status, err = m.service.Status(ctx, s.who, all); return err },
		func() (err error) {
			q := amieusage.SummaryQuery{GroupBy: []amieusage.GroupKey{amieusage.ByProject, amieusage.ByResource}}
			v.Summary, err = m.service.Summary(ctx, s.who, q)
			return err
		},
		func() (err error) {
			v.Revisions, err = m.store.Revisions(ctx, s.who.Site, job("1", "1").Identity())
			return err
		},
		func() (err error) { v.Authority, err = m.store.Authority(ctx, s.name); return err },
		func() (err error) { v.Keys, err = m.store.Keys(ctx, s.name); return err },
	} {
		m.noError(look())
	}
	return v
}
