package httpapi_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/httpapi"
	"github.com/amieusage/amieusage/internal/ledger"
)

func TestSendForms(t *testing.T) {
	b := newBench(t)
	for i, headers := range [][]string{
		{},
		{"Content-Type", ""},
		{"Content-Type", "application/json; charset=utf-8"},
		{"Content-Type", `APPLICATION/JSON;charset="UTF8"`},
		{"Content-Type", "application/x-www-form-urlencoded"}, // curl -d says so
		{"Content-Encoding", "identity"},
		{"Content-Encoding", "gzip"},
		{"Content-Encoding", "X-GZIP"},
	} {
		body := message(fmt.Sprint("form", i, "-"), 3)
		if len(headers) > 0 && strings.Contains(strings.ToLower(headers[1]), "gzip") {
			body = zipped(t, []byte(body))
		}
		var got amieusage.SendResponse
		b.call(t, "POST", "/api/v1/usage/", body, headers...).into(t, &got)
		if want := "3 records have been queued for loading, 0 records failed."; got.Message != want {
			t.Errorf("%v: %q, want %q", headers, got.Message, want)
		}
	}
	if counts := b.counts(t); counts.Accepted != 24 {
		t.Errorf("%+v, want 24 accepted", counts)
	}
}

// Refused records come back under both names, and the others are stored.
func TestSendWithRefusedRecords(t *testing.T) {
	b := newBench(t)
	var tr transcript
	foreign := strings.Replace(computeRecord("foreign", "alice"), resource, "frontera.tacc.access-ci.org", 1)
	for _, body := range []string{
		messageOf(computeRecord("good", "alice"), `{"LocalRecordID":"bad","Charge":"-1","Note":"kept"}`, foreign, `"no record"`),
		`{"UsageType":"compute","Records":[]}`,
	} {
		tr.add("POST", "/api/v1/usage/", b.call(t, "POST", "/api/v1/usage/", body))
	}
	tr.compare(t, "refused.txt")
	if counts := b.counts(t); counts.Accepted != 1 {
		t.Errorf("%+v, want 1 accepted", counts)
	}
}

// A small body that unzips to something huge is read to the limit, not beyond.
func TestGzipBomb(t *testing.T) {
	b := newBench(t)
	bomb := strings.Repeat(zipped(t, make([]byte, 1<<20)), 900) // 900 MiB
	if len(bomb) > amieusage.MaxRequestBytes {
		t.Fatalf("the bomb is %d bytes long: it would not get in", len(bomb))
	}
	b.call(t, "POST", "/api/v1/usage/", bomb, "Content-Encoding", "gzip").problem(t, http.StatusRequestEntityTooLarge)
}

// A body is too large where it says so, and where it turns out to be.
func TestBodyLimit(t *testing.T) {
	b := newBench(t)
	body := message("x", 1)
	for _, tt := range []struct {
		length int
		status int
	}{{amieusage.MaxRequestBytes, 200}, {amieusage.MaxRequestBytes + 1, 413}} {
		padded := body + strings.Repeat(" ", tt.length-len(body))
		if got := b.call(t, "POST", "/api/v1/usage/", padded).status; got != tt.status {
			t.Errorf("%d bytes: %d, want %d", tt.length, got, tt.status)
		}
		chunked := io.MultiReader(strings.NewReader(padded)) // of no known length
		if got := do(t, http.DefaultClient, request(t, "POST", b.url+"/api/v1/usage/", chunked)).status; got != tt.status {
			t.Errorf("%d bytes in chunks: %d, want %d", tt.length, got, tt.status)
		}
	}
}

// A connection whose request was refused early, with a large body on its way,
// delivers the answer and stays usable.
func TestEarlyRefusalKeepsTheConnection(t *testing.T) {
	b := newBench(t)
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
	defer client.CloseIdleConnections()
	large := bytes.Repeat([]byte{' '}, 900_000)
	for i, headers := range [][]string{
		{"XA-API-KEY", "wrong"},
		{"Content-Type", "text/plain"},
		{},
	} {
		r := request(t, "POST", b.url+"/api/v1/usage/", bytes.NewReader(large), headers...)
		reused := false
		r = r.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused },
		}))
		do(t, client, r).problem(t, []int{401, 415, 400}[i])
		if reused != (i > 0) {
			t.Errorf("request %d: connection reused: %t", i, reused)
		}
	}
}

// A client that asks before it sends is told at once.
func TestExpectContinue(t *testing.T) {
	b := newBench(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST /api/v1/usage/ HTTP/1.1\r\nHost: localhost\r\nXA-SITE: PSC\r\nXA-API-KEY: wrong\r\n"+
		"Content-Type: application/json\r\nContent-Length: 500000\r\nExpect: 100-continue\r\n\r\n")
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != 401 {
		t.Errorf("answer %s, want 401", response.Status)
	}
}

// Sends and reads at the same time add up.
func TestConcurrentUse(t *testing.T) {
	b := newBench(t)
	const senders, sends, records = 6, 4, 10
	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() {
			for j := range sends {
				// Every record is sent twice, by two senders.
				body := message(fmt.Sprintf("%d-%d-", i/2, j), records)
				if got := b.call(t, "POST", "/api/v1/usage/", body); got.status != 200 {
					t.Errorf("answer %d: %s", got.status, got.body)
				}
				path := []string{"status", "failed", "loaded", "summary?GroupBy=day,project&Format=csv"}[j%4]
				if got := b.call(t, "GET", "/api/v1/usage/"+path, ""); got.status != 200 {
					t.Errorf("answer %d: %s", got.status, got.body)
				}
			}
		})
	}
	wg.Wait()
	b.load(t)
	counts := b.counts(t)
	if counts.Accepted != senders*sends*records || counts.Loaded != counts.Accepted {
		t.Errorf("%+v, want %d accepted and loaded", counts, senders*sends*records)
	}
	var status amieusage.Status
	b.call(t, "GET", "/api/v1/usage/status", "").into(t, &status)
	var summary amieusage.Summary
	b.call(t, "GET", "/api/v1/usage/summary", "").into(t, &summary)
	if len(summary.Rows) != 1 || summary.Rows[0].RecordCount != counts.Accepted/2 || summary.Rows[0].Charge.String() != "180" {
		t.Errorf("summary %+v, want %d records once each", summary.Rows, counts.Accepted/2)
	}
}

// The requests beyond the limit are asked to come again; probes are not
// counted.
func TestInFlightLimit(t *testing.T) {
	b := newBench(t, func(c *httpapi.Config, _ *ledger.Config) { c.MaxInFlight = 1 })
	entered, leave := make(chan struct{}), make(chan struct{})
	b.store.status = func() error {
		close(entered)
		<-leave
		return nil
	}
	first := make(chan reply, 1)
	go func() { first <- b.call(t, "GET", "/api/v1/usage/status", "") }()
	<-entered
	answer := b.call(t, "POST", "/api/v1/usage/", message("x", 1))
	answer.problem(t, http.StatusServiceUnavailable)
	if got := answer.header.Get("Retry-After"); got != "1" {
		t.Errorf("Retry-After %q, want 1", got)
	}
	b.call(t, "GET", "/healthz", "").into(t, &struct{}{})
	close(leave)
	(<-first).into(t, &[]struct{}{})
	eventually(t, "a slot is free again", func() bool {
		return b.call(t, "POST", "/api/v1/usage/", message("x", 1)).status == 200
	})
}
