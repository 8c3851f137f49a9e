package storetest

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

func testAccept(m *storeModel) {
	s := m.site("PSC")
	answer := m.send(s, job("1", "10"), job("2", "-1"), job("3", "20", onResource("elsewhere")), job("4", ""))
	var errors []string
	for _, f := range answer.FailedRecords {
		errors = append(errors, f.Error)
	}
	m.equal("errors", []string{"Charge must not be negative", "Resource is not a resource of this site", "Charge is required"}, errors)
	m.send(s, job("5", "-1"))
	m.equal("counts", ledger.Counts{Accepted: 1, Queued: 1}, s.counts)
	m.check()
	m.load()
	m.equal("counts", ledger.Counts{Accepted: 1, Loaded: 1}, s.counts)

	_, err := m.service.Accept(context.Background(), s.who, s.resources, []byte(`{"Records": []}`))
	m.hasCode(err, amieusage.CodeInvalid)
	m.equal("answer", &amieusage.SendResponse{Message: amieusage.QueuedMessage(0, 0)}, m.accept(s, `{"UsageType": "compute", "Records": []}`))
}

// accept sends a message of which the model has nothing.
func (m *storeModel) accept(s *modelSite, message string) *amieusage.SendResponse {
	m.t.Helper()
	answer, err := m.service.Accept(context.Background(), s.who, s.resources, []byte(message))
	m.noError(err)
	return answer
}

// testAcceptLimit fills a site's queue: further sends are refused as a whole
// until it is loaded, and other sites do not feel it.
func testAcceptLimit(m *storeModel) {
	s, other := m.site("PSC"), m.site("SDSC")
	m.maxQueued = 3
	m.use(m.store)
	m.send(s, job("1", "1"), job("2", "1"))
	m.send(s, job("3", "1"), job("4", "1"))
	_, err := m.service.Accept(context.Background(), s.who, s.resources, recordsMessage(job("5", "1")))
	m.hasCode(err, amieusage.CodeTooManyRequests)
	m.check()
	m.send(other, job("1", "1"))
	m.load()
	m.send(s, job("5", "1"))
	m.load()
}

// testLoadFailures has a record for each reason for which the registry refuses
// one.
func testLoadFailures(m *storeModel) {
	s := m.site("PSC")
	for _, c := range []struct {
		record amieusage.Record
		want   ledger.Failure
	}{
		{job("1", "1", func(r *amieusage.ComputeRecord) { r.LocalProjectID = "p.none" }), "The project is not known at this site"},
		{job("2", "1", func(r *amieusage.ComputeRecord) { r.Username = "eve" }), "The user is not known on the project"},
		{job("3", "1", func(r *amieusage.ComputeRecord) { r.LocalProjectID = beta }), "The user is not known on the project"},
		{job("4", "1", onResource(gpus), func(r *amieusage.ComputeRecord) { r.LocalProjectID, r.Username = beta, "bob" }),
			"The project has no allocation on the resource"},
		{job("5", "1", submittedAt(time.Date(2025, 12, 31, 23, 59, 59, 999_999_000, time.UTC))),
			"The allocation on the resource is not valid at the record's time"},
		{job("6", "1", submittedAt(time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC))),
			"The allocation on the resource is not valid at the record's time"},
		{job("7", "1", submittedAt(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))), ""},
		{job("8", "1", submittedAt(time.Date(2026, 12, 31, 23, 59, 59, 0, time.UTC))), ""},
	} {
		before := len(s.openFailed())
		m.send(s, c.record)
		m.load()
		m.checkFailed(s)
		var got ledger.Failure
		if open := s.openFailed(); len(open) > before {
			got = open[before].failure
		}
		m.equal("failure of "+c.record.String(), c.want, got)
	}
}

