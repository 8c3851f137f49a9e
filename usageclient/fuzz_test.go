package usageclient

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
)

var (
	slowLink = regexp.MustCompile(`(?s)<([^>]*)>((?:"[^"]*(?:"|$)|[^",])*)`)
	slowRel  = regexp.MustCompile(`(?is)(?:^|;)\s*rel=("*)([^;]*)`)
)

// slowNextPage finds the link to the next page.
func slowNextPage(link string) url.Values {
	for _, m := range slowLink.FindAllStringSubmatch(link, -1) {
		for _, rel := range slowRel.FindAllStringSubmatch(m[2], -1) {
			for _, name := range strings.Fields(strings.Trim(strings.TrimSpace(rel[2]), `"`)) {
				if !strings.EqualFold(name, "next") {
					continue
				}
				if u, err := url.Parse(m[1]); err == nil {
					return u.Query()
				}
			}
		}
	}
	return url.Values{}
}

func FuzzNextPage(f *testing.F) {
	for _, link := range []string{`<?Cursor=a>; rel="next"`, `<a>; rel="prev", <?b=1>; rel=next`, `<<>>,"<`, ``, `<%zz>; rel=next, <?x=1>;rel="prev NEXT"`,
		`<?Cursor=p>; rel="prev", <?Cursor=n,m>; title="a, <b>"; rel="next", <?Cursor=l>; rel="last"`} {
		f.Add(link, "a.1,&é")
	}
	f.Fuzz(func(t *testing.T, link, cursor string) {
		want := slowNextPage(link)
		if diff := cmp.Diff(want, nextPage(http.Header{"Link": {link}})); diff != "" {
			t.Fatalf("%q (-want +got):\n%s", link, diff)
		}
		// A service's own link is found whatever a proxy sets before it.
		query := url.Values{"Cursor": {cursor}}
		got := nextPage(http.Header{"Link": {link, `</api/v1/usage/loaded?` + query.Encode() + `>; rel="next"`}})
		if len(want) == 0 && !strings.Contains(strings.ToLower(link), "next") && got.Get("Cursor") != cursor {
			t.Fatalf("%q behind %q became %v", cursor, link, got)
		}
	})
}

// A base URL is refused, or every request goes to its origin below its path,
// and in clear text only to this machine.
func FuzzBaseURL(f *testing.F) {
	for _, s := range []string{"https://usage.xsede-amie.org/api/v1_test", "https://h/", "https://h//a//", "HTTPS://H:443/%2e%2e/x?", "http://localhost:1", "http://127.0.0.1", "http://[::1]:80/a", "http://h", "https://u:s3cret@h/",
		"https://h/?a=b", "https://h/#", "https://h:x/", "https:///a", "//h/a", "ftp://h", "http://localhost.example.org", "https://h/a%2Fb", "http://[::1%25eth0]/", "http://0x7f.1/", "https://h\\@e/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		base, err := parseBaseURL(s, false)
		if err != nil {
			if strings.Contains(err.Error(), "s3cret") {
				t.Fatal(err)
			}
			return
		}
		given, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.NewRequest("GET", base+"/usage/loaded?a=b", nil)
		if err != nil {
			t.Fatalf("%q became %q: %v", s, base, err)
		}
		if origin(r.URL) != origin(given) || r.URL.User != nil || r.URL.RawQuery != "a=b" || r.URL.Fragment != "" || !strings.HasSuffix(r.URL.Path, "/usage/loaded") ||
			strings.TrimRight(given.EscapedPath(), "/")+"/usage/loaded" != r.URL.EscapedPath() {
			t.Fatalf("%q became %q", s, r.URL)
		}
		if ip := net.ParseIP(r.URL.Hostname()); r.URL.Scheme != "https" && !strings.EqualFold(r.URL.Hostname(), "localhost") && (ip == nil || !ip.IsLoopback()) {
			t.Fatalf("%q sends the key in clear text", s)
		}
		if again, err := parseBaseURL(base, false); err != nil || again != base {
			t.Fatalf("%q became %q and then %q, %v", s, base, again, err)
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"", "0", "7", "-7", "+7", "86401", "99999999999999999999", "-99999999999999999999", "1.5", "0x7", "7 ",
		"Fri, 31 Dec 9999 23:59:59 GMT", "Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		const most = 24 * time.Hour
		got := parseRetryAfter(s)
		if got < 0 || got > most {
			t.Fatalf("%q: wait for %s", s, got)
		}
		want := time.Duration(-1)
		if n, ok := new(big.Int).SetString(s, 10); ok && !strings.ContainsAny(s, "_+-") {
			want = most
			if n.Cmp(big.NewInt(24*60*60)) < 0 {
				want = time.Duration(n.Int64()) * time.Second
			}
		} else if at, err := http.ParseTime(s); err != nil || at.Before(time.Now()) {
			want = 0
		}
		if want >= 0 && got != want {
			t.Fatalf("%q: wait for %s, and not %s", s, got, want)
		}
	})
}

// canned answers every request alike, and sees to it that none goes elsewhere.
type canned struct {
	t      *testing.T
	status int
	header http.Header
	body   []byte
}

func (c *canned) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host != "usage.example.org" || r.URL.Scheme != "https" {
		c.t.Errorf("a request goes to %s", r.URL)
	}
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
	}
	return &http.Response{StatusCode: c.status, Header: c.header.Clone(), Body: io.NopCloser(strings.NewReader(string(c.body))), Request: r}, nil
}

