package storetest

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// testEvents has all that leaves an event, and what leaves none.
func testEvents(m *storeModel) {
	m.site("NCSA")
	one := m.site("PSC")
	since := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC) // after what is there already
	actor := func(who string, keyID int64) context.Context {
		return ledger.WithActor(context.Background(), ledger.Actor{Who: who, From: "login1", KeyID: keyID, At: since})
	}
	first, err := m.store.Events(context.Background(), ledger.HistoryQuery{})
	m.noError(err)
	events := func(q ledger.HistoryQuery) (lines []string) {
		all, err := m.store.Events(context.Background(), q)
		m.noError(err)
		for _, e := range all {
			lines = append(lines, fmt.Sprintf("%s|%s|%s|%s %s|%d|%s", e.Site, e.Who, e.From, e.Action, e.What, e.KeyID, e.Project))
		}
		return lines
	}
	spec := func(amount int64, dryRun bool) *ledger.RegistrySpec {
		return &ledger.RegistrySpec{DryRun: dryRun, Sites: []ledger.SiteSpec{{Name: "PSC", Projects: []ledger.ProjectSpec{
			{ID: alpha, Allocations: []ledger.AllocationSpec{allocation(bulk, amount, 1, 13)}}}}}}
	}
	ctx := actor("root", 0)
	_, err = m.store.Import(ctx, spec(7, true))
	m.noError(err)
	_, err = m.store.Import(ctx, spec(7, false))
	m.noError(err)
	one.imports(&spec(7, false).Sites[0]) // the model knows it, too
	_, err = m.store.Import(ctx, spec(7, false))
	m.noError(err)
	_, key, err := ledger.CreateKey(ctx, m.store, "PSC", "second", since)
	m.noError(err)
	for range 2 {
		m.noError(m.store.RevokeKey(ctx, "PSC", key.ID, since))
	}
	m.send(one, job("1", "1", func(r *amieusage.ComputeRecord) { r.Username = "nobody" }), job("2", "1", func(r *amieusage.ComputeRecord) { r.Username = "nobody" }))
	m.load()
	m.check()
	failed, err := m.store.Failed(context.Background(), one.who.Site, ledger.FailedQuery{Limit: 10})
	m.noError(err)
	ids := []int64{failed[1].FailedRecordID, failed[0].FailedRecordID}
	m.isUnknownFailed(m.store.Clear(actor("key 1", one.who.KeyID), one.who.Site, append(ids, 1<<40), since), 1<<40)
	for range 2 {
		m.noError(m.store.Clear(actor("key 1", one.who.KeyID), one.who.Site, ids, since))
	}
	m.clear(one, ids...) // the model knows it, too
	changed := fmt.Sprintf("changed allocation of project %s on %s from 2026-01-01T00:00:00Z: 7 until 2027-01-01T00:00:00Z", alpha, bulk)
	got := events(ledger.HistoryQuery{Since: since})
	want := []string{
		"PSC|root|login1|" + changed + " (was 1000 until 2027-01-01T00:00:00Z)|0|" + alpha,
		"PSC|root|login1|removed allocation of project " + alpha + " on " + gpus + " from 2026-01-01T00:00:00Z (was 10 until 2027-01-01T00:00:00Z)|0|" + alpha,
		fmt.Sprintf("PSC|root|login1|created key %d of site PSC: second|%d|", key.ID, key.ID),
		fmt.Sprintf("PSC|root|login1|revoked key %d|%d|", key.ID, key.ID),
		fmt.Sprintf("PSC|key 1|login1|cleared failed records %d-%d|%d|", ids[1], ids[0], one.who.KeyID),
	}
	m.equal("events", want, got)
	m.equal("events of the key", want[len(want)-3:len(want)-1], events(ledger.HistoryQuery{KeyID: key.ID}))
	m.equal("events of the project", want[:len(want)-3], events(ledger.HistoryQuery{Project: alpha, Site: "PSC", Since: since}))
	m.equal("events elsewhere", []string(nil), events(ledger.HistoryQuery{Site: "NCSA", Since: since}))
	m.equal("events before", len(first), len(events(ledger.HistoryQuery{}))-len(want))
	limited, err := m.store.Events(context.Background(), ledger.HistoryQuery{Since: since, Limit: 1})
	m.noError(err)
	m.equal("events of a page", 1, len(limited))
	_, err = m.store.Events(context.Background(), ledger.HistoryQuery{Site: "TACC"})
	m.hasCode(err, amieusage.CodeNotFound)
}

