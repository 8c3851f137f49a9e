package postgres_test

import (
	"context"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/pgtest"
	"github.com/amieusage/amieusage/internal/postgres"
	"github.com/amieusage/amieusage/internal/storetest"
)

// execute runs statements on a connection of their own.
func execute(t testing.TB, url string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, s := range statements {
		if _, err := conn.Exec(context.Background(), s); err != nil {
			t.Fatalf("%v: %s", err, s)
		}
	}
}

// queried returns the one value that a query gives.
func queried[T any](t testing.TB, url, query string, args ...any) (value T) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := conn.QueryRow(context.Background(), query, args...).Scan(&value); err != nil {
		t.Fatalf("%v: %s", err, query)
	}
	return value
}

// copied returns the URL of a copy of a database that nobody is connected to.
func copied(t testing.TB, from string) string {
	t.Helper()
	to := pgtest.Database(t)
	nameOf := func(of string) (*url.URL, string) {
		u, err := url.Parse(of)
		if err != nil {
			t.Fatal(err)
		}
		return u, strings.TrimPrefix(u.Path, "/")
	}
	server, name := nameOf(to)
	_, template := nameOf(from)
	server.Path = "/postgres"
	execute(t, server.String(), "DROP DATABASE "+name, "CREATE DATABASE "+name+" TEMPLATE "+template)
	return to
}

const (
	resource = "rm.example.org"
	project  = "p.abc123456.000"
)

var submitted = time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)

// compute returns a record of a job that ran for some hours.
func compute(id, user string, hours int) *amieusage.ComputeRecord {
	charge, _ := amieusage.ParseCharge("1.25")
	return &amieusage.ComputeRecord{Username: user, LocalProjectID: project, LocalRecordID: id, Resource: resource,
		SubmitTime: submitted, StartTime: submitted, EndTime: submitted.Add(time.Duration(hours) * time.Hour),
		Charge: charge, NodeCount: amieusage.CountOf(1)}
}

// A client is a site's, of a service.
type client struct {
	*ledger.Service
	who       ledger.Caller
	resources map[string]bool
}

// serve returns a service on the ledger, for a site that it registers.
func serve(t testing.TB, store ledger.Store, site string) *client {
	t.Helper()
	ctx := context.Background()
	spec := &ledger.RegistrySpec{Sites: []ledger.SiteSpec{{Name: site, Resources: []string{resource},
		Projects: []ledger.ProjectSpec{{ID: project, Users: []string{"alice"}, Allocations: []ledger.AllocationSpec{{
			Resource: resource, Amount: 1, Start: time.Unix(0, 0), End: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)}}}}}}}
	if _, err := store.Import(ctx, spec); err != nil {
		t.Fatal(err)
	}
	authority, err := store.Authority(ctx, site)
	if err != nil {
		t.Fatal(err)
	}
	service := ledger.New(ledger.Config{Store: store, Clock: time.Now, Logger: discard})
	return &client{service, ledger.Caller{Site: authority.Site, Name: site}, authority.Resources}
}

func (c *client) send(t testing.TB, records ...amieusage.Record) {
	t.Helper()
	data, err := (&amieusage.Message{UsageType: amieusage.Compute, Records: records}).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := c.Accept(context.Background(), c.who, c.resources, data); err != nil || len(answer.FailedRecords) > 0 {
		t.Fatalf("accept: %v, %v", answer, err)
	}
}

