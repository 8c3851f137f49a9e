package postgres_test

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/pgtest"
	"github.com/amieusage/amieusage/internal/postgres"
)

// A statement is one that a ledger sent.
type statement struct {
	sql  string
	args []any
}

// A trace notes all statements of a pool.
type trace struct {
	mu         sync.Mutex
	statements []statement
}

func (t *trace) add(sql string, args []any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.statements = append(t.statements, statement{sql, args})
}

// take returns what was noted since it was last called.
func (t *trace) take() []statement {
	t.mu.Lock()
	defer t.mu.Unlock()
	taken := t.statements
	t.statements = nil
	return taken
}

func (t *trace) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	t.add(data.SQL, data.Args)
	return ctx
}

func (t *trace) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (t *trace) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	for _, q := range data.Batch.QueuedQueries {
		t.add(q.SQL, q.Arguments)
	}
	return ctx
}

func (t *trace) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (t *trace) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

func (t *trace) TraceCopyFromStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceCopyFromStartData) context.Context {
	t.add("COPY "+strings.Join(data.TableName, ".")+" ("+strings.Join(data.ColumnNames, ", ")+")", nil)
	return ctx
}

func (t *trace) TraceCopyFromEnd(context.Context, *pgx.Conn, pgx.TraceCopyFromEndData) {}

// bigTables grow with the ledger.
var bigTables = []string{"batches", "failed_records", "loads", "records", "revisions", "usage_totals"}

// grow makes a ledger of many records, of four sites, which share users and
// projects by number.
func grow(t testing.TB, url string) {
	t.Helper()
	const start = "1790000000000000000 + n * 60000000000" // a minute each
	execute(t, url, `
		INSERT INTO sites SELECT s, 'site' || s FROM generate_series(2, 4) s;
		INSERT INTO acceptance SELECT s, 5000, 80000 FROM generate_series(2, 4) s;
		INSERT INTO loading SELECT s, 5000, 60000, 20000 FROM generate_series(2, 4) s`,
		`INSERT INTO resources SELECT s, 1, 'rm.example.org' FROM generate_series(2, 4) s;
		INSERT INTO projects SELECT s, n, 'p' || n FROM generate_series(1, 4) s, generate_series(0, 20) n ON CONFLICT DO NOTHING;
		INSERT INTO users SELECT s, n, 'user' || n FROM generate_series(1, 4) s, generate_series(0, 300) n ON CONFLICT DO NOTHING`,
		`INSERT INTO batches SELECT s, n, 1, 1, `+start+`, 12, repeat('x', 200)::bytea FROM generate_series(2, 4) s, generate_series(1, 5000) n;
		INSERT INTO batches SELECT 1, n + 100, 1, 1, `+start+`, 12, repeat('x', 200)::bytea FROM generate_series(1, 5000) n;
		UPDATE acceptance SET batch_id = 5100 WHERE site_id = 1; UPDATE loading SET batch_id = 5100, record_id = 61000 WHERE site_id = 1`,
		`INSERT INTO records SELECT s, `+start+`, n + 1000, 1, 1 + n % 2, n / 12, n % 12, n % 20, n % 300, `+start+`, n, `+start+`, 1, false,
			'job' || n, '\x00' FROM generate_series(1, 4) s, generate_series(1, 60000) n`,
		`INSERT INTO revisions SELECT s, n + 1000, 1, n / 12, n % 12, 1, 1 FROM generate_series(1, 4) s, generate_series(1, 30000) n`,
		// Open failed records are common, but not at the site.
		`INSERT INTO failed_records SELECT s, nextval('failed_ids'), 1, n, n / 12, n % 12, `+start+`, NULL, 1, CASE WHEN s > 1 OR n < 4000 THEN 0 ELSE 2 END,
			'failed' || n, 'unknown user', '{}' FROM generate_series(1, 4) s, generate_series(1, 20000) n`,
		`INSERT INTO usage_totals SELECT s, 0, n / 100, 1, n % 10, n / 10 % 10 + 100, 1, 1, 1, 0 FROM generate_series(1, 4) s, generate_series(1500000, 1530000) n`,
		`INSERT INTO loads SELECT s, span, `+start+`, 1, 1, 1 FROM generate_series(1, 4) s, generate_series(0, 1) span, generate_series(1, 10000) n`,
		`VACUUM ANALYZE`)
}

