package httpapi_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/httpapi"
	"github.com/amieusage/amieusage/internal/ledger"
)

func zipped(t testing.TB, data []byte) string {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// Every refusal has its status, its code, its headers and a text with a
// remedy; the golden file holds them all.
func TestErrors(t *testing.T) {
	b := newBench(t, func(c *httpapi.Config, _ *ledger.Config) { c.MaxBodyBytes = 100_000 })
	b.failing(t, 2)
	who := b.caller(t)
	secret, revoked, err := ledger.CreateKey(t.Context(), b.store, site, "old", testTime)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.store.RevokeKey(t.Context(), site, revoked.ID, testTime); err != nil {
		t.Fatal(err)
	}
	ids := func(n int) string {
		var list strings.Builder
		for i := range n {
			fmt.Fprintf(&list, ",%d", i+1)
		}
		return list.String()[1:]
	}
	tests := []struct {
		what         string
		method, path string
		body         string
		headers      []string
		status       int
		code         amieusage.Code
	}{
		{"no key", "GET", "/api/v1/usage/status", "", []string{"XA-API-KEY", ""}, 401, amieusage.CodeUnauthorized},
		{"no site", "GET", "/api/v1/usage/status", "", []string{"XA-SITE", ""}, 401, amieusage.CodeUnauthorized},
		{"unknown site", "POST", "/api/v1/usage/", message("x", 1), []string{"XA-SITE", "NOBODY"}, 401, amieusage.CodeUnauthorized},
		{"a site of no text", "GET", "/api/v1/usage/status", "", []string{"XA-SITE", "\xff"}, 401, amieusage.CodeUnauthorized},
		{"another site's key", "POST", "/api/v1/usage/", message("x", 1), []string{"XA-SITE", "SDSC"}, 401, amieusage.CodeUnauthorized},
		{"revoked key", "GET", "/api/v1/usage/failed", "", []string{"XA-API-KEY", secret}, 403, amieusage.CodeForbidden},
		{"unknown path", "GET", "/api/v1/usage/unknown", "", nil, 404, amieusage.CodeNotFound},
		{"without the prefix", "GET", "/usage/status", "", nil, 404, amieusage.CodeNotFound},
		{"the root", "GET", "/", "", nil, 404, amieusage.CodeNotFound},
		{"another letter case", "GET", "/api/v1/Usage/status", "", nil, 404, amieusage.CodeNotFound},
		{"reading what is sent", "GET", "/api/v1/usage/", "", nil, 405, amieusage.CodeMethodNotAllowed},
		{"clearing without ids", "DELETE", "/api/v1/usage/failed/", "", nil, 405, amieusage.CodeMethodNotAllowed},
		{"reading one failed record", "GET", "/api/v1/usage/failed/1", "", nil, 405, amieusage.CodeMethodNotAllowed},
		{"posting a status", "POST", "/api/v1/usage/status", "{}", nil, 405, amieusage.CodeMethodNotAllowed},
		{"probing with DELETE", "DELETE", "/healthz", "", nil, 405, amieusage.CodeMethodNotAllowed},
		{"a form", "POST", "/api/v1/usage/", "UsageType=Compute", []string{"Content-Type", "application/x-www-form-urlencoded"}, 400, amieusage.CodeInvalid},
		{"another charset", "POST", "/api/v1/usage/", "{}", []string{"Content-Type", "application/json; charset=iso-8859-1"}, 415, amieusage.CodeUnsupportedMedia},
		{"no media type", "POST", "/api/v1/usage/", "{}", []string{"Content-Type", "/;"}, 415, amieusage.CodeUnsupportedMedia},
		{"another encoding", "POST", "/api/v1/usage/", "{}", []string{"Content-Encoding", "br"}, 415, amieusage.CodeUnsupportedMedia},
		{"too large", "POST", "/api/v1/usage/", strings.Repeat(" ", 100_001), nil, 413, amieusage.CodeTooLarge},
		{"too large unzipped", "POST", "/api/v1/usage/", zipped(t, make([]byte, 100_001)), []string{"Content-Encoding", "gzip"}, 413, amieusage.CodeTooLarge},
		{"no gzip", "POST", "/api/v1/usage/", "{}", []string{"Content-Encoding", "gzip"}, 400, amieusage.CodeInvalid},
		{"half a gzip", "POST", "/api/v1/usage/", zipped(t, []byte(message("x", 9)))[:200], []string{"Content-Encoding", "gzip"}, 400, amieusage.CodeInvalid},
		{"no JSON", "POST", "/api/v1/usage/", "Username=alice", nil, 400, amieusage.CodeInvalid},
		{"no body", "POST", "/api/v1/usage/", "", nil, 400, amieusage.CodeInvalid},
		{"half a message", "POST", "/api/v1/usage/", message("x", 1)[:100], nil, 400, amieusage.CodeInvalid},
		{"a list", "POST", "/api/v1/usage/", "[]", nil, 400, amieusage.CodeInvalid},
		{"no usage type", "POST", "/api/v1/usage/", `{"Records":[]}`, nil, 400, amieusage.CodeInvalid},
		{"unknown usage type", "POST", "/api/v1/usage/", `{"UsageType":"Memory","Records":[]}`, nil, 400, amieusage.CodeInvalid},
		{"no records", "POST", "/api/v1/usage/", `{"UsageType":"Compute"}`, nil, 400, amieusage.CodeInvalid},
		{"no time", "GET", "/api/v1/usage/status?FromTime=yesterday", "", nil, 400, amieusage.CodeInvalid},
		{"times in the wrong order", "GET", "/api/v1/usage/status?FromTime=2026-10-02&ToTime=2026-10-01", "", nil, 400, amieusage.CodeInvalid},
		{"a parameter twice", "GET", "/api/v1/usage/status?FromTime=2026-10-02&fromtime=2026-10-01", "", nil, 400, amieusage.CodeInvalid},
		{"a query that is none", "GET", "/api/v1/usage/status?FromTime=%zz", "", nil, 400, amieusage.CodeInvalid},
		{"too long a page", "GET", "/api/v1/usage/loaded?Limit=25001", "", nil, 400, amieusage.CodeInvalid},
		{"a cursor of nobody's", "GET", "/api/v1/usage/loaded?Cursor=x", "", nil, 400, amieusage.CodeInvalid},
		{"no number", "GET", "/api/v1/usage/failed?Limit=ten", "", nil, 400, amieusage.CodeInvalid},
		{"a page of nothing", "GET", "/api/v1/usage/failed?Limit=0", "", nil, 400, amieusage.CodeInvalid},
		{"after nothing", "GET", "/api/v1/usage/failed?After=-1", "", nil, 400, amieusage.CodeInvalid},
		{"unknown grouping", "GET", "/api/v1/usage/summary?GroupBy=colour", "", nil, 400, amieusage.CodeInvalid},
		{"unknown format", "GET", "/api/v1/usage/summary?Format=xml", "", nil, 400, amieusage.CodeInvalid},
		{"no ids", "DELETE", "/api/v1/usage/failed/1,two,,-3,4.0,99999999999999999999", "", nil, 400, amieusage.CodeInvalid},
		{"many that are no ids", "DELETE", "/api/v1/usage/failed/x" + strings.Repeat(",x", 99), "", nil, 400, amieusage.CodeInvalid},
		{"unknown ids", "DELETE", "/api/v1/usage/failed/1,98,99", "", nil, 404, amieusage.CodeNotFound},
		{"another site's ids", "DELETE", "/api/v1/usage/failed/1", "", []string{"XA-SITE", "SDSC", "XA-API-KEY", "other-k3y"}, 404, amieusage.CodeNotFound},
		{"too many ids", "DELETE", "/api/v1/usage/failed/" + ids(10_001), "", nil, 400, amieusage.CodeInvalid},
	}
	var tr transcript
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			answer := b.call(t, tt.method, tt.path, tt.body, tt.headers...)
			fmt.Fprintf(&tr, "## %s\n", tt.what)
			path := tt.path
			if len(path) > 100 {
				path = path[:100] + "…"
			}
			tr.add(tt.method, path, answer)
			if e := answer.problem(t, tt.status); e.Code != string(tt.code) {
				t.Errorf("code %q, want %q", e.Code, tt.code)
			}
			if strings.Contains(string(answer.body), "k3y") {
				t.Errorf("the answer holds the key: %s", answer.body)
			}
		})
	}
	tr.compare(t, "errors.txt")
	// Nothing of all this has changed anything.
	left, _, err := b.service.Failed(t.Context(), who, ledger.FailedQuery{})
	if err != nil || len(left) != 2 {
		t.Errorf("%d failed records are left, %v; want 2", len(left), err)
	}
	if counts := b.counts(t); counts.Accepted != 2 {
		t.Errorf("%+v, want 2 accepted", counts)
	}
}

