package storetest

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// testStatus loads over several hours, corrects, and asks for every window
// between the times of loading and the hours around them.
func testStatus(m *storeModel) {
	s := m.site("PSC")
	eve := func(r *amieusage.ComputeRecord) { r.Username = "eve" }
	times := []time.Time{{}}
	for i := range 5 {
		m.send(s, job(fmt.Sprint(i), "1.5"), job("g", fmt.Sprint(i), onResource(gpus)), job(fmt.Sprint("e", i), "1", eve))
		m.send(s, adjustment(amieusage.Refund, fmt.Sprint(i), "2"))
		m.load()
		times = append(times, m.now, m.now.Truncate(time.Hour), m.now.Add(1))
	}
	m.send(s, job("1", "100"), job("e1", "3"), job("e2", "3", eve))
	m.load()
	times = append(times, m.now)
	m.checkFailed(s)
	m.checkLoaded(s)
	for _, from := range times {
		for _, to := range times {
			if to.IsZero() || !to.Before(from) {
				m.checkStatus(s, amieusage.StatusQuery{From: from, To: to})
			}
		}
	}
	// Without times: the last 30 days.
	m.now = m.now.AddDate(0, 0, 29)
	m.send(s, job("late", "1"))
	m.load()
	m.checkStatus(s, amieusage.StatusQuery{})
	m.now = m.now.AddDate(0, 0, 2)
	m.checkStatus(s, amieusage.StatusQuery{})
	status, err := m.service.Status(context.Background(), s.who, amieusage.StatusQuery{})
	m.noError(err)
	m.equal("status", amieusage.Status{{Resource: bulk, LoadedRecordCount: 1, TotalCharge: chargeOf("1")}}, status)
}

// testStatusRecords limits how many failed records of each reason are shown.
func testStatusRecords(m *storeModel) {
	s := m.site("PSC")
	for i := range 4 {
		m.send(s, job(fmt.Sprint(i), "1", func(r *amieusage.ComputeRecord) { r.Username = "eve" }),
			job(fmt.Sprint("p", i), "1", func(r *amieusage.ComputeRecord) { r.LocalProjectID = "p.none" }))
	}
	m.load()
	status, err := m.store.Status(context.Background(), s.who.Site, amieusage.StatusQuery{}, 3)
	m.noError(err)
	if len(status) != 1 || status[0].FailedJobCount != 8 || len(status[0].Errors) != 2 {
		m.t.Fatalf("status %v", status)
	}
	for _, e := range status[0].Errors {
		if len(e.Records) != 3 {
			m.t.Errorf("%d records for %q, want 3", len(e.Records), e.Error)
		}
	}
}

func testFailed(m *storeModel) {
	s := m.site("PSC")
	for i := range 10 {
		m.send(s, job(fmt.Sprint(i), "1", func(r *amieusage.ComputeRecord) { r.Username = "eve" }))
	}
	m.load()
	m.checkFailed(s)
	page, next, err := m.service.Failed(context.Background(), s.who, ledger.FailedQuery{})
	m.noError(err)
	if len(page) != 10 || next != 0 {
		m.t.Errorf("a page of %d and a next one behind %d", len(page), next)
	}
	page, next, err = m.service.Failed(context.Background(), s.who, ledger.FailedQuery{Limit: 10, After: page[8].FailedRecordID})
	m.noError(err)
	if len(page) != 1 || next != 0 || page[0].Record.Common().LocalRecordID != "9" {
		m.t.Errorf("behind the last but one are %v, then %d", page, next)
	}
	// Unknown fields and the spelling of values are given back.
	m.accept(s, `{"UsageType":"Compute","Records":[{"Username":"eve","LocalProjectID":"`+alpha+`","LocalRecordID":"x","Resource":"`+bulk+
		`","SubmitTime":"2026-10-01T20:00:00-04:00","StartTime":"2026-10-02","EndTime":"2026-10-02T00:00:01","Charge":1.50,`+
		`"Attributes":{"NodeCount":"4.0","Color":"red"},"Shape":[1,2]}]}`)
	m.whenFree(m.service.LoadSome)
	all := m.failed(s)
	last := all[len(all)-1]
	want := `{"Username":"eve","LocalProjectID":"` + alpha + `","LocalRecordID":"x","Resource":"` + bulk +
		`","SubmitTime":"2026-10-01T20:00:00-04:00","StartTime":"2026-10-02T00:00:00Z","EndTime":"2026-10-02T00:00:01Z","Charge":"1.50",` +
		`"Attributes":{"NodeCount":4,"Color":"red"},"Shape":[1,2],"UsageType":"Compute","Error":"The user is not known on the project","FailedRecordID":` +
		fmt.Sprint(last.FailedRecordID) + `}`
	m.equal("failed record", want, string(last.AppendJSON(nil)))
	m.sites = nil // the model has nothing of it
}