// hotPaths does once what a service does all the time, at a site, in a ledger
// that grow has made.
func hotPaths(t testing.TB, store *postgres.Ledger, c *client, step func(name string)) {
	t.Helper()
	ctx := context.Background()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	from := time.Date(2026, 10, 2, 3, 4, 5, 0, time.UTC)
	to := from.AddDate(0, 1, 3).Add(7 * time.Hour)

	c.send(t, compute("a", "alice", 1), compute("b", "alice", 1), compute("failed1", "eve", 1), compute("failed2", "eve", 1))
	step("Accept")
	c.loadAll(t)
	step("Load")
	// One is corrected, one is new, one stays, and one no longer fails.
	c.send(t, compute("a", "alice", 2), compute("c", "alice", 1), compute("b", "alice", 1), compute("failed1", "alice", 1), compute("failed2", "eve", 2))
	c.loadAll(t)
	step("Load of corrections")
	_, err := store.Authority(ctx, c.who.Name)
	check(err)
	step("Authority")
	_, err = store.Counts(ctx, c.who.Site)
	check(err)
	step("Counts")
	_, err = store.Status(ctx, c.who.Site, amieusage.StatusQuery{}, 1000)
	check(err)
	_, err = store.Status(ctx, c.who.Site, amieusage.StatusQuery{From: from, To: to}, 1000)
	check(err)
	step("Status")
	failed, err := store.Failed(ctx, c.who.Site, ledger.FailedQuery{After: 3000, Limit: 100})
	check(err)
	step("Failed")
	check(store.Clear(ctx, c.who.Site, []int64{failed[0].FailedRecordID, failed[1].FailedRecordID}, time.Now()))
	step("Clear")
	page, err := store.Loaded(ctx, c.who.Site, amieusage.LoadedQuery{PageSize: 10_000})
	for n := 0; err == nil && n < 5; n++ {
		page, err = store.Loaded(ctx, c.who.Site, amieusage.LoadedQuery{PageSize: 10_000, Cursor: page.Next})
	}
	check(err)
	_, err = store.Loaded(ctx, c.who.Site, amieusage.LoadedQuery{PageSize: 500, LocalRecordID: "job77"})
	if err == nil {
		_, err = store.Loaded(ctx, c.who.Site, amieusage.LoadedQuery{PageSize: 500, LocalProjectID: "p", Username: "u", From: time.Unix(1_790_000_000, 0), To: time.Unix(1_790_003_600, 0)})
	}
	check(err)
	step("Loaded")
	revisions, err := store.Revisions(ctx, c.who.Site, compute("a", "alice", 1).Identity())
	if err != nil || len(revisions) != 2 {
		t.Fatalf("%d revisions, %v", len(revisions), err)
	}
	step("Revisions")
	for _, by := range [][]amieusage.GroupKey{{amieusage.ByResource}, {amieusage.ByProject}, {amieusage.ByDay, amieusage.ByUser}, {amieusage.ByMonth, amieusage.ByUsageType}} {
		_, err = store.Summary(ctx, c.who.Site, amieusage.SummaryQuery{GroupBy: by, From: from, To: to}, 100_000)
		check(err)
	}
	step("Summary")
}

// TestPlans looks at every statement of what a service does all the time, and
// at how the server would execute it in a large ledger: no statement reads or
// writes another site than its own, and none reads a large table from its first
// page to its last.
func TestPlans(t *testing.T) {
	ctx := context.Background()
	url := pgtest.Database(t)
	tr := &trace{}
	store, err := postgres.OpenTraced(ctx, url, tr)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	c := serve(t, store, "PSC")
	grow(t, url)
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)

	tr.take()
	seen := map[string]bool{}
	hotPaths(t, store, c, func(name string) {
		for _, s := range tr.take() {
			if crossing := crossesSites(s.sql); crossing != "" {
				t.Errorf("%s: %s: %s", name, crossing, s.sql)
			}
			words := strings.Fields(s.sql)
			switch words[0] {
			case "SELECT", "WITH", "INSERT", "UPDATE", "DELETE":
			case "COPY", "begin", "BEGIN", "commit", "rollback":
				continue
			default:
				t.Errorf("%s: what is this? %s", name, s.sql)
			}
			for _, table := range siteTablePattern.FindAllStringSubmatch(s.sql, -1) {
				seen[name+" "+table[2]] = true
			}
			if s.sql == postgres.SweepQuery {
				continue
			}
			faults, explained := planFaults(t, conn, s)
			if len(faults) > 0 {
				t.Errorf("%s %q:\n%s\n%s\n%s", name, faults, s.sql, fmt.Sprint(s.args...), explained)
			}
		}
	})
	// What is wrong is seen.
	for sql, want := range map[string][]string{
		`SELECT charge FROM records WHERE charge = $1`:                                                            {"reads all of records", "reads all sites of records"},
		`SELECT charge FROM records WHERE site_id = 1 AND charge = $1`:                                            {"reads all of a site in records"},
		`UPDATE loading SET loaded = $1`:                                                                          {"reads all sites of loading"},
		`SELECT 1 FROM batches b JOIN loading l ON l.site_id = b.site_id WHERE b.site_id = 1 AND b.batch_id = $1`: nil,
	} {
		if faults, explained := planFaults(t, conn, statement{sql, []any{int64(7)}}); !slices.Equal(faults, want) {
			t.Errorf("%s has the faults %q, want %q\n%s", sql, faults, want, explained)
		}
	}
	for _, want := range []string{"Accept acceptance", "Accept batches", "Load loading", "Load batches", "Load records", "Load failed_records",
		"Load of corrections revisions", "Load of corrections failed_records", "Load usage_totals", "Load balances", "Load loads",
		"Authority api_keys", "Counts loading", "Status loads", "Status failed_records", "Failed failed_records", "Clear failed_records",
		"Loaded records", "Revisions revisions", "Revisions batches", "Summary usage_totals", "Summary records", "Summary balances"} {
		if !seen[want] {
			t.Errorf("no statement was seen for %s", want)
		}
	}
}

