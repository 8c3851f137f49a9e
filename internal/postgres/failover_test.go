package postgres_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/httpapi"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/pgtest"
	"github.com/amieusage/amieusage/internal/postgres"
)

// A replica serves a ledger over HTTP.
type replica struct {
	base, key string
	ledger    *postgres.Ledger
	service   *ledger.Service
}

// serveHTTP serves the ledger to the site PSC, for which it makes a key.
func serveHTTP(t *testing.T, l *postgres.Ledger) *replica {
	t.Helper()
	serve(t, l, "PSC")
	key, _, err := ledger.CreateKey(context.Background(), l, "PSC", "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	service := ledger.New(ledger.Config{Store: l, Clock: time.Now, Logger: discard, IdlePoll: 30 * time.Second})
	server := httptest.NewServer(httpapi.New(httpapi.Config{Service: service, Logger: discard, Clock: time.Now, Random: rand.Reader}))
	t.Cleanup(server.Close)
	return &replica{server.URL + httpapi.Prefix + "/usage", key, l, service}
}

// run loads and listens until the end of the test.
func (r *replica) run(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		if err := r.service.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	group.Go(func() {
		if err := r.ledger.Listen(ctx, r.service.Wake); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		group.Wait()
	})
}

var impatient = &http.Client{Timeout: 30 * time.Second}

// call reports whether a request was answered with 200. Any other answer than
// 503 with Retry-After fails the test.
func (r *replica) call(t *testing.T, method, path string, body []byte) (answer []byte, ok bool) {
	t.Helper()
	request, err := http.NewRequest(method, r.base+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set(amieusage.HeaderSite, "PSC")
	request.Header.Set(amieusage.HeaderAPIKey, r.key)
	response, err := impatient.Do(request)
	if err != nil {
		t.Errorf("%s %s: %v", method, path, err)
		return nil, false
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(response.Body)
	if err != nil {
		t.Errorf("%s %s: %v", method, path, err)
	}
	unavailable := response.StatusCode == http.StatusServiceUnavailable && response.Header.Get("Retry-After") != ""
	if response.StatusCode != http.StatusOK && !unavailable {
		t.Errorf("%s %s: %s, %v: %s", method, path, response.Status, response.Header, answer)
	}
	return answer, response.StatusCode == http.StatusOK
}

func message(t *testing.T, ids ...string) []byte {
	t.Helper()
	var records []amieusage.Record
	for _, id := range ids {
		records = append(records, compute(id, "alice", 1))
	}
	data, err := (&amieusage.Message{UsageType: amieusage.Compute, Records: records}).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// insist sends until it is accepted, and returns how often.
func (r *replica) insist(t *testing.T, ids ...string) (sends int) {
	t.Helper()
	body := message(t, ids...)
	until(t, "the send is accepted", func() bool {
		sends++
		_, ok := r.call(t, http.MethodPost, "", body)
		return ok
	})
	return sends
}

// account waits until all is loaded, and checks that it is n records, each
// once.
func (r *replica) account(t *testing.T, n int) {
	t.Helper()
	authority, err := r.ledger.Authority(context.Background(), "PSC")
	if err != nil {
		t.Fatal(err)
	}
	var counts ledger.Counts
	until(t, "all is loaded", func() bool {
		counts, err = r.ledger.Counts(context.Background(), authority.Site)
		return err == nil && counts.Queued == 0
	})
	summary, err := r.ledger.Summary(context.Background(), authority.Site, amieusage.SummaryQuery{GroupBy: []amieusage.GroupKey{amieusage.ByResource}}, 10)
	if err != nil {
		t.Fatal(err)
	}
	if len(summary.Rows) != 1 || summary.Rows[0].RecordCount != int64(n) || counts.Failed != 0 || counts.Loaded < int64(n) {
		t.Errorf("of %d records there are %+v; %+v", n, summary.Rows, counts)
	}
	if err := r.ledger.Verify(context.Background()); err != nil {
		t.Error(err)
	}
}

// TestFailoverRestart crashes the server under load.
func TestFailoverRestart(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	url := server.Database(t)
	var replicas []*replica
	for range 2 {
		r := serveHTTP(t, opened(t, url, postgres.Options{MaxConns: 4, Lease: 2 * time.Second}))
		r.run(t)
		replicas = append(replicas, r)
	}
	const crashes, perSend = 2, 3
	var sent, resent, unread atomic.Int64
	stop := make(chan struct{})
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				var ids []string
				for k := range perSend {
					ids = append(ids, fmt.Sprintf("%d.%d.%d", i, n, k))
				}
				resent.Add(int64(replicas[i%2].insist(t, ids...) - 1))
				sent.Add(perSend)
			}
		})
	}
	for _, path := range []string{"/status", "/loaded", "/failed", "/summary"} {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, ok := replicas[1].call(t, http.MethodGet, path, nil); !ok {
					unread.Add(1)
				}
			}
		})
	}
	for range crashes {
		before := sent.Load()
		until(t, "records are accepted", func() bool { return sent.Load() > before+30*perSend })
		server.Stop("immediate")
		refused := unread.Load()
		until(t, "requests are refused", func() bool { return unread.Load() > refused })
		server.Start()
	}
	before := sent.Load()
	until(t, "records are accepted", func() bool { return sent.Load() > before+30*perSend })
	close(stop)
	group.Wait()
	t.Logf("%d records accepted; %d sends and %d reads were answered 503", sent.Load(), resent.Load(), unread.Load())
	for _, r := range replicas {
		r.account(t, int(sent.Load()))
	}
}