// What fails inside the service is told without its innards, and logged with
// them under the request id.
func TestFailuresOfTheService(t *testing.T) {
	secretCause := errors.New("/secret/path of the ledger")
	tests := []struct {
		what       string
		accept     func(ctx context.Context) error
		status     int
		code       amieusage.Code
		retryAfter string
	}{
		{"unexpected", func(context.Context) error { return secretCause }, 500, amieusage.CodeInternal, ""},
		{"damaged", func(context.Context) error {
			return &amieusage.Error{Code: amieusage.CodeInternal, Message: "/secret/path is damaged", Err: secretCause}
		}, 500, amieusage.CodeInternal, ""},
		{"disk full", func(context.Context) error {
			return &amieusage.Error{Code: amieusage.CodeUnavailable, Message: "no room left to write /secret/path", Err: secretCause}
		}, 503, amieusage.CodeUnavailable, "30"},
		{"panic", func(context.Context) error { panic("/secret/path") }, 500, amieusage.CodeInternal, ""},
		{"too slow", func(ctx context.Context) error {
			<-ctx.Done()
			return fmt.Errorf("/secret/path: %w", ctx.Err())
		}, 503, amieusage.CodeUnavailable, "10"},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			b := newBench(t, func(c *httpapi.Config, _ *ledger.Config) {
				if tt.what == "too slow" {
					c.RequestTimeout = 200 * time.Millisecond
				}
			})
			b.store.accept = tt.accept
			answer := b.call(t, "POST", "/api/v1/usage/", message("x", 1))
			e := answer.problem(t, tt.status)
			if e.Code != string(tt.code) || answer.header.Get("Retry-After") != tt.retryAfter {
				t.Errorf("code %q, Retry-After %q; want %q, %q", e.Code, answer.header.Get("Retry-After"), tt.code, tt.retryAfter)
			}
			if strings.Contains(string(answer.body), "secret") {
				t.Errorf("the answer tells too much: %s", answer.body)
			}
			if log := b.log.String(); !strings.Contains(log, "/secret/path") || !strings.Contains(log, "test-request") ||
				!strings.Contains(log, `"level":"ERROR"`) {
				t.Errorf("the log tells too little:\n%s", log)
			}
			// The service lives on.
			b.store.accept = nil
			eventually(t, "a send succeeds", func() bool {
				return b.call(t, "POST", "/api/v1/usage/", message("x", 1)).status == 200
			})
		})
	}
}

