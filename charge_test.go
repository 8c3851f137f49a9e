package amieusage

import (
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseCharge(t *testing.T) {
	for _, c := range []struct {
		text       string
		millionths int64
		canonical  string
	}{
		{"0", 0, "0"},
		{"-0", 0, "0"},
		{"-0.000", 0, "0"},
		{"0e500", 0, "0"},
		{"+5", 5_000_000, "5"},
		{".5", 500_000, "0.5"},
		{"5.", 5_000_000, "5"},
		{"1e3", 1_000_000_000, "1000"},
		{"1E3", 1_000_000_000, "1000"},
		{"1.9e-05", 19, "0.000019"},
		{"16.25", 16_250_000, "16.25"},
		{"0016.2500", 16_250_000, "16.25"},
		{"100", 100_000_000, "100"},
		{"0.0019444444444444444", 1944, "0.0019444444444444444"},
		{"0.0000005", 0, "0.0000005"},                     // a tie, to even
		{"0.0000015", 2, "0.0000015"},                     // a tie, to even
		{"0.0000025000", 2, "0.0000025"},                  // a tie, to even
		{"0.00000250001", 3, "0.00000250001"},             // above the tie
		{"0.00000149999999999", 1, "0.00000149999999999"}, // below the tie
		{"-2.5e-6", -2, "-0.0000025"},
		{"-3.5e-6", -4, "-0.0000035"},
		{"1e-1000", 0, "0." + strings.Repeat("0", 999) + "1"},
		{"9000000000000", 9_000_000_000_000_000_000, "9000000000000"},
		{"-9000000000000", -9_000_000_000_000_000_000, "-9000000000000"},
		{"9000000000000.0000005", 9_000_000_000_000_000_000, "9000000000000.0000005"},
		{"0000000000000000000001", 1_000_000, "1"},
		{strings.Repeat("0", 1023) + "7", 7_000_000, "7"},
	} {
		charge, err := ParseCharge(c.text)
		if err != nil {
			t.Errorf("ParseCharge(%q): %v", c.text, err)
			continue
		}
		if charge.String() != c.text || !charge.IsSet() {
			t.Errorf("ParseCharge(%q) = %q, absent %t", c.text, charge, !charge.IsSet())
		}
		if n, err := charge.Millionths(); n != c.millionths || err != nil {
			t.Errorf("Millionths of %q = %d, %v, want %d", c.text, n, err, c.millionths)
		}
		if got := charge.canonical(); got != c.canonical {
			t.Errorf("canonical of %q = %q, want %q", c.text, got, c.canonical)
		}
	}
}

func TestParseChargeRefuses(t *testing.T) {
	for text, problem := range map[string]string{
		"":                          "is not a decimal number",
		" 1":                        "is not a decimal number",
		"1 ":                        "is not a decimal number",
		"NaN":                       "is not a decimal number",
		"Infinity":                  "is not a decimal number",
		"-inf":                      "is not a decimal number",
		"1,5":                       "is not a decimal number",
		"1_000":                     "is not a decimal number",
		"0x10":                      "is not a decimal number",
		"1/3":                       "is not a decimal number",
		".":                         "is not a decimal number",
		"+":                         "is not a decimal number",
		"e5":                        "is not a decimal number",
		"1e":                        "is not a decimal number",
		"--1":                       "is not a decimal number",
		"1.2.3":                     "is not a decimal number",
		"１":                         "is not a decimal number",
		"1e1001":                    "has an exponent out of range",
		"1e-1001":                   "has an exponent out of range",
		"1e999999999":               "has an exponent out of range",
		"1e9999999999":              "is not a decimal number",
		strings.Repeat("9", 1025):   "must not be longer than 1024 bytes",
		strings.Repeat("9", 100000): "must not be longer than 1024 bytes",
	} {
		c, err := ParseCharge(text)
		var e *Error
		if !errors.As(err, &e) || e.Code != CodeInvalid || !strings.Contains(err.Error(), problem) {
			t.Errorf("ParseCharge(%.40q) = %q, %v, want an error that it %s", text, c, err, problem)
		}
	}
}

func TestMillionthsOutOfRange(t *testing.T) {
	for _, text := range []string{"9000000000000.000001", "9000000000000.00000051", "-9000000000000.000001",
		"9999999999999", "10000000000000", "1e13", "1e1000", "-1e400", strings.Repeat("9", 1024)} {
		if n, err := mustCharge(t, text).Millionths(); err == nil {
			t.Errorf("Millionths of %.40q = %d, want an error", text, n)
		}
	}
}

// Millionths are the exact rational value, rounded half to even.
func TestMillionthsAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := chargeTexts().Draw(t, "charge")
		exact := rational(t, text)
		exact.Mul(exact, big.NewRat(1_000_000, 1))
		want := roundHalfEven(exact)
		limit := new(big.Int).Mul(big.NewInt(MaxCharge), big.NewInt(1_000_000))
		got, err := mustCharge(t, text).Millionths()
		switch inRange := new(big.Int).Abs(want).Cmp(limit) <= 0; {
		case inRange && (err != nil || want.Cmp(big.NewInt(got)) != 0):
			t.Fatalf("Millionths of %q = %d, %v, want %s", text, got, err, want)
		case !inRange && err == nil:
			t.Fatalf("Millionths of %q = %d, want an error", text, got)
		}
	})
}

