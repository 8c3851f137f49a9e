package postgres_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/pgtest"
	"github.com/amieusage/amieusage/internal/postgres"
	"github.com/amieusage/amieusage/internal/storetest"
)

// TestPoolerStore is TestStore through a pooler that lends two connections to a
// database by transaction.
func TestPoolerStore(t *testing.T) {
	pooler, err := url.Parse(pgtest.Bouncer(t, pgtest.Database(t), "default_pool_size=2"))
	if err != nil {
		t.Fatal(err)
	}
	storetest.TestStore(t, func(t *testing.T) func() ledger.Store {
		through := changed(t, pgtest.Database(t), "", "", pooler.Host, "")
		return func() ledger.Store { return open(t, through) }
	})
}

// A hearing is a replica that only listens: what it would load, it counts.
type hearing struct {
	ledger *postgres.Ledger
	wakes  chan time.Time
	mu     sync.Mutex
	log    bytes.Buffer
}

func (h *hearing) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log.Write(p)
}

func (h *hearing) logged(text string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Count(h.log.String(), text)
}

func listen(t *testing.T, url, listenURL string) *hearing {
	t.Helper()
	h := &hearing{wakes: make(chan time.Time, 1000)}
	h.ledger = opened(t, url, postgres.Options{MaxConns: 2, ListenURL: listenURL, Logger: slog.New(slog.NewTextHandler(h, nil))})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- h.ledger.Listen(ctx, func() {
			select {
			case h.wakes <- time.Now():
			default:
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return h
}

// woken waits until it is.
func (h *hearing) woken(t *testing.T, within time.Duration) {
	t.Helper()
	select {
	case <-h.wakes:
	case <-time.After(within):
		t.Errorf("not woken within %v", within)
	}
}

// TestPoolerListen listens through a pooler, where nothing is heard: the log
// says once what to do, and the replica looks for itself; and beside it, where
// it hears.
func TestPoolerListen(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	pooler := pgtest.Bouncer(t, url, "default_pool_size=2")
	deaf := listen(t, pooler, "")
	hears := listen(t, pooler, url)
	hears.woken(t, 2*time.Second) // it hears
	c := serve(t, open(t, pooler), "PSC")
	c.send(t, compute("1", "alice", 1))
	hears.woken(t, time.Second)
	for range 2 {
		deaf.woken(t, 2*time.Second+500*time.Millisecond)
	}
	until(t, "the log says it", func() bool { return deaf.logged("--db-listen") == 1 })
	deaf.woken(t, 2*time.Second+500*time.Millisecond)
	if n := deaf.logged("level=WARN"); n != 1 {
		t.Errorf("%d warnings", n)
	}
	if n := hears.logged("level=WARN"); n != 0 {
		t.Errorf("%d warnings of who hears", n)
	}
}

// TestListenURL listens by a URL that has settings of a pool. A site that is not
// there, as another ledger of the same database may have it, is nobody's turn.
func TestListenURL(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	h := listen(t, url+"&pool_max_conns=3&pool_max_conn_idle_time=1m", "")
	h.woken(t, time.Second) // it hears
	execute(t, url, `SELECT pg_notify('amieusage_accepted', '4711')`)
	h.woken(t, time.Second)
	if report, err := h.ledger.Load(context.Background(), time.Now(), 10, nil); err != nil || !reflect.DeepEqual(report, ledger.LoadReport{}) {
		t.Errorf("report %+v, %v of a site that is not there", report, err)
	}
	if n := h.logged("level=WARN"); n != 0 {
		t.Errorf("%d warnings", n)
	}
}

// TestListenAgain ends the connection that listens: what is accepted while
// nobody listens wakes the replica when it listens again.
func TestListenAgain(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	h := listen(t, url, "")
	h.woken(t, 2*time.Second)
	execute(t, url, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'`)
	h.woken(t, 2*time.Second)
	until(t, "it hears again", func() bool { return h.logged("hearing from other replicas again") == 1 })
	serve(t, open(t, url), "PSC").send(t, compute("1", "alice", 1))
	h.woken(t, time.Second)
}

// TestIdle has a fleet with nothing to do, and then a record for it that its
// acceptor does not load.
func TestIdle(t *testing.T) {
	t.Parallel()
	url := pgtest.Start(t, "fsync=off").Database(t)
	const fleet, watched = 3, 3 * time.Second
	acceptor := serve(t, open(t, url), "PSC")
	var all []*postgres.Ledger
	for range fleet {
		l := opened(t, url, postgres.Options{MaxConns: 2})
		r := &replica{ledger: l, service: ledger.New(ledger.Config{Store: l, Clock: time.Now, Logger: discard, IdlePoll: 30 * time.Second})}
		r.run(t)
		all = append(all, l)
	}
	const listening = `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%' AND state = 'idle'`
	until(t, "all listen", func() bool { return queried[int](t, url, listening) == fleet })
	// Sessions tell what they did within a second; each look is a transaction,
	// and so is its own check that the server may be written to.
	const transactions = `SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()`
	quiet := time.NewTimer(watched)
	<-quiet.C
	before := queried[int64](t, url, transactions)
	quiet.Reset(watched)
	<-quiet.C
	if n := queried[int64](t, url, transactions) - before - 2; n > fleet {
		t.Errorf("%d replicas that have nothing to do ran %d transactions within %v", fleet, n, watched)
	}
	start := time.Now()
	acceptor.send(t, compute("1", "alice", 1))
	until(t, "it is loaded", func() bool {
		counts, err := all[0].Counts(context.Background(), acceptor.who.Site)
		return err == nil && counts.Loaded == 1
	})
	if took := time.Since(start); took > time.Second {
		t.Errorf("loaded after %v", took)
	}
}
