package usageclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
)

// loadedServer serves n loaded records in pages.
func loadedServer(n int, cursors bool, requests *[]url.Values) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if cursors { // as amieusage's own service does
			w.Header().Set(amieusage.HeaderService, "amieusage")
		}
		q, err := amieusage.ParseLoadedQuery(r.URL.Query())
		*requests = append(*requests, r.URL.Query())
		if err != nil {
			problem(400, err.Error(), "invalid")(w)
			return
		}
		begin := int(q.Offset)
		if q.Cursor != "" {
			if _, err := fmt.Sscanf(q.Cursor, "c/%d", &begin); err != nil {
				problem(400, err.Error(), "invalid")(w)
				return
			}
		}
		page := []amieusage.LoadedRecord{}
		for i := begin; i < min(n, begin+q.PageSize); i++ {
			r := compute(i)
			page = append(page, amieusage.LoadedRecord{
				AccountingDbRecordID: int64(i + 1), UsageType: amieusage.Compute, LocalRecordID: r.LocalRecordID,
				Resource: r.Resource, SubmitTime: r.SubmitTime, LoadedTime: r.EndTime, Charge: r.Charge,
			})
		}
		if end := begin + len(page); cursors && end < n {
			next := q
			next.Offset, next.Cursor = 0, fmt.Sprintf("c/%d", end)
			w.Header().Set("Link", "<https://elsewhere.example.org/?"+next.Values().Encode()+`>; title="a, b"; rel="next"`)
		}
		_ = json.NewEncoder(w).Encode(page)
	})
}

func TestLoaded(t *testing.T) {
	for _, cursors := range []bool{true, false} {
		for _, test := range []struct{ n, limit, offset, want, requests int }{
			{0, 10, 0, 0, 1},
			{9, 10, 0, 9, 1},
			{10, 10, 0, 10, 2}, // the service may count by offset: one must look
			{25, 10, 0, 25, 3},
			{30, 10, 0, 30, 3},
			{25, 10, 7, 18, 2},
			{25, 0, 0, 25, 1},
		} {
			var requests []url.Values
			c := serve(t, loadedServer(test.n, cursors, &requests))
			minTime := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
			n := 0
			for r, err := range c.AllLoaded(context.Background(),
				amieusage.LoadedQuery{PageSize: test.limit, Offset: int64(test.offset), MinLoadedTime: minTime}) {
				n++
				if err != nil || r.AccountingDbRecordID != int64(test.offset+n) {
					t.Fatalf("record %d is %v, error %v", n, r, err)
				}
			}
			most := test.requests
			if !cursors && test.n != 0 && test.n != 10 { // pages are counted until one is empty
				most++
			}
			if n != test.want || len(requests) != most {
				t.Errorf("%+v, cursors %t: %d records in %d requests", test, cursors, n, len(requests))
			}
			for _, q := range requests {
				if q.Get("MinLoadedTime") == "" || q.Has("Cursor") && q.Has("Offset") {
					t.Errorf("request with %v", q)
				}
			}
		}
	}
}

func TestListLoaded(t *testing.T) {
	var requests []url.Values
	c := serve(t, loadedServer(25, true, &requests))
	var sizes []int
	q := amieusage.LoadedQuery{PageSize: 10}
	for {
		page, next, err := c.ListLoaded(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, len(page))
		if next == "" {
			break
		}
		q.Cursor = next
	}
	if !slices.Equal(sizes, []int{10, 10, 5}) || len(requests) != 3 {
		t.Errorf("pages of %v records in %d requests", sizes, len(requests))
	}
	if page, next, err := serve(t, &answerer{status: 500}).ListLoaded(t.Context(), q); err == nil || page != nil || next != "" {
		t.Errorf("page %v, next %q, error %v", page, next, err)
	}
}

func TestLoadedEndsEarly(t *testing.T) {
	var requests []url.Values
	c := serve(t, loadedServer(100, true, &requests))
	n := 0
	for range c.AllLoaded(context.Background(), amieusage.LoadedQuery{PageSize: 10}) {
		if n++; n == 15 {
			break
		}
	}
	if n != 15 || len(requests) != 2 {
		t.Errorf("%d records in %d requests", n, len(requests))
	}
}