// siteTablePattern finds where a statement names a table of sites: the word
// before it, the table, and what follows.
var siteTablePattern = regexp.MustCompile(`\b(FROM|JOIN|UPDATE|INTO|COPY)\s+(` + strings.Join(siteTables, "|") + `)\b(?:\s+(?:AS\s+)?([a-z]\w*)\b)?`)

var (
	insertPattern = regexp.MustCompile(`^\s*INSERT INTO \w+(?: AS \w+)?\s+\(site_id\b[^)]*\)\s+(?:VALUES \(|SELECT )\$1\b`)
	copyPattern   = regexp.MustCompile(`^COPY \w+ \(site_id\b`)
)

// crossesSites says what in a statement may be about several sites, or "".
func crossesSites(sql string) string {
	if sql == postgres.SweepQuery {
		return ""
	}
	for _, m := range siteTablePattern.FindAllStringSubmatch(sql, -1) {
		switch {
		case m[1] == "INTO":
			if !insertPattern.MatchString(sql) {
				return m[2] + " gets rows of another site than $1"
			}
		case m[1] == "COPY":
			if !copyPattern.MatchString(sql) {
				return m[2] + " gets rows without site_id"
			}
		default:
			says := regexp.MustCompile(`\b` + m[3] + `\.site_id = (\$1|\w+\.site_id)`)
			if !strings.Contains(sql, "site_id = $1") || m[1] == "JOIN" && !says.MatchString(sql) {
				return m[2] + " is not chosen by site_id = $1"
			}
		}
	}
	return ""
}

func TestCrossesSites(t *testing.T) {
	for sql, crosses := range map[string]bool{
		`SELECT 1 FROM loading WHERE site_id = $1`:  false,
		`SELECT 1 FROM loading`:                     true,
		`SELECT 1 FROM loading WHERE batch_id = $1`: true,
		`SELECT 1 FROM records r JOIN batches b ON b.batch_id = r.batch_id WHERE r.site_id = $1`:       true,
		`SELECT 1 FROM records r JOIN batches b ON b.site_id = r.site_id WHERE r.site_id = $1`:         false,
		`INSERT INTO loads AS t (site_id, span) SELECT $1::bigint, u.* FROM unnest($2::bigint[]) AS u`: false,
		`INSERT INTO loads (span, site_id) VALUES ($1, $2)`:                                            true,
		`UPDATE acceptance SET accepted = 1`:                                                           true,
		`COPY records (record_id, site_id)`:                                                            true,
		`SELECT site_id, served FROM sites WHERE name = $1`:                                            false,
	} {
		if got := crossesSites(sql); (got != "") != crosses {
			t.Errorf("%s: %q", sql, got)
		}
	}
}

// A plan is a node of a plan in JSON.
type plan struct {
	NodeType    string `json:"Node Type"`
	Relation    string `json:"Relation Name"`
	IndexCond   string `json:"Index Cond"`
	RecheckCond string `json:"Recheck Cond"`
	Filter      string `json:"Filter"`
	Plans       []plan `json:"Plans"`
}

var (
	siteCondition = regexp.MustCompile(`\bsite_id = '?\d+'?`)
	onlySite      = regexp.MustCompile(`^\(site_id = [^()]*\)$`)
)

// faults returns what is wrong with a plan and those below it.
func (p *plan) faults() (faults []string) {
	if slices.Contains(bigTables, p.Relation) && p.NodeType == "Seq Scan" {
		faults = append(faults, "reads all of "+p.Relation)
	}
	if slices.Contains(bigTables, p.Relation) && onlySite.MatchString(p.RecheckCond) {
		faults = append(faults, "reads all of a site in "+p.Relation)
	}
	if slices.Contains(siteTables, p.Relation) && strings.HasSuffix(p.NodeType, "Scan") &&
		!siteCondition.MatchString(p.IndexCond+p.RecheckCond+p.Filter) {
		faults = append(faults, "reads all sites of "+p.Relation)
	}
	for i := range p.Plans {
		faults = append(faults, p.Plans[i].faults()...)
	}
	return faults
}

// planFaults asks how the server would execute a statement, and returns what is
// wrong with that.
func planFaults(t testing.TB, conn *pgx.Conn, s statement) (faults []string, explained []byte) {
	t.Helper()
	if err := conn.QueryRow(context.Background(), "EXPLAIN (FORMAT JSON) "+s.sql, s.args...).Scan(&explained); err != nil {
		t.Fatalf("%v: %s", err, s.sql)
	}
	var plans []struct{ Plan plan }
	if err := json.Unmarshal(explained, &plans); err != nil {
		t.Fatal(err)
	}
	return plans[0].Plan.faults(), explained
}
