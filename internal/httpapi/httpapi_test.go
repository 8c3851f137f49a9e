package httpapi_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/httpapi"
	"github.com/amieusage/amieusage/internal/ledger"
)

var update = flag.Bool("update", false, "write the golden files")

const (
	site     = "PSC"
	key      = "k3y"
	resource = "bridges2-rm.psc.access-ci.org"
	ocean    = "ocean.psc.access-ci.org"
	project  = "p.abc123456.000"
)

var testTime = time.Date(2026, 10, 2, 12, 0, 0, 0, time.UTC)

// A faultyStore is a real store whose operations can be told to fail.
type faultyStore struct {
	ledger.Store
	accept func(ctx context.Context) error // nil: no failure
	status func() error                    // nil: no failure
}

func (s *faultyStore) Accept(ctx context.Context, b *ledger.Batch, maxQueued int64) error {
	if s.accept != nil {
		if err := s.accept(ctx); err != nil {
			return err
		}
	}
	return s.Store.Accept(ctx, b, maxQueued)
}

func (s *faultyStore) Status(ctx context.Context, site ledger.SiteID, q amieusage.StatusQuery, n int) (amieusage.Status, error) {
	if s.status != nil {
		if err := s.status(); err != nil {
			return nil, err
		}
	}
	return s.Store.Status(ctx, site, q, n)
}

// A logBuffer keeps what is logged.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// A bench is a service on a real ledger, with its handler.
type bench struct {
	store   *faultyStore
	service *ledger.Service
	handler *httpapi.Handler
	checked http.Handler // the handler, held against the description
	log     *logBuffer
	logger  *slog.Logger
	url     string // of a server with the handler, without the prefix
}

type option func(*httpapi.Config, *ledger.Config)

