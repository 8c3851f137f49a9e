package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
)

// refuses sends one record, and checks that it is refused for this reason.
func (s *attacked) refuses(t *testing.T, client *http.Client, record, reason string) {
	t.Helper()
	got := s.ask(t, client, "POST", "/api/v1/usage/", strings.NewReader(messageJSON(record)))
	var answer struct {
		Message       string
		FailedRecords []struct{ Error string }
	}
	if err := json.Unmarshal([]byte(got.body), &answer); err != nil || got.status != http.StatusOK ||
		answer.Message != amieusage.QueuedMessage(0, 1) || len(answer.FailedRecords) != 1 || !strings.Contains(answer.FailedRecords[0].Error, reason) {
		t.Errorf("%.300q: %d %.500s; want it to be refused: %s", record, got.status, got.body, reason)
	}
}

// attackByNumbers sends numbers that cost much to expand, in every place for a
// number.
func attackByNumbers(t *testing.T, s *attacked, client *http.Client) {
	huge := []string{"1e999999", "1e999999999", "1e99999999999999999999", "1e-999999999x", strings.Repeat("9", 10_000), "NaN", "Infinity", "0x10", "1_0", "-1", "٣"}
	good := computeJSON("alice", "n", "")
	s.withstand(t, func() {
		for _, number := range huge {
			s.refuses(t, client, strings.Replace(good, `"Charge":"1"`, `"Charge":"`+number+`"`, 1), "Charge ")
			s.refuses(t, client, strings.Replace(good, `"NodeCount":1`, `"NodeCount":"`+number+`"`, 1), "Attributes.NodeCount ")
			s.refuses(t, client, strings.Replace(good, `2026-10-01T12:00:00Z`, number, 1), "EndTime ")
			if number[0] == '1' && !strings.ContainsAny(number, "x_") {
				s.refuses(t, client, strings.Replace(good, `"Charge":"1"`, `"Charge":`+number, 1), "Charge ")
				s.refuses(t, client, strings.Replace(good, `"NodeCount":1`, `"NodeCount":`+number, 1), "Attributes.NodeCount ")
			}
			for _, query := range []string{"loaded?Limit=", "loaded?Offset=", "loaded?Cursor=", "loaded?MinLoadedTime=", "failed?Limit=", "failed?After=", "status?FromTime=", "summary?ToTime="} {
				if len(number) > 1000 {
					number = number[:1000]
				}
				s.ask(t, client, "GET", "/api/v1/usage/"+query+number, nil).problem(t, query+number, http.StatusBadRequest)
			}
		}
	})
}

// attackByTexts sends what is no text, or no record.
func attackByTexts(t *testing.T, s *attacked, client *http.Client) {
	good := computeJSON("alice", "text", "")
	for record, reason := range map[string]string{
		strings.Replace(good, "alice", "al\xffice", 1):                                 "UTF-8",
		strings.Replace(good, "alice", `al\ud800ice`, 1):                               "surrogate",
		strings.Replace(good, "alice", `al\u0000ice`, 1):                               "NUL",
		strings.Replace(good, "alice", strings.Repeat("a", 1025), 1):                   "longer than 1024 bytes",
		strings.Replace(good, `"Charge":"1"`, `"Charge":"1","Charge":"2"`, 1):          "duplicate",
		strings.Replace(good, `{"NodeCount":1}`, `[`+strings.Repeat("0,", 99)+`0]`, 1): "Attributes must be an object",
		`"text"`: "is not a JSON object", "null": "is not a JSON object", "[]": "is not a JSON object", "{}": "Username is required",
	} {
		s.refuses(t, client, record, reason)
	}
	for body, status := range map[string]int{
		strings.Replace(messageJSON(good), "alice", "al\x00ice", 1):     400, // no JSON: a control character
		`{"UsageType":"Compute","Records":[],"Records":[` + good + `]}`: 400,
		messageJSON(good) + messageJSON(good):                           400,
		strings.Repeat("\x00", 1000):                                    400,
	} {
		s.ask(t, client, "POST", "/api/v1/usage/", strings.NewReader(body)).problem(t, body[:40], status)
	}
}

