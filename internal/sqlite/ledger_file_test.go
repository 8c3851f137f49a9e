package sqlite_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/sqlite"
)

// fullLedger makes a ledger in which everything has happened, and returns its
// file.
func fullLedger(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ledger.db")
	store, err := sqlite.OpenLedger(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	service, who, resources := crashSite(t, store)
	for n := range 200 {
		if _, err := service.Accept(context.Background(), who, resources, crashMessageOf(0, n)); err != nil {
			t.Fatal(err)
		}
		if n%50 == 0 {
			loadAll(t, service)
		}
	}
	loadAll(t, service)
	if _, err := service.Accept(context.Background(), who, resources, crashMessageOf(1, 0)); err != nil {
		t.Fatal(err)
	}
	checkVerified(t, store)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLedgerRefusesFile(t *testing.T) {
	ctx := context.Background()
	good, err := os.ReadFile(fullLedger(t))
	if err != nil {
		t.Fatal(err)
	}
	write := func(content ...[]byte) func(path string) {
		return func(path string) {
			if err := os.WriteFile(path, []byte(joined(content)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		make func(path string)
		code amieusage.Code
		text string
	}{
		"cut between pages": {write(good[:len(good)/8192*4096]), amieusage.CodeInternal, "is damaged"},
		"cut inside a page": {write(good[:len(good)/2+100]), amieusage.CodeInternal, "is damaged"},
		"a page of zeros":   {write(good[:8192], make([]byte, 4096), good[3*4096:]), amieusage.CodeInternal, "is damaged"},
		"a broken header":   {write([]byte("SQLite format 3\x00"), make([]byte, 84), good[100:]), amieusage.CodeInvalid, "is not an amieusage ledger"},
		"no database":       {write([]byte(strings.Repeat("sites:\n", 1000))), amieusage.CodeInvalid, "is not an amieusage ledger"},
		"another database":  {func(path string) { execute(t, path, `CREATE TABLE t (x)`) }, amieusage.CodeInvalid, "is a database, but no amieusage ledger"},
		"marked as another's": {func(path string) { execute(t, path, `PRAGMA application_id = 7; PRAGMA user_version = 1`) },
			amieusage.CodeInvalid, "is a database, but no amieusage ledger"},
		"an outbox": {func(path string) {
			q, err := sqlite.OpenOutbox(ctx, path, time.Now)
			if err == nil {
				err = q.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
		}, amieusage.CodeInvalid, "is a database, but no amieusage ledger"},
		"of a newer program": {func(path string) {
			write(good)(path)
			execute(t, path, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)`)
		}, amieusage.CodeInvalid, "has schema 999"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "ledger.db")
			c.make(path)
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			l, err := sqlite.OpenLedger(ctx, path)
			if err == nil {
				l.Close()
			}
			checkError(t, err, c.code, c.text)
			if after, _ := os.ReadFile(path); string(before) != string(after) {
				t.Error("the file was changed")
			}
		})
	}
	t.Run("empty", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "ledger.db")
		write()(path)
		checkVerified(t, openLedger(t, path))
	})
	t.Run("cancelled", func(t *testing.T) {
		ended, cancel := context.WithCancel(ctx)
		cancel()
		_, err := sqlite.OpenLedger(ended, filepath.Join(t.TempDir(), "ledger.db"))
		checkError(t, err, amieusage.CodeUnavailable, "context canceled")
	})
}

func joined(pieces [][]byte) string {
	var b strings.Builder
	for _, p := range pieces {
		b.Write(p)
	}
	return b.String()
}

// openedLedger tells the test binary to open a ledger and to end.
const openedLedger = "AMIEUSAGE_TEST_OPEN_LEDGER"

// TestLedgerOpenedAtOnce opens a new file from several goroutines and processes
// at once: its schema is laid once, and nobody is refused.
func TestLedgerOpenedAtOnce(t *testing.T) {
	if path := os.Getenv(openedLedger); path != "" {
		checkVerified(t, openLedger(t, path))
		return
	}
	path := filepath.Join(t.TempDir(), "ledger.db")
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			child := exec.Command(os.Args[0], "-test.run=^TestLedgerOpenedAtOnce$")
			child.Env = append(os.Environ(), openedLedger+"="+path)
			if out, err := child.CombinedOutput(); err != nil {
				t.Errorf("a child: %v\n%s", err, out)
			}
		})
	}
	for range 4 {
		group.Go(func() {
			store, err := sqlite.OpenLedger(context.Background(), path)
			if err != nil {
				t.Error(err)
				return
			}
			if err := store.Verify(context.Background()); err != nil {
				t.Error(err)
			}
			if err := store.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	checkVerified(t, openLedger(t, path))
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", f.Name(), info.Mode(), err)
		}
	}
}

// TestLedgerSharedByPrograms administers a ledger while a service on the same
// file loads without a pause, and loads from both.
func TestLedgerSharedByPrograms(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	one, two := openLedger(t, path), openLedger(t, path)
	service, who, resources := crashSite(t, one)
	other, _, _ := crashSite(t, two)
	const messages = 150
	for n := range messages {
		if _, err := service.Accept(context.Background(), who, resources, crashMessageOf(0, n)); err != nil {
			t.Fatal(err)
		}
	}
	var group sync.WaitGroup
	group.Go(func() { loadAll(t, service) })
	group.Go(func() { loadAll(t, other) })
	group.Go(func() {
		for n := range messages {
			if _, err := service.Accept(context.Background(), who, resources, crashMessageOf(1, n)); err != nil {
				t.Error(err)
			}
		}
	})
	group.Go(func() {
		for range 20 {
			if _, _, err := ledger.CreateKey(context.Background(), two, "PSC", "", time.Now()); err != nil {
				t.Error(err)
			}
		}
	})
	group.Wait()
	loadAll(t, other)
	counts, err := two.Counts(context.Background(), who.Site)
	if want := (ledger.Counts{Accepted: 2 * messages * 5, Loaded: 2 * messages * 4, Failed: 2 * messages}); err != nil || counts != want {
		t.Errorf("counts %+v, %v, want %+v", counts, err, want)
	}
	checkVerified(t, one)
	checkVerified(t, two)
}

// TestLedgerDamagedBatch damages an accepted batch: it is set aside, and holds
// up no other.
func TestLedgerDamagedBatch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	store := openLedger(t, path)
	service, who, resources := crashSite(t, store)
	for n := range 5 {
		if _, err := service.Accept(context.Background(), who, resources, crashMessageOf(0, n)); err != nil {
			t.Fatal(err)
		}
	}
	execute(t, path, `UPDATE batches SET records = substr(records, 1, length(records) - 9) WHERE batch_id = 2;
		UPDATE batches SET usage_type = 9 WHERE batch_id = 5;
		UPDATE batches SET records = (SELECT records FROM batches WHERE batch_id = 4), record_count = 6 WHERE batch_id = 3;
		UPDATE sites SET accepted = 26, queued = 26`)
	report, err := service.LoadSome(context.Background())
	if err != nil || report.Batches != 5 || report.Loaded != 8 || report.Failed != 2 || len(report.Damaged) != 3 {
		t.Errorf("report %+v, %v", report, err)
	}
	counts, err := service.Counts(context.Background(), who)
	if want := (ledger.Counts{Accepted: 26, Loaded: 8, Failed: 2, Queued: 16}); err != nil || counts != want {
		t.Errorf("counts %+v, %v, want %+v", counts, err, want)
	}
	if report, err := service.LoadSome(context.Background()); err != nil || report.Batches != 0 {
		t.Errorf("then: report %+v, %v", report, err)
	}
	err = store.Verify(context.Background())
	checkError(t, err, amieusage.CodeInternal, "batches: PSC: batch 2 cannot be read back\nbatches: PSC: batch 3 cannot be read back")
	if _, err := service.Accept(context.Background(), who, resources, crashMessageOf(0, 5)); err != nil {
		t.Fatal(err)
	}
	loadAll(t, service)
}

// TestLedgerSetAside marks a whole batch as damaged: nothing loads it, which
// must be found.
func TestLedgerSetAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	store := openLedger(t, path)
	service, who, resources := crashSite(t, store)
	if _, err := service.Accept(context.Background(), who, resources, crashMessageOf(0, 1)); err != nil {
		t.Fatal(err)
	}
	execute(t, path, `UPDATE batches SET damaged = 1`)
	loadAll(t, service)
	checkError(t, store.Verify(context.Background()), amieusage.CodeInternal, "batches set aside: PSC: batch 1 is marked as damaged, and is not loaded")
}

// TestVerify changes a table behind the ledger's back, one at a time.
func TestVerify(t *testing.T) {
	good, err := os.ReadFile(fullLedger(t))
	if err != nil {
		t.Fatal(err)
	}
	for statement, text := range map[string]string{
		`UPDATE sites SET accepted = accepted + 1`: "the site's numbers of records: PSC: accepted 1006, loaded 800, failed 200, queued 5; " +
			"the batches hold 1005, of which 5 queued; failed records: 200",
		`UPDATE sites SET loaded = loaded + 1`:                               "the site's numbers of records: PSC: accepted 1005, loaded 801",
		`UPDATE sites SET open_failed = 3`:                                   "the site's number of open failed records: PSC: 3",
		`UPDATE sites SET gross_charge = gross_charge - 1`:                   "the site's total of all charges: PSC: 948999999 millionths, its records have 949000000",
		`UPDATE sites SET last_loaded_at = 1`:                                "the site's last time of loading: PSC: 1 is before ",
		`UPDATE records SET charge = 5 WHERE record_id = 1`:                  "usage by day: ",
		`UPDATE usage_totals SET records = 4 WHERE span = 0`:                 "usage by day: ",
		`UPDATE usage_totals SET deducted = deducted + 1 WHERE span = 1`:     "usage by month: ",
		`DELETE FROM usage_totals WHERE span = 1`:                            "usage by month: PSC: the records have ",
		`UPDATE balances SET given_back = 1`:                                 "balances: ",
		`INSERT INTO balances VALUES (1, 9, 9, 1, 1, 0)`:                     "balances: PSC: rolled up 1, 1, 0 (records, used, given_back) for 9, 9 (project_id, resource_id)",
		`UPDATE loads SET charge = charge + 1 WHERE span = 0`:                "loads by transaction: ",
		`UPDATE loads SET records = records + 1 WHERE span = 1`:              "loads by hour: ",
		`DELETE FROM revisions WHERE revision = 1`:                           "the site's number of revisions: PSC: its records have replaced 199; 198 are here, 0 in archives",
		`DELETE FROM revisions WHERE revision = 7`:                           "revisions: PSC: record 4 has 198 from revision 1 before revision 200",
		`UPDATE revisions SET ordinal = 5 WHERE revision = 7`:                "what a revision refers to: PSC: revision 7 of record 4",
		`UPDATE sites SET archived_revisions = 1`:                            "the site's number of revisions: PSC: its records have replaced 199; 199 are here, 1 in archives",
		`UPDATE batches SET archive = 'a' WHERE batch_id = 7`:                "batches: PSC: batch 7 is in an archive and has records here, too",
		`UPDATE failed_records SET local_record_id = 'x'`:                    "open failed records of one identity: ",
		`UPDATE records SET user_id = 9 WHERE record_id = 2`:                 "what a record refers to: PSC: record 2",
		`UPDATE records SET batch_id = 201 WHERE record_id = 2`:              "what a record refers to: PSC: record 2",
		`UPDATE failed_records SET resource_id = 9 WHERE failed_id = 1`:      "what a failed record refers to: PSC: failed record 1",
		`UPDATE batches SET records = x'' WHERE batch_id = 7`:                "batches: PSC: batch 7 cannot be read back",
		`UPDATE records SET loaded_at = loaded_at - 7 WHERE record_id = 600`: "loads by transaction: ",
	} {
		t.Run(statement, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "ledger.db")
			if err := os.WriteFile(path, good, 0o600); err != nil {
				t.Fatal(err)
			}
			execute(t, path, statement)
			checkError(t, openLedger(t, path).Verify(context.Background()), amieusage.CodeInternal, text)
		})
	}
}

// TestLedgerClosed calls what comes too late.
func TestLedgerClosed(t *testing.T) {
	ctx := context.Background()
	store, err := sqlite.OpenLedger(ctx, filepath.Join(t.TempDir(), "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	service, who, resources := crashSite(t, store)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = service.Accept(ctx, who, resources, crashMessageOf(0, 0))
	checkError(t, err, amieusage.CodeUnavailable, "the file is closed")
	if _, err := service.LoadSome(ctx); err == nil {
		t.Error("a closed ledger loads")
	}
	checkError(t, store.Close(), amieusage.CodeUnavailable, "the file is closed")
}

// TestAcceptTooLarge sends more than a batch can hold.
func TestAcceptTooLarge(t *testing.T) {
	store := openLedger(t, filepath.Join(t.TempDir(), "ledger.db"))
	err := store.Accept(context.Background(), &ledger.Batch{Site: 1, UsageType: amieusage.Compute,
		Records: [][]byte{make([]byte, 65<<20)}}, 1)
	checkError(t, err, amieusage.CodeTooLarge, "send fewer records at once")
}
