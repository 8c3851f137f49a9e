package httpapi_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/httpapi"
	"github.com/amieusage/amieusage/internal/ledger"
)

// silent keeps the log of millions of requests out of memory.
func silent(c *httpapi.Config, _ *ledger.Config) { c.Logger = slog.New(slog.DiscardHandler) }

// serve gives a request to the handler itself.
func (b *bench) serve(r *http.Request) reply {
	recorder := httptest.NewRecorder()
	b.handler.ServeHTTP(recorder, r)
	return reply{recorder.Code, recorder.Result().Header, recorder.Body.Bytes()}
}

// Whatever is sent, the answer is JSON, and the service has no part in what is
// wrong.
func FuzzSend(f *testing.F) {
	for _, w := range wireRequests(f) {
		if w.Method == "POST" {
			f.Add([]byte(w.Body), false)
		}
	}
	f.Add([]byte(zipped(f, []byte(message("x", 2)))), true)
	f.Add([]byte(messageOf(`{"a":1,"a":"\ud800"}`, `[[]]`, `null`, computeRecord("1", "alice"))), false)
	f.Add([]byte("{\"UsageType\":\"Storage\",\"Records\":[{\"Charge\":1e999,\"Attributes\":[],\"\xff\":{}}]}"), false)
	f.Add([]byte(messageOf(`{"deep":`+strings.Repeat("[", 20_000)+strings.Repeat("]", 20_000)+"}")), false)
	b := newBench(f, open, silent)
	f.Fuzz(func(t *testing.T, body []byte, gzipped bool) {
		r := httptest.NewRequest("POST", "/api/v1/usage/", bytes.NewReader(body))
		r.Header = http.Header{"Xa-Site": {site}, "Xa-Api-Key": {key}}
		if gzipped {
			r.Header.Set("Content-Encoding", "gzip")
		}
		answer := b.serve(r)
		if answer.status >= 500 || !json.Valid(answer.body) {
			t.Fatalf("answer %d: %s", answer.status, answer.body)
		}
		if answer.status != 200 {
			answer.problem(t, answer.status)
			return
		}
		var response struct {
			Message                                string
			FailedRecords, ValidationFailedRecords []json.RawMessage
		}
		answer.into(t, &response)
		_, records, err := amieusage.DecodeMessage(body)
		if err != nil && !gzipped {
			t.Fatalf("accepted what is no message: %v", err)
		}
		accepted := len(records) - len(response.FailedRecords)
		if !gzipped && response.Message != amieusage.QueuedMessage(accepted) ||
			len(response.FailedRecords) != len(response.ValidationFailedRecords) {
			t.Fatalf("%d records were sent; answer %s", len(records), answer.body)
		}
	})
}

// Whatever is asked, the answer is JSON or CSV, and the service has no part in
// what is wrong.
func FuzzRead(f *testing.F) {
	for _, seed := range []struct{ path, query string }{
		{"usage/failed", "Limit=1&After=2"}, {"usage/failed/1,2", ""}, {"usage/status", "FromTime=2026-10-01T00:00:00+00:00"},
		{"usage/loaded", "Cursor=a.1&Limit=1&Offset=0&LocalRecordID=%00"}, {"usage/summary", "GroupBy=day,user&Format=csv"},
		{"../usage/./status//", "ToTime=9999-12-31"}, {"usage%2Fstatus", "&;="},
	} {
		f.Add("GET", seed.path, seed.query)
		f.Add("DELETE", seed.path, seed.query)
	}
	b := newBench(f, open, silent)
	b.call(f, "POST", "/api/v1/usage/", message("x", 3)).into(f, &struct{}{})
	b.load(f)
	f.Fuzz(func(t *testing.T, method, path, query string) {
		r, err := http.NewRequest(method, "http://localhost/api/v1/"+path, http.NoBody)
		if err != nil {
			return // nothing that net/http would let through
		}
		r.URL.RawQuery = query
		r.Header = http.Header{"Xa-Site": {site}, "Xa-Api-Key": {key}}
		answer := b.serve(r)
		if answer.status >= 500 || !strings.HasPrefix(answer.header.Get("Content-Type"), "text/csv") && !json.Valid(answer.body) {
			t.Fatalf("answer %d: %s", answer.status, answer.body)
		}
	})
}
