package usageclient

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
)

// A sent request is what TestRequests compares: as the recorded ones of the
// reference client.
type sent struct {
	Method  string            `json:"method"`
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers"`
	Body    json.RawMessage   `json:"body"`
}

// recorder keeps the requests and answers each as the API does.
type recorder struct{ requests []sent }

func (rec *recorder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s := sent{Method: r.Method, Path: r.RequestURI, Headers: map[string]string{}, Body: body}
	for _, name := range []string{"XA-SITE", "XA-API-KEY", "Accept", "Content-Type", "User-Agent", "Content-Encoding"} {
		if v := r.Header.Get(name); v != "" {
			s.Headers[name] = v
		}
	}
	rec.requests = append(rec.requests, s)
	answers := map[string]string{
		basePath + "/usage/":        `{"Message": "thank you"}`,
		basePath + "/usage/status":  "[]",
		basePath + "/usage/failed":  `{"FailedRecords": []}`,
		basePath + "/usage/loaded":  "[]",
		basePath + "/usage/summary": `{"GroupBy": ["resource"], "Rows": []}`,
	}
	if answer, ok := answers[r.URL.Path]; ok {
		_, _ = io.WriteString(w, answer)
	} else {
		_, _ = io.WriteString(w, "{}")
	}
}

// TestRecordedRequests makes the calls that were recorded of the reference
// client, and compares what goes over the wire.
func TestRecordedRequests(t *testing.T) {
	data, err := os.ReadFile("../testdata/wire/amieclient-0.6.1-requests.json")
	if err != nil {
		t.Fatal(err)
	}
	var want []sent
	if err := json.Unmarshal(data, &want); err != nil {
		t.Fatal(err)
	}
	rec := new(recorder)
	c := serve(t, rec)
	ctx := context.Background()
	for i := range want {
		w := &want[i]
		u, err := url.Parse(w.Path)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case w.Method == http.MethodPost:
			m := new(amieusage.Message)
			if err := json.Unmarshal(w.Body, m); err != nil {
				t.Fatal(err)
			}
			if _, err := c.SendMessage(ctx, m); err != nil {
				t.Fatal(err)
			}
			w.Body, _ = json.Marshal(m)
		case u.Path == "/api/v1/usage/status":
			q, err := amieusage.ParseStatusQuery(u.Query())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Status(ctx, q); err != nil {
				t.Fatal(err)
			}
			// The same instant, written with Z.
			u.RawQuery = q.Values().Encode()
		case w.Method == http.MethodGet:
			if _, err := c.ListFailed(ctx); err != nil {
				t.Fatal(err)
			}
		case w.Path == "/api/v1/usage/failed/17":
			if _, err := c.ClearFailedIDs(ctx, 17); err != nil {
				t.Fatal(err)
			}
		default:
			if _, err := c.ClearFailedIDs(ctx, 17, 18, 19); err != nil {
				t.Fatal(err)
			}
		}
		w.Path = "/gateway" + u.String()
		w.Headers["XA-SITE"], w.Headers["XA-API-KEY"] = testSite, testKey
		w.Headers["Accept"], w.Headers["User-Agent"] = "application/json", "amieusage-usageclient"
		if w.Method != http.MethodPost {
			w.Body = nil
		}
	}
	compareRequests(t, want, rec.requests)
}

func compareRequests(t *testing.T, want, got []sent) {
	t.Helper()
	body := cmp.Transformer("body", func(b json.RawMessage) string { return string(b) })
	if diff := cmp.Diff(want, got, body); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

// TestRequests covers the calls that the reference client does not have.
func TestRequests(t *testing.T) {
	rec := new(recorder)
	c := serve(t, rec, WithUserAgent("site-agent/1.2"))
	ctx := context.Background()
	from := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	for range c.AllLoaded(ctx, amieusage.LoadedQuery{}) {
	}
	for range c.AllLoaded(ctx, amieusage.LoadedQuery{MinLoadedTime: from, LocalRecordID: "47 11&x", PageSize: 5, Offset: 10}) {
	}
	if _, err := c.Summary(ctx, amieusage.SummaryQuery{
		GroupBy: []amieusage.GroupKey{amieusage.ByProject, amieusage.ByDay}, From: from,
	}); err != nil {
		t.Error(err)
	}
	headers := map[string]string{
		"XA-SITE": testSite, "XA-API-KEY": testKey, "Accept": "application/json", "User-Agent": "site-agent/1.2",
	}
	compareRequests(t, []sent{
		{"GET", basePath + "/usage/loaded?Limit=10000", headers, nil},
		{"GET", basePath + "/usage/loaded?Limit=5&LocalRecordID=47+11%26x&MinLoadedTime=2026-10-01T00%3A00%3A00Z&Offset=10", headers, nil},
		{"GET", basePath + "/usage/summary?FromTime=2026-10-01T00%3A00%3A00Z&GroupBy=project%2Cday", headers, nil},
	}, rec.requests)
}
