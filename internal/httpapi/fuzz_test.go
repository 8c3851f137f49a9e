package httpapi_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
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

// Whatever is sent, the answer is JSON, the service has no part in what is
// wrong, and what it says it has accepted is loaded or has failed.
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
		before := b.counts(t)
		answer := b.serve(r)
		if answer.status >= 500 || !json.Valid(answer.body) {
			t.Fatalf("answer %d: %s", answer.status, answer.body)
		}
		b.load(t)
		after := b.counts(t)
		if after.Queued != 0 || after.Accepted != after.Loaded+after.Failed {
			t.Fatalf("%+v", after)
		}
		if gzipped {
			unzipped, err := gzip.NewReader(bytes.NewReader(body))
			if err == nil {
				body, err = io.ReadAll(unzipped)
			}
			if (err != nil || len(body) > amieusage.MaxRequestBytes) && answer.status == 200 {
				t.Fatalf("accepted what is not zipped: %v", err)
			}
		}
		usageType, records, err := amieusage.DecodeMessage(body)
		if answer.status != 200 {
			answer.problem(t, answer.status)
			if after != before || err == nil && len(body) <= amieusage.MaxRequestBytes && len(records) <= 10_000 && !gzipped {
				t.Fatalf("%d for %s; from %+v to %+v", answer.status, body, before, after)
			}
			return
		}
		var response struct {
			Message                                string
			FailedRecords, ValidationFailedRecords []json.RawMessage
		}
		answer.into(t, &response)
		if err != nil {
			t.Fatalf("accepted what is no message: %v", err)
		}
		refused := 0
		for _, raw := range records {
			if _, err := amieusage.CheckRecord(usageType, raw); err != nil {
				refused++
			}
		}
		accepted := len(records) - refused
		if len(response.FailedRecords) != refused || len(response.ValidationFailedRecords) != refused ||
			response.Message != amieusage.QueuedMessage(accepted, len(response.FailedRecords)) || after.Accepted-before.Accepted != int64(accepted) {
			t.Fatalf("%d records were sent, %d of them not valid; answer %s; from %+v to %+v", len(records), refused, answer.body, before, after)
		}
	})
}

// A neighbour is another site, with records that are loaded and one that
// failed.
const neighbour, neighboursMark = "SDSC", "neighbours-own"

