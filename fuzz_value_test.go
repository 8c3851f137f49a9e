package amieusage

import (
	"errors"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// The slow… functions read what this package reads, by other means.

var slowTimeForm = regexp.MustCompile(`^([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[Tt ]([0-9]{2}:[0-9]{2})(:[0-9]{2}(?:[.,][0-9]+)?)?(?:[Zz]|([+-](?:[01][0-9]|2[0-3])):?([0-5][0-9])?)?)?$`)

func slowTime(s string) (time.Time, bool) {
	m := slowTimeForm.FindStringSubmatch(s)
	if m == nil || strings.HasSuffix(m[0], ":") {
		return time.Time{}, false
	}
	clock, seconds, hours, minutes := m[2], m[3], m[4], m[5]
	if clock == "" {
		clock = "00:00"
	}
	if seconds == "" {
		seconds = ":00"
	}
	if len(seconds) > len(":00.123456789") {
		seconds = seconds[:len(":00.123456789")]
	}
	if minutes == "" {
		minutes = "00"
	}
	if hours == "" {
		hours = "+00"
	}
	t, err := time.Parse("2006-01-02T15:04:05-07:00", m[1]+"T"+clock+strings.Replace(seconds, ",", ".", 1)+hours+":"+minutes)
	return t, err == nil
}

func FuzzParseTime(f *testing.F) {
	for _, s := range []string{"", "2026-10-01", "2026-10-01T23:59:00Z", "2026-10-01 23:59:00.123456-04:00", "2026-10-01t23:59,5+0530",
		"2026-10-01T23:59+05", "2026-10-01T23:59:00+05:", "2026-12-31T23:59:60Z", "2026-10-01T24:00:00", "0000-02-29T00:00:00+23:59",
		"9999-12-31T23:59:59.9999999999-23:59", "2026-02-29", "2026-10-01T23:59:00 00:00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseTime(s)
		want, ok := slowTime(s)
		if (err == nil) != ok {
			t.Fatalf("%q: error %v; the reference can read it: %t", s, err, ok)
		}
		if err != nil {
			if !got.IsZero() || !utf8.ValidString(err.Error()) {
				t.Fatalf("%v, %q", got, err)
			}
			return
		}
		mustEqual(t, "time", want, got)
		again, err := ParseTime(FormatTime(got))
		if err != nil {
			t.Fatalf("%q was written as %q: %v", s, FormatTime(got), err)
		}
		mustEqual(t, "time", got, again)
	})
}

// slowNumber reads a decimal number with an exponent within ±1,000.
func slowNumber(s string) (*big.Rat, bool) {
	if _, err := strconv.ParseFloat(s, 64); err != nil && !errors.Is(err, strconv.ErrRange) || strings.Trim(s, "0123456789.eE+-") != "" {
		return nil, false
	}
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		exponent, err := strconv.Atoi(s[i+1:])
		if err != nil || exponent < -1000 || exponent > 1000 || len(strings.Trim(s[i+1:], "+-")) > 9 {
			return nil, false
		}
	}
	return new(big.Rat).SetString(s)
}

// slowMillionths rounds half to even.
func slowMillionths(r *big.Rat) (int64, bool) {
	r = new(big.Rat).Mul(r, big.NewRat(1_000_000, 1))
	n, rest := new(big.Int).DivMod(r.Num(), r.Denom(), new(big.Int))
	if twice := rest.Lsh(rest, 1).Cmp(r.Denom()); twice > 0 || twice == 0 && n.Bit(0) == 1 {
		n.Add(n, big.NewInt(1))
	}
	return n.Int64(), n.CmpAbs(big.NewInt(MaxCharge*1_000_000)) <= 0
}

func FuzzParseCharge(f *testing.F) {
	for _, s := range []string{"", "0", "-0", "+5", ".5", "5.", "1e3", "16.25", "1.9e-05", "0.0019444444444444444", "1e1000", "1e-1000",
		"1e999999999", "NaN", "0x1p3", "1_000", "9000000000000.0000005", "9000000000000.00000051", "0e500", strings.Repeat("9", 1025)} {
		f.Add(s, "16.250")
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, s, other string) {
		c, err := ParseCharge(s)
		want, ok := slowNumber(s)
		if ok = ok && len(s) <= 1024; (err == nil) != ok {
			t.Fatalf("%q: error %v; the reference can read it: %t", s, err, ok)
		}
		if err != nil {
			if c.IsSet() || !utf8.ValidString(err.Error()) {
				t.Fatalf("%q, %q", c, err)
			}
			return
		}
		if c.String() != s {
			t.Fatalf("%q became %q", s, c)
		}
		var again Charge
		if err := again.UnmarshalJSON(mustMarshal(t, c)); err != nil || again != c {
			t.Fatalf("%q became %q, %v", c, again, err)
		}
		canonical := mustCanonical(t, c)
		if rational(t, canonical).Cmp(want) != 0 || c.decimal().Sign() != want.Sign() {
			t.Fatalf("%q is not %q", canonical, s)
		}
		n, err := c.Millionths()
		if rounded, fits := slowMillionths(want); (err == nil) != fits || fits && n != rounded {
			t.Fatalf("%q is %d millionths, error %v; want %d, %t", s, n, err, rounded, fits)
		}
		if back, err := ChargeOfMillionths(n).Millionths(); back != n || err != nil {
			t.Fatalf("%d millionths became %d, %v", n, back, err)
		}
		if d, err := ParseCharge(other); err == nil {
			order := want.Cmp(rational(t, other))
			if c.Cmp(d) != order || d.Cmp(c) != -order || (canonical == mustCanonical(t, d)) != (order == 0) {
				t.Fatalf("%q and %q are compared as %d", s, other, c.Cmp(d))
			}
		}
	})
}

func mustCanonical(t *testing.T, c Charge) string {
	text := c.canonical()
	if _, err := ParseCharge(text); err != nil && len(text) <= maxChargeText {
		t.Fatalf("canonical %q: %v", text, err)
	}
	return text
}

func FuzzParseCount(f *testing.F) {
	for _, s := range []string{"", "0", "-0", "4", "4.0", "1e3", "1e-1", "40e-1", "9223372036854775807", "9223372036854775808", "-9223372036854775808",
		"1e18", "1e999999999", "0e99", "1000000000000000000000e-3", "0x10", "1_0", strings.Repeat("0", 100) + "1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCount(s)
		n, set := c.Get()
		if set != (err == nil) {
			t.Fatalf("%v, %v", c, err)
		}
		want, ok := slowNumber(s)
		ok = ok && want.IsInt() && want.Num().IsInt64()
		switch {
		case err != nil && !utf8.ValidString(err.Error()):
			t.Fatalf("%q", err)
		case err == nil && (!ok || want.Num().Int64() != n):
			t.Fatalf("%q became %d", s, n)
		case err != nil && ok && len(s) <= 64 && want.Sign() != 0: // there are odd ways to write 0
			t.Fatalf("%q is %s: %v", s, want, err)
		case err != nil:
			return
		}
		var again Count
		if err := again.UnmarshalJSON(mustMarshal(t, c)); err != nil || again != c {
			t.Fatalf("%v became %v, %v", c, again, err)
		}
	})
}