// testLoadLessens corrects, and gives back, what is loaded of a user and an
// allocation that are gone since.
func testLoadLessens(m *storeModel) {
	s := m.site("PSC")
	m.send(s, job("1", "8"), job("2", "4"))
	m.load()
	m.importSpec(&ledger.RegistrySpec{Sites: []ledger.SiteSpec{{
		Name: "PSC", Projects: []ledger.ProjectSpec{{ID: alpha, Users: []string{}, Allocations: []ledger.AllocationSpec{}}},
	}}})
	for _, c := range []struct {
		record amieusage.Record
		want   ledger.Failure
	}{
		{job("1", "9"), ledger.UnknownUser}, // to more
		{job("1", "5"), ""},                 // to less
		{job("1", "4", func(r *amieusage.ComputeRecord) { r.LocalProjectID = beta }), ledger.UnknownUser}, // to another project
		{job("1", "4", func(r *amieusage.ComputeRecord) { r.Username = "bob" }), ledger.UnknownUser},      // to another user
		{job("3", "1"), ledger.UnknownUser},                            // new
		{adjustment(amieusage.Refund, "r1", "10"), ledger.UnknownUser}, // of more than was charged
		{adjustment(amieusage.Refund, "r1", "7"), ""},
		{adjustment(amieusage.Refund, "r2", "3"), ledger.UnknownUser}, // 2 are left
		{adjustment(amieusage.Refund, "r1", "9"), ""},                 // all of it
		{adjustment(amieusage.Refund, "r1", "0"), ""},                 // undone
	} {
		before := s.counts.Failed
		m.send(s, c.record)
		m.load()
		m.checkFailed(s)
		var got ledger.Failure
		if s.counts.Failed > before {
			got = s.failed[len(s.failed)-1].failure
		}
		m.equal("failure of "+c.record.String(), c.want, got)
		m.check()
	}
}

func onResource(name string) func(r *amieusage.ComputeRecord) {
	return func(r *amieusage.ComputeRecord) { r.Resource = name }
}

// submittedAt moves a job in time.
func submittedAt(at time.Time) func(r *amieusage.ComputeRecord) {
	return func(r *amieusage.ComputeRecord) {
		d := at.Sub(r.SubmitTime)
		r.SubmitTime, r.StartTime, r.EndTime = at, r.StartTime.Add(d), r.EndTime.Add(d)
	}
}

func named(name string) func(r *amieusage.ComputeRecord) {
	return func(r *amieusage.ComputeRecord) { r.JobName = name }
}

// testLoadUnreadable has a batch with records that are not valid (any more):
// they fail, and hold up no other.
func testLoadUnreadable(m *storeModel) {
	s := m.site("PSC")
	good := job("1", "1")
	bad := `{"Username":"alice","LocalProjectID":"` + alpha + `","LocalRecordID":"2","Resource":"` + bulk + `","Charge":"-1"}`
	err := m.store.Accept(context.Background(), &ledger.Batch{
		Site: s.who.Site, KeyID: s.who.KeyID, UsageType: amieusage.Compute, AcceptedAt: m.now,
		Records: [][]byte{[]byte(bad), good.AppendJSON(nil), []byte(`[`)},
	}, 1000)
	m.noError(err)
	m.tick()
	m.equal("report", ledger.LoadReport{Batches: 1, Loaded: 1, Failed: 2}, m.whenFree(m.service.LoadSome))
	failed := m.failed(s)
	if len(failed) != 2 {
		m.t.Fatalf("%d failed records, want 2", len(failed))
	}
	for i, raw := range []string{bad, "["} {
		if f := failed[i]; f.Error != string(ledger.Unreadable) || f.Problem == nil || string(f.Raw) != raw {
			m.t.Errorf("failed record %+v, want one as %s with its problem", f, raw)
		}
	}
	status, err := m.service.Status(context.Background(), s.who, amieusage.StatusQuery{})
	m.noError(err)
	var failures int64
	for _, r := range status {
		failures += r.FailedJobCount
	}
	m.equal("failures", int64(2), failures)
	m.verify()
	m.sites = nil // the model has nothing of it
}

// testLoadTooLarge reaches the end of what can be held exactly.
func testLoadTooLarge(m *storeModel) {
	s := m.site("PSC")
	m.send(s, job("1", "9000000000000"))
	m.load()
	m.send(s, job("2", "223372036854.775807"), job("3", "0.000001"), job("4", "0"))
	m.load()
	m.checkFailed(s)
	m.equal("failed", []string{"3"}, openIDs(s))
	m.send(s, job("3", "0.000001"), job("2", "223372036854.775808"), job("1", "8999999999999"), job("3", "0.000001"))
	m.load()
	m.checkFailed(s)
	m.equal("failed", []string{"2"}, openIDs(s))
	// What is given back counts as what it is.
	m.send(s, adjustment(amieusage.Credit, "a", "2"))
	m.load()
	m.check()
	m.equal("failed", []string{"2", "a"}, openIDs(s))
}

// testLoadTurned corrects what is nearly all that can be held into what gives as
// much back, and the other way round: the move is beyond what can be held, and
// what it leads to is not.
func testLoadTurned(m *storeModel) {
	s := m.site("PSC")
	now := m.now
	for _, kind := range []amieusage.AdjustmentType{amieusage.Debit, amieusage.Credit, amieusage.Debit} {
		m.now = now // all in one hour
		m.send(s, adjustment(kind, "a", "9000000000000"))
		m.load()
		m.check()
		m.verify()
	}
}

