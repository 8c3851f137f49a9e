package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amieusage/amieusage"
)

// A foreignService is one that offers the Usage API in its own way: nobody has
// published what the live service does.
type foreignService struct {
	// takes refuses a send in its own way, and reports whether it takes it.
	takes func(w http.ResponseWriter, body []byte, records int) bool
	// list answers GET usage/loaded with some of the records; nil: it has no such call.
	list func(w http.ResponseWriter, r *http.Request, all []amieusage.LoadedRecord)
	// computeOnly: it lists no other records.
	computeOnly bool
	noStatus    bool

	mu     sync.Mutex
	loaded []amieusage.LoadedRecord
	at     map[amieusage.Identity]int
}

func (f *foreignService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch path := strings.TrimSuffix(r.URL.Path, "/"); {
	case r.Method == http.MethodPost && path == "/usage":
		f.send(w, r)
	case path == "/usage/failed":
		fmt.Fprint(w, `{"FailedRecords": []}`)
	case path == "/usage/status" && !f.noStatus:
		counts := map[string]int{}
		for _, l := range f.loaded {
			counts[l.Resource]++
		}
		status := []map[string]any{}
		for resource, n := range counts {
			status = append(status, map[string]any{"Resource": resource, "LoadedRecordCount": n, "FailedJobCount": 0, "TotalCharge": 1, "Errors": []any{}})
		}
		_ = json.NewEncoder(w).Encode(status)
	case path == "/usage/loaded" && f.list != nil:
		listed := f.loaded
		if f.computeOnly {
			listed = slices.DeleteFunc(slices.Clone(listed), func(l amieusage.LoadedRecord) bool { return l.UsageType != amieusage.Compute })
		}
		f.list(w, r, listed)
	default:
		http.Error(w, `{"error": "no such call"}`, http.StatusNotFound)
	}
}

func (f *foreignService) send(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	var message amieusage.Message
	if err := json.Unmarshal(body, &message); err != nil {
		http.Error(w, `{"error": "no message"}`, http.StatusBadRequest)
		return
	}
	if f.takes != nil && !f.takes(w, body, len(message.Records)) {
		return
	}
	for _, record := range message.Records {
		id := record.Identity()
		submitted := id.KeyTime
		if submitted.IsZero() {
			submitted = record.UsageTime().UTC()
		}
		l := amieusage.LoadedRecord{UsageType: id.UsageType, LocalRecordID: id.LocalRecordID, Resource: id.Resource,
			SubmitTime: submitted, LoadedTime: time.Now().UTC(), Charge: record.Common().Charge}
		if at, ok := f.at[id]; ok {
			l.AccountingDbRecordID = f.loaded[at].AccountingDbRecordID
			f.loaded[at] = l
			continue
		}
		if f.at == nil {
			f.at = map[amieusage.Identity]int{}
		}
		f.at[id] = len(f.loaded)
		l.AccountingDbRecordID = int64(len(f.loaded) + 1)
		f.loaded = append(f.loaded, l)
	}
	fmt.Fprint(w, `{"Message": "thank you", "FailedRecords": []}`)
}

// pages lists what is asked for, in pages of at most so many records, within an
// envelope.
func pages(capped int, envelope string, change func(*amieusage.LoadedRecord)) func(http.ResponseWriter, *http.Request, []amieusage.LoadedRecord) {
	return func(w http.ResponseWriter, r *http.Request, all []amieusage.LoadedRecord) {
		q := r.URL.Query()
		since, _ := amieusage.ParseTime(q.Get("MinLoadedTime"))
		found := []amieusage.LoadedRecord{}
		for _, l := range all {
			if (q.Get("LocalRecordID") == "" || l.LocalRecordID == q.Get("LocalRecordID")) && !l.LoadedTime.Before(since) {
				if change != nil {
					change(&l)
				}
				found = append(found, l)
			}
		}
		offset, _ := strconv.Atoi(q.Get("Offset"))
		limit, err := strconv.Atoi(q.Get("Limit"))
		if err != nil {
			limit = math.MaxInt
		}
		found = found[min(len(found), offset):]
		found = found[:min(len(found), limit, capped)]
		list, _ := amieusage.LoadedRecords(found).MarshalJSON()
		fmt.Fprintf(w, envelope, list)
	}
}

func refusing(status int, when func(body []byte, records int) bool) func(http.ResponseWriter, []byte, int) bool {
	return func(w http.ResponseWriter, body []byte, records int) bool {
		if !when(body, records) {
			return true
		}
		if status == 0 { // a reset
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_ = conn.(*net.TCPConn).SetLinger(0)
				_ = conn.Close()
			}
			return false
		}
		w.WriteHeader(status)
		fmt.Fprint(w, `{"error": "no"}`)
		return false
	}
}