func testClear(m *storeModel) {
	s, other := m.site("PSC"), m.site("SDSC")
	eve := func(r *amieusage.ComputeRecord) { r.Username = "eve" }
	for _, site := range []*modelSite{s, other} {
		m.send(site, job("1", "1", eve), job("2", "1", eve), job("3", "1", eve))
	}
	m.load()
	m.send(other, job("4", "1", eve))
	m.load()
	m.check()
	// A site may have failed records of the same numbers as another.
	one, two, foreign := s.failed[0].id, s.failed[1].id, other.failed[3].id
	unknown := max(s.failed[2].id, foreign) + 1
	for _, ids := range [][]int64{{one, unknown}, {foreign, one}, {0, -1, math.MaxInt64, two, unknown, unknown}} {
		m.clear(s, ids...)
		m.check()
	}
	m.equal("failed", []string{"1", "2", "3"}, openIDs(s))
	m.clear(s, two, one, two)
	m.check()
	m.equal("failed", []string{"3"}, openIDs(s))
	m.clear(s, two)
	m.clear(s)
	// What was cleared fails anew.
	m.send(s, job("1", "1", eve))
	m.load()
	m.check()
	m.equal("failed", []string{"3", "1"}, openIDs(s))
}

func testLoaded(m *storeModel) {
	s := m.site("PSC")
	var times []time.Time
	for i := range 4 {
		m.send(s, job(fmt.Sprint(i), "1"), job("same", "1", submittedAt(storeEpoch.Add(time.Duration(i)*time.Second))), job("same", "1", onResource(gpus)))
		m.load()
		times = append(times, m.now.Add(-19*time.Minute)) // the last look at the queue found nothing
	}
	m.check()
	all := m.loaded(s, amieusage.LoadedQuery{PageSize: 100})
	m.equal("records", 9, len(all))
	for offset := range 11 {
		page, err := m.service.Loaded(context.Background(), s.who, amieusage.LoadedQuery{PageSize: 3, Offset: int64(offset)})
		m.noError(err)
		m.equal("page", all[min(offset, 9):min(offset+3, 9)], page.Records, emptyIsNil)
		if more := offset+3 < 9; more != (page.Next != "") {
			m.t.Errorf("behind offset %d: next is %q", offset, page.Next)
		}
	}
	for _, from := range append(times, times[1].Add(1), times[3].Add(1)) {
		var want []amieusage.LoadedRecord
		for _, r := range all {
			if !r.LoadedTime.Before(from) {
				want = append(want, r)
			}
		}
		m.equal("loaded since "+from.String(), want, m.loaded(s, amieusage.LoadedQuery{PageSize: 2, MinLoadedTime: from}))
	}
	first, err := m.service.Loaded(context.Background(), s.who, amieusage.LoadedQuery{PageSize: 1})
	m.noError(err)
	m.equal("behind a cursor, since a later time", all[7:],
		m.loaded(s, amieusage.LoadedQuery{PageSize: 2, Cursor: first.Next, MinLoadedTime: times[3]}))
	for _, id := range []string{"same", "2", "none", ""} {
		var want []amieusage.LoadedRecord
		for _, r := range all {
			if r.LocalRecordID == id || id == "" {
				want = append(want, r)
			}
		}
		m.equal("loaded "+id, want, m.loaded(s, amieusage.LoadedQuery{PageSize: 2, LocalRecordID: id}))
	}
	for _, cursor := range []string{"x", ".", "1", "1.", ".1", "1.1.1", "1.zzzzzzzzzzzzzzzzzzzz", "-", "1;1"} {
		_, err := m.service.Loaded(context.Background(), s.who, amieusage.LoadedQuery{Cursor: cursor})
		m.hasCode(err, amieusage.CodeInvalid)
	}
}

