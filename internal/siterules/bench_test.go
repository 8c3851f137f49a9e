package siterules_test

import (
	"testing"

	"github.com/amieusage/amieusage/internal/scheduler"
)

// BenchmarkConvert converts one job with three rates and a choice of four
// resources.
func BenchmarkConvert(b *testing.B) {
	rules := siteRules(b)
	job := ranJob()
	job.Partition = "RM-shared"
	job.TRES = []scheduler.TRES{
		{Name: "billing", Count: 8}, {Name: "cpu", Count: 8}, {Name: "gres/gpu:a100", Count: 2},
		{Name: "gres/gpu", Count: 2}, {Name: "mem", Count: 800 << 20}, {Name: "node", Count: 1},
	}
	if _, skip, err := rules.Convert(job); skip != "" || err != nil {
		b.Fatal(skip, err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := rules.Convert(job); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
}