// testHistory has a record that was corrected with another key, one that failed, and a
// refund.
func testHistory(m *storeModel) {
	s := m.site("PSC")
	m.site("NCSA")
	old := s.who.KeyID
	start := m.now
	m.send(s, job("1", "1"), job("2", "2"))
	m.load()
	m.tick()
	m.newKey(s, "new")
	stolen := s.who.KeyID
	since := m.now
	m.send(s, job("1", "100"), job("3", "3", func(r *amieusage.ComputeRecord) { r.Username = "nobody" }))
	m.load()
	history := func(q ledger.HistoryQuery) (lines []string) {
		rows, err := ledger.History(context.Background(), m.store, q)
		m.noError(err)
		for _, r := range rows {
			line := fmt.Sprintf("%s key %d: %s %s", r.Site, r.KeyID, r.Identity.LocalRecordID, r.Charge)
			if r.Revision > 0 {
				line += fmt.Sprintf(" revision %d %v", r.Revision, r.Newest)
			} else {
				line += " " + string(r.Failure)
			}
			if r.Project != alpha || r.Identity.Resource != bulk || r.AcceptedAt.Before(start) || r.LoadedAt.IsZero() == (r.Revision > 0) {
				m.t.Errorf("%+v", r)
			}
			lines = append(lines, line)
		}
		return lines
	}
	was, two := fmt.Sprintf("PSC key %d: 1 1 revision 1 false", old), fmt.Sprintf("PSC key %d: 2 2 revision 1 true", old)
	is, failed := fmt.Sprintf("PSC key %d: 1 100 revision 2 true", stolen), fmt.Sprintf("PSC key %d: 3 3 %s", stolen, ledger.UnknownUser)
	m.equal("a record", []string{was, is}, history(ledger.HistoryQuery{LocalRecordID: "1"}))
	m.equal("a failed record", []string{failed}, history(ledger.HistoryQuery{LocalRecordID: "3"}))
	m.equal("a key", []string{is, failed}, history(ledger.HistoryQuery{KeyID: stolen}))
	m.equal("a key since", []string{is, failed}, history(ledger.HistoryQuery{KeyID: stolen, Since: since}))
	m.equal("a key later", []string(nil), history(ledger.HistoryQuery{KeyID: stolen, Since: since.Add(time.Hour)}))
	m.equal("a project", []string{was, two, is, failed}, history(ledger.HistoryQuery{Project: alpha, Site: "PSC"}))
	m.equal("a page", []string{was, two}, history(ledger.HistoryQuery{Project: alpha, Limit: 2}))
	m.equal("another project", []string(nil), history(ledger.HistoryQuery{Project: beta + "x"}))
	m.equal("another site", []string(nil), history(ledger.HistoryQuery{LocalRecordID: "1", Site: "NCSA"}))
	m.equal("strange texts", []string(nil), history(ledger.HistoryQuery{LocalRecordID: "a\x00b"}))
	// What an adjustment was, it was with its own sign.
	for _, kind := range []amieusage.AdjustmentType{amieusage.Credit, amieusage.Debit, amieusage.Refund} {
		m.send(s, adjustment(kind, "adj", map[amieusage.AdjustmentType]string{amieusage.Credit: "5", amieusage.Debit: "7", amieusage.Refund: "9"}[kind]))
		m.load()
	}
	m.equal("an adjustment", []string{
		fmt.Sprintf("PSC key %d: adj -5 revision 1 false", stolen), fmt.Sprintf("PSC key %d: adj 7 revision 2 false", stolen),
		fmt.Sprintf("PSC key %d: adj -9 revision 3 true", stolen)}, history(ledger.HistoryQuery{LocalRecordID: "adj"}))
	_, err := m.store.History(context.Background(), ledger.HistoryQuery{Site: "TACC"})
	m.hasCode(err, amieusage.CodeNotFound)
}