// testLoadedBy asks for the loaded records of a project, a user and a time of usage.
func testLoadedBy(m *storeModel) {
	s, other := m.site("PSC"), m.site("SDSC")
	type sent struct {
		id, user, project string
		hour              int
	}
	var all []sent
	for i := range 24 {
		x := sent{fmt.Sprint(i), "alice", alpha, i % 8}
		if i%2 == 1 {
			x.user, x.project = "bob", []string{alpha, beta}[i/2%2] // alice is not on beta
		}
		all = append(all, x)
	}
	for _, x := range all {
		used := func(r *amieusage.ComputeRecord) {
			r.Username, r.LocalProjectID = x.user, x.project
			r.EndTime = r.StartTime.Truncate(24 * time.Hour).Add(time.Duration(24+x.hour) * time.Hour)
		}
		m.send(s, job(x.id, "1", used))
		m.send(other, job("other "+x.id, "1", used))
	}
	m.load()
	m.check()
	first := job("", "1").StartTime.Truncate(24 * time.Hour).Add(24 * time.Hour)
	names := func(name ...string) []string { return append(name, "", "none", "alice\x00") }
	hours := []time.Time{{}, first, first.Add(3 * time.Hour), first.Add(3*time.Hour + 1), first.Add(20 * time.Hour)}
	for _, project := range names(alpha, beta) {
		for _, user := range names("alice", "bob") {
			for _, from := range hours {
				for _, to := range hours {
					var want []string
					for _, x := range all {
						at := first.Add(time.Duration(x.hour) * time.Hour)
						if (project == "" || project == x.project) && (user == "" || user == x.user) &&
							(from.IsZero() || !at.Before(from)) && (to.IsZero() || at.Before(to)) {
							want = append(want, x.id)
						}
					}
					q := amieusage.LoadedQuery{LocalProjectID: project, Username: user, From: from, To: to, PageSize: 5}
					var got []string
					for _, r := range m.loaded(s, q) {
						got = append(got, r.LocalRecordID)
					}
					m.equal(fmt.Sprintf("loaded of %q, %q, from %s to %s", project, user, from, to), want, got)
				}
			}
		}
	}
	one := m.loaded(s, amieusage.LoadedQuery{LocalProjectID: all[9].project, LocalRecordID: "9", PageSize: 5})
	m.equal("one of a project", 1, len(one))
	one = m.loaded(s, amieusage.LoadedQuery{Username: "alice", LocalRecordID: "9", PageSize: 5, MinLoadedTime: storeEpoch})
	m.equal("one of another user", 0, len(one))
}

