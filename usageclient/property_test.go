package usageclient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/amieusage/amieusage"
)

// TestEveryRecordHasOneOutcome streams any records to services with any limits
// and faults.
func TestEveryRecordHasOneOutcome(t *testing.T) {
	var current atomic.Pointer[service]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		current.Load().ServeHTTP(w, r)
	}))
	defer server.Close()
	rapid.Check(t, func(t *rapid.T) {
		s := drawService(t)
		current.Store(s)
		maxBytes := rapid.SampledFrom([]int{350, 1000, 4000, 20_000}).Draw(t, "request bytes")
		opts := []Option{
			WithBaseURL(server.URL + basePath),
			WithRetry(RetryPolicy{MaxAttempts: 2, FirstDelay: 1}),
			WithMaxRequestBytes(maxBytes),
			WithMaxRequestRecords(rapid.SampledFrom([]int{1, 7, 50}).Draw(t, "request records")),
		}
		if rapid.Bool().Draw(t, "no validation") {
			opts = append(opts, WithoutValidation())
		}
		if rapid.Bool().Draw(t, "compressed") {
			opts = append(opts, WithCompression())
		}
		c, err := New(testSite, testKey, opts...)
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseIdleConnections()
		records := rapid.SliceOfN(rapid.Custom(drawRecord), 0, 40).Draw(t, "records")

		taken := 0
		outcomes := map[int]Outcome{}
		last := map[amieusage.UsageType]int{}
		failure := c.SendStream(context.Background(), streamOf(records, &taken, nil), func(part *SendResult) error {
			for _, o := range part.Outcomes {
				if _, ok := outcomes[o.Index]; ok || o.Index >= taken || o.Record != records[o.Index] {
					t.Fatalf("outcome %+v", o)
				}
				outcomes[o.Index] = o
				if o.Record != nil {
					if kind := o.Record.UsageType(); o.Index < last[kind] {
						t.Fatalf("record %d is reported after record %d", o.Index, last[kind])
					} else {
						last[kind] = o.Index
					}
				}
			}
			return nil
		})

		s.mu.Lock()
		defer s.mu.Unlock()
		if len(outcomes) != taken {
			t.Fatalf("%d records were taken, %d reported", taken, len(outcomes))
		}
		for i, size := range s.sizes {
			if size > maxBytes || s.records[i] == 0 {
				t.Fatalf("request %d has %d bytes and %d records", i, size, s.records[i])
			}
		}
		result := &SendResult{Outcomes: make([]Outcome, taken)}
		for i, o := range outcomes {
			result.Outcomes[i] = o
			if (o.Err == nil) != (o.State == Accepted) {
				t.Fatalf("outcome %+v", o)
			}
		}
		unsent := len(result.Unsent())
		if (failure != nil) != (unsent > 0) {
			t.Fatalf("error %v with %d unsent", failure, unsent)
		}
		if _, ok := errors.AsType[*Error](failure); failure != nil && !ok {
			t.Fatalf("error %v", failure)
		}
		if wrong := s.t.(*complaints).list; len(wrong) > 0 {
			t.Fatalf("the service complains: %q", wrong)
		}
		checkService(t, s, result, taken < len(records))
	})
}

// checkService compares what the client says with what the service has.
func checkService(t *rapid.T, s *service, result *SendResult, ended bool) {
	has := map[amieusage.Digest]bool{}
	for _, r := range s.accepted {
		has[amieusage.ContentDigest(r)] = true
	}
	unsent := map[amieusage.Digest]bool{}
	for _, o := range result.Unsent() {
		unsent[amieusage.ContentDigest(o.Record)] = true
	}
	for _, o := range result.Accepted() {
		if !has[amieusage.ContentDigest(o.Record)] {
			t.Fatalf("record %d counts as accepted, but the service does not have it", o.Index)
		}
	}
	for _, o := range result.Refused() {
		if o.Record != nil && has[amieusage.ContentDigest(o.Record)] {
			t.Fatalf("record %d counts as refused, but the service has it", o.Index)
		}
	}
	if len(unsent) > 0 {
		return
	}
	client, service := lastRevisions(acceptedOf(result)), lastRevisions(s.accepted)
	if len(client) != len(service) {
		t.Fatalf("the client counts %d identities, the service %d", len(client), len(service))
	}
	for id, digest := range client {
		if service[id] != digest {
			t.Fatalf("of %v the service has another revision than the client believes", id)
		}
	}
	if ended {
		t.Fatal("the stream ended before its records did, without an unsent one")
	}
}