func TestLoadedFails(t *testing.T) {
	const one = `[{"AccountingDbRecordID": 1, "LocalRecordID": "1", "SubmitTime": "2026-10-01T00:00:00-04:00", "Charge": 1.5}]`
	for _, test := range []struct {
		name    string
		server  *answerer
		limit   int
		records int
		want    string
	}{
		{"error", &answerer{status: 403, body: `{"error": "no"}`}, 0, 0, "no"},
		{"no list", &answerer{status: 200, body: `{"error": "try again"}`}, 0, 0, "not that of a Usage API"},
		{"two lists", &answerer{status: 200, body: `{"a": [{"LocalRecordID": "1"}], "b": [{"LocalRecordID": "2"}]}`}, 0, 0, "one list"},
		{"bad record", &answerer{status: 200, body: `[{"SubmitTime": "yesterday"}]`}, 0, 0, "not an ISO 8601 time"},
		{"offsets ignored", &answerer{status: 200, body: one}, 1, 1, "the same page again"},
		{"cursors in a circle", &answerer{status: 200, body: one, header: http.Header{"Link": {`<?Cursor=a>; rel=next`}}}, 5, 1, "the same page again"},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := 0
			var failure error
			for r, err := range serve(t, test.server).AllLoaded(context.Background(), amieusage.LoadedQuery{PageSize: test.limit}) {
				if failure != nil {
					t.Error("the sequence goes on behind its error")
				}
				if failure = err; err == nil {
					n++
				} else if r != (amieusage.LoadedRecord{}) {
					t.Errorf("record beside the error: %v", r)
				}
			}
			if failure == nil || !strings.Contains(failure.Error(), test.want) || n != test.records {
				t.Errorf("%d records, error %v", n, failure)
			}
			if _, ok := errors.AsType[*Error](failure); !ok {
				t.Errorf("error is %T", failure)
			}
		})
	}
}

// Nobody has published how the live service lists what it has loaded: whatever it
// does, all is listed, and what was not asked for is left out.
func TestLoadedOfAnyService(t *testing.T) {
	minTime := time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)
	var all []amieusage.LoadedRecord
	for i := range 7 {
		all = append(all, amieusage.LoadedRecord{LocalRecordID: fmt.Sprint(i), Resource: "rm", LoadedTime: minTime.Add(time.Duration(i-2) * time.Hour),
			Charge: amieusage.ChargeOfMillionths(int64(i))})
	}
	only := func(allowed ...string) func(url.Values) bool {
		return func(v url.Values) bool {
			for name := range v {
				if !slices.Contains(allowed, name) {
					return false
				}
			}
			return true
		}
	}
	any := func(url.Values) bool { return true }
	for _, test := range []struct {
		name    string
		capped  int // records in a page at most
		offset  bool
		takes   func(url.Values) bool
		wrapped string
	}{
		{"list, parameters ignored", 100, false, any, "%s"},
		{"envelope", 100, true, any, `{"Count": 7, "Errors": [], "LoadedRecords": %s}`},
		{"envelope in another", 100, true, any, `{"status": "ok", "data": {"records": %s, "next": null}}`},
		{"capped pages", 3, true, any, "%s"},
		{"capped pages in an envelope", 2, true, any, `{"Results": %s}`},
		{"no Limit", 3, true, only("Offset", "MinLoadedTime", "LocalRecordID"), "%s"},
		{"no filters", 3, true, only("Offset", "Limit"), "%s"},
		{"no parameters", 100, false, only(), "%s"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				v := r.URL.Query()
				if !test.takes(v) {
					w.WriteHeader(http.StatusBadRequest)
					fmt.Fprint(w, `{"error": "unknown parameter"}`)
					return
				}
				begin := 0
				if test.offset && v.Has("Offset") {
					begin, _ = strconv.Atoi(v.Get("Offset"))
				}
				begin = min(begin, len(all))
				list, _ := json.Marshal(amieusage.LoadedRecords(all[begin:min(len(all), begin+test.capped)]))
				fmt.Fprintf(w, test.wrapped, list)
			}))
			for _, q := range []amieusage.LoadedQuery{{}, {MinLoadedTime: minTime}, {LocalRecordID: "4"}} {
				want, got := 0, 0
				for _, r := range all {
					if q.Selects(r) {
						want++
					}
				}
				for r, err := range c.AllLoaded(context.Background(), q) {
					if err != nil {
						t.Fatalf("%+v: %v", q, err)
					}
					if !q.Selects(r) {
						t.Errorf("%+v: %v", q, r)
					}
					got++
				}
				if got != want {
					t.Errorf("%+v: %d records, want %d", q, got, want)
				}
			}
		})
	}
}

