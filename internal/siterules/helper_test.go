package siterules_test

import (
	"testing"
	"time"

	"github.com/cockroachdb/apd/v3"

	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/siterules"
)

const gpu, rm, large, ocean = "bridges2-gpu.psc.access-ci.org", "bridges2-rm.psc.access-ci.org",
	"bridges2-em.psc.access-ci.org", "ocean.psc.access-ci.org"

// rates returns the rates of pairs of a TRES and a decimal number.
func rates(t testing.TB, pairs ...string) map[string]*apd.Decimal {
	t.Helper()
	perHour := map[string]*apd.Decimal{}
	for i := 0; i < len(pairs); i += 2 {
		rate, _, err := apd.NewFromString(pairs[i+1])
		if err != nil {
			t.Fatal(err)
		}
		perHour[pairs[i]] = rate
	}
	return perHour
}

// siteRules are those of a site with several resources and exact charges.
func siteRules(t testing.TB) *siterules.Rules {
	t.Helper()
	rules := &siterules.Rules{
		Resources: []siterules.Resource{
			{Name: ocean, Match: siterules.Match{Clusters: []string{"ocean*"}}, Rates: []siterules.Rate{{PerHour: rates(t, "node", "1"), Decimals: 6}}},
			{Name: gpu, Match: siterules.Match{Partitions: []string{"GPU*", "gpu*"}}, Rates: []siterules.Rate{{PerHour: rates(t, "gres/gpu", "1"), Decimals: 6}}},
			{Name: large, Match: siterules.Match{QOS: []string{"em", "em-*"}}, Rates: []siterules.Rate{{PerHour: rates(t, "mem", "0.01"), Decimals: 6}}},
			{Name: rm, Match: siterules.Match{Partitions: []string{"RM*", "cpu", "debug"}}, Rates: []siterules.Rate{{
				PerHour: rates(t, "cpu", "1", "mem", "0.25", "gres/gpu", "16.5"), Combine: siterules.CombineMax, Decimals: 6}}},
		},
	}
	if err := rules.Check(); err != nil {
		t.Fatal(err)
	}
	return rules
}

// ranJob is a job that nothing is wrong with, in which tests change what they
// are about.
func ranJob() *scheduler.Job {
	submit := time.Date(2026, 10, 1, 8, 0, 0, 0, time.UTC)
	return &scheduler.Job{
		Place: scheduler.Place{File: "dump.psv", Line: 2}, Cluster: "testc", ID: "42", DisplayID: "42",
		User: "alice", Account: "p.abc123456.000", Partition: "RM", QOS: "normal", Name: "run", ReqMem: "800M",
		State: "COMPLETED", Submit: submit, Start: submit.Add(time.Minute), End: submit.Add(time.Minute + time.Hour),
		ElapsedSeconds: 3600, Nodes: 1, CPUs: 8,
		TRES: []scheduler.TRES{{Name: "cpu", Count: 8}, {Name: "mem", Count: 4 << 30}, {Name: "node", Count: 1}},
	}
}

// mustCheck checks rules that a test has changed.
func mustCheck(t testing.TB, rules *siterules.Rules) {
	t.Helper()
	if err := rules.Check(); err != nil {
		t.Fatal(err)
	}
}