// attackByPaths tries paths, parameters and headers that mean something to a
// file system, a database or a proxy.
func attackByPaths(t *testing.T, s *attacked, client *http.Client) {
	for _, tt := range []struct {
		path   string
		status int
	}{
		{"1/../../status", 405}, {"%2e%2e", 400}, {"%2e%2e%2fstatus", 400}, {"..%2f..%2f..%2fetc%2fpasswd", 400}, {"%00", 400}, {"1%00", 400},
		{"+1", 400}, {"-0", 400}, {"-1", 400}, {"0", 400}, {"1.0", 400}, {"0x1", 400}, {"1e1", 400}, {"1_0", 400}, {"%D9%A3", 400}, {"１", 400},
		{"1;2", 400}, {"1,,2", 400}, {",", 400}, {"%20", 400}, {"1'--", 400}, {"1%20OR%201=1", 400}, {"*", 400}, {"9223372036854775808", 400},
		{strings.Repeat("9", 10_000), 400}, {"999998" + strings.Repeat(",999998", 10_000), 404}, {"999999,999998", 404}, {"%39%39%39%39%39%38", 404}, {"/999998/", 404}, {"1/2", 404},
		{"", 405}, {"/", 405}, {".", 405}, {"%2F", 404},
	} {
		s.ask(t, client, "DELETE", "/api/v1/usage/failed/"+tt.path, nil).problem(t, "DELETE "+tt.path[:min(len(tt.path), 60)], tt.status)
	}
	for path, status := range map[string]int{
		"/api/v1/../../etc/passwd": 404, "/api/v1/usage/%2e%2e/%2e%2e/healthz": 404, "/..%2f..%2fledger.db": 404, "/api/v1/usage/status%00": 404,
		"/api/v1/usage/status/../status": 200, "//api//v1///usage//status//": 200, "/api/v1/usage/status;x": 404, "/api/v1/usage/STATUS": 404,
		"/api/v1/usage/status?FromTime=%00": 400, "/api/v1/usage/status?FromTime=2026-10-01%0d%0aX:1": 400, "/api/v1/usage/loaded?LocalRecordID=%00%ff'%22": 200,
		"/api/v1/usage/status?FromTime=%zz": 400, "/api/v1/usage/summary?GroupBy=user;DROP%20TABLE": 400, "/api/v1/usage/status?" + strings.Repeat("a&", 20_000): 400,
	} {
		if got := s.ask(t, client, "GET", path, nil); got.status != status {
			t.Errorf("GET %.60q: %d, want %d: %.300s", path, got.status, status, got.body)
		}
	}
	for _, tt := range []struct {
		header string // of a raw request
		status int
	}{
		{"XA-SITE: PSC\r\nXA-API-KEY: " + s.key, 200},
		{"xa-site: PSC\r\nXa-Api-Key:   " + s.key + "  ", 200},
		{"XA-SITE: SDSC\r\nXA-SITE: PSC\r\nXA-API-KEY: " + s.key, 400},
		{"XA-SITE: PSC\r\nXA-API-KEY: wrong\r\nXA-API-KEY: " + s.key, 400},
		{"XA-SITE : PSC\r\nXA-API-KEY: " + s.key, 400}, // a space that proxies may see otherwise
		{"XA-SITE: psc\r\nXA-API-KEY: " + s.key, 401},
		{"XA-SITE: PSC,SDSC\r\nXA-API-KEY: " + s.key, 401},
		{"XA_SITE: PSC\r\nXA_API_KEY: " + s.key, 401},
		{"XA-SITE: PSC\r\nXA-API-KEY: " + strings.ToUpper(s.key), 401},
		{"XA-SITE: P\x00SC\r\nXA-API-KEY: " + s.key, 400},
	} {
		conn := s.dial(t, "127.0.0.5") // which has guessed nothing yet
		fmt.Fprintf(conn, "GET /api/v1/usage/status HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", tt.header)
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%q: %v", tt.header, err)
			continue
		}
		// The site's name has been guessed at: too many refused keys are 429.
		if status := response.StatusCode; status != tt.status && (tt.status != 401 || status != http.StatusTooManyRequests) {
			t.Errorf("%q: %d, want %d", tt.header, status, tt.status)
		}
	}
}