// drawRecord makes records of few identities and of sizes from below to above
// the limits; some are invalid, and some are nil.
func drawRecord(t *rapid.T) amieusage.Record {
	n := rapid.IntRange(0, 9).Draw(t, "identity")
	charge, err := amieusage.ParseCharge(fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "charge")))
	if err != nil {
		t.Fatal(err)
	}
	reference := ""
	if rapid.Bool().Draw(t, "has reference") {
		reference = fmt.Sprint("ref-", n)
	}
	switch rapid.IntRange(0, 9).Draw(t, "kind") {
	case 0:
		return nil
	case 1, 2:
		r := storage(n)
		r.Charge, r.LocalReference = charge, reference
		return r
	}
	r := compute(n)
	r.Charge, r.LocalReference = charge, reference
	r.JobName = strings.Repeat("j", rapid.SampledFrom([]int{0, 7, 300, 3000, 4100}).Draw(t, "job name"))
	if rapid.IntRange(0, 9).Draw(t, "invalid") == 0 {
		r.Username = ""
	}
	return r
}

func drawService(t *rapid.T) *service {
	s := &service{t: new(complaints)}
	s.maxBytes = rapid.SampledFrom([]int{0, 0, 500, 1500, 3500}).Draw(t, "service bytes")
	s.maxRecords = rapid.SampledFrom([]int{0, 0, 1, 5}).Draw(t, "service records")
	s.tooLarge = rapid.SampledFrom([]func(http.ResponseWriter){
		nil, problem(400, "x", "too_large"), problem(400, "request is too large", ""), problem(413, "", ""),
	}).Draw(t, "too large")
	refused := rapid.IntRange(0, 4).Draw(t, "refused charge")
	s.refuse = func(r amieusage.Record) string {
		if r.Common().Charge.String() == fmt.Sprint(refused) {
			return "bad charge"
		}
		return ""
	}
	s.echo = rapid.SampledFrom([]func(amieusage.FailedRecord) string{
		nil,
		func(f amieusage.FailedRecord) string { return `{"Error": "?"}` },
		func(f amieusage.FailedRecord) string { return member(string(f.AppendJSON(nil)), "SubmitTime", `"?"`) },
		func(f amieusage.FailedRecord) string {
			return fmt.Sprintf(`{"LocalReference": %q}`, f.Record.Common().LocalReference)
		},
	}).Draw(t, "echo")
	const lost = 1
	faults := rapid.SliceOfN(rapid.SampledFrom([]int{200, 200, 200, 200, 200, 400, 401, 429, 500, 503, 0, -1, lost, lost}), 0, 12).Draw(t, "faults")
	s.before = func(n int, w http.ResponseWriter) bool {
		if n > len(faults) || faults[n-1] == 200 || faults[n-1] == lost {
			return false
		}
		switch status := faults[n-1]; status {
		case -1:
			_, _ = w.Write([]byte("<html>"))
		case 0:
			panic(http.ErrAbortHandler)
		default:
			w.WriteHeader(status)
		}
		return true
	}
	s.loses = func(n int) bool { return n <= len(faults) && faults[n-1] == lost }
	return s
}

// complaints keeps what is wrong with the requests.
type complaints struct{ list []string }

func (c *complaints) Errorf(format string, args ...any) {
	c.list = append(c.list, fmt.Sprintf(format, args...))
}
