package usagetest_test

import (
	"testing"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/usageclient/usagetest"
)

func record(id, user string) *amieusage.ComputeRecord {
	at := time.Date(2026, 10, 1, 8, 0, 0, 0, time.UTC)
	return &amieusage.ComputeRecord{
		Username: user, LocalProjectID: "p.abc", LocalRecordID: id, Resource: "rm", SubmitTime: at, StartTime: at, EndTime: at.Add(time.Hour),
		Charge: amieusage.MustParseCharge("16.25"), NodeCount: amieusage.CountOf(1), CpuCoreCount: amieusage.CountOf(8), Queue: "RM",
	}
}

func TestServer(t *testing.T) {
	s := usagetest.NewServer(t)
	for _, site := range []string{"PSC", "SDSC"} {
		if result, err := s.Client(site).Send(t.Context(), record("1", "alice"), record("2", "bob")); err != nil || len(result.Accepted()) != 2 {
			t.Fatalf("%v, %v", result, err)
		}
	}
	s.Wait()
	if loaded := s.Loaded(); len(loaded) != 4 || loaded[0].Charge.String() != "16.25" {
		t.Errorf("%v", loaded)
	}
}

const registry = `
sites:
  - name: PSC
    resources: [{name: rm}]
    projects: [{id: p.abc, users: [alice], allocations: [{resource: rm, amount: 100, start: 2026-01-01, end: 2026-12-31}]}]
`

func TestStrict(t *testing.T) {
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	s := usagetest.NewServer(t, usagetest.Strict(), usagetest.WithRegistry(registry), usagetest.WithClock(func() time.Time { return at }))
	c := s.Client("PSC")
	if _, err := c.Send(t.Context(), record("1", "alice"), record("2", "eve")); err != nil {
		t.Fatal(err)
	}
	s.Wait()
	if loaded := s.Loaded(); len(loaded) != 1 || !loaded[0].LoadedTime.Equal(at) {
		t.Errorf("%v", loaded)
	}
	failed, err := c.ListFailed(t.Context())
	if err != nil || len(failed) != 1 || failed[0].Error != "The user is not known on the project" {
		t.Errorf("%v, %v", failed, err)
	}
}

func TestFailures(t *testing.T) {
	s := usagetest.NewServer(t, usagetest.WithFailures(func(r amieusage.Record) string {
		if r.Common().Username == "bob" {
			return "bob has left"
		}
		return ""
	}))
	c := s.Client("PSC")
	if _, err := c.Send(t.Context(), record("1", "alice"), record("2", "bob")); err != nil {
		t.Fatal(err)
	}
	s.Wait()
	failed, err := c.ListFailed(t.Context())
	if err != nil || len(failed) != 1 || failed[0].Error != "bob has left" || len(s.Loaded()) != 1 {
		t.Errorf("%v, %v", failed, err)
	}
	if _, err := c.ClearFailedIDs(t.Context(), 4711); amieusage.CodeOf(err) != amieusage.CodeNotFound {
		t.Errorf("what is not there is cleared: %v", err)
	}
}