func TestQueueTooDeep(t *testing.T) {
	b := newBench(t, func(_ *httpapi.Config, c *ledger.Config) { c.MaxQueued = 2 })
	b.call(t, "POST", "/api/v1/usage/", message("a", 2)).into(t, &struct{}{})
	answer := b.call(t, "POST", "/api/v1/usage/", message("b", 1))
	answer.problem(t, http.StatusTooManyRequests)
	if got := answer.header.Get("Retry-After"); got != "10" {
		t.Errorf("Retry-After %q, want 10", got)
	}
	b.load(t)
	b.call(t, "POST", "/api/v1/usage/", message("b", 1)).into(t, &struct{}{})
}

func TestStopRefusesNewSends(t *testing.T) {
	b := newBench(t)
	b.handler.Stop()
	for _, path := range []string{"/api/v1/usage/", "/healthz"} {
		method, body := "GET", ""
		if path != "/healthz" {
			method, body = "POST", message("x", 1)
		}
		answer := b.call(t, method, path, body)
		answer.problem(t, http.StatusServiceUnavailable)
		if got := answer.header.Get("Retry-After"); got != "5" {
			t.Errorf("%s: Retry-After %q, want 5", path, got)
		}
	}
	b.call(t, "GET", "/api/v1/usage/status", "").into(t, &[]struct{}{})
}

