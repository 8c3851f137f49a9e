package httpapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A wireRequest is a request of the Python reference client, as it was
// recorded.
type wireRequest struct {
	Method, Path string
	Headers      map[string]string
	Body         json.RawMessage
}

func wireRequests(t testing.TB) []wireRequest {
	t.Helper()
	data, err := os.ReadFile("../../testdata/wire/amieclient-0.6.1-requests.json")
	if err != nil {
		t.Fatal(err)
	}
	var requests []wireRequest
	if err := json.Unmarshal(data, &requests); err != nil {
		t.Fatal(err)
	}
	return requests
}

// failing sends n records of a user whom nobody knows, of all three kinds, and
// loads them: they get the FailedRecordIDs 1 to n of a new ledger.
func (b *bench) failing(t testing.TB, n int) {
	t.Helper()
	for i := range n {
		var body string
		switch i % 3 {
		case 0:
			body = messageOf(computeRecord(fmt.Sprint("c", i), "mallory"))
		case 1:
			body = fmt.Sprintf(`{"UsageType":"Storage","Records":[{"Username":"mallory","LocalProjectID":%q,"LocalRecordID":"s%d",`+
				`"Resource":%q,"CollectionTime":"2026-10-01T00:00:00Z","Charge":"1"}]}`, project, i, ocean)
		case 2:
			body = fmt.Sprintf(`{"UsageType":"Adjustment","Records":[{"Username":"mallory","LocalProjectID":%q,"LocalRecordID":"a%d",`+
				`"Resource":%q,"StartTime":"2026-10-01T00:00:00Z","Charge":"1","AdjustmentType":"Refund"}]}`, project, i, resource)
		}
		b.call(t, "POST", "/api/v1/usage/", body).into(t, &struct{}{})
	}
	b.load(t)
}

// The recorded requests, with their very paths and headers, get the answers
// that the reference client can read.
func TestWireRequests(t *testing.T) {
	b := newBench(t)
	b.failing(t, 19)
	queued := map[string]string{
		"Compute":    "2 records have been queued for loading, 0 records failed.",
		"Storage":    "1 records have been queued for loading, 0 records failed.",
		"Adjustment": "1 records have been queued for loading, 0 records failed.",
	}
	requests := wireRequests(t)
	if len(requests) != 8 {
		t.Fatalf("%d recorded requests, want 8", len(requests))
	}
	for _, w := range requests {
		r, err := http.NewRequest(w.Method, b.url+w.Path, bytes.NewReader(w.Body))
		if err != nil {
			t.Fatal(err)
		}
		if string(w.Body) == "null" {
			r.Body, r.ContentLength = http.NoBody, 0
		}
		for name, value := range w.Headers {
			r.Header.Set(name, value)
		}
		answer := do(t, http.DefaultClient, r)
		if answer.status != 200 || answer.header.Get("Content-Type") != "application/json" {
			t.Fatalf("%s %s: %d %s", w.Method, w.Path, answer.status, answer.body)
		}
		switch {
		case w.Method == "POST":
			var sent struct{ UsageType string }
			if err := json.Unmarshal(w.Body, &sent); err != nil {
				t.Fatal(err)
			}
			var got map[string]json.RawMessage
			answer.into(t, &got)
			want := map[string]json.RawMessage{
				"Message":                 json.RawMessage(`"` + queued[sent.UsageType] + `"`),
				"FailedRecords":           json.RawMessage(`[]`),
				"ValidationFailedRecords": json.RawMessage(`[]`),
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", sent.UsageType, diff)
			}
			b.load(t)
		case w.Path == "/api/v1/usage/failed":
			var got map[string][]map[string]any
			answer.into(t, &got)
			if len(got["FailedRecords"]) != 19 {
				t.Errorf("%d failed records, want 19", len(got["FailedRecords"]))
			}
			if diff := cmp.Diff(got["FailedRecords"], got["ValidationFailedRecords"]); diff != "" {
				t.Errorf("the lists differ:\n%s", diff)
			}
			for _, record := range got["FailedRecords"] {
				if record["UsageType"] == nil || record["Error"] == nil || record["FailedRecordID"] == nil {
					t.Errorf("incomplete: %v", record)
				}
			}
		case strings.HasPrefix(w.Path, "/api/v1/usage/status"):
			checkStatus(t, answer)
		}
	}
	counts := b.counts(t)
	if counts.Loaded != 4 || counts.Failed != 19 || counts.Queued != 0 {
		t.Errorf("%+v, want 4 loaded and 19 failed", counts)
	}
}

