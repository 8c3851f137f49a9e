package postgres_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/pgtest"
	"github.com/amieusage/amieusage/internal/postgres"
)

// brief is the lease in these tests.
var brief = postgres.Options{MaxConns: 2, Lease: 2 * time.Second}

// A stalledStore stops in the middle of loading: behind the claim.
type stalledStore struct {
	*postgres.Ledger
	claimed, goOn chan struct{}
}

func newStalled(l *postgres.Ledger) stalledStore {
	return stalledStore{l, make(chan struct{}), make(chan struct{})}
}

func (s stalledStore) Load(ctx context.Context, now time.Time, maxRecords int, judge ledger.Judge) (ledger.LoadReport, error) {
	return s.Ledger.Load(ctx, now, maxRecords, stalledJudge{judge, s})
}

type stalledJudge struct {
	ledger.Judge
	store stalledStore
}

func (j stalledJudge) Read(b *ledger.Batch) []ledger.Verdict {
	close(j.store.claimed)
	<-j.store.goOn
	return j.Judge.Read(b)
}

// takingOver opens another replica, before anybody has the claim: a machine at
// work may take longer for that than a lease. What it returns loads there what
// somebody holds: it is busy first, and loads when the lease has ended.
func takingOver(t *testing.T, url string) func(want ledger.Counts) {
	t.Helper()
	other := serve(t, opened(t, url, brief), "SDSC")
	return func(want ledger.Counts) {
		t.Helper()
		busy := 0
		until(t, "the claim is lost", func() bool {
			report, err := other.LoadSome(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if report.Busy {
				busy++
			}
			return report.Batches > 0
		})
		if busy == 0 {
			t.Error("nobody had the claim")
		}
		checkCounts(t, url, want)
	}
}

func checkCounts(t *testing.T, url string, want ledger.Counts) {
	t.Helper()
	l := opened(t, url, brief)
	authority, err := l.Authority(context.Background(), "PSC")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := l.Counts(context.Background(), authority.Site); err != nil || got != want {
		t.Errorf("counts %+v, %v; want %+v", got, err, want)
	}
	if err := l.Verify(context.Background()); err != nil {
		t.Error(err)
	}
}

// TestLease has a holder that stops between two statements. What it does when
// it goes on changes nothing.
func TestLease(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	holder := newStalled(opened(t, url, brief))
	c := serve(t, holder, "PSC")
	c.send(t, compute("1", "alice", 1), compute("2", "eve", 1))
	checkTakenOver := takingOver(t, url)
	ended := make(chan error, 1)
	go func() {
		_, err := c.LoadSome(context.Background())
		ended <- err
	}()
	<-holder.claimed
	want := ledger.Counts{Accepted: 2, Loaded: 1, Failed: 1}
	checkTakenOver(want)
	close(holder.goOn)
	if err := <-ended; codeOf(err) != amieusage.CodeUnavailable {
		t.Errorf("the holder goes on with %v, want one with code %s", err, amieusage.CodeUnavailable)
	}
	checkCounts(t, url, want)
}

// TestLeaseSending has a holder that stops in the middle of what it sends: what
// the server has of it is no idle transaction, and no time-out of a statement
// ends it.
func TestLeaseSending(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	holder := opened(t, url, brief)
	c := serve(t, holder, "PSC")
	c.send(t, compute("1", "alice", 1))
	checkTakenOver := takingOver(t, url)
	copying, goOn, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- holder.Write(context.Background(), func(tx pgx.Tx) error {
			if _, err := tx.Exec(context.Background(), `SELECT FROM loading WHERE site_id = $1 FOR UPDATE`, int64(c.who.Site)); err != nil {
				return err
			}
			_, err := tx.CopyFrom(context.Background(), pgx.Identifier{"loads"}, []string{"site_id"}, pgx.CopyFromFunc(func() ([]any, error) {
				close(copying)
				<-goOn
				return nil, nil
			}))
			return err
		})
	}()
	<-copying
	want := ledger.Counts{Accepted: 1, Loaded: 1}
	checkTakenOver(want)
	close(goOn)
	if err := <-ended; codeOf(err) != amieusage.CodeUnavailable {
		t.Errorf("the holder goes on with %v, want one with code %s", err, amieusage.CodeUnavailable)
	}
	checkCounts(t, url, want)
}