func (b *bench) addNeighbour(t testing.TB) {
	t.Helper()
	ctx := context.Background()
	_, err := b.store.Import(ctx, &ledger.RegistrySpec{Sites: []ledger.SiteSpec{{
		Name:      neighbour,
		Resources: []string{resource},
		Projects: []ledger.ProjectSpec{{ID: project, Users: []string{"alice"}, Allocations: []ledger.AllocationSpec{
			{Resource: resource, Amount: 1, Start: testTime.AddDate(-1, 0, 0), End: testTime.AddDate(1, 0, 0)}}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	b.call(t, "POST", "/api/v1/usage/", messageOf(computeRecord(neighboursMark+"1", "alice"), computeRecord(neighboursMark+"2", "alice"),
		computeRecord(neighboursMark+"3", neighboursMark)), "XA-SITE", neighbour, "XA-API-KEY", "other-k3y").into(t, &struct{}{})
	b.load(t)
}

// ask is a GET of the bench's own site, or whatever the method is.
func (b *bench) ask(method, path, query string) (reply, bool) {
	r, err := http.NewRequest(method, "http://localhost/api/v1/"+path, http.NoBody)
	if err != nil {
		return reply{}, false // nothing that net/http would let through
	}
	r.URL.RawQuery = query
	r.Header = http.Header{"Xa-Site": {site}, "Xa-Api-Key": {key}, "X-Request-Id": {"fuzz"}}
	return b.serve(r), true
}

// Whatever is asked, the answer is JSON or CSV, the service has no part in what
// is wrong, asking again gives the same, and nothing of another site is seen or
// changed.
func FuzzRead(f *testing.F) {
	for _, seed := range []struct{ path, query string }{
		{"usage/failed", "Limit=1&After=2"}, {"usage/failed/1,2", ""}, {"usage/status", "FromTime=2026-10-01T00:00:00+00:00"},
		{"usage/loaded", "Cursor=a.1&Limit=1&Offset=0&LocalRecordID=%00"}, {"usage/summary", "GroupBy=day,user&Format=csv"},
		{"../usage/./status//", "ToTime=9999-12-31"}, {"usage%2Fstatus", "&;="}, {"usage/failed/3", ""}, {"usage/failed/%2e%2e/4", ""},
		{"usage/loaded", "LocalRecordID=" + neighboursMark + "1"}, {"usage/failed/1%2C2", ""}, {"../../healthz", ""}, {"openapi.yaml", ""},
	} {
		f.Add("GET", seed.path, seed.query)
		f.Add("DELETE", seed.path, seed.query)
	}
	b := newBench(f, silent)
	b.call(f, "POST", "/api/v1/usage/", messageOf(computeRecord("1", "alice"), computeRecord("2", "bob"), computeRecord("3", "mallory"))).into(f, &struct{}{})
	b.load(f)
	b.addNeighbour(f)
	who, _, err := b.service.Authenticate(context.Background(), neighbour, "other-k3y")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, path, query string) {
		answer, sent := b.ask(method, path, query)
		if !sent {
			return
		}
		if answer.status >= 500 || strings.HasPrefix(answer.header.Get("Content-Type"), "application/json") && !json.Valid(answer.body) {
			t.Fatalf("answer %d: %s", answer.status, answer.body)
		}
		if answer.status >= 400 {
			answer.problem(t, answer.status)
		} else if bytes.Contains(answer.body, []byte(neighboursMark)) {
			t.Fatalf("the answer shows another site's: %s", answer.body)
		}
		if method == "GET" {
			again, _ := b.ask(method, path, query)
			if again.status != answer.status || !bytes.Equal(again.body, answer.body) {
				t.Fatalf("%d %s, and then %d %s", answer.status, answer.body, again.status, again.body)
			}
		}
		failed, _, err := b.service.Failed(context.Background(), who, ledger.FailedQuery{})
		if err != nil || len(failed) != 1 {
			t.Fatalf("another site has %d failed records, error %v", len(failed), err)
		}
	})
}

// Whatever the cursor, it is refused, or the pages from it on are the end of the
// site's own list.
func FuzzLoaded(f *testing.F) {
	b := newBench(f, silent)
	for i := range 7 { // each at an instant of its own, or not
		b.call(f, "POST", "/api/v1/usage/", message(string(rune('a'+i)), 1+i%2)).into(f, &struct{}{})
		if i%3 != 0 {
			b.load(f)
		}
	}
	b.addNeighbour(f)
	// pages returns the ids of the records from a query on, and the cursors.
	pages := func(t testing.TB, query url.Values) (ids, cursors []string, status int) {
		for {
			answer, _ := b.ask("GET", "usage/loaded", query.Encode())
			if answer.status != 200 {
				answer.problem(t, 400)
				return ids, cursors, answer.status
			}
			var records []amieusage.LoadedRecord
			answer.into(t, &records)
			for _, r := range records {
				ids = append(ids, r.LocalRecordID)
			}
			link := answer.header.Get("Link")
			if link == "" || len(cursors) > 100 {
				return ids, cursors, 200
			}
			next, err := url.ParseQuery(strings.TrimSuffix(strings.TrimPrefix(link, "<?"), `>; rel="next"`))
			if err != nil {
				t.Fatal(err)
			}
			query = next
			cursors = append(cursors, query.Get("Cursor"))
		}
	}
	all, cursors, _ := pages(f, url.Values{"Limit": {"1"}})
	if len(all) != 10 || len(cursors) != 9 {
		f.Fatalf("%d records, %d pages", len(all), len(cursors))
	}
	for i, cursor := range append(cursors, "", ".", "a.1", "-1.-1", "zzzzzzzzzzzz.0", "1y2p0ij32e8e7.1y2p0ij32e8e7") {
		f.Add(cursor, strconv.Itoa(i), "", "")
		f.Add(cursor, "1", "2026-10-02T12:00:00Z", "")
		f.Add("", "2", "2026-10-02T12:00:00.000000001Z", strconv.Itoa(i))
	}
	f.Fuzz(func(t *testing.T, cursor, limit, since, offset string) {
		query := url.Values{}
		for name, value := range map[string]string{"Cursor": cursor, "Limit": limit, "MinLoadedTime": since, "Offset": offset} {
			if value != "" {
				query.Set(name, value)
			}
		}
		ids, _, status := pages(t, query)
		if status == 200 && (len(ids) > len(all) || !slices.Equal(ids, all[len(all)-len(ids):])) {
			t.Fatalf("%v: %v, which is no end of %v", query, ids, all)
		}
	})
}