// Whatever answers, each call ends, an error holds no key, and no record counts
// as accepted that may not be.
func FuzzAnswer(f *testing.F) {
	records := computes(3)
	refused, err := json.Marshal(amieusage.SendResponse{Message: amieusage.QueuedMessage(2, 1), FailedRecords: []amieusage.FailedRecord{
		{UsageType: amieusage.Compute, Error: "unknown user " + testKey, FailedRecordID: 7, Record: records[1]},
		{UsageType: amieusage.Compute, Error: "older", FailedRecordID: 8, Record: compute(77)}}})
	if err != nil {
		f.Fatal(err)
	}
	for _, body := range []string{queued(3), string(refused), "", "null", "{}", "[]", "<html>", `{"Message":"","FailedRecords":[{}]}`,
		`{"FailedRecords":[{"LocalRecordID":"4711"},{"LocalReference":"ref-1"}]}`, `{"ValidationFailedRecords":[{"Resource":"bridges2-rm.psc.access-ci.org","LocalRecordID":4712}]}`,
		`[{"AccountingDbRecordID":1,"LocalRecordID":"4711"},{"AccountingDbRecordID":2}]`, `{"GroupBy":["day"],"Rows":[{}]}`,
		`{"error":"no key ` + testKey + `","code":"too_large","hint":"x","request_id":"` + testKey + `"}`, `{"error":"the request is too large"}`, `{"detail":{"a":1}}`} {
		for _, status := range []int{200, 302, 400, 429, 500} {
			f.Add(status, []byte(body), `<?Cursor=a&After=3&Limit=2>; rel="next"`, "/usage/failed", "7")
		}
	}
	f.Add(200, []byte("{"), "", "", "")
	f.Add(307, []byte(""), "", "https://elsewhere.example.org/", testKey)
	f.Fuzz(func(t *testing.T, status int, body []byte, link, location, after string) {
		if status < 200 || status > 599 {
			return // net/http reads no such answer, or goes on waiting
		}
		transport := &canned{t, status, http.Header{"Link": {link}, "Location": {location}, "Retry-After": {after}, "X-Request-Id": {after}}, body}
		c := newClient(t, "https://usage.example.org/api/v1", WithHTTPClient(&http.Client{Transport: transport}), WithRetry(RetryPolicy{MaxAttempts: 1}))
		ctx := context.Background()
		check := func(what string, err error) {
			if e, ok := errors.AsType[*Error](err); err != nil && (!ok || e.Code == "" || strings.Contains(err.Error(), testKey)) {
				t.Fatalf("%s: %v", what, err)
			}
			if err == nil && status > 299 && what != "send" { // which may know that a record is too large
				t.Fatalf("%s: the status %d is no error", what, status)
			}
		}
		result, err := c.Send(ctx, records...)
		check("send", err)
		mustJudge(t, result, records, err, status, body)
		failed, err := c.ListFailed(ctx)
		check("failed", err)
		if lists := *new(failedAnswer); err == nil && (json.Unmarshal(body, &lists) != nil || lists.count() > len(failed)) {
			t.Fatalf("%d failed records of %s", len(failed), body)
		}
		_, err = c.ClearFailedIDs(ctx, 7, 9)
		check("clear", err)
		_, err = c.Status(ctx, amieusage.StatusQuery{})
		check("status", err)
		_, err = c.Summary(ctx, amieusage.SummaryQuery{})
		check("summary", err)
		for _, err := range c.AllLoaded(ctx, amieusage.LoadedQuery{}) {
			if err != nil {
				check("loaded", err)
			}
		}
	})
}

// failedAnswer are the lists of failed records as encoding/json reads them.
type failedAnswer struct {
	FailedRecords, ValidationFailedRecords []json.RawMessage
}

func (a failedAnswer) count() int { return max(len(a.FailedRecords), len(a.ValidationFailedRecords)) }

// mustJudge asserts that every record has its outcome, and that those are not
// accepted that the answer gives back, or that it says nothing of.
func mustJudge(t *testing.T, result *SendResult, records []amieusage.Record, err error, status int, body []byte) {
	var response amieusage.SendResponse
	readable := json.Unmarshal(body, &response) == nil && status < 300
	unsent := 0
	for i, o := range result.Outcomes {
		if o.Index != i || o.Record != records[i] || (o.State == Accepted) != (o.Err == nil) {
			t.Fatalf("outcome %d: %+v", i, o)
		}
		if o.State == Unsent {
			unsent++
		}
		if o.State == Accepted && !readable {
			t.Fatalf("record %d counts as accepted after the answer %d %s", i, status, body)
		}
		if o.Err != nil && strings.Contains(o.Err.Error(), testKey) {
			t.Fatalf("outcome %d: %v", i, o.Err)
		}
		for _, f := range response.FailedRecords {
			if readable && o.State == Accepted && f.Record != nil && amieusage.ContentDigest(f.Record) == amieusage.ContentDigest(o.Record) {
				t.Fatalf("record %d counts as accepted, and was given back in %s", i, body)
			}
		}
	}
	if (unsent > 0) != (err != nil) || len(result.Outcomes) != len(records) {
		t.Fatalf("%v, error %v", result, err)
	}
	if readable && err == nil && len(response.FailedRecords) == 0 && len(result.Accepted()) != len(records) {
		t.Fatalf("%v, where nothing was refused: %s", result, body)
	}
}