// attackAnotherSite uses the numbers and cursors of another site: the answers
// are those for what is not there.
func attackAnotherSite(t *testing.T, s *attacked, client *http.Client) {
	other := []string{"XA-SITE", "SDSC", "XA-API-KEY", s.otherKey}
	s.ask(t, client, "POST", "/api/v1/usage/", strings.NewReader(messageJSON(computeJSON("eve", "secret-id", ""))), other...)
	var failed amieusage.FailedRecords
	s.waitUntil(t, "the other site's record fails", func() bool {
		got := s.ask(t, client, "GET", "/api/v1/usage/failed", nil, other...)
		return json.Unmarshal([]byte(got.body), &failed) == nil && len(failed) == 1
	})
	id := fmt.Sprint(failed[0].FailedRecordID)
	const unknown = "999999999"
	theirs := s.ask(t, client, "DELETE", "/api/v1/usage/failed/"+id, nil, "X-Request-Id", "x")
	nobodys := s.ask(t, client, "DELETE", "/api/v1/usage/failed/"+unknown, nil, "X-Request-Id", "x")
	theirs.problem(t, "another site's id", 404)
	if diff := cmp.Diff(nobodys.body, strings.ReplaceAll(theirs.body, "the id "+id, "the id "+unknown)); diff != "" {
		t.Errorf("another site's id is told from an unknown one (-unknown +another's):\n%s", diff)
	}
	page := s.ask(t, client, "GET", "/api/v1/usage/loaded?Limit=1", nil, other...)
	link := strings.TrimSuffix(strings.TrimPrefix(page.header.Get("Link"), "<"), `>; rel="next"`)
	if page.status != 200 || link == "" {
		t.Fatalf("%d, Link %q: %.300s", page.status, link, page.body)
	}
	for _, path := range []string{"loaded" + link, "loaded?LocalRecordID=b1", "failed?After=" + fmt.Sprint(failed[0].FailedRecordID-1), "status", "summary?GroupBy=user"} {
		got := s.ask(t, client, "GET", "/api/v1/usage/"+path, nil)
		if got.status != 200 || strings.Contains(got.body, "secret-id") || strings.Contains(got.body, `"b1"`) || strings.Contains(got.body, "bob") {
			t.Errorf("%s gives what is another site's: %d %.300s", path, got.status, got.body)
		}
	}
	again := s.ask(t, client, "GET", "/api/v1/usage/failed", nil, other...)
	if !strings.Contains(again.body, "secret-id") {
		t.Errorf("the other site's failed record is gone: %.300s", again.body)
	}
}

// attackBySmuggling sends requests whose end can be seen in two ways. What
// follows is never served with the rights of the first, as it has none.
func attackBySmuggling(t *testing.T, s *attacked, _ *http.Client) {
	inner := "GET /api/v1/usage/status HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, rest := range map[string]string{
		"a length and chunks":        fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n%s", len("0\r\n\r\n")+len(inner), inner),
		"two lengths":                fmt.Sprintf("Content-Length: 0\r\nContent-Length: %d\r\n\r\n%s", len(inner), inner),
		"a length with a sign":       "Content-Length: +0\r\n\r\n" + inner,
		"chunks twice":               "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + inner,
		"hidden chunks":              "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + inner,
		"a folded line":              "X: 1\r\n Content-Length: 5\r\n\r\n" + inner,
		"a bare line feed in chunks": "Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n" + inner,
	} {
		conn := s.dial(t, "127.0.0.6")
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = io.WriteString(conn, s.postStart(s.key)+rest)
		in := bufio.NewReader(conn)
		var statuses []int
		for {
			response, err := http.ReadResponse(in, nil)
			if err != nil {
				break
			}
			statuses = append(statuses, response.StatusCode)
			_, _ = io.Copy(io.Discard, response.Body)
			if len(statuses) == 2 || response.Close {
				break
			}
		}
		if len(statuses) == 0 || !slices.Contains([]int{400, 501}, statuses[0]) || len(statuses) > 1 && statuses[1] != 401 {
			t.Errorf("%s: answers %v; want 400 or 501 and no more, or 401 for what follows", name, statuses)
		}
	}
}