// TestLeaseStopped stops a process that loads, which runs this same test.
func TestLeaseStopped(t *testing.T) {
	const child = "POSTGRES_TEST_CHILD"
	if url := os.Getenv(child); url != "" {
		holder := newStalled(opened(t, url, brief))
		go func() {
			<-holder.claimed
			fmt.Println("claimed")
			if _, err := io.ReadAll(os.Stdin); err != nil {
				t.Error(err)
			}
			close(holder.goOn)
		}()
		_, err := serve(t, holder, "SDSC").LoadSome(context.Background())
		fmt.Println(codeOf(err))
		return
	}
	t.Parallel()
	url := pgtest.Database(t)
	serve(t, opened(t, url, brief), "PSC").send(t, compute("1", "alice", 1))
	checkTakenOver := takingOver(t, url)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestLeaseStopped$")
	cmd.Env = append(os.Environ(), child+"="+url)
	cmd.Stderr = os.Stderr
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(output)
	if line, err := lines.ReadString('\n'); line != "claimed\n" {
		t.Fatalf("the process says %q, %v", line, err)
	}
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	want := ledger.Counts{Accepted: 1, Loaded: 1}
	checkTakenOver(want)
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	input.Close()
	if line, err := lines.ReadString('\n'); strings.TrimSpace(line) != string(amieusage.CodeUnavailable) {
		t.Errorf("the process goes on with %q, %v; want %s", line, err, amieusage.CodeUnavailable)
	}
	if _, err := io.Copy(io.Discard, lines); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	checkCounts(t, url, want)
}

// A checkedStore stops in the middle of loading: when it has let one record
// pass, and is about to check the second.
type checkedStore struct{ stalledStore }

func (s checkedStore) Load(ctx context.Context, now time.Time, maxRecords int, judge ledger.Judge) (ledger.LoadReport, error) {
	return s.Ledger.Load(ctx, now, maxRecords, &checkedJudge{judge, s.stalledStore, 0})
}

type checkedJudge struct {
	ledger.Judge
	store  stalledStore
	checks int
}

func (j *checkedJudge) Check(registry *ledger.Registry, r amieusage.Record) ledger.Failure {
	if j.checks++; j.checks == 2 {
		close(j.store.claimed)
		<-j.store.goOn
	}
	return j.Judge.Check(registry, r)
}

// TestLeaseNames has a holder that has met new names when it stops. They are
// not there for who loads next, in the same replica.
func TestLeaseNames(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	l := opened(t, url, brief)
	holder := checkedStore{newStalled(l)}
	service := func(store ledger.Store) *ledger.Service {
		return ledger.New(ledger.Config{Store: store, Policy: ledger.Open, Clock: time.Now, Logger: discard})
	}
	c := serve(t, l, "PSC")
	c.send(t, compute("1", "new", 1), compute("2", "alice", 1))
	ended := make(chan error, 1)
	go func() {
		_, err := service(holder).LoadSome(context.Background())
		ended <- err
	}()
	<-holder.claimed
	load := func() {
		t.Helper()
		until(t, "the site is loaded", func() bool {
			report, err := service(l).LoadSome(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			return report.Batches > 0
		})
	}
	load()
	checkCounts(t, url, ledger.Counts{Accepted: 2, Loaded: 2})
	close(holder.goOn)
	if err := <-ended; codeOf(err) != amieusage.CodeUnavailable {
		t.Errorf("the holder goes on with %v, want one with code %s", err, amieusage.CodeUnavailable)
	}
	c.send(t, compute("3", "new", 1), compute("4", "newer", 1))
	load()
	checkCounts(t, url, ledger.Counts{Accepted: 4, Loaded: 4})
}

// TestTimeouts looks at the time-outs inside a transaction and, on the same
// connection of a pooler, outside one.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	url := pgtest.Bouncer(t, pgtest.Database(t), "default_pool_size=1")
	const session = `
		SELECT (SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings WHERE source IN ('session', 'client'))
			|| (SELECT count(*) FROM pg_prepared_statements) || (SELECT count(*) FROM pg_listening_channels())
			|| (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') || (SELECT count(*) FROM pg_cursors)`
	before := queried[string](t, url+"&application_name=amieusage&default_query_exec_mode=exec", session)
	l := opened(t, url, postgres.Options{Lease: 7 * time.Second}.WithTimeouts(0, 11*time.Second))
	for name, run := range map[string]func(ctx context.Context, f func(tx pgx.Tx) error) error{"write": l.Write, "read": l.Read} {
		var got string
		if err := run(context.Background(), func(tx pgx.Tx) error {
			return tx.QueryRow(context.Background(), `
				SELECT concat_ws(' ', current_setting('lock_timeout'), current_setting('statement_timeout'),
					current_setting('idle_in_transaction_session_timeout'), current_setting('transaction_read_only'))`).Scan(&got)
		}); err != nil {
			t.Fatal(err)
		}
		if want := "10s 11s 7s " + map[string]string{"write": "off", "read": "on"}[name]; got != want {
			t.Errorf("%s: time-outs %s, want %s", name, got, want)
		}
	}
	history(t, l, "PSC")
	after := queried[string](t, url+"&application_name=amieusage&default_query_exec_mode=exec", session)
	if before != after {
		t.Errorf("the session had\n%s\nand has\n%s", before, after)
	}
}
