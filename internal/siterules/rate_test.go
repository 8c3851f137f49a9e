package siterules_test

import (
	"fmt"
	"math"
	"math/big"
	"testing"

	"github.com/cockroachdb/apd/v3"
	"pgregory.net/rapid"

	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/siterules"
)

func TestCharge(t *testing.T) {
	const hour = 3600
	held := []scheduler.TRES{{Name: "billing", Count: 99}, {Name: "cpu", Count: 8}, {Name: "gres/gpu:a100", Count: 2},
		{Name: "gres/gpu", Count: 2}, {Name: "mem", Count: 6 << 30}, {Name: "node", Count: 2}}
	typed := []scheduler.TRES{{Name: "cpu", Count: 8}, {Name: "gres/gpu:a100", Count: 2}, {Name: "gres/gpu:h100", Count: 1}}
	tests := []struct {
		what     string
		tres     []scheduler.TRES
		elapsed  int64
		rates    []string
		combine  siterules.Combine
		decimals int
		want     string
	}{
		{"cores", held, hour, []string{"cpu", "1"}, "", 6, "8"},
		{"a second", held, 1, []string{"cpu", "1"}, "", 6, "0.002222"},
		{"fewer decimals", held, 1000, []string{"cpu", "1"}, "", 2, "2.22"},
		{"no decimals", held, 1000, []string{"cpu", "1"}, "", 0, "2"},
		{"half to even, down", held, hour, []string{"cpu", "0.0625"}, "", 0, "0"},
		{"half to even, up", held, hour, []string{"cpu", "0.1875"}, "", 0, "2"},
		{"above the half", held, hour, []string{"cpu", "0.06250000000000001"}, "", 0, "1"},
		{"whole tens are not written with an exponent", held, hour, []string{"cpu", "1000"}, "", 6, "8000"},
		{"memory per GiB", held, hour, []string{"mem", "0.5"}, "", 6, "3"},
		{"part of a GiB", []scheduler.TRES{{Name: "mem", Count: 800 << 20}}, hour, []string{"mem", "1"}, "", 6, "0.78125"},
		{"sum", held, hour, []string{"cpu", "1", "gres/gpu", "16.5", "mem", "0.5"}, siterules.CombineSum, 6, "44"},
		{"sum unless told otherwise", held, hour, []string{"cpu", "1", "node", "1"}, "", 6, "10"},
		{"max", held, hour, []string{"cpu", "1", "gres/gpu", "16.5", "mem", "0.5"}, siterules.CombineMax, 6, "33"},
		{"the total alone, never with its types", held, hour, []string{"gres/gpu", "1"}, "", 6, "2"},
		{"one type", held, hour, []string{"gres/gpu:a100", "1"}, "", 6, "2"},
		{"types where there is no total", typed, hour, []string{"gres/gpu", "1"}, "", 6, "3"},
		{"types at their own rates", typed, hour, []string{"gres/gpu:a100", "1", "gres/gpu:h100", "2"}, "", 6, "4"},
		{"what was not allocated costs nothing", held, hour, []string{"gres/fpga", "1"}, "", 6, "0"},
		{"and is no maximum", held, hour, []string{"gres/fpga", "1", "cpu", "0"}, siterules.CombineMax, 6, "0"},
		{"billing", held, hour, []string{"billing", "0.01"}, "", 6, "0.99"},
		{"nearly all that a ledger can hold", []scheduler.TRES{{Name: "cpu", Count: 9_000_000_000}}, hour, []string{"cpu", "1000"}, "", 6, "9000000000000"},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			rules := siteRules(t)
			rules.Resources[3].Rates[0] = siterules.Rate{PerHour: rates(t, tt.rates...), Combine: tt.combine, Decimals: tt.decimals}
			if err := rules.Check(); err != nil {
				t.Fatal(err)
			}
			job := ranJob()
			job.TRES, job.ElapsedSeconds = tt.tres, tt.elapsed
			if got := mustConvert(t, rules, job).Charge.String(); got != tt.want {
				t.Errorf("charge %s, want %s", got, tt.want)
			}
		})
	}
}