func roundHalfEven(r *big.Rat) *big.Int {
	floor, rest := new(big.Int).DivMod(r.Num(), r.Denom(), new(big.Int))
	switch new(big.Int).Lsh(rest, 1).Cmp(r.Denom()) {
	case 1:
		floor.Add(floor, big.NewInt(1))
	case 0:
		if floor.Bit(0) == 1 {
			floor.Add(floor, big.NewInt(1))
		}
	}
	return floor
}

// Charges compare by value, whatever their spelling, and the canonical text is
// equal where the values are.
func TestChargesCompareByValue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := chargeTexts().Draw(t, "a")
		b := rapid.OneOf(chargeTexts(), respelled(a)).Draw(t, "b")
		want := rational(t, a).Cmp(rational(t, b))
		x, y := mustCharge(t, a), mustCharge(t, b)
		if got := x.Cmp(y); got != want {
			t.Fatalf("Cmp(%q, %q) = %d, want %d", a, b, got, want)
		}
		if equal := x.canonical() == y.canonical(); equal != (want == 0) {
			t.Fatalf("canonical %q = %q and %q = %q", a, x.canonical(), b, y.canonical())
		}
		if rational(t, x.canonical()).Cmp(rational(t, a)) != 0 {
			t.Fatalf("canonical of %q = %q", a, x.canonical())
		}
		if rational(t, x.decimal().Text('f')).Cmp(rational(t, a)) != 0 {
			t.Fatalf("decimal of %q = %s", a, x.decimal())
		}
	})
}

// respelled draws another text of the same value.
func respelled(text string) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		sign, number := "", strings.TrimPrefix(text, "+")
		if strings.HasPrefix(number, "-") {
			sign, number = "-", number[1:]
		} else if rapid.Bool().Draw(t, "plus") {
			sign = "+"
		}
		number, exponent, hasExponent := strings.Cut(strings.ToLower(number), "e")
		number = strings.Repeat("0", rapid.IntRange(0, 3).Draw(t, "leading")) + number
		if strings.Contains(number, ".") {
			number += strings.Repeat("0", rapid.IntRange(0, 3).Draw(t, "trailing"))
		}
		if hasExponent {
			return sign + number + "E" + exponent
		}
		return sign + number + rapid.SampledFrom([]string{"", "e0", "E+0", "e-00"}).Draw(t, "exponent")
	})
}

func TestChargeOfMillionths(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0", 1: "0.000001", -1: "-0.000001", 16_250_000: "16.25", 100_000_000: "100", -2_500_000: "-2.5",
		math.MaxInt64: "9223372036854.775807", math.MinInt64: "-9223372036854.775808",
	} {
		if got := ChargeOfMillionths(n); got.String() != want {
			t.Errorf("ChargeOfMillionths(%d) = %q, want %q", n, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		const limit = MaxCharge * 1_000_000
		n := rapid.Int64Range(-limit, limit).Draw(t, "n")
		c := ChargeOfMillionths(n)
		if got, err := c.Millionths(); got != n || err != nil {
			t.Fatalf("Millionths of %q = %d, %v, want %d", c, got, err, n)
		}
		if c.canonical() != c.String() {
			t.Fatalf("%q has trailing zeros", c)
		}
	})
}

func TestChargeOf(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 16: "16", -3: "-3", math.MaxInt64: "9223372036854775807"} {
		if got := ChargeOf(n); got.String() != want || !got.IsSet() {
			t.Errorf("ChargeOf(%d) = %q, want %q", n, got, want)
		}
	}
	r := validCompute(t)
	r.Charge = ChargeOf(MaxCharge + 1)
	mustEqual(t, "problems of a charge that no ledger holds", []string{"Charge"}, problemFields(t, r.Validate()))
}

func TestChargeJSON(t *testing.T) {
	for in, want := range map[string]string{
		`"16.25"`:               `"16.25"`,
		`16.25`:                 `"16.25"`,
		`0.0019444444444444444`: `"0.0019444444444444444"`,
		`-1E+2`:                 `"-1E+2"`,
		`"1\u0036"`:             `"16"`,
		`null`:                  `null`,
		`""`:                    `null`,
	} {
		c := mustDecode[Charge](t, []byte(in))
		if got := string(mustMarshal(t, c)); got != want {
			t.Errorf("%s came back as %s, want %s", in, got, want)
		}
	}
	for _, in := range []string{`true`, `[]`, `{}`, `"x"`, `"1e5000"`} {
		var c Charge
		var e *Error
		if err := json.Unmarshal([]byte(in), &c); !errors.As(err, &e) || e.Code != CodeInvalid || c.IsSet() {
			t.Errorf("%s was read as %q, %v", in, c, err)
		}
	}
}