// testSites asks how all sites stand.
func testSites(m *storeModel) {
	empty, err := m.store.Sites(context.Background())
	m.noError(err)
	m.equal("sites of an empty ledger", 0, len(empty))
	s, quiet := m.site("PSC"), m.site("NCSA")
	eve := func(r *amieusage.ComputeRecord) { r.Username = "eve" }
	first := m.now
	m.send(s, job("1", "4"), job("2", "6", onResource(gpus)), job("3", "1", eve))
	look := func() ledger.SiteState {
		states, err := m.store.Sites(context.Background())
		m.noError(err)
		m.equal("sites", []string{quiet.name, s.name}, []string{states[0].Name, states[1].Name})
		m.equal("charges of a site that has sent nothing", 0, len(states[0].Charges))
		states[0].Charges = nil
		m.equal("a site that has sent nothing", ledger.SiteState{Name: quiet.name}, states[0])
		return states[1]
	}
	state := look()
	m.equal("queued", ledger.Counts{Accepted: 3, Queued: 3}, state.Counts)
	if state.LastAccepted.Before(first) || !state.OldestQueued.Equal(state.LastAccepted) {
		m.t.Errorf("sent at %s: last %s, oldest %s", first, state.LastAccepted, state.OldestQueued)
	}
	oldest := state.OldestQueued
	m.send(s, job("1", "5"))
	if state = look(); !state.OldestQueued.Equal(oldest) || !state.LastAccepted.After(oldest) {
		m.t.Errorf("last %s, oldest %s, which was %s", state.LastAccepted, state.OldestQueued, oldest)
	}
	m.load()
	m.send(s, adjustment(amieusage.Refund, "a", "2"))
	m.load()
	state = look()
	m.equal("loaded", ledger.Counts{Accepted: 5, Loaded: 4, Failed: 1}, state.Counts)
	if !state.OldestQueued.IsZero() || !state.LastAccepted.After(oldest) {
		m.t.Errorf("last %s, oldest %s", state.LastAccepted, state.OldestQueued)
	}
	m.equal("charges", []ledger.ResourceCharge{
		{Resource: gpus, Used: chargeOf("6"), GivenBack: chargeOf("0")},
		{Resource: bulk, Used: chargeOf("5"), GivenBack: chargeOf("2")},
	}, state.Charges)
	m.check()
}

// testExport has the registry written, and tries an import without doing it.
func testExport(m *storeModel) {
	ctx := context.Background()
	s := m.site("PSC")
	before, err := m.store.Export(ctx)
	m.noError(err)
	m.equal("sites", 1, len(before.Sites))
	spec := &ledger.RegistrySpec{DryRun: true, Sites: []ledger.SiteSpec{
		{Name: "NCSA", Resources: []string{"new"}},
		{Name: s.name, Resources: []string{"another"}, Projects: []ledger.ProjectSpec{{ID: alpha, Users: []string{"eve"}}}},
	}}
	tried, err := m.store.Import(ctx, spec)
	m.noError(err)
	after, err := m.store.Export(ctx)
	m.noError(err)
	m.equal("the registry after a dry run", before, after)
	m.send(s, job("1", "1"))
	m.load()
	m.check() // alice is still on the project

	again, err := m.store.Import(ctx, before)
	m.noError(err)
	m.equal("what an import of an export changes", 0, len(again))
	spec.DryRun = false
	done, err := m.store.Import(ctx, spec)
	m.noError(err)
	m.equal("what was tried", done, tried)
	if after, err = m.store.Export(ctx); err == nil {
		m.equal("sites", []string{"NCSA", s.name}, []string{after.Sites[0].Name, after.Sites[1].Name})
		m.equal("users", []string{"eve"}, after.Sites[1].Projects[0].Users)
		m.equal("allocations", before.Sites[0].Projects[0].Allocations, after.Sites[1].Projects[0].Allocations)
	}
	m.noError(err)
	m.sites = nil // the model has nothing of it
}

// emptyIsNil makes no difference between no list and an empty one.
var emptyIsNil = cmp.Transformer("empty", func(l []amieusage.LoadedRecord) []amieusage.LoadedRecord {
	return append([]amieusage.LoadedRecord{}, l...)
})