func checkStatus(t *testing.T, answer reply) {
	t.Helper()
	var rows []struct {
		Resource                          string
		LoadedRecordCount, FailedJobCount int
		TotalCharge                       json.RawMessage
		Errors                            []struct {
			Error   string
			Records []map[string]json.RawMessage
		}
	}
	answer.into(t, &rows)
	records := 0
	for _, row := range rows {
		for _, e := range row.Errors {
			for _, record := range e.Records {
				records++
				if string(record["UsageType"]) == `"Compute"` && record["Attributes"] == nil {
					t.Errorf("a compute record without Attributes: %v", record)
				}
			}
		}
	}
	if records != 19 {
		t.Errorf("%d records in the errors of the status, want 19: %s", records, answer.body)
	}
}

// The API works where a proxy or another handler has it below a path of its
// own, and with the doubled slash of a base URL that ends in one.
func TestOtherSpellingsOfPaths(t *testing.T) {
	b := newBench(t)
	b.failing(t, 3)
	tests := []struct{ method, path, body string }{
		{"POST", "/api/v1/usage", message("a", 1)},
		{"POST", "/api/v1/usage/", message("b", 1)},
		{"POST", "/api/v1//usage//", message("c", 1)},
		{"GET", "/api/v1/usage/failed/", ""},
		{"GET", "/api/v1//usage/failed", ""},
		{"GET", "/api/v1/usage/status/", ""},
		{"GET", "/api/v1/usage/status/?FromTime=2026-10-01", ""},
		{"GET", "/api/v1/usage/loaded/", ""},
		{"GET", "/api/v1/usage/summary/", ""},
		{"GET", "/healthz/", ""},
		{"HEAD", "/api/v1/usage/status", ""},
		{"HEAD", "/healthz", ""},
		{"DELETE", "/api/v1/usage/failed/1/", ""},
		{"DELETE", "/api/v1/usage/failed/2%2C1", ""},
		{"DELETE", "/api/v1/usage/failed/2,%203", ""},
	}
	for _, tt := range tests {
		answer := b.call(t, tt.method, tt.path, tt.body)
		if answer.status != 200 {
			t.Errorf("%s %s: %d %s", tt.method, tt.path, answer.status, answer.body)
		}
		if tt.method == "HEAD" && (len(answer.body) > 0 || answer.header.Get("Content-Length") == "0") {
			t.Errorf("HEAD %s: Content-Length %s, body %q", tt.path, answer.header.Get("Content-Length"), answer.body)
		}
	}
}

// The stand-in for the reference client, in Python, reads every answer.
func TestReferenceClient(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Fatalf("this test needs python3: %v", err)
	}
	b := newBench(t)
	run := func(stdin string, arguments ...string) string {
		t.Helper()
		command := exec.Command(python, append([]string{"testdata/reference_client.py", b.url + "/api/v1", site, key}, arguments...)...)
		command.Stdin = strings.NewReader(stdin)
		out, err := command.Output()
		if err != nil {
			var stderr []byte
			if e, ok := err.(*exec.ExitError); ok {
				stderr = e.Stderr
			}
			t.Fatalf("%v: %v\n%s", arguments, err, stderr)
		}
		return strings.TrimSpace(string(out))
	}
	var all bytes.Buffer
	show := func(stdin string, arguments ...string) {
		t.Helper()
		fmt.Fprintf(&all, "$ %s\n%s\n\n", strings.Join(arguments, " "), run(stdin, arguments...))
	}
	b.failing(t, 3) // one record of each kind
	for _, w := range wireRequests(t) {
		if w.Method == "POST" {
			show(string(w.Body), "send")
		}
	}
	show(messageOf(computeRecord("1", "mallory"), `{"LocalRecordID":"2","Charge":"-1"}`), "send")
	show(`{"UsageType":"Compute"}`, "send")
	b.load(t)
	show("", "failed")
	show("", "status")
	show("", "status", "2026-10-01T00:00:00+00:00", "2026-10-03T00:00:00+00:00")
	show("", "status", "soon")
	show("", "clear", "7")
	show("", "clear", "1", "2")
	show("", "failed")
	tr := transcript{all}
	tr.compare(t, "reference_client.txt")
}