// TestFailoverCommit breaks connections at the COMMIT of an accept: before it
// is at the server, and before it is answered.
func TestFailoverCommit(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault   fault
		batches int
	}{
		"before": {cutBeforeCommit, 0},
		"behind": {cutAfterCommit, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			p := newProxy(t, url)
			r := serveHTTP(t, opened(t, changed(t, url, "", "", p.address(), ""), postgres.Options{MaxConns: 2}))
			p.set(c.fault)
			if _, ok := r.call(t, http.MethodPost, "", message(t, "1", "2")); ok {
				t.Error("the send was answered with 200")
			}
			const batches = `SELECT count(*) FROM batches`
			until(t, "the server has ended the transaction", func() bool { return queried[int](t, url, batches) == c.batches })
			p.set(none)
			if _, ok := r.call(t, http.MethodPost, "", message(t, "1", "2")); !ok {
				t.Error("the second send was refused")
			}
			if got := queried[int](t, url, batches); got != c.batches+1 {
				t.Errorf("%d batches, want %d", got, c.batches+1)
			}
			r.run(t)
			r.account(t, 2)
			if n := queried[int](t, url, `SELECT count(*) FROM revisions`); n != 0 {
				t.Errorf("%d revisions were replaced", n)
			}
		})
	}
}

// TestFailoverSilence has connections on which nothing comes any more: all that
// waits for an answer ends by the time-outs, and what comes then is served.
func TestFailoverSilence(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	p := newProxy(t, url)
	r := serveHTTP(t, opened(t, changed(t, url, "", "", p.address(), ""),
		postgres.Options{MaxConns: 3}.WithTimeouts(time.Second, 800*time.Millisecond)))
	r.run(t)
	r.insist(t, "1")
	p.set(silence)
	start := time.Now()
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			method, path := http.MethodPost, ""
			if i%2 == 0 {
				method, path = http.MethodGet, "/status"
			}
			if _, ok := r.call(t, method, path, message(t, "2")); ok {
				t.Error("a request was answered with 200")
			}
		})
	}
	group.Wait()
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("the requests were answered after %v", took)
	}
	p.set(none)
	r.insist(t, "2")
	r.account(t, 2)
}

// TestFailoverDeadline has connections on which nothing comes any more, and
// requests whose deadline is over before all other time-outs: these end, and the
// pool lets go of what else it has.
func TestFailoverDeadline(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	p := newProxy(t, url)
	l := opened(t, changed(t, url, "", "", p.address(), ""), postgres.Options{MaxConns: 2})
	serve(t, l, "PSC")
	authority, err := l.Authority(context.Background(), "PSC")
	if err != nil {
		t.Fatal(err)
	}
	for name, request := range map[string]func(context.Context) error{
		"read": func(ctx context.Context) error {
			_, err := l.Counts(ctx, authority.Site)
			return err
		},
		"write": func(ctx context.Context) error {
			_, _, err := ledger.CreateKey(ctx, l, "PSC", "", time.Now())
			return err
		},
	} {
		// What was just in use is not asked whether it lives.
		err := l.Read(context.Background(), func(pgx.Tx) error { return request(context.Background()) })
		if n := l.Idle(); err != nil || n != 2 {
			t.Fatalf("%d connections, %v", n, err)
		}
		p.set(silence)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		start := time.Now()
		err = request(ctx)
		cancel()
		if took := time.Since(start); codeOf(err) != amieusage.CodeUnavailable && !errors.Is(err, context.DeadlineExceeded) || took > 10*time.Second {
			t.Errorf("%s: %v after %v", name, err, took)
		}
		until(t, "no connection is left in the pool", func() bool { return l.Idle() == 0 })
		p.set(none)
	}
}