// TestChargeIsExact compares with fractions, which lose nothing.
func TestChargeIsExact(t *testing.T) {
	names := []string{"cpu", "mem", "node", "gres/gpu", "billing"}
	bounds := new(big.Rat).SetInt64(9_000_000_000_000)
	compared := 0
	rapid.Check(t, func(rt *rapid.T) {
		charge := siterules.Rate{PerHour: nil, Decimals: rapid.IntRange(0, 6).Draw(rt, "decimals"),
			Combine: rapid.SampledFrom([]siterules.Combine{"", siterules.CombineSum, siterules.CombineMax}).Draw(rt, "combine")}
		job := ranJob()
		job.TRES = nil
		job.ElapsedSeconds = rapid.OneOf(rapid.Int64Range(1, 1_000_000), rapid.Int64Range(1, math.MaxInt64),
			rapid.SampledFrom([]int64{1800, 3600, 450, 225, 9})).Draw(rt, "elapsed")
		var pairs []string
		sum, largest := new(big.Rat), new(big.Rat)
		for i, name := range names[:rapid.IntRange(1, len(names)).Draw(rt, "rates")] {
			rate := fmt.Sprintf("%de%d", rapid.OneOf(rapid.Int64Range(0, 1000), rapid.Int64Range(0, 999_999_999_999_999_999)).Draw(rt, "digits"),
				rapid.OneOf(rapid.IntRange(-6, 0), rapid.IntRange(-18, 18)).Draw(rt, "exponent"))
			pairs = append(pairs, name, rate)
			count := rapid.OneOf(rapid.Int64Range(0, 4096), rapid.Int64Range(0, math.MaxInt64)).Draw(rt, "count")
			if i == 0 || rapid.Bool().Draw(rt, "allocated") {
				job.TRES = append(job.TRES, scheduler.TRES{Name: name, Count: count})
			} else {
				count = 0
			}
			part, _ := new(big.Rat).SetString(rate)
			part.Mul(part, new(big.Rat).SetInt64(count))
			if name == "mem" {
				part.Quo(part, new(big.Rat).SetInt64(1<<30))
			}
			sum.Add(sum, part)
			if part.Cmp(largest) > 0 {
				largest = part
			}
		}
		if charge.Combine == siterules.CombineMax {
			sum = largest
		}
		charge.PerHour = rates(t, pairs...)
		rules := &siterules.Rules{Resources: []siterules.Resource{{Name: rm, Rates: []siterules.Rate{charge}}}}
		if err := rules.Check(); err != nil {
			rt.Fatal(err)
		}
		sum.Mul(sum, big.NewRat(job.ElapsedSeconds, 3600))
		want := roundHalfEven(sum, charge.Decimals)
		r, _, err := rules.Convert(job)
		if want.Cmp(bounds) > 0 {
			if err == nil {
				rt.Fatalf("charge %s is beyond what a ledger can hold", r.Charge)
			}
			return
		}
		if err != nil {
			rt.Fatal(err)
		}
		compared++
		if got, ok := new(big.Rat).SetString(r.Charge.String()); !ok || got.Cmp(want) != 0 {
			rt.Fatalf("charge %s, want %s", r.Charge, want.FloatString(charge.Decimals))
		}
	})
	if compared == 0 {
		t.Error("no charge was compared")
	}
}

// roundHalfEven rounds to so many decimals.
func roundHalfEven(r *big.Rat, decimals int) *big.Rat {
	unit := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(decimals)), nil))
	scaled := new(big.Rat).Mul(r, unit)
	whole, rest := new(big.Int).QuoRem(scaled.Num(), scaled.Denom(), new(big.Int))
	switch rest.Lsh(rest, 1).Cmp(scaled.Denom()) {
	case 1:
		whole.Add(whole, big.NewInt(1))
	case 0:
		whole.Add(whole, big.NewInt(int64(whole.Bit(0))))
	}
	return new(big.Rat).Quo(new(big.Rat).SetInt(whole), unit)
}

func TestNamesOfTRES(t *testing.T) {
	for name, want := range map[string]bool{
		"cpu": true, "mem": true, "node": true, "billing": true, "gres/gpu": true, "gres/gpu:a100": true, "license/matlab": true,
		"cpus": false, "gpu": false, "gres/": false, "gres": false, "CPU": true, "Gres/GPU:H100": true, "": false,
	} {
		rules := siterules.Rules{Resources: []siterules.Resource{
			{Name: "r", Rates: []siterules.Rate{{PerHour: map[string]*apd.Decimal{name: apd.New(1, 0)}}}},
		}}
		if err := rules.Check(); (err == nil) != want {
			t.Errorf("per_hour: {%q: 1}: %v", name, err)
		}
	}
}
