package slurm

import (
	"math/big"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/amieusage/amieusage/internal/scheduler"
)

func TestParseCount(t *testing.T) {
	const none = -1
	tests := []struct {
		text      string
		mebibytes bool
		want      int64
	}{
		{"8", false, 8},
		{"0", false, 0},
		{"9223372036854775807", false, 1<<63 - 1},
		{"1.50K", false, 1536},
		{"800M", true, 800 << 20},
		{"800", true, 800 << 20}, // a bare count of memory is in MiB
		{"0", true, 0},
		{"512K", true, 512 << 10},
		{"250.50G", true, 256512 << 20},
		{"292.97G", true, 314574142177}, // 314574142177.28, of sacct --units
		{"1.50T", true, 3 << 39},
		{"1P", true, 1 << 50},
		{"7E", true, 7 << 60},
		{"0.000000000000000001E", true, 1}, // 1.15 bytes
		{"8E", true, none},
		{"7.999999999999999999E", true, none - 1},
		{"", true, none}, {"G", true, none}, {".5G", true, none}, {"5.G", true, none}, {"1.2.3G", true, none}, {"-1", false, none},
		{"1,5G", true, none}, {"8X", false, none}, {"0x8", false, none}, {"1e3", false, none}, {"99999999999999999999", false, none},
		{"1.0000000000000000001G", true, none},
	}
	for _, tt := range tests {
		got, _, ok := parseCount(tt.text, tt.mebibytes)
		switch {
		case tt.want == none && ok:
			t.Errorf("%q: got %d; want a refusal", tt.text, got)
		case tt.want >= 0 && (!ok || got != tt.want):
			t.Errorf("%q: got %d, %t; want %d", tt.text, got, ok, tt.want)
		}
	}
}

func TestParseCountKeepsFractions(t *testing.T) {
	for text, want := range map[string]scheduler.TRES{
		"8.5": {Count: 8, Nanos: 500_000_000}, "1.50": {Count: 1, Nanos: 500_000_000}, "0.25": {Nanos: 250_000_000}, "8": {Count: 8},
		"0.0000000005": {Nanos: 1}, "0.0000000004": {}, "1.999999999999": {Count: 2}, "1.5K": {Count: 1536}, "0.0001K": {Nanos: 102_400_000},
	} {
		count, nanos, ok := parseCount(text, false)
		if got := (scheduler.TRES{Count: count, Nanos: nanos}); !ok || got != want {
			t.Errorf("%s: got %v, %t; want %v", text, got, ok, want)
		}
	}
}

// TestParseCountIsExact compares with arithmetic on rational numbers.
func TestParseCountIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := strconv.FormatInt(rapid.Int64Range(0, 1<<62).Draw(t, "whole"), 10)
		if fraction := rapid.StringMatching(`[0-9]{0,18}`).Draw(t, "fraction"); fraction != "" {
			text += "." + fraction
		}
		value, ok := new(big.Rat).SetString(text)
		if !ok {
			t.Fatalf("%q is no number", text)
		}
		unit := rapid.SampledFrom([]string{"", "K", "M", "G", "T", "P", "E"}).Draw(t, "unit")
		power := strings.Index(" KMGTPE", unit)
		if unit == "" {
			power = 2 // MiB
		}
		value.Mul(value, new(big.Rat).SetInt(new(big.Int).Lsh(big.NewInt(1), uint(10*power))))
		want := rounded(value)
		got, nanos, ok := parseCount(text+unit, true)
		if ok != want.IsInt64() || ok && (got != want.Int64() || nanos != 0) {
			t.Fatalf("%s%s: got %d and %d nanos, %t; want %s", text, unit, got, nanos, ok, want)
		}
		if unit == "" {
			value.Quo(value, big.NewRat(mebi, 1))
		}
		wantNanos := new(big.Int)
		want.DivMod(rounded(value.Mul(value, big.NewRat(1e9, 1))), big.NewInt(1e9), wantNanos)
		got, nanos, ok = parseCount(text+unit, false)
		if ok != want.IsInt64() || ok && (got != want.Int64() || int64(nanos) != wantNanos.Int64()) {
			t.Fatalf("%s%s: got %d and %d nanos, %t; want %s and %s", text, unit, got, nanos, ok, want, wantNanos)
		}
	})
}

// rounded returns the nearest whole number, the larger one of two.
func rounded(value *big.Rat) *big.Int {
	half := new(big.Rat).Add(value, big.NewRat(1, 2))
	return new(big.Int).Div(half.Num(), half.Denom())
}

func TestFormatMebibytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0M", 100: "100M", 800: "800M", 1024: "1G", 2048: "2G", 3200: "3200M", 256512: "250.50G",
		1 << 20: "1T", 3 << 19: "1.50T", 1573376: "1536.50G", 300000: "300000M"} {
		if got := formatMebibytes(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(0, 1<<40).Draw(t, "MiB")
		if back, _, ok := parseCount(formatMebibytes(n), true); !ok || back != n*mebi {
			t.Fatalf("%d MiB: %s reads back as %d bytes", n, formatMebibytes(n), back)
		}
	})
}