// TestFailoverHosts has several hosts: one that is dead, a standby, and the
// primary, which becomes read-only, goes on, and is followed by the standby.
func TestFailoverHosts(t *testing.T) {
	t.Parallel()
	primary := pgtest.Start(t, "fsync=off")
	standby := primary.Standby(t)
	standbyURL := standby.URL("postgres")
	_, err := postgres.Open(context.Background(), standbyURL, postgres.Options{})
	checkRefused(t, err, amieusage.CodeUnavailable, "is read-only", "primary")
	hosts := fmt.Sprintf("%s,127.0.0.1:%d,127.0.0.1:%d", closedAddress(t), standby.Port, primary.Port)
	r := serveHTTP(t, opened(t, changed(t, standbyURL, "", "", hosts, ""), postgres.Options{MaxConns: 3}))
	r.run(t)
	if n := r.insist(t, "1"); n != 1 {
		t.Errorf("accepted after %d sends", n)
	}
	const reload = `SELECT pg_reload_conf()`
	execute(t, primary.URL("postgres"), `ALTER SYSTEM SET default_transaction_read_only = on`, reload)
	until(t, "sends are refused", func() bool {
		_, ok := r.call(t, http.MethodPost, "", message(t, "1"))
		return !ok
	})
	for range 3 { // the server is not written to, and not asked by old connections
		if _, ok := r.call(t, http.MethodPost, "", message(t, "2")); ok {
			t.Error("a send was accepted")
		}
	}
	execute(t, primary.URL("postgres"), `SET default_transaction_read_only = off`, `ALTER SYSTEM RESET default_transaction_read_only`, reload)
	r.insist(t, "2")
	r.account(t, 2)
	const behind = `SELECT pg_wal_lsn_diff(sent_lsn, replay_lsn)::bigint + pg_wal_lsn_diff(pg_current_wal_lsn(), sent_lsn)::bigint FROM pg_stat_replication`
	until(t, "the standby has everything", func() bool { return queried[int64](t, primary.URL("postgres"), behind) == 0 })
	primary.Stop("immediate")
	if _, ok := r.call(t, http.MethodPost, "", message(t, "3")); ok {
		t.Error("a send was accepted by nobody")
	}
	standby.Promote()
	r.insist(t, "3")
	r.account(t, 3)
}

// A fault is what a proxy does to connections.
type fault int32

const (
	none            fault = iota
	cutBeforeCommit       // of what inserts a batch: the server does not get it
	cutAfterCommit        // of the same: the client gets no answer
	silence               // nothing passes
)

// A proxy stands before a server.
type proxy struct {
	net.Listener
	target string
	mu     sync.Mutex
	fault  fault
	passed chan struct{} // closed when the silence ends
}

func newProxy(t *testing.T, url string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target, _, _ := strings.Cut(url[strings.Index(url, "@")+1:], "/")
	p := &proxy{Listener: listener, target: target, passed: make(chan struct{})}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go p.serve(client)
		}
	}()
	return p
}

func (p *proxy) address() string { return p.Addr().String() }

func (p *proxy) set(f fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fault == silence {
		close(p.passed)
		p.passed = make(chan struct{})
	}
	p.fault = f
}

func (p *proxy) now() (fault, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fault, p.passed
}

// serve passes on what client and server say. What was silent stays so: it ends
// without an answer.
func (p *proxy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	var inserts, cut atomic.Bool
	answers := make(chan struct{})
	go func() {
		defer close(answers)
		defer client.Close()
		p.pass(client, server, func([]byte) bool { return !cut.Load() })
	}()
	p.pass(server, client, func(data []byte) bool {
		if bytes.Contains(data, []byte("INSERT INTO batches")) {
			inserts.Store(true)
		}
		f, _ := p.now()
		if inserts.Load() && bytes.Contains(data, []byte("commit\x00")) {
			cut.Store(f == cutAfterCommit)
			return f != cutBeforeCommit
		}
		return true
	})
	server.Close()
	<-answers
}

// pass passes on what allowed lets pass, until it does not.
func (p *proxy) pass(to io.Writer, from io.Reader, allowed func(data []byte) bool) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if f, passed := p.now(); f == silence {
			<-passed
			return
		}
		if n > 0 {
			if !allowed(buffer[:n]) {
				return
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