func (c *client) loadAll(t testing.TB) {
	t.Helper()
	for {
		report, err := c.LoadSome(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if report.Batches == 0 {
			return
		}
	}
}

// history lets everything happen at a site, which it returns: records load, one
// of them is corrected nine times, and others fail.
func history(t testing.TB, store ledger.Store, site string) *client {
	t.Helper()
	c := serve(t, store, site)
	for n := range 10 {
		id := strconv.Itoa(n)
		c.send(t, compute(id+".1", "alice", n), compute(id+".2", "alice", n), compute("last", "alice", n), compute(id+".3", "eve", n))
		c.loadAll(t)
	}
	return c
}

// TestVerify changes tables behind the ledger's back, one at a time.
func TestVerify(t *testing.T) {
	good := pgtest.Database(t)
	store, err := postgres.Open(context.Background(), good, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*client{history(t, store, "PSC"), history(t, store, "SDSC")} {
		c.send(t, compute("queued", "alice", 1))
	}
	if err := store.Verify(context.Background()); err != nil {
		t.Error(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	for statement, text := range map[string]string{
		`UPDATE acceptance SET accepted = accepted + 1 WHERE site_id = 1`: "the site's numbers of records: PSC: accepted 42, loaded 30, failed 10; " +
			"the batches hold 41, of which 1 queued; failed records: 10",
		`UPDATE loading SET loaded = loaded + 1 WHERE site_id = 2`:          "the site's numbers of records: SDSC: accepted 41, loaded 31",
		`UPDATE loading SET failed = failed + 1, loaded = loaded - 1`:       "the site's numbers of records: PSC: accepted 41, loaded 29, failed 11",
		`UPDATE batches SET damaged = true WHERE batch_id = 3`:              "the site's numbers of records: PSC: accepted 41, loaded 30, failed 10; the batches hold 41, of which 5 queued",
		`DELETE FROM loading WHERE site_id = 1`:                             "the site's numbers of records: PSC: accepted 41, loaded , failed ",
		`UPDATE batches SET batch_id = 12 WHERE batch_id = 11`:              "the site's numbers of batches: PSC: accepted up to 11, loaded up to 10; there are 11, from 1 to 12",
		`UPDATE acceptance SET batch_id = 9`:                                "the site's numbers of batches: PSC: accepted up to 9, loaded up to 10; there are 11",
		`DELETE FROM batches WHERE batch_id = 5`:                            "the site's numbers of batches: PSC: accepted up to 11, loaded up to 10; there are 10, from 1 to 11",
		`UPDATE loading SET record_id = 20`:                                 "the last numbers given: PSC: name 3, record 20; there are name 3, record 21",
		`UPDATE loading SET name_id = 1`:                                    "the last numbers given: PSC: name 1, record 21; there are name 3, record 21",
		`SELECT setval('failed_ids', 5)`:                                    "the last number given to a failed record: PSC: 5, there is 10",
		`UPDATE records SET record_id = 7 WHERE record_id = 8`:              "numbers of records: PSC: record 7 is there 2 times",
		`UPDATE loading SET gross_charge = gross_charge - 1`:                "the site's total of all charges: PSC: 26249999 millionths, its records have 26250000",
		`UPDATE loading SET last_loaded_at = 1`:                             "the site's last time of loading: PSC: 1 is before that of a record",
		`UPDATE failed_records SET failed_at = failed_at + 1000000000000`:   "the site's last time of loading: PSC: ",
		`UPDATE records SET charge = 5 WHERE record_id = 1`:                 "usage by day: PSC: ",
		`UPDATE usage_totals SET records = 4 WHERE span = 0`:                "usage by day: PSC: ",
		`UPDATE usage_totals SET deducted = deducted + 1 WHERE span = 1`:    "usage by month: PSC: ",
		`DELETE FROM usage_totals WHERE span = 1 AND site_id = 2`:           "usage by month: SDSC: the records have 21, 26250000, 0 (records, deducted, given_back) for 20727, ",
		`UPDATE balances SET given_back = 1`:                                "balances: PSC: ",
		`INSERT INTO balances VALUES (2, 9, 9, 1, 1, 0)`:                    "balances: SDSC: rolled up 1, 1, 0 (records, used, given_back) for 9, 9 (project_id, resource_id)",
		`UPDATE loads SET charge = charge + 1 WHERE span = 0`:               "loads by transaction: PSC: ",
		`UPDATE records SET loaded_at = loaded_at - 7 WHERE record_id = 20`: "loads by transaction: PSC: ",
		`UPDATE loads SET records = records + 1 WHERE span = 1`:             "loads by hour: PSC: ",
		`DELETE FROM revisions WHERE revision = 1 AND site_id = 1`:          "the site's number of revisions: PSC: its records have replaced 9; 8 are here, 0 in archives",
		`UPDATE loading SET archived_revisions = 1`:                         "the site's number of revisions: PSC: its records have replaced 9; 9 are here, 1 in archives",
		`DELETE FROM revisions WHERE revision = 5`:                          "revisions: PSC: record 3 has 8 from revision 1 before revision 10",
		`UPDATE revisions SET ordinal = 4 WHERE revision = 5`:               "what a revision refers to: PSC: revision 5 of record 3",
		`UPDATE revisions SET batch_id = 11 WHERE revision = 5`:             "what a revision refers to: PSC: revision 5 of record 3",
		`UPDATE failed_records SET local_record_id = 'x'`:                   "open failed records of one identity: PSC: resource 1, x: 10",
		`UPDATE records SET user_id = 99 WHERE record_id = 2`:               "what a record refers to: PSC: record 2",
		`UPDATE records SET project_id = 99 WHERE record_id = 2`:            "what a record refers to: PSC: record 2",
		`UPDATE records SET resource_id = 99 WHERE record_id = 2`:           "what a record refers to: PSC: record 2",
		`UPDATE records SET batch_id = 11 WHERE record_id = 2`:              "what a record refers to: PSC: record 2",
		`UPDATE records SET ordinal = 4 WHERE record_id = 2`:                "what a record refers to: PSC: record 2",
		`UPDATE failed_records SET resource_id = 99 WHERE failed_id = 1`:    "what a failed record refers to: PSC: failed record 1",
		`UPDATE failed_records SET batch_id = 11 WHERE failed_id = 1`:       "what a failed record refers to: PSC: failed record 1",
		`UPDATE batches SET records = '' WHERE batch_id = 7`:                "batches: PSC: batch 7 cannot be read back",
		`UPDATE batches SET record_count = 5 WHERE batch_id = 7`:            "batches: PSC: batch 7 cannot be read back",
		`UPDATE batches SET archive = 'a' WHERE batch_id = 7`:               "batches: PSC: batch 7 is in an archive and has records here, too",
		`UPDATE records SET charge = charge + record_id`:                    "loads by transaction: and 35 more",
		`DELETE FROM sites WHERE site_id = 2`:                               "sites: there is no site 2, which batches has rows of",
		`INSERT INTO api_keys VALUES (3, 1, '', '', 0)`:                     "sites: there is no site 3, which api_keys has rows of",
	} {
		t.Run(statement, func(t *testing.T) {
			t.Parallel()
			url := copied(t, good)
			execute(t, url, statement)
			err := open(t, url).Verify(context.Background())
			e, ok := err.(*amieusage.Error)
			if !ok || e.Code != amieusage.CodeInternal || !strings.Contains(err.Error(), text) {
				t.Errorf("%v\nis no internal error that says\n%s", err, text)
			}
		})
	}
}

// TestVerifyContents holds the rows of damaged ledgers against what was
// accepted.
func TestVerifyContents(t *testing.T) {
	storetest.TestVerify(t, func(t *testing.T, history func(store ledger.Store)) storetest.Damaged {
		good := pgtest.Database(t)
		store, err := postgres.Open(context.Background(), good, postgres.Options{})
		if err != nil {
			t.Fatal(err)
		}
		history(store)
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
		return func(t *testing.T, statements ...string) storetest.FullVerifier {
			url := copied(t, good)
			execute(t, url, statements...)
			return open(t, url)
		}
	})
}

// TestVerifyUnserved names the sites whose copy has not come to its end.
func TestVerifyUnserved(t *testing.T) {
	url := pgtest.Database(t)
	store := open(t, url)
	history(t, store, "PSC")
	history(t, store, "SDSC")
	execute(t, url, `UPDATE sites SET served = false WHERE name = 'PSC'`, `DELETE FROM records WHERE site_id = 1`)
	v, err := store.VerifyAll(context.Background(), func(*ledger.VerifiedSite) {})
	if err != nil || v.Err() != nil || len(v.Sites) != 1 || v.Sites[0].Site != "SDSC" || len(v.Unserved) != 1 || v.Unserved[0] != "PSC" {
		t.Errorf("%+v, %v", v, err)
	}
}

// TestVerifyArchived verifies a ledger of which archives have the first
// revisions, and a batch.
func TestVerifyArchived(t *testing.T) {
	url := pgtest.Database(t)
	store := open(t, url)
	history(t, store, "PSC")
	execute(t, url, `UPDATE batches SET archive = 'a', records = '' WHERE batch_id <= 2`,
		`DELETE FROM revisions WHERE batch_id <= 2`, `UPDATE loading SET archived_revisions = 2`)
	if err := store.Verify(context.Background()); err != nil {
		t.Error(err)
	}
}

// TestVerifyOnline verifies a ledger that is in use.
func TestVerifyOnline(t *testing.T) {
	url := pgtest.Database(t)
	storetest.TestVerifyOnline(t, func() ledger.Store { return open(t, url) }, func(statement string) { execute(t, url, statement) })
}

var discard = slog.New(slog.DiscardHandler)
