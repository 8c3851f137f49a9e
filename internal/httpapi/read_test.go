package httpapi_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
)

// The answers to reading, in full.
func TestReading(t *testing.T) {
	b := newBench(t)
	for _, path := range []string{"failed", "status", "loaded", "summary"} {
		t.Run("empty "+path, func(t *testing.T) {
			var tr transcript
			tr.add("GET", path, b.call(t, "GET", "/api/v1/usage/"+path, ""))
			tr.compare(t, "empty_"+path+".txt")
		})
	}
	b.failing(t, 3)
	for _, w := range wireRequests(t) {
		if w.Method == "POST" {
			b.call(t, "POST", "/api/v1/usage/", string(w.Body)).into(t, &struct{}{})
		}
	}
	b.load(t)
	var tr transcript
	for _, path := range []string{
		"failed", "failed?Limit=2", "failed?limit=2&after=2",
		"status", "status?FromTime=2026-10-03",
		"loaded", "loaded?Limit=3", "loaded?LocalRecordID=4711", "loaded?MinLoadedTime=2026-10-03", "loaded?Offset=3&Limit=1",
		"summary", "summary?GroupBy=project", "summary?GroupBy=usage-type,month,resource&Format=json",
		"summary?groupby=project,user,day&format=CSV", "summary?GroupBy=resource,project&Format=csv&FromTime=2026-10-02&utm=x",
	} {
		tr.add("GET", path, b.call(t, "GET", "/api/v1/usage/"+path, ""))
	}
	tr.compare(t, "reading.txt")
}

// Times are understood with an offset percent-encoded, with its plus sign
// lost, naive, and as bare dates.
func TestTimeParameters(t *testing.T) {
	b := newBench(t)
	b.failing(t, 1)
	for _, tt := range []struct {
		query string
		rows  int
	}{
		{"FromTime=2026-10-02T12:00:00%2B00:00&ToTime=2026-10-02T12:00:01%2B00:00", 1},
		{"FromTime=2026-10-02T12:00:00+00:00&ToTime=2026-10-02T12:00:01+00:00", 1},
		{"FromTime=2026-10-02T12:00:00%2000:00", 1},
		{"fromtime=2026-10-02%2014:00:00+02:00", 1},
		{"FromTime=2026-10-02T14:00:00+0200&TOTIME=2026-10-03", 1},
		{"FromTime=2026-10-02T12:00:00Z", 1},
		{"FromTime=2026-10-02+12:00:00", 1},
		{"FromTime=2026-10-02&ToTime=2026-10-03", 1},
		{"FromTime=2026-10-02T12:00:01+00:00", 0},
		{"FromTime=2026-10-02T12:00:00-04:00", 0},
		{"FromTime=2026-10-03", 0},
		{"FromTime=&ToTime=", 1},
	} {
		var status amieusage.Status
		b.call(t, "GET", "/api/v1/usage/status?"+tt.query, "").into(t, &status)
		failed := int64(0)
		for _, row := range status {
			failed += row.FailedJobCount
		}
		if failed != int64(tt.rows) {
			t.Errorf("%s: %d failed, want %d", tt.query, failed, tt.rows)
		}
	}
}

// nextPage follows a Link header as a client does that reaches the service by
// the given URL.
func nextPage(t *testing.T, at string, header http.Header) string {
	t.Helper()
	link := header.Get("Link")
	if link == "" {
		return ""
	}
	reference, found := strings.CutPrefix(link, "<")
	reference, rest, _ := strings.Cut(reference, ">")
	if !found || rest != `; rel="next"` {
		t.Fatalf("Link: %s", link)
	}
	base, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	next, err := base.Parse(reference)
	if err != nil {
		t.Fatal(err)
	}
	return next.String()
}