// openIDs are the LocalRecordIDs of the open failed records.
func openIDs(s *modelSite) []string {
	ids := []string{}
	for _, f := range s.openFailed() {
		ids = append(ids, f.record.Common().LocalRecordID)
	}
	return ids
}

// testLoadOpen loads what no registry knows.
func testLoadOpen(m *storeModel) {
	s := m.site("PSC")
	m.policy = ledger.Open
	m.use(m.store)
	unknown := func(r *amieusage.ComputeRecord) { r.Resource, r.LocalProjectID, r.Username = "new", "p.new", "eve" }
	m.send(s, job("1", "1", unknown), job("2", "2", unknown), job("3", "3"))
	m.load()
	m.send(s, job("4", "1", unknown), job("1", "1", unknown))
	m.load()
	m.equal("counts", ledger.Counts{Accepted: 5, Loaded: 5}, s.counts)
	authority, err := m.store.Authority(context.Background(), "PSC")
	m.noError(err)
	m.equal("resources", map[string]bool{bulk: true, gpus: true, "new": true}, authority.Resources)
}

// testLoadCorrections sends contents of one identity in all ways.
func testLoadCorrections(m *storeModel) {
	s := m.site("PSC")
	a, b := job("1", "10"), job("1", "4", named("eval"))
	for _, steps := range [][][]amieusage.Record{
		{{a}, {a}},         // again
		{{b}},              // corrected
		{{a, b, a}},        // twice in one message
		{{b}, {a}, {b, b}}, // in several batches of one transaction
		{{a, a}, {b}},
		{{job("1", "4.000", named("eval"), inZone("-04:00"))}}, // equal content in other words
	} {
		for _, records := range steps {
			m.send(s, records...)
		}
		m.load()
		m.check()
		m.checkRevisions(s)
	}
	// A correction moves the record to another day, project, user and resource
	// of usage; the resource makes it another record.
	m.send(s, job("1", "4", func(r *amieusage.ComputeRecord) {
		r.LocalProjectID, r.Username, r.EndTime = beta, "bob", r.EndTime.AddDate(0, 1, 3)
	}), job("1", "5", onResource(gpus)))
	m.load()
	m.check()
	m.equal("records", 2, len(s.entries))
	// A correction that fails leaves what was loaded.
	m.send(s, job("1", "7", func(r *amieusage.ComputeRecord) { r.Username = "eve" }))
	m.load()
	m.check()
	m.checkRevisions(s)
	m.equal("failed", []string{"1"}, openIDs(s))
}

// inZone spells the times of a job with another offset.
func inZone(offset string) func(r *amieusage.ComputeRecord) {
	return func(r *amieusage.ComputeRecord) {
		zone, err := time.Parse("Z07:00", offset)
		if err != nil {
			panic(err)
		}
		for _, t := range []*time.Time{&r.SubmitTime, &r.StartTime, &r.EndTime} {
			*t = t.In(zone.Location())
		}
	}
}

// testLoadIdentities has records that differ in one part of their identity
// only.
func testLoadIdentities(m *storeModel) {
	s := m.site("PSC")
	submit := job("1", "1").SubmitTime
	m.send(s, job("1", "1"), job("2", "2"), job("1", "3", onResource(gpus)), job("1", "4", submittedAt(submit.Add(time.Microsecond))),
		job("1 ", "5"), job("a", "6"), job("A", "7"), job("é", "8"), job("e\u0301", "9"))
	m.send(s, &amieusage.StorageRecord{Username: "alice", LocalProjectID: alpha, LocalRecordID: "1", Resource: bulk,
		CollectionTime: submit, Charge: chargeOf("10")})
	m.send(s, adjustment(amieusage.Debit, "1", "11"))
	m.load()
	m.equal("records", 11, len(s.entries))
	m.check()
	// A job that is requeued has another SubmitTime, and is another record.
	m.send(s, job("1", "4", submittedAt(submit.Add(time.Hour))))
	m.load()
	m.equal("records", 12, len(s.entries))
}

// testLoadAdjustments gives back and deducts; the identity of an adjustment has
// no time.
func testLoadAdjustments(m *storeModel) {
	s := m.site("PSC")
	for i, t := range amieusage.AdjustmentTypes {
		m.send(s, adjustment(t, fmt.Sprint(i), "2.5"))
	}
	m.load()
	m.equal("records", 6, len(s.entries))
	m.check()
	later := adjustment(amieusage.Refund, "1", "2.5")
	later.StartTime = later.StartTime.AddDate(0, 0, 40)
	m.send(s, later)
	m.load()
	m.equal("records", 6, len(s.entries))
	m.check()
	m.send(s, adjustment(amieusage.Debit, "1", "2.5")) // from giving back to deducting
	m.load()
}

