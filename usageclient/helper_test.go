package usageclient

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/amieusage/amieusage"
)

const (
	testSite = "PSC"
	testKey  = "s3cr3t-k3y-do-not-show"
	basePath = "/gateway/api/v1"
	resource = "bridges2-rm.psc.access-ci.org"
)

// quickly retries as often as the default policy, without the waiting.
var quickly = RetryPolicy{FirstDelay: time.Microsecond, MaxDelay: time.Millisecond}

// serve runs an HTTP server and returns a client of it. When the test ends, no
// connection is left open.
func serve(t testing.TB, handler http.Handler, opts ...Option) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	c := newClient(t, server.URL+basePath, append([]Option{WithRetry(quickly)}, opts...)...)
	t.Cleanup(func() {
		c.CloseIdleConnections()
		server.Close() // blocks while a request is outstanding
	})
	return c
}

func newClient(t testing.TB, baseURL string, opts ...Option) *Client {
	t.Helper()
	c, err := New(testSite, testKey, append([]Option{WithBaseURL(baseURL)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// answerer answers every request with the same status and body, and counts.
type answerer struct {
	status int
	body   string
	header http.Header
	mu     sync.Mutex
	n      int
}

func (a *answerer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.n++
	a.mu.Unlock()
	_, _ = io.Copy(io.Discard, r.Body)
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.WriteHeader(a.status)
	_, _ = io.WriteString(w, a.body)
}

func (a *answerer) requests() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.n
}

// compute returns a valid record; n makes its identity.
func compute(n int) *amieusage.ComputeRecord {
	submit := time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(n) * time.Second)
	charge, err := amieusage.ParseCharge("16.25")
	if err != nil {
		panic(err)
	}
	return &amieusage.ComputeRecord{
		Username:       "alice",
		LocalProjectID: "p.abc123456.000",
		LocalRecordID:  fmt.Sprint(4711 + n),
		Resource:       resource,
		SubmitTime:     submit,
		StartTime:      submit.Add(time.Minute),
		EndTime:        submit.Add(time.Hour),
		Charge:         charge,
		NodeCount:      amieusage.CountOf(4),
		CpuCoreCount:   amieusage.CountOf(512),
		JobName:        "train|resnet 50",
		Queue:          "RM",
		LocalReference: fmt.Sprintf("ref-%d", n),
	}
}

func storage(n int) *amieusage.StorageRecord {
	charge, err := amieusage.ParseCharge("12.5")
	if err != nil {
		panic(err)
	}
	return &amieusage.StorageRecord{
		Username:       "alice",
		LocalProjectID: "p.abc123456.000",
		LocalRecordID:  fmt.Sprintf("st-%d", n),
		Resource:       "ocean.psc.access-ci.org",
		CollectionTime: time.Date(2026, 10, 2, 0, 0, 0, 0, time.UTC),
		Charge:         charge,
		BytesStored:    amieusage.CountOf(13421772800),
	}
}

func computes(n int) []amieusage.Record {
	records := make([]amieusage.Record, n)
	for i := range records {
		records[i] = compute(i)
	}
	return records
}

// queued is the answer of a service that takes everything.
func queued(n int) string {
	body, err := json.Marshal(amieusage.SendResponse{Message: amieusage.QueuedMessage(n, 0)})
	if err != nil {
		panic(err)
	}
	return string(body)
}

// memoryListener passes connections inside the process, so that time in a
// synctest bubble can go on while a client waits for its server.
type memoryListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	close(l.closed)
	return nil
}

func (l *memoryListener) Addr() net.Addr { return &net.IPAddr{} }

// serveInMemory is serve for a synctest bubble.
func serveInMemory(t *testing.T, handler http.Handler, opts ...Option) *Client {
	t.Helper()
	l := &memoryListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	server := &http.Server{Handler: handler}
	served := make(chan error)
	go func() { served <- server.Serve(l) }()
	transport := memoryTransport(l)
	c := newClient(t, "http://127.0.0.1"+basePath,
		append([]Option{WithHTTPClient(&http.Client{Transport: transport})}, opts...)...)
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		_ = server.Close()
		<-served
	})
	return c
}

func memoryTransport(l *memoryListener) *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		here, there := net.Pipe()
		select {
		case l.conns <- there:
			return here, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-l.closed:
			return nil, net.ErrClosed
		}
	}}
}