// testPolicy has the ledger's policy chosen once, by several at the same time, and changed.
// What it says goes before what a service was told.
func testPolicy(m *storeModel) {
	ctx := context.Background()
	stores := m.replicas(2)
	policy, err := m.store.Policy(ctx)
	m.noError(err)
	m.equal("no policy", ledger.Policy(""), policy)
	var group sync.WaitGroup
	chosen := make([]ledger.Policy, 4)
	for i := range chosen {
		group.Go(func() {
			policy, err := ledger.ChoosePolicy(ctx, stores[i%2], []ledger.Policy{ledger.Open, ledger.Strict}[i%2])
			if err != nil {
				m.t.Error(err)
			}
			chosen[i] = policy
		})
	}
	group.Wait()
	policy, err = m.store.Policy(ctx)
	m.noError(err)
	for _, p := range chosen {
		m.equal("chosen", policy, p)
	}
	for _, p := range []ledger.Policy{ledger.Open, ledger.Strict, ledger.Strict} {
		before, err := m.store.SetPolicy(ctx, p, false)
		m.noError(err)
		m.equal("before", policy, before)
		policy = p
	}
	// It is not the model's: what an open service loads is not what the model knows.
	_, err = m.store.Import(ctx, standard("SDSC"))
	m.noError(err)
	secret, _, err := ledger.CreateKey(ctx, m.store, "SDSC", "", m.now)
	m.noError(err)
	open := ledger.New(ledger.Config{Store: m.store, Policy: ledger.Open, Clock: func() time.Time { return m.now }, Logger: slog.New(slog.DiscardHandler)})
	who, resources, err := open.Authenticate(ctx, "SDSC", secret)
	m.noError(err)
	message := func(id, resource string) []byte {
		data, err := amieusage.NewMessage(job(id, "1", onResource(resource), func(r *amieusage.ComputeRecord) { r.LocalProjectID = "made-up" }))
		m.noError(err)
		text, err := data.MarshalJSON()
		m.noError(err)
		return text
	}
	answer, err := open.Accept(ctx, who, resources, message("1", "made-up"))
	m.noError(err)
	m.equal("refused", 1, len(answer.FailedRecords))
	_, err = open.Accept(ctx, who, resources, message("1", bulk))
	m.noError(err)
	report, err := open.LoadSome(ctx)
	m.noError(err)
	m.equal("failed", 1, report.Failed)
	_, err = m.store.SetPolicy(ctx, ledger.Open, false) // while it is served
	m.noError(err)
	_, err = open.Accept(ctx, who, resources, message("2", bulk))
	m.noError(err)
	report, err = open.LoadSome(ctx)
	m.noError(err)
	m.equal("loaded", 1, report.Loaded)
	events, err := m.store.Events(ctx, ledger.HistoryQuery{})
	m.noError(err)
	var changes []string
	for _, e := range events {
		if e.Site == "" {
			changes = append(changes, e.Action+" "+e.What)
		}
	}
	want := []string{"chose policy open", "changed policy strict (was open)", "changed policy open (was strict)"}
	if chosen[0] == ledger.Strict {
		want = append([]string{"chose policy strict", "changed policy open (was strict)"}, want[1:]...)
	}
	m.equal("events", want, changes)
}

