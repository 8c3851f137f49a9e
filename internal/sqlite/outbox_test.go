package sqlite_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	zombiezen "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/sqlite"
)

func openOutbox(t testing.TB, path string) *sqlite.Outbox {
	t.Helper()
	q, err := sqlite.OpenOutbox(context.Background(), path, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
	return q
}

// outboxItems returns the items number from to number to-1.
func outboxItems(from, to int) []outbox.Item {
	submit := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	items := make([]outbox.Item, 0, to-from)
	for i := from; i < to; i++ {
		items = append(items, outbox.Item{Place: fmt.Sprintf("dump.psv:%d", i), Record: &amieusage.ComputeRecord{
			Username: "alice", LocalProjectID: "p.abc123456.000", LocalRecordID: strconv.Itoa(4_000_000 + i),
			Resource: "rm.example.org", Charge: amieusage.ChargeOfMillionths(int64(i%100) * 1_250_000),
			SubmitTime: submit.Add(time.Duration(i) * time.Second), StartTime: submit.Add(time.Duration(i+60) * time.Second),
			EndTime: submit.Add(time.Duration(i+7200) * time.Second), NodeCount: amieusage.CountOf(4),
			CpuCoreCount: amieusage.CountOf(512), JobName: "relax-bulk", Memory: "256000M", Queue: "RM",
		}})
	}
	return items
}

func checkError(t *testing.T, err error, code amieusage.Code, text string) {
	t.Helper()
	e, ok := errors.AsType[*amieusage.Error](err)
	if !ok || e.Code != code || !strings.Contains(e.Error(), text) {
		t.Errorf("error %v, want one with code %s that says %q", err, code, text)
	}
}

func execute(t *testing.T, path, script string) {
	t.Helper()
	conn, err := zombiezen.OpenConn(path, zombiezen.OpenReadWrite|zombiezen.OpenCreate)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := sqlitex.ExecuteScript(conn, script, nil); err != nil {
		t.Fatal(err)
	}
}

func TestOutboxRefusesFile(t *testing.T) {
	ctx := context.Background()
	full := filepath.Join(t.TempDir(), "outbox.db")
	q, err := sqlite.OpenOutbox(ctx, full, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	_, err = q.Enqueue(ctx, outboxItems(0, 500), nil)
	if err := errors.Join(err, q.Close()); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(full)
	if err != nil {
		t.Fatal(err)
	}
	write := func(content []byte) func(path string) {
		return func(path string) {
			if err := os.WriteFile(path, content, 0o600); err != nil {
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
		"overwritten": {write(append(append(append([]byte(nil), good[:8192]...), make([]byte, 4096)...), good[3*4096:]...)),
			amieusage.CodeInternal, "is damaged"},
		"no database":      {write([]byte(strings.Repeat("JobID|User\n", 1000))), amieusage.CodeInvalid, "is not an amieusage outbox"},
		"a line of text":   {write([]byte("JobID|User\n")), amieusage.CodeInvalid, "is not an amieusage outbox"},
		"another database": {func(path string) { execute(t, path, `CREATE TABLE t (x)`) }, amieusage.CodeInvalid, "is a database, but no amieusage outbox"},
		"of a newer program": {func(path string) {
			write(good)(path)
			execute(t, path, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)`)
		}, amieusage.CodeInvalid, "has schema 999"},
		"a ledger": {func(path string) {
			l, err := sqlite.OpenLedger(ctx, path)
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}, amieusage.CodeInvalid, "is a database, but no amieusage outbox"},
		"a folder": {func(path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, amieusage.CodeInvalid, "is a folder"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "outbox.db")
			c.make(path)
			before, _ := os.ReadFile(path)
			q, err := sqlite.OpenOutbox(ctx, path, time.Now)
			if err == nil {
				q.Close()
			}
			checkError(t, err, c.code, c.text)
			if after, _ := os.ReadFile(path); string(before) != string(after) {
				t.Error("the file was changed")
			}
		})
	}
	t.Run("no folder", func(t *testing.T) {
		_, err := sqlite.OpenOutbox(ctx, filepath.Join(t.TempDir(), "none", "outbox.db"), time.Now)
		checkError(t, err, amieusage.CodeNotFound, "make its folder first")
	})
}

// TestOutboxPath opens an outbox whose name means something to a URI.
func TestOutboxPath(t *testing.T) {
	dir := t.TempDir()
	const name = "out box?mode=memory#%41:.db"
	q := openOutbox(t, filepath.Join(dir, name))
	if _, err := q.Enqueue(context.Background(), outboxItems(0, 1), nil); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !strings.HasPrefix(f.Name(), name) {
			t.Errorf("file %q was made", f.Name())
		}
		if info, err := f.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("others may read %s: %v, %v", f.Name(), info.Mode(), err)
		}
	}
}

func TestOutboxLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outbox.db")
	one, two := openOutbox(t, path), openOutbox(t, path)
	unlock, err := one.Lock()
	if err != nil {
		t.Fatal(err)
	}
	_, err = two.Lock()
	checkError(t, err, amieusage.CodeConflict, fmt.Sprintf("another amieusage is working on %s (pid %d)", path, os.Getpid()))
	if _, err := two.List(context.Background(), outbox.Filter{}); err != nil {
		t.Errorf("reading waits for the lock: %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	if unlock, err = two.Lock(); err != nil {
		t.Fatal(err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
}

// crashFile tells the test binary that it is the process to be killed.
const crashFile = "AMIEUSAGE_TEST_CRASH_OUTBOX"

// TestOutboxCrash kills, again and again, a process that enqueues and sends,
// and looks at what it left: the cursor is nowhere ahead of the entries nor
// behind them, and nothing is lost that was acknowledged.
func TestOutboxCrash(t *testing.T) {
	const perTransaction = 50
	start := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	ctx := context.Background()
	if path := os.Getenv(crashFile); path != "" {
		q := openOutbox(t, path)
		for {
			cursor, err := q.Cursor(ctx, "dump")
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			if !cursor.At.IsZero() {
				n = int(cursor.At.Sub(start) / time.Second)
			}
			fmt.Printf("at %d\n", n)
			_, err = q.Enqueue(ctx, outboxItems(n, n+perTransaction),
				&outbox.Cursor{Source: "dump", At: start.Add(time.Duration(n+perTransaction) * time.Second)})
			if err != nil {
				t.Fatal(err)
			}
			fmt.Printf("at %d\n", n+perTransaction)
			var deliveries []outbox.Delivery
			for i := n; i < n+perTransaction; i += 2 {
				deliveries = append(deliveries, outbox.Delivery{ID: outbox.ID(i + 1), Revision: 1})
			}
			if _, err := q.Sent(ctx, deliveries); err != nil {
				t.Fatal(err)
			}
		}
	}

	path := filepath.Join(t.TempDir(), "outbox.db")
	for round := range 8 {
		child := exec.Command(os.Args[0], "-test.run=^TestOutboxCrash$")
		child.Env = append(os.Environ(), crashFile+"="+path)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		acknowledged, lines := 0, bufio.NewScanner(out)
		for range 5 + round {
			if !lines.Scan() {
				break
			}
			if n, err := fmt.Sscanf(lines.Text(), "at %d", &acknowledged); n != 1 {
				t.Errorf("the child says %q: %v", lines.Text(), err)
			}
		}
		if err := child.Process.Kill(); err != nil {
			t.Error(err)
		}
		if err := child.Wait(); child.ProcessState.Exited() {
			t.Fatalf("the child ended by itself: %v", err)
		}
		checkAfterCrash(t, path, start, acknowledged)
	}
}

func checkAfterCrash(t *testing.T, path string, start time.Time, acknowledged int) {
	t.Helper()
	ctx := context.Background()
	q := openOutbox(t, path)
	cursor, err := q.Cursor(ctx, "dump")
	if err != nil {
		t.Fatal(err)
	}
	covered := int(cursor.At.Sub(start) / time.Second)
	if covered < acknowledged {
		t.Errorf("the cursor covers %d records, %d were acknowledged", covered, acknowledged)
	}
	items := outboxItems(0, covered)
	states := map[outbox.State]int64{}
	n := 0
	for e, err := range outbox.All(ctx, q, outbox.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if n >= covered || amieusage.ContentDigest(items[n].Record) != e.Digest {
			t.Fatalf("entry %d, where the cursor covers %d, is %v", e.ID, covered, e.Record)
		}
		states[e.State]++
		n++
	}
	if n != covered {
		t.Errorf("%d entries, the cursor covers %d", n, covered)
	}
	counts, err := q.Counts(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range counts {
		if states[c.State] != c.Entries {
			t.Errorf("%d entries are %s, counted are %d", states[c.State], c.State, c.Entries)
		}
	}
	conn, err := zombiezen.OpenConn(path, zombiezen.OpenReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if finding, err := sqlitex.ResultText(conn.Prep("PRAGMA integrity_check")); err != nil || finding != "ok" {
		t.Errorf("integrity: %s, %v", finding, err)
	}
}
