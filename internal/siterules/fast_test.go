package siterules

import (
	"testing"

	"github.com/cockroachdb/apd/v3"
	"pgregory.net/rapid"

	"github.com/amieusage/amieusage/internal/scheduler"
)

// TestFastChargeIsExact holds charges in whole numbers against those in decimals.
func TestFastChargeIsExact(t *testing.T) {
	fast := 0
	rapid.Check(t, func(t *rapid.T) {
		rate := Rate{PerHour: map[string]*apd.Decimal{}, Decimals: rapid.IntRange(0, 6).Draw(t, "decimals"),
			Combine: rapid.SampledFrom([]Combine{CombineSum, CombineMax}).Draw(t, "combine")}
		job := &scheduler.Job{ElapsedSeconds: rapid.Int64Range(0, 1<<rapid.IntRange(1, 40).Draw(t, "bits of elapsed")).Draw(t, "elapsed")}
		for _, name := range []string{"cpu", "mem", "gres/gpu"}[:rapid.IntRange(1, 3).Draw(t, "rates")] {
			rate.PerHour[name] = apd.New(rapid.Int64Range(0, 1_000_000).Draw(t, name), rapid.Int32Range(-8, 2).Draw(t, "exponent"))
			if rapid.IntRange(0, 9).Draw(t, "known") > 0 {
				count := rapid.Int64Range(0, 1<<rapid.IntRange(1, 62).Draw(t, "bits")).Draw(t, "count")
				job.TRES = append(job.TRES, scheduler.TRES{Name: name, Count: count, Nanos: rapid.SampledFrom([]int32{0, 0, 0, 500_000_000}).Draw(t, "nanos")})
			}
		}
		if err := rate.check(); err != nil {
			t.Fatal(err)
		}
		if rate.fast == nil {
			return
		}
		charge, ok := rate.fast.charge(job)
		if !ok {
			return
		}
		fast++
		if want := rate.charge(job); charge != want {
			t.Fatalf("%s of %v for %d s: %s, in decimals %s", rate.Text(), job.TRES, job.ElapsedSeconds, charge, want)
		}
	})
	if fast == 0 {
		t.Error("nothing was charged in whole numbers")
	}
}
