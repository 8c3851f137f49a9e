package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"
	zombiezen "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/pgtest"
	"github.com/amieusage/amieusage/internal/postgres"
	"github.com/amieusage/amieusage/internal/sqlite"
)

// A movedLedger is a ledger's file with the sites PSC and NCSA, in which
// everything has happened, and the keys of the sites.
type movedLedger struct {
	path  string
	sites []movedSite
	now   time.Time
}

type movedSite struct {
	name string
	keys []string // the second one is revoked
}

func (m *movedLedger) clock() time.Time {
	m.now = m.now.Add(41 * time.Second)
	return m.now
}

func (m *movedLedger) service(store ledger.Store, policy ledger.Policy) *ledger.Service {
	return ledger.New(ledger.Config{Store: store, Policy: policy, Clock: m.clock, Logger: slog.New(slog.DiscardHandler)})
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// newMovedLedger makes the ledger, with about so many records in each site.
func newMovedLedger(t *testing.T, records int) *movedLedger {
	t.Helper()
	m := &movedLedger{path: filepath.Join(t.TempDir(), "ledger.db"), now: time.Date(2026, 10, 2, 8, 0, 0, 0, time.UTC)}
	store := must[*sqlite.Ledger](t)(sqlite.OpenLedger(t.Context(), m.path))
	year := ledger.AllocationSpec{Resource: "bridges2-rm.psc.access-ci.org", Amount: 1e12,
		Start: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), End: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)}
	for _, name := range []string{"PSC", "NCSA"} {
		spec := &ledger.RegistrySpec{Sites: []ledger.SiteSpec{{Name: name, Resources: []string{year.Resource}, Projects: []ledger.ProjectSpec{
			{ID: "p.one", Users: []string{"alice", "bob"}, Allocations: []ledger.AllocationSpec{year}}, {ID: "p.two"},
		}}}}
		must[[]ledger.Change](t)(store.Import(t.Context(), spec))
		site := movedSite{name: name}
		for range 3 {
			secret, key, err := ledger.CreateKey(t.Context(), store, name, "a key", m.clock())
			if err != nil {
				t.Fatal(err)
			}
			if site.keys = append(site.keys, secret); key.ID == 2 {
				if err := store.RevokeKey(t.Context(), name, key.ID, m.clock()); err != nil {
					t.Fatal(err)
				}
			}
		}
		m.sites = append(m.sites, site)
	}
	strict, open := m.service(store, ledger.Strict), m.service(store, ledger.Open)
	const rounds = 5
	for round := range rounds {
		for s := range m.sites {
			bulk := recordsOf(round*records/rounds, records/rounds)
			if round > 0 {
				// Corrections of the round before, in other months too.
				for _, r := range recordsOf((round-1)*records/rounds, 3) {
					r.(*amieusage.ComputeRecord).EndTime = r.(*amieusage.ComputeRecord).EndTime.AddDate(0, round, 0)
					bulk = append(bulk, r)
				}
			}
			for len(bulk) > 0 {
				n := min(1000, len(bulk))
				m.send(t, open, s, bulk[:n]...)
				bulk = bulk[n:]
			}
			m.send(t, open, s, &amieusage.AdjustmentRecord{AdjustmentType: amieusage.Credit, Username: "bob", LocalProjectID: "p.one",
				LocalRecordID: fmt.Sprint("credit", round), Resource: year.Resource, StartTime: m.now, Charge: amieusage.ChargeOfMillionths(7_500_001)})
		}
		m.loadAll(t, open)
		for s := range m.sites {
			m.send(t, strict, s, m.job(fmt.Sprint("unknown", round), "p.none"), m.job(fmt.Sprint("later", round), "p.two"), m.job("good", "p.one"))
		}
		m.loadAll(t, strict)
		for s := range m.sites {
			who, _ := m.caller(t, strict, s)
			failed, _, err := strict.Failed(t.Context(), who, ledger.FailedQuery{})
			if err == nil && round == 2 {
				err = strict.Clear(t.Context(), who, []int64{failed[0].FailedRecordID})
			}
			if err != nil {
				t.Fatal(err)
			}
			m.send(t, strict, s, m.job(fmt.Sprint("later", round), "p.one")) // is superseded
		}
		m.loadAll(t, strict)
		if round == 2 {
			err := ledger.Archive(t.Context(), store, ledger.Archiving{
				Folder: t.TempDir(), Before: m.now, Site: "PSC", MaxRecords: records / 3, Done: func(ledger.Archived) {},
			}, m.now)
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for s := range m.sites {
		m.send(t, open, s, recordsOf(10_000_000, 20)...)
	}
	m.execute(t, `UPDATE batches SET records = x'00' WHERE batch_id = (SELECT max(batch_id) FROM batches)`)
	m.loadAll(t, strict)
	for s := range m.sites {
		m.send(t, open, s, recordsOf(20_000_000, 30)...)
		m.send(t, open, s, recordsOf(20_000_010, 30)...)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *movedLedger) execute(t *testing.T, statement string) {
	t.Helper()
	conn := must[*zombiezen.Conn](t)(zombiezen.OpenConn(m.path, zombiezen.OpenReadWrite))
	defer conn.Close()
	if err := sqlitex.ExecuteTransient(conn, statement, nil); err != nil {
		t.Fatal(err)
	}
}

func (m *movedLedger) job(id, project string) amieusage.Record {
	start := time.Date(2026, 9, 30, 20, 0, 0, 0, time.UTC)
	return &amieusage.ComputeRecord{Username: "alice", LocalProjectID: project, LocalRecordID: id, Resource: "bridges2-rm.psc.access-ci.org",
		SubmitTime: start, StartTime: start, EndTime: start.Add(5 * time.Hour), Charge: amieusage.ChargeOfMillionths(1), NodeCount: amieusage.CountOf(1)}
}

func (m *movedLedger) caller(t *testing.T, service *ledger.Service, site int) (ledger.Caller, map[string]bool) {
	t.Helper()
	who, resources, err := service.Authenticate(t.Context(), m.sites[site].name, m.sites[site].keys[0])
	if err != nil {
		t.Fatal(err)
	}
	return who, resources
}

func (m *movedLedger) send(t *testing.T, service *ledger.Service, site int, records ...amieusage.Record) {
	t.Helper()
	who, resources := m.caller(t, service, site)
	message := must[*amieusage.Message](t)(amieusage.NewMessage(records...))
	answer := must[*amieusage.SendResponse](t)(service.Accept(t.Context(), who, resources, must[[]byte](t)(message.MarshalJSON())))
	if len(answer.FailedRecords) > 0 {
		t.Fatal(answer.FailedRecords[0].Error)
	}
}

func (m *movedLedger) loadAll(t *testing.T, service *ledger.Service) {
	t.Helper()
	for {
		if report := must[ledger.LoadReport](t)(service.LoadSome(t.Context())); report.Batches == 0 {
			return
		}
	}
}

// A look is all that clients see of a site.
type look struct {
	Keys      []string
	Counts    ledger.Counts
	Status    amieusage.Status
	Summaries []*amieusage.Summary
	Loaded    []ledger.LoadedPage
	Failed    []amieusage.FailedRecord
	Revisions [][]ledger.Revision
}

func (m *movedLedger) look(t *testing.T, store ledger.Store, site int) (l look) {
	t.Helper()
	service := m.service(store, ledger.Strict)
	for _, key := range m.sites[site].keys {
		who, resources, err := service.Authenticate(t.Context(), m.sites[site].name, key)
		l.Keys = append(l.Keys, fmt.Sprint(who.KeyID, resources, err))
	}
	who, _ := m.caller(t, service, site)
	l.Counts = must[ledger.Counts](t)(service.Counts(t.Context(), who))
	l.Status = must[amieusage.Status](t)(service.Status(t.Context(), who, amieusage.StatusQuery{From: time.Unix(1, 0), To: m.now.AddDate(1, 0, 0)}))
	for _, keys := range [][]amieusage.GroupKey{
		{amieusage.ByProject, amieusage.ByResource}, {amieusage.ByMonth, amieusage.ByUsageType}, {amieusage.ByDay, amieusage.ByUser},
	} {
		l.Summaries = append(l.Summaries, must[*amieusage.Summary](t)(service.Summary(t.Context(), who, amieusage.SummaryQuery{GroupBy: keys})))
	}
	var failedAfter int64
	for more := true; more; more = failedAfter > 0 {
		failed, next, err := service.Failed(t.Context(), who, ledger.FailedQuery{After: failedAfter, Limit: 3})
		if err != nil {
			t.Fatal(err)
		}
		l.Failed, failedAfter = append(l.Failed, failed...), next
	}
	cursor := ""
	for more := true; more; more = cursor != "" {
		page := must[ledger.LoadedPage](t)(service.Loaded(t.Context(), who, amieusage.LoadedQuery{PageSize: 300, Cursor: cursor}))
		l.Loaded, cursor = append(l.Loaded, page), page.Next
		for i := 0; i < len(page.Records); i += 97 {
			r := &page.Records[i]
			id := amieusage.Identity{UsageType: r.UsageType, Resource: r.Resource, LocalRecordID: r.LocalRecordID}
			if r.UsageType != amieusage.Adjustment {
				id.KeyTime = r.SubmitTime
			}
			revisions := must[[]ledger.Revision](t)(store.Revisions(t.Context(), who.Site, id))
			if len(revisions) == 0 {
				t.Errorf("record %s has no revisions", r.LocalRecordID)
			}
			l.Revisions = append(l.Revisions, revisions)
		}
	}
	return l
}

var looksByText = cmp.Options{
	cmp.Transformer("charge", func(c amieusage.Charge) string { return c.String() }),
	cmp.Transformer("failed", func(f amieusage.FailedRecord) string { return string(f.AppendJSON(nil)) }),
}

// open opens both ledgers.
func (m *movedLedger) open(t *testing.T, url string) (from *sqlite.Ledger, to *postgres.Ledger, done func()) {
	t.Helper()
	from = must[*sqlite.Ledger](t)(sqlite.OpenLedger(t.Context(), m.path))
	m.takeBack(t, from)
	to = must[*postgres.Ledger](t)(postgres.Open(t.Context(), url, postgres.Options{MaxConns: 4}))
	return from, to, func() { from.Close(); to.Close() }
}

// wantEqual compares what clients see of both ledgers, and verifies the copy.
func (m *movedLedger) wantEqual(t *testing.T, url string) {
	t.Helper()
	from, to, done := m.open(t, url)
	defer done()
	for s := range m.sites {
		want := m.look(t, from, s)
		if diff := cmp.Diff(want, m.look(t, to, s), looksByText, cmpopts.IgnoreUnexported(ledger.LoadedPage{})); diff != "" {
			t.Errorf("%s (-file +copy):\n%s", m.sites[s].name, diff)
		}
		if want.Counts.Loaded == 0 || want.Counts.Queued == 0 || len(want.Failed) == 0 || len(want.Loaded) < 2 {
			t.Errorf("%s shows too little: %+v", m.sites[s].name, want.Counts)
		}
		inArchives := slices.ContainsFunc(want.Revisions, func(r []ledger.Revision) bool { return r[0].Archive != "" })
		if inArchives != (m.sites[s].name == "PSC") {
			t.Errorf("%s shows revisions that are in archives: %v", m.sites[s].name, inArchives)
		}
	}
	wantWhole(t, to)
}

// wantWhole verifies a copy: the damaged batch is all that is wrong.
func wantWhole(t *testing.T, to *postgres.Ledger) {
	t.Helper()
	err := to.Verify(t.Context())
	if err == nil || strings.Count(err.Error(), "\n") > 0 || !strings.Contains(err.Error(), "cannot be read back") {
		t.Errorf("the check says: %v", err)
	}
}

// takeBack has the file serve its sites again.
func (m *movedLedger) takeBack(t *testing.T, store *sqlite.Ledger) {
	t.Helper()
	for _, s := range m.sites {
		if err := store.TakeBack(t.Context(), s.name); err != nil {
			t.Fatal(err)
		}
	}
}

// wantSame compares both ledgers, also after what was queued is loaded and a
// site has sent more.
func (m *movedLedger) wantSame(t *testing.T, url string) {
	t.Helper()
	m.wantEqual(t, url)
	from, to, done := m.open(t, url)
	defer done()
	for _, store := range []ledger.Store{from, to} {
		service := m.service(store, ledger.Open)
		for s := range m.sites {
			m.send(t, service, s, recordsOf(0, 10)...) // corrects what was corrected
			m.send(t, service, s, recordsOf(30_000_000, 10)...)
		}
		m.loadAll(t, service)
	}
	wantWhole(t, to)
	for s := range m.sites {
		want, got := m.look(t, from, s), m.look(t, to, s)
		if diff := cmp.Diff([]any{want.Counts, want.Summaries, want.Failed}, []any{got.Counts, got.Summaries, got.Failed}, looksByText); diff != "" {
			t.Errorf("%s after more was loaded (-file +copy):\n%s", m.sites[s].name, diff)
		}
	}
}

// wantRun runs the program, which must exit with the status and say the text.
func wantRun(t *testing.T, status int, text string, args ...string) (stdout string) {
	t.Helper()
	var out, complaint bytes.Buffer
	p := &program{stdin: strings.NewReader(""), stdout: &out, stderr: &complaint, clock: time.Now}
	got := p.run(t.Context(), args)
	if got != status || !strings.Contains(out.String()+complaint.String(), text) {
		t.Errorf("%v: exit status %d, want %d and %q:\n%s%s", args, got, status, text, &out, &complaint)
	}
	return out.String()
}

// TestCopy moves a whole ledger, and looks at both.
func TestCopy(t *testing.T) {
	m := newMovedLedger(t, 1500)
	url := pgtest.Database(t)
	stdout := wantRun(t, exitOK, "copied and equal", "admin", "copy", "--from", m.path, "--to", url)
	if !strings.Contains(stdout, "2026-10") || strings.Contains(stdout, "DIFFERS") {
		t.Error(stdout)
	}
	// Again: it is there.
	stdout = wantRun(t, exitOK, "copied and equal", "admin", "copy", "--from", m.path, "--to", url, "-o", "json")
	var views []copyView
	if err := json.Unmarshal([]byte(stdout), &views); err != nil {
		t.Fatal(err)
	}
	if len(views) != 2 || !views[0].Equal || views[0].Copied != 0 || views[0].Site != "NCSA" || views[0].From.Accepted == 0 {
		t.Error(stdout)
	}
	m.wantSame(t, url)
	// The file has changed, and so has the database.
	for _, restart := range []string{"--restart=false", "--restart"} {
		wantRun(t, exitRefused, "is served already", "admin", "copy", "--from", m.path, "--to", url, restart)
	}
}

// TestCopySite moves sites one after the other, into a database that serves
// another one.
func TestCopySite(t *testing.T) {
	m := newMovedLedger(t, 500)
	url := pgtest.Database(t)
	wantRun(t, exitOK, "added", "admin", "site", "add", "TACC", "--db", url)
	wantRun(t, exitUsage, `has no site "SDSC"`, "admin", "copy", "--from", m.path, "--to", url, "--site", "SDSC")
	for _, site := range m.sites {
		wantRun(t, exitOK, "copied and equal", "admin", "copy", "--from", m.path, "--to", url, "--site", site.name)
	}
	m.wantSame(t, url)
}

// TestCopyDiffers serves the file between two runs of a copy.
func TestCopyDiffers(t *testing.T) {
	ctx := t.Context()
	m := newMovedLedger(t, 500)
	url := pgtest.Database(t)
	wantRun(t, exitOK, "copied and equal", "admin", "copy", "--from", m.path, "--to", url)
	conn := must[*pgx.Conn](t)(pgx.Connect(ctx, url))
	defer conn.Close(context.WithoutCancel(ctx))
	damage := func(statement string) {
		t.Helper()
		if _, err := conn.Exec(ctx, statement); err != nil {
			t.Fatal(err)
		}
	}
	// Each of these a copy that was cut off would not find by itself.
	for _, statement := range []string{
		`UPDATE records SET charge = charge + 1 WHERE local_record_id = '7'`,
		`UPDATE records SET gives_back = true WHERE local_record_id = '8'`,
		`DELETE FROM records WHERE local_record_id = '9'`,
		`UPDATE batches SET records = '\x00' WHERE batch_id = 2`,
		`UPDATE failed_records SET state = 1, closed_at = 5 WHERE state = 0`,
		`UPDATE api_keys SET revoked_at = NULL`,
		`DELETE FROM project_users WHERE user_id = (SELECT min(user_id) FROM project_users)`,
	} {
		damage(`UPDATE sites SET served = false`)
		damage(statement)
		wantRun(t, exitRefused, "DIFFERS", "admin", "copy", "--from", m.path, "--to", url)
		wantRun(t, exitRefused, "--restart", "admin", "copy", "--from", m.path, "--to", url)
		wantRun(t, exitOK, "copied and equal", "admin", "copy", "--from", m.path, "--to", url, "--restart")
	}
	damage(`UPDATE sites SET served = false`)
	store := must[*sqlite.Ledger](t)(sqlite.OpenLedger(ctx, m.path))
	m.takeBack(t, store)
	service := m.service(store, ledger.Open)
	m.send(t, service, 0, recordsOf(0, 10)...)
	m.loadAll(t, service)
	wantRun(t, exitUsage, "stop the service", "admin", "copy", "--from", m.path, "--to", url)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	wantRun(t, exitRefused, "--restart", "admin", "copy", "--from", m.path, "--to", url)
	wantRun(t, exitUsage, "is being copied", "admin", "key", "list", "--site", "PSC", "--db", url)
	wantRun(t, exitOK, "copied and equal", "admin", "copy", "--from", m.path, "--to", url, "--restart")
	m.execute(t, `UPDATE batches SET loaded_at = NULL WHERE batch_id = 1`)
	wantRun(t, exitRefused, "admin verify", "admin", "copy", "--from", m.path, "--to", pgtest.Database(t))
}