// Pages follow one another by their links, also behind a proxy that shows the
// API at another path, and give every record once.
func TestPaging(t *testing.T) {
	b := newBench(t)
	b.failing(t, 7)
	b.call(t, "POST", "/api/v1/usage/", message("m", 7)).into(t, &struct{}{})
	b.load(t)
	proxy := httptest.NewServer(http.StripPrefix("/sites/amie", b.checked))
	defer proxy.Close()
	for _, base := range []string{b.url, proxy.URL + "/sites/amie"} {
		var loaded []string
		pages := 0
		for at := base + "/api/v1/usage/loaded?Limit=3&MinLoadedTime=2026-10-01T00:00:00+00:00"; at != ""; pages++ {
			answer := do(t, http.DefaultClient, request(t, "GET", at, nil))
			var page []amieusage.LoadedRecord
			answer.into(t, &page)
			for _, r := range page {
				loaded = append(loaded, r.LocalRecordID)
			}
			at = nextPage(t, at, answer.header)
		}
		if diff := cmp.Diff([]string{"m0", "m1", "m2", "m3", "m4", "m5", "m6"}, loaded); diff != "" || pages != 3 {
			t.Errorf("%d pages of loaded records (-want +got):\n%s", pages, diff)
		}
		var failed []int64
		pages = 0
		for at := base + "/api/v1/usage/failed?Limit=3"; at != ""; pages++ {
			answer := do(t, http.DefaultClient, request(t, "GET", at, nil))
			var page amieusage.FailedRecords
			answer.into(t, &page)
			for _, r := range page {
				failed = append(failed, r.FailedRecordID)
			}
			at = nextPage(t, at, answer.header)
		}
		if diff := cmp.Diff([]int64{1, 2, 3, 4, 5, 6, 7}, failed); diff != "" || pages != 3 {
			t.Errorf("%d pages of failed records (-want +got):\n%s", pages, diff)
		}
	}
}

// Ids may be repeated, be cleared again, and be many.
func TestClear(t *testing.T) {
	b := newBench(t)
	b.failing(t, 5)
	for _, tt := range []struct{ ids, message string }{
		{"2", "1 failed records have been cleared."},
		{"1,3,1,3", "2 failed records have been cleared."},
		{"3,4", "2 failed records have been cleared."},
	} {
		var got struct{ Message string }
		b.call(t, "DELETE", "/api/v1/usage/failed/"+tt.ids, "").into(t, &got)
		if got.Message != tt.message {
			t.Errorf("%s: %q, want %q", tt.ids, got.Message, tt.message)
		}
	}
	var left amieusage.FailedRecords
	b.call(t, "GET", "/api/v1/usage/failed", "").into(t, &left)
	if len(left) != 1 || left[0].FailedRecordID != 5 {
		t.Errorf("left: %v", left)
	}
}

func TestSummaryFormats(t *testing.T) {
	b := newBench(t)
	for _, tt := range []struct {
		accept, format string
		csv            bool
	}{
		{"", "", false},
		{"*/*", "", false},
		{"text/csv", "", true},
		{"text/csv, */*;q=0.1", "", true},
		{"text/csv;q=0.5, application/json", "", false},
		{"application/json;q=0.5,text/csv;q=0.8", "", true},
		{"text/csv;q=0", "", false},
		{"text/csv;q=x, ;;", "", false},
		{"text/csv", "json", false},
		{"application/json", "csv", true},
	} {
		path := "/api/v1/usage/summary"
		if tt.format != "" {
			path += "?Format=" + tt.format
		}
		got := b.call(t, "GET", path, "", "Accept", tt.accept).header.Get("Content-Type")
		want := "application/json"
		if tt.csv {
			want = "text/csv; charset=utf-8"
		}
		if got != want {
			t.Errorf("Accept %q, Format %q: %s, want %s", tt.accept, tt.format, got, want)
		}
	}
}

// A spreadsheet must not take what a site calls its users for formulas.
func TestSummaryCSVHoldsNoFormula(t *testing.T) {
	b := newBench(t, open)
	for i, user := range []string{`=HYPERLINK("x")`, "+1", "-1", "@sum", "\tx", "alice, \"bob\""} {
		b.call(t, "POST", "/api/v1/usage/", messageOf(computeRecord(fmt.Sprint(i), user))).into(t, &struct{}{})
	}
	b.load(t)
	var tr transcript
	tr.add("GET", "summary", b.call(t, "GET", "/api/v1/usage/summary?GroupBy=user", "", "Accept", "text/csv"))
	tr.compare(t, "formulas.txt")
}