func newBench(t testing.TB, options ...option) *bench {
	t.Helper()
	ctx := context.Background()
	b := &bench{store: &faultyStore{Store: openLedger(t)}, log: &logBuffer{}}
	b.logger = slog.New(slog.NewJSONHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	allocation := func(resource string) ledger.AllocationSpec {
		return ledger.AllocationSpec{Resource: resource, Amount: 100_000_000_000,
			Start: testTime.AddDate(-1, 0, 0), End: testTime.AddDate(1, 0, 0)}
	}
	_, err := b.store.Import(ctx, &ledger.RegistrySpec{Sites: []ledger.SiteSpec{
		{
			Name:      site,
			Resources: []string{resource, ocean},
			Projects: []ledger.ProjectSpec{{
				ID:          project,
				Users:       []string{"alice", "bob"},
				Allocations: []ledger.AllocationSpec{allocation(resource), allocation(ocean)},
			}},
		},
		{Name: "SDSC"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for name, secret := range map[string]string{site: key, "SDSC": "other-k3y"} {
		if _, err := b.store.CreateKey(ctx, name, ledger.HashKey(secret), "test", testTime); err != nil {
			t.Fatal(err)
		}
	}
	clock := func() time.Time { return testTime }
	serviceConfig := ledger.Config{Store: b.store, Clock: clock, Logger: b.logger}
	config := httpapi.Config{Logger: b.logger, Clock: clock, Random: rand.Reader}
	for _, o := range options {
		o(&config, &serviceConfig)
	}
	b.service = ledger.New(serviceConfig)
	config.Service = b.service
	b.handler = httpapi.New(config)
	b.checked = checked(t, b.handler)
	server := httptest.NewServer(b.checked)
	b.url = server.URL
	t.Cleanup(func() {
		server.Close()
		if strings.Contains(b.log.String(), "k3y") {
			t.Errorf("the log holds a key:\n%s", b.log)
		}
	})
	return b
}

// load loads all that is queued.
func (b *bench) load(t testing.TB) {
	t.Helper()
	for {
		report, err := b.service.LoadSome(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if report.Batches == 0 {
			return
		}
	}
}

func (b *bench) caller(t testing.TB) ledger.Caller {
	t.Helper()
	who, _, err := b.service.Authenticate(context.Background(), site, key)
	if err != nil {
		t.Fatal(err)
	}
	return who
}

func (b *bench) counts(t testing.TB) ledger.Counts {
	t.Helper()
	counts, err := b.service.Counts(context.Background(), b.caller(t))
	if err != nil {
		t.Fatal(err)
	}
	return counts
}

// A reply is an answer that was read to its end.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// request returns a request as a site sends it; headers are pairs of name and
// value, and "" takes a header away.
func request(t testing.TB, method, url string, body io.Reader, headers ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("XA-SITE", site)
	r.Header.Set("XA-API-KEY", key)
	r.Header.Set("X-Request-Id", "test-request")
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Del(headers[i])
		if headers[i+1] != "" {
			r.Header.Set(headers[i], headers[i+1])
		}
	}
	return r
}

func do(t testing.TB, client *http.Client, r *http.Request) reply {
	t.Helper()
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{response.StatusCode, response.Header, body}
}

// call sends a request to the bench's server; "" is no body.
func (b *bench) call(t testing.TB, method, path, body string, headers ...string) reply {
	t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	return do(t, http.DefaultClient, request(t, method, b.url+path, reader, headers...))
}

func (r reply) into(t testing.TB, v any) {
	t.Helper()
	if r.status != http.StatusOK {
		t.Fatalf("answer %d: %s", r.status, r.body)
	}
	if err := json.Unmarshal(r.body, v); err != nil {
		t.Fatalf("%v in %s", err, r.body)
	}
}

// An errorBody is what every error must hold.
type errorBody struct {
	Error, Type, Title, Detail, Code, Hint string
	Status                                 int
	RequestID                              string `json:"request_id"`
}

// problem checks what holds for every error, and returns its body.
func (r reply) problem(t testing.TB, status int) errorBody {
	t.Helper()
	if r.status != status {
		t.Fatalf("answer %d, want %d: %s", r.status, status, r.body)
	}
	var e errorBody
	if err := json.Unmarshal(r.body, &e); err != nil {
		t.Fatalf("error body is no JSON: %v: %s", err, r.body)
	}
	if e.Error == "" || e.Detail != e.Error || e.Status != status || e.RequestID == "" || e.Code == "" ||
		e.Title != http.StatusText(status) || e.Type != "about:blank" {
		t.Errorf("incomplete error body: %s", r.body)
	}
	if got := r.header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("Content-Type %q", got)
	}
	if got := r.header.Get("X-Request-Id"); got != e.RequestID {
		t.Errorf("request id %q in the header, %q in the body", got, e.RequestID)
	}
	return e
}

// A transcript collects exchanges for a golden file.
type transcript struct{ bytes.Buffer }

func (tr *transcript) add(method, path string, r reply) {
	fmt.Fprintf(tr, "%s %s\n%d\n", method, path, r.status)
	for _, name := range []string{"Content-Type", "Allow", "Retry-After", "Link", "Www-Authenticate", "Accept-Encoding"} {
		if v := r.header.Get(name); v != "" {
			fmt.Fprintf(tr, "%s: %s\n", name, v)
		}
	}
	var indented bytes.Buffer
	if json.Indent(&indented, r.body, "", "  ") != nil {
		indented = *bytes.NewBuffer(r.body)
	}
	fmt.Fprintf(tr, "\n%s\n\n", strings.TrimSpace(indented.String()))
}

func (tr *transcript) compare(t *testing.T, name string) {
	t.Helper()
	file := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, tr.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; run with -update to write it", err)
	}
	if diff := cmp.Diff(string(want), tr.String()); diff != "" {
		t.Errorf("%s differs (-want +got); run with -update if this is meant:\n%s", file, diff)
	}
}

// computeRecord returns a record's JSON.
func computeRecord(id, user string) string {
	return fmt.Sprintf(`{"Username":%q,"LocalProjectID":%q,"LocalRecordID":%q,"Resource":%q,`+
		`"SubmitTime":"2026-10-01T10:00:00Z","StartTime":"2026-10-01T11:00:00Z","EndTime":"2026-10-01T12:00:00Z",`+
		`"Charge":"1.5","Attributes":{"NodeCount":1}}`, user, project, id, resource)
}

// message returns a message with n records of alice, whose ids begin with the
// prefix.
func message(prefix string, n int) string {
	records := make([]string, n)
	for i := range records {
		records[i] = computeRecord(fmt.Sprintf("%s%d", prefix, i), "alice")
	}
	return messageOf(records...)
}

func messageOf(records ...string) string {
	return `{"UsageType":"Compute","Records":[` + strings.Join(records, ",") + `]}`
}

// eventually polls until the condition holds.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never happened: %s", what)
		}
	}
}

// open is the policy of a service that registers whom it meets.
func open(_ *httpapi.Config, c *ledger.Config) { c.Policy = ledger.Open }