// testLoadedCursor loads and corrects between the pages: none is passed over.
func testLoadedCursor(m *storeModel) {
	s := m.site("PSC")
	for i := range 6 {
		m.send(s, job(fmt.Sprint(i), "1"), job(fmt.Sprint("x", i), "1"))
		m.load()
	}
	seen := map[string]string{}
	q := amieusage.LoadedQuery{PageSize: 2}
	for round := 0; ; round++ {
		page, err := m.service.Loaded(context.Background(), s.who, q)
		m.noError(err)
		for _, r := range page.Records {
			seen[r.LocalRecordID] = r.Charge.String()
		}
		if round < 4 { // one that was seen, one that is ahead, one that is new
			m.send(s, job(fmt.Sprint(round), "2"), job(fmt.Sprint("x", 5-round), "3"), job(fmt.Sprint("new", round), "4"))
			m.load()
		}
		if page.Next == "" {
			break
		}
		q.Cursor = page.Next
	}
	want := map[string]string{}
	for _, e := range s.entries {
		want[e.newest().Common().LocalRecordID] = e.newest().Common().Charge.String()
	}
	m.equal("what was seen", want, seen)
}

func testRevisions(m *storeModel) {
	s, other := m.site("PSC"), m.site("SDSC")
	first := s.who.KeyID
	secret, key, err := ledger.CreateKey(context.Background(), m.store, "PSC", "second", m.now)
	m.noError(err)
	m.send(s, job("0", "1"), job("1", "1"))
	m.send(other, job("1", "7"))
	m.load()
	s.who, _, err = m.service.Authenticate(context.Background(), "PSC", secret)
	m.noError(err)
	m.send(s, job("1", "1"))
	m.send(s, job("1", "2.50"), job("1", "3"))
	m.load()
	got, err := m.store.Revisions(context.Background(), s.who.Site, job("1", "1").Identity())
	m.noError(err)
	if len(got) != 3 {
		m.t.Fatalf("%d revisions, want 3", len(got))
	}
	revisions := s.entries[job("1", "1").Identity()].revisions
	for i, charge := range []string{"1", "2.5", "3"} {
		want := ledger.Revision{Number: i + 1, Charge: chargeOf(charge), AcceptedAt: revisions[i].acceptedAt, LoadedAt: revisions[i].loadedAt,
			KeyID: key.ID, Record: revisions[i].AppendJSON(nil)}
		if i == 0 {
			want.KeyID = first
		}
		m.equal("revision", want, got[i], asText)
	}
	got, err = m.store.Revisions(context.Background(), s.who.Site, job("none", "1").Identity())
	m.noError(err)
	m.equal("revisions of no record", 0, len(got))
	m.checkRevisions(other)
}

// testTimesOutOfRange asks for times that no database can hold.
func testTimesOutOfRange(m *storeModel) {
	s := m.site("PSC")
	m.send(s, job("1", "1"), job("2", "1", func(r *amieusage.ComputeRecord) { r.Username = "eve" }))
	m.send(s, &amieusage.StorageRecord{Username: "alice", LocalProjectID: alpha, LocalRecordID: "e", Resource: bulk,
		CollectionTime: time.Unix(0, 0).UTC(), Charge: chargeOf("1")})
	m.send(s, adjustment(amieusage.Debit, "1", "1"))
	m.load()
	m.check()
	early, late := time.Date(1, 1, 2, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC)
	for _, period := range [][2]time.Time{{early, late}, {early, early.AddDate(100, 0, 0)}, {late.AddDate(-100, 0, 0), late},
		{early, {}}, {late, {}}, {{}, late}, {{}, early}} {
		m.checkStatus(s, amieusage.StatusQuery{From: period[0], To: period[1]})
		for _, keys := range [][]amieusage.GroupKey{{amieusage.ByDay}, {amieusage.ByMonth}, {amieusage.ByUser}} {
			m.checkSummary(s, amieusage.SummaryQuery{GroupBy: keys, From: period[0], To: period[1]})
		}
	}
	m.equal("loaded", 2, len(m.loaded(s, amieusage.LoadedQuery{PageSize: 5, MinLoadedTime: early})))
	m.equal("loaded", 0, len(m.loaded(s, amieusage.LoadedQuery{PageSize: 5, MinLoadedTime: late})))
}