// attackReaders sends what would act on those who read a log, a terminal or a
// spreadsheet.
func attackReaders(t *testing.T, s *attacked, client *http.Client) {
	const forged = "time=2026-01-01T00:00:00Z level=INFO msg=forged"
	evil := []string{"x\r\n" + forged, "x\u2028" + forged, "\x1b[2J\x1b]0;owned\x07", "\u202egnitaf", "=cmd|' /C calc'!A0", "@SUM(1)", "-1+1", "\t=1", "a\tb\x7f\u009b1m"}
	var records []string
	for _, text := range evil {
		quoted, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		record := strings.Replace(computeJSON("alice", "evil", ""), `"evil"`, string(quoted), 1)
		records = append(records, record, strings.Replace(record, `"alice"`, string(quoted), 1))
		s.ask(t, client, "GET", "/"+strings.NewReplacer("\r", "%0d", "\n", "%0a", "\x1b", "%1b", "\x07", "%07", " ", "%20", "\t", "%09", "\x7f", "%7f").Replace(text), nil,
			"User-Agent", "x", "X-Request-Id", "forged=1")
	}
	records = append(records, computeJSON("=1+1", "formula", ""))
	if got := s.ask(t, client, "POST", "/api/v1/usage/", strings.NewReader(messageJSON(records...))); got.status != 200 {
		t.Fatalf("%d %.300s", got.status, got.body)
	}
	folder := t.TempDir()
	config := filepath.Join(folder, "site.yaml")
	for file, text := range map[string]string{
		config: "site: PSC\napi_key_file: key\nusage_url: " + s.url + "\nresources: [{resource: rm, charge: {per_hour: {cpu: 1}, decimals: 6}}]\n", filepath.Join(folder, "key"): s.key + "\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) string {
		out, err := exec.Command(s.program, append(args, "--config", config)...).CombinedOutput()
		if err != nil {
			t.Errorf("%v: %v: %s", args, err, out)
		}
		return string(out)
	}
	s.waitUntil(t, "all are loaded or failed", func() bool {
		got := s.ask(t, client, "GET", "/api/v1/usage/loaded?LocalRecordID=formula", nil)
		return strings.Contains(got.body, "formula")
	})
	for _, args := range [][]string{{"failed", "list"}, {"status"}, {"loaded"}, {"summary", "--by", "user"}} {
		out := run(args...)
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, "time=") || strings.IndexFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool {
				return r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u202e' || r == '\u2028'
			}) >= 0 {
				t.Errorf("%v prints %q", args, line)
			}
		}
	}
	for what, table := range map[string]string{
		"over HTTP":      s.ask(t, client, "GET", "/api/v1/usage/summary?GroupBy=user&Format=csv", nil).body,
		"of the command": run("summary", "--by", "user", "--csv"),
	} {
		if !strings.Contains(table, ",'=1+1,") || strings.Contains(table, ",=1+1,") {
			t.Errorf("the summary as CSV %s: %s", what, table)
		}
	}
	for line := range strings.Lines(s.lines.String()) {
		if !strings.HasPrefix(line, "time=") || strings.HasPrefix(line, forged) ||
			strings.ContainsAny(strings.TrimSuffix(line, "\n"), "\r\x1b\x07\u2028\u202e\u009b\x7f\t") {
			t.Errorf("the log has the line %q", line)
		}
	}
}