// TestForeignServices reports 2,000 jobs and a refund, twice, to services that
// each do something in another way: all arrives, nothing stays pending, and the
// second run ends within seconds.
func TestForeignServices(t *testing.T) {
	t.Parallel()
	large := func(body []byte, _ int) bool { return len(body) > 256<<10 }
	rounded := func(digits int) func(*amieusage.LoadedRecord) {
		return func(l *amieusage.LoadedRecord) {
			n, _ := l.Charge.Millionths()
			l.Charge = amieusage.MustParseCharge(strconv.FormatFloat(float64(n)/1e6, 'f', digits, 64))
		}
	}
	plain := pages(math.MaxInt, "%s", nil)
	for _, test := range []struct {
		name    string
		service *foreignService
		status  int
		loaded  int64
		more    string // in the second run's summary
	}{
		{"an envelope", &foreignService{list: pages(math.MaxInt, `{"LoadedRecords": %s, "Total": 2001}`, nil)}, exitOK, 2001, ""},
		{"capped pages", &foreignService{list: pages(300, "%s", nil)}, exitOK, 2001, ""},
		{"parameters ignored", &foreignService{list: func(w http.ResponseWriter, r *http.Request, all []amieusage.LoadedRecord) {
			r.URL.RawQuery = ""
			plain(w, r, all)
		}}, exitOK, 2001, ""},
		{"parameters refused", &foreignService{list: func(w http.ResponseWriter, r *http.Request, all []amieusage.LoadedRecord) {
			if r.URL.RawQuery != "" {
				http.Error(w, `{"error": "unknown parameter"}`, http.StatusBadRequest)
				return
			}
			plain(w, r, all)
		}}, exitOK, 2001, ""},
		{"Compute only, no status", &foreignService{computeOnly: true, noStatus: true, list: plain}, exitOK, 2000, "accepted"},
		{"Compute only, with status", &foreignService{computeOnly: true, list: plain}, exitOK, 2001, ""},
		{"no UsageType", &foreignService{list: pages(math.MaxInt, "%s", func(l *amieusage.LoadedRecord) { l.UsageType = "" })}, exitOK, 2001, ""},
		{"rounded charges", &foreignService{list: pages(math.MaxInt, "%s", rounded(2))}, exitOK, 2001, ""},
		{"1,000 records", &foreignService{list: plain, takes: refusing(413, func(_ []byte, n int) bool { return n > 1000 })}, exitOK, 2001, ""},
		{"a poisonous record", &foreignService{list: plain, takes: refusing(500, func(body []byte, _ int) bool { return bytes.Contains(body, []byte(`"1234"`)) })},
			exitRefused, 2000, "not sent"},
		{"a poisonous record, by reset", &foreignService{list: plain, takes: refusing(0, func(body []byte, _ int) bool { return bytes.Contains(body, []byte(`"1234"`)) })},
			exitRefused, 2000, "not sent"},
		{"256 KiB by 413", &foreignService{list: plain, takes: refusing(413, large)}, exitOK, 2001, ""},
		{"256 KiB by 400", &foreignService{list: plain, takes: refusing(400, large)}, exitOK, 2001, ""},
		{"256 KiB by 500", &foreignService{list: plain, takes: refusing(500, large)}, exitOK, 2001, ""},
		{"256 KiB by reset", &foreignService{list: plain, takes: refusing(0, large)}, exitOK, 2001, ""},
		{"no loaded", &foreignService{}, exitOK, 2001, ""},
		{"no loaded, no status", &foreignService{noStatus: true}, exitOK, 0, "accepted"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(test.service)
			defer server.Close()
			folder := t.TempDir()
			var dump bytes.Buffer
			dump.WriteString("JobIDRaw|JobID|User|Account|Partition|State|Submit|Start|End|ElapsedRaw|NNodes|NCPUS|AllocTRES\n")
			for n := range 2000 {
				fmt.Fprintf(&dump, "%d|%d|alice|p1|cpu|COMPLETED|1790000000|1790000000|%d|%d|1|4|cpu=4,node=1\n", n, n, 1790000000+1000+n, 1000+n)
			}
			for name, text := range map[string]string{"jobs.psv": dump.String(), "key": "k\n", "site.yaml": "site: PSC\napi_key_file: key\nusage_url: " + server.URL +
				"\nconfirm_wait: 2s\nresources: [{resource: rm, charge: {per_hour: {cpu: 1}, decimals: 6}}]\n"} {
				if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			run := func(args ...string) (string, int) {
				cmd := exec.Command(buildProgram(t), append(args, "--config", "site.yaml")...)
				cmd.Dir = folder
				out, _ := cmd.CombinedOutput()
				return string(out), cmd.ProcessState.ExitCode()
			}
			out, status := run("report", "--from-file", "jobs.psv")
			if status != test.status {
				t.Errorf("the first report: exit status %d: %s", status, out)
			}
			if out, status := run("refund", "1", "--amount", "0.5"); status != test.status {
				t.Errorf("the refund: exit status %d: %s", status, out)
			}
			began := time.Now()
			out, status = run("report", "--from-file", "jobs.psv", "-o", "json")
			if status != test.status || time.Since(began) > 20*time.Second {
				t.Errorf("the second report: exit status %d after %v: %s", status, time.Since(began), out)
			}
			out, _ = run("report", "--from-file", "jobs.psv")
			pending := "0"
			if test.more == "not sent" {
				pending = "1"
			}
			if !strings.Contains(out, "pending            "+pending) || test.more != "" && !strings.Contains(out, "\n"+test.more+" ") {
				t.Errorf("the third report: %s", out)
			}
			list, _ := run("records", "list", "--state", "loaded", "-o", "json")
			if n := int64(strings.Count(list, `"revision"`)); n != test.loaded {
				t.Errorf("%d records are loaded, want %d", n, test.loaded)
			}
			test.service.mu.Lock()
			defer test.service.mu.Unlock()
			want := 2001
			if test.more == "not sent" {
				want = 2000
			}
			if len(test.service.loaded) != want {
				t.Errorf("the service has %d records, want %d", len(test.service.loaded), want)
			}
		})
	}
}