// testUndo has what a key has sent undone: not while anything is queued, and not where something
// newer came between the plan and its execution.
func testUndo(m *storeModel) {
	ctx := context.Background()
	s := m.site("PSC")
	other := m.site("NCSA")
	m.send(s, job("1", "1"), job("2", "2"), job("3", "3"))
	m.load()
	m.newKey(s, "stolen")
	stolen := s.who.KeyID
	m.tick()
	since := m.now
	m.send(s, job("1", "100"), job("2", "200"), job("9", "900"))
	m.load()
	m.send(s, job("1", "101"))
	m.load()
	m.newKey(s, "new")
	plan := func() []ledger.UndoStep {
		steps, err := ledger.PlanUndo(ctx, m.store, "PSC", stolen, since)
		m.noError(err)
		return steps
	}
	steps := plan()
	charges := func(steps []ledger.UndoStep) (lines []string) {
		for _, u := range steps {
			lines = append(lines, fmt.Sprintf("%s: %s to %s %s", u.Identity.LocalRecordID, u.Now, u.Was, u.Left))
		}
		return lines
	}
	m.equal("the plan", []string{"1: 101 to 1 ", "2: 200 to 2 ", "9: 900 to 0 "}, charges(steps))
	never := func() bool { return false }
	accepted := func() int64 {
		counts, err := m.store.Counts(ctx, s.who.Site)
		m.noError(err)
		return counts.Accepted
	}
	before := accepted()
	// Queued: a later correction, which the plan does not know.
	m.send(s, job("2", "22"))
	_, _, err := ledger.Undo(ctx, m.store, "PSC", stolen, steps, m.now, never)
	m.hasCode(err, amieusage.CodeTooManyRequests)
	m.load()
	_, _, err = ledger.Undo(ctx, m.store, "PSC", stolen, steps, m.now, never)
	m.hasCode(err, amieusage.CodeConflict)
	m.equal("accepted", before+1, accepted())
	m.equal("other sites", 0, len(other.entries))
	m.check() // until here nothing was undone
	steps = plan()
	m.equal("the plan", []string{"1: 101 to 1 ", "2: 22 to 22 " + string(ledger.LeftLater), "9: 900 to 0 "}, charges(steps))
	undone, loaded, err := ledger.Undo(ctx, m.store, "PSC", stolen, steps, m.now, never)
	m.noError(err)
	m.equal("undone", 2, undone)
	m.equal("loaded", false, loaded)
	_, _, err = ledger.Undo(ctx, m.store, "PSC", stolen, steps, m.now, never)
	m.hasCode(err, amieusage.CodeTooManyRequests)
	var batch []modelRecord
	for _, r := range []amieusage.Record{job("1", "1"), job("9", "0")} {
		batch = append(batch, modelRecord{Record: r, raw: r.AppendJSON(nil), acceptedAt: m.now})
	}
	s.accept(batch) // the model knows it, too
	m.load()
	_, _, err = ledger.Undo(ctx, m.store, "PSC", stolen, steps, m.now, never)
	m.hasCode(err, amieusage.CodeConflict)
	m.equal("the plan", []string{"1: 1 to 1 " + string(ledger.LeftUndone), "2: 22 to 22 " + string(ledger.LeftLater), "9: 0 to 0 " + string(ledger.LeftUndone)}, charges(plan()))
	revisions, err := m.store.Revisions(ctx, s.who.Site, job("1", "1").Identity())
	m.noError(err)
	m.equal("revisions", 4, len(revisions))
	m.equal("the first content", string(revisions[0].Record), string(revisions[3].Record))
	events, err := m.store.Events(ctx, ledger.HistoryQuery{KeyID: stolen})
	m.noError(err)
	m.equal("the last event", fmt.Sprintf("undid what key %d had made of 2 Compute records", stolen), events[len(events)-1].Action+" "+events[len(events)-1].What)
}

// testRevokedMeanwhile has a send whose key is revoked after it was authenticated.
func testRevokedMeanwhile(m *storeModel) {
	ctx := context.Background()
	s := m.site("PSC")
	old := s.who
	m.send(s, job("1", "1"))
	m.load()
	m.newKey(s, "new")
	m.noError(m.store.RevokeKey(ctx, "PSC", old.KeyID, m.now))
	message, err := amieusage.NewMessage(job("2", "2"))
	m.noError(err)
	text, err := message.MarshalJSON()
	m.noError(err)
	for _, store := range m.replicas(2) {
		_, err = m.serviceOf(store).Accept(ctx, old, map[string]bool{bulk: true}, text)
		m.hasCode(err, amieusage.CodeForbidden)
	}
	m.send(s, job("3", "3"))
	m.load()
	m.check()
}