// readAll lets every record pass.
type readAll struct{}

func (readAll) Read(b *ledger.Batch) []ledger.Verdict {
	verdicts := make([]ledger.Verdict, len(b.Records))
	for i, raw := range b.Records {
		r, _ := amieusage.CheckRecord(b.UsageType, raw)
		verdicts[i] = ledger.Verdict{Record: r, Digest: amieusage.ContentDigest(r), Charge: millionths(r)}
	}
	return verdicts
}

func (readAll) Check(*ledger.Registry, amieusage.Record) ledger.Failure { return "" }

// testLoadTurns has two sites with queues: one transaction loads about as much
// as it is asked for, of one site, oldest first, and none waits for the end of
// another's queue.
func testLoadTurns(m *storeModel) {
	one, two := m.site("PSC"), m.site("SDSC")
	for i := range 4 {
		m.send(one, job(fmt.Sprint("a", i), "1"), job("same", fmt.Sprint(i)), job(fmt.Sprint("b", i), "1"))
	}
	m.send(two, job("1", "1"))
	load := func(ctx context.Context) (ledger.LoadReport, error) { return m.store.Load(ctx, m.now, 4, readAll{}) }
	var batches []int
	for i := range 4 {
		batches = append(batches, m.follow(load).Batches)
		m.compare()
		if i == 1 {
			m.equal("queued by the site with less, after two turns", int64(0), two.counts.Queued)
		}
	}
	slices.Sort(batches)
	m.equal("batches of each transaction, by number", []int{0, 1, 2, 2}, batches)
	m.send(one, job("c", "1"), job("d", "1"))
	m.send(one, job("e", "1"))
	smallest := func(ctx context.Context) (ledger.LoadReport, error) { return m.store.Load(ctx, m.now, 1, readAll{}) }
	m.equal("batches", 1, m.follow(smallest).Batches)
	m.send(one, job("f", "1"))
	all := func(ctx context.Context) (ledger.LoadReport, error) {
		return m.store.Load(ctx, m.now, math.MaxInt, readAll{})
	}
	m.equal("batches", 2, m.follow(all).Batches)
}

// testSupersede follows a failed record through resends and a repair.
func testSupersede(m *storeModel) {
	s := m.site("PSC")
	eve := func(r *amieusage.ComputeRecord) { r.Username = "eve" }
	m.send(s, job("1", "1", eve), job("2", "1", eve))
	m.load()
	m.checkFailed(s)
	first := s.failed[0].id
	// The same failure again, and another of the same record: one is open.
	m.send(s, job("1", "1", eve), job("1", "2", eve))
	m.load()
	m.check()
	m.equal("failed", []string{"2", "1"}, openIDs(s))
	// Added on the operator's side, sent again.
	spec := standard("PSC")
	spec.Sites[0].Projects[0].Users = append(spec.Sites[0].Projects[0].Users, "eve")
	m.importSpec(spec)
	m.check()
	m.equal("failed", []string{"2", "1"}, openIDs(s))
	m.send(s, job("1", "2", eve))
	m.load()
	m.check()
	m.equal("failed", []string{"2"}, openIDs(s))
	// Clearing what was superseded is no error.
	m.clear(s, first)
	// Repaired by a content that was loaded before.
	m.send(s, job("1", "2", eve, func(r *amieusage.ComputeRecord) { r.LocalProjectID = "p.none" }))
	m.load()
	m.equal("failed", []string{"2", "1"}, openIDs(s))
	m.send(s, job("1", "2", eve))
	m.load()
	m.equal("failed", []string{"2"}, openIDs(s))
}

// testLoadedTimeNeverFalls sets the clock back.
func testLoadedTimeNeverFalls(m *storeModel) {
	s := m.site("PSC")
	m.send(s, job("1", "1"))
	m.load()
	start := m.loaded(s, amieusage.LoadedQuery{PageSize: 10})
	page, err := m.service.Loaded(context.Background(), s.who, amieusage.LoadedQuery{PageSize: 10})
	m.noError(err)
	m.equal("next", "", page.Next)
	m.accept(s, string(recordsMessage(job("2", "1"))))
	m.now = m.now.AddDate(0, 0, -1)
	m.move()
	m.whenFree(m.service.LoadSome)
	all := m.loaded(s, amieusage.LoadedQuery{PageSize: 1})
	if len(start) != 1 || len(all) != 2 || all[0].LocalRecordID != "1" || !all[1].LoadedTime.After(all[0].LoadedTime) {
		m.t.Errorf("loaded %v, then %v", start, all)
	}
	m.sites = nil // the model has nothing of it
}
