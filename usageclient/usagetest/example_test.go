package usagetest_test

import (
	"context"
	"testing"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/usageclient/usagetest"
)

// A program's own test: it sends a job to the real service, which keeps its ledger
// for as long as the test runs.
func Example() {
	_ = func(t *testing.T) { // TestReport, in a file of yours
		s := usagetest.NewServer(t)
		submitted := time.Date(2026, 10, 1, 23, 59, 0, 0, time.UTC)
		job := &amieusage.ComputeRecord{
			Username: "alice", LocalProjectID: "p.abc123456.000", LocalRecordID: "4711", Resource: "rm",
			SubmitTime: submitted, StartTime: submitted.Add(time.Minute), EndTime: submitted.Add(time.Hour),
			Charge: amieusage.ChargeOf(16), NodeCount: amieusage.CountOf(1),
		}
		if _, err := s.Client("PSC").Send(context.Background(), job); err != nil {
			t.Fatal(err)
		}
		s.Wait()
		if loaded := s.Loaded(); len(loaded) != 1 {
			t.Errorf("%d records are loaded", len(loaded))
		}
	}
}

// A service that fails what it is told to, to try a program's repair.
func ExampleWithFailures() {
	_ = func(t *testing.T) {
		s := usagetest.NewServer(t, usagetest.WithFailures(func(r amieusage.Record) string {
			if r.Common().Username == "bob" {
				return "unknown user"
			}
			return "" // it is loaded
		}))
		c := s.Client("PSC")
		_ = c
	}
}

// A service that loads only what its registry knows, at a time of the test's choice.
func ExampleStrict() {
	_ = func(t *testing.T) {
		at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
		s := usagetest.NewServer(t, usagetest.Strict(), usagetest.WithClock(func() time.Time { return at }), usagetest.WithRegistry(`
sites:
  - name: PSC
    resources: [{name: rm}]
    projects: [{id: p.abc, users: [alice], allocations: [{resource: rm, amount: 100, start: 2026-01-01, end: 2026-12-31}]}]
`))
		_ = s.Client("PSC")
	}
}