// Each request is one line of the log, with what a send came to.
func TestAccessLog(t *testing.T) {
	b := newBench(t)
	b.call(t, "POST", "/api/v1/usage/?secret=1", messageOf(computeRecord("1", "alice"), "{}"))
	b.call(t, "GET", "/api/v1/usage/status", "", "XA-API-KEY", "wrong")
	b.call(t, "GET", "/healthz", "")
	type line struct {
		Level, Msg, Method, Path, Site, Remote, Outcome string
		Status, Bytes, Refused                          int
		RequestID                                       string `json:"request_id"`
	}
	var lines []line
	eventually(t, "three requests are logged", func() bool {
		lines = nil
		for text := range strings.Lines(b.log.String()) {
			var l line
			if err := json.Unmarshal([]byte(text), &l); err != nil {
				t.Fatal(err)
			}
			if l.Bytes == 0 || l.Remote == "" || l.RequestID != "test-request" {
				t.Errorf("incomplete: %s", text)
			}
			l.Bytes, l.Remote, l.RequestID = 0, "", ""
			lines = append(lines, l)
		}
		return len(lines) == 3
	})
	want := []line{
		{Level: "INFO", Msg: "request", Method: "POST", Path: "/api/v1/usage", Site: site, Status: 200,
			Outcome: "1 records have been queued for loading, 1 records failed.", Refused: 1},
		{Level: "INFO", Msg: "request", Method: "GET", Path: "/api/v1/usage/status", Status: 401},
		{Level: "DEBUG", Msg: "request", Method: "GET", Path: "/healthz", Status: 200},
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

// A client that goes away is no failure of the service.
func TestClientGoesAway(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	b.store.accept = func(ctx context.Context) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}
	r := request(t, "POST", b.url+"/api/v1/usage/", strings.NewReader(message("x", 1))).WithContext(ctx)
	if response, err := http.DefaultClient.Do(r); err == nil {
		response.Body.Close()
		t.Fatal("the request was not given up")
	}
	eventually(t, "the request is logged", func() bool { return strings.Contains(b.log.String(), `"msg":"request"`) })
	if log := b.log.String(); strings.Contains(log, "ERROR") || strings.Contains(log, `"INFO"`) {
		t.Errorf("noise in the log:\n%s", log)
	}
}

func TestRequestIDs(t *testing.T) {
	b := newBench(t)
	for _, tt := range []struct {
		given string
		kept  bool
	}{
		{"7f3d2c1a-0b5e-4a9c-8d7e-6f5a4b3c2d1e", true},
		{strings.Repeat("x", 128), true},
		{strings.Repeat("x", 129), false},
		{"two words", false},
		{"café", false},
		{"", false},
	} {
		answer := b.call(t, "GET", "/healthz", "", "X-Request-Id", tt.given)
		got := answer.header.Get("X-Request-Id")
		if tt.kept && got != tt.given || !tt.kept && len(got) != 32 {
			t.Errorf("request id %q was answered with %q", tt.given, got)
		}
		if !strings.Contains(b.log.String(), fmt.Sprintf("%q:%q", "request_id", got)) {
			t.Errorf("request id %q is not in the log", got)
		}
	}
	for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"} {
		if got := b.call(t, "GET", "/healthz", "").header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