func TestNextPage(t *testing.T) {
	for _, test := range []struct {
		links []string
		want  string
	}{
		{nil, ""},
		{[]string{`<?Cursor=a%2Fb&Limit=5>; rel="next"`}, "Cursor=a%2Fb&Limit=5"},
		{[]string{`</usage/loaded?Cursor=a>;rel=next`}, "Cursor=a"},
		{[]string{`<https://other.example.org/x?Cursor=a>; REL="prev NEXT"`}, "Cursor=a"},
		{[]string{`<?Cursor=p>; rel="prev", <?Cursor=n,m>; title="a, <b>"; rel="next", <?Cursor=l>; rel="last"`}, "Cursor=n%2Cm"},
		{[]string{`<?Cursor=p>; rel="prev"`, `<?Cursor=n>; rel="next"`}, "Cursor=n"},
		{[]string{`<?Cursor=p>; rel="prev"`}, ""},
		{[]string{`<?Cursor=p>; rel="nextish"; x="rel=next"`}, ""},
		{[]string{`?Cursor=p; rel="next"`, `<?Cursor=p`, `<`, `>`, `<%zz>; rel=next`, `,,,`}, ""},
	} {
		if got := nextPage(http.Header{"Link": test.links}).Encode(); got != test.want {
			t.Errorf("%q: %q, want %q", test.links, got, test.want)
		}
	}
}

func TestStatusAndSummary(t *testing.T) {
	ctx := context.Background()
	c := serve(t, &answerer{status: 200, body: `[{"Resource": "r", "LoadedRecordCount": "2", "FailedJobCount": 1, "TotalCharge": 2.5,
		"Errors": [{"Error": "unknown user", "Records": [{"UsageType": "Compute", "LocalRecordID": "7"}]}]}]`})
	status, err := c.Status(ctx, amieusage.StatusQuery{})
	if err != nil || len(status) != 1 || status[0].LoadedRecordCount != 2 || status[0].TotalCharge.String() != "2.5" ||
		status[0].Errors[0].Records[0].Record.Common().LocalRecordID != "7" {
		t.Errorf("%+v, error %v", status, err)
	}
	c = serve(t, &answerer{status: 200, body: `{"GroupBy": ["project"], "Rows": [{"LocalProjectID": "p", "RecordCount": 3, "Charge": "4.5"}]}`})
	summary, err := c.Summary(ctx, amieusage.SummaryQuery{GroupBy: []amieusage.GroupKey{amieusage.ByProject}})
	if err != nil || cmp.Diff(summary.GroupBy, []amieusage.GroupKey{amieusage.ByProject}) != "" || summary.Rows[0].Charge.String() != "4.5" {
		t.Errorf("%+v, error %v", summary, err)
	}
	for _, body := range []string{"null", `"x"`, "<html>", "{}{}", "[] []"} {
		c := serve(t, &answerer{status: 200, body: body})
		if status, err := c.Status(ctx, amieusage.StatusQuery{}); err == nil {
			t.Errorf("%q is the status %v", body, status)
		}
		if summary, err := c.Summary(ctx, amieusage.SummaryQuery{}); err == nil {
			t.Errorf("%q is the summary %v", body, summary)
		}
	}
}

// Only amieusage's own service can choose by what a loaded record does not say: from
// another one, records of all projects would come.
func TestLoadedByProject(t *testing.T) {
	queries := []amieusage.LoadedQuery{{LocalProjectID: "p"}, {Username: "u"}, {From: time.Unix(1, 0)}, {To: time.Unix(1, 0)}}
	for _, own := range []bool{true, false} {
		var requests []url.Values
		c := serve(t, loadedServer(2, own, &requests))
		for _, q := range queries {
			n := 0
			for _, err := range c.AllLoaded(context.Background(), q) {
				if code := amieusage.CodeOf(err); own && err != nil || !own && code != amieusage.CodeInvalid {
					t.Errorf("%+v: own %t, error %v", q, own, err)
				}
				if err == nil {
					n++
				}
			}
			if want := map[bool]int{true: 2}[own]; n != want {
				t.Errorf("%+v: own %t, %d records, want %d", q, own, n, want)
			}
			if got := requests[len(requests)-1]; got.Get("LocalProjectID") != q.LocalProjectID || got.Get("Username") != q.Username {
				t.Errorf("%+v was asked for by %v", q, got)
			}
		}
	}
}

// A proxy that refuses parameters in the service's name has them left out: then the
// service cannot choose by them either.
func TestLoadedByProjectBehindProxy(t *testing.T) {
	var requests []url.Values
	service := loadedServer(2, true, &requests)
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("LocalProjectID") {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		service.ServeHTTP(w, r)
	}))
	_, _, err := c.ListLoaded(context.Background(), amieusage.LoadedQuery{LocalProjectID: "p", PageSize: 10})
	if e, ok := errors.AsType[*Error](err); !ok || e.Code != amieusage.CodeInvalid {
		t.Errorf("records of all projects are listed as those of one: %v", err)
	}
}
