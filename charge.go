package amieusage

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"

	"github.com/cockroachdb/apd/v3"
)

// A Charge is an exact decimal amount of allocation units. It keeps the text
// that it was read from, and is never held in a binary float. The zero Charge
// is absent, which is not the same as a charge of "0".
type Charge struct {
	text string
}

// MaxCharge is the largest charge, up or down, that a ledger can hold: nine
// trillion units.
const MaxCharge = 9_000_000_000_000

const (
	maxChargeText     = 1024
	maxChargeExponent = 1000
)

var chargeSyntax = regexp.MustCompile(`^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE]([+-]?\d{1,9}))?$`)

// exact computes without losing a digit of any charge within the limits.
var exact = apd.Context{
	Precision:   2 * (maxChargeText + maxChargeExponent),
	MaxExponent: apd.MaxExponent,
	MinExponent: apd.MinExponent,
	Rounding:    apd.RoundHalfEven,
	Traps:       apd.DefaultTraps,
}

// ParseCharge reads a decimal number such as "16.25" or "1.9e-05". It refuses
// what is no number, NaN, infinities, texts beyond 1,024 bytes and exponents
// beyond ±1,000. Sign and range are matters of [Record.Validate].
func ParseCharge(s string) (Charge, error) {
	if len(s) > maxChargeText {
		return Charge{}, &Error{Code: CodeInvalid, Message: "is longer than 1024 bytes"}
	}
	if isPlainDecimal(s) {
		return Charge{s}, nil
	}
	m := chargeSyntax.FindStringSubmatch(s)
	if m == nil {
		return Charge{}, &Error{Code: CodeInvalid, Message: "is not a decimal number: " + quoteShort(s)}
	}
	if m[1] != "" {
		if exp, err := strconv.Atoi(m[1]); err != nil || exp > maxChargeExponent || exp < -maxChargeExponent {
			return Charge{}, &Error{Code: CodeInvalid, Message: "has an exponent out of range: " + quoteShort(s)}
		}
	}
	return Charge{s}, nil
}

// isPlainDecimal accepts what nearly every charge looks like: digits, and
// perhaps a point between digits.
func isPlainDecimal(s string) bool {
	point := false
	for i := range len(s) {
		switch {
		case s[i] >= '0' && s[i] <= '9':
		case s[i] == '.' && !point && i > 0 && i < len(s)-1:
			point = true
		default:
			return false
		}
	}
	return s != ""
}

// ChargeOfMillionths returns the charge of n millionths of a unit, without
// trailing zeros.
func ChargeOfMillionths(n int64) Charge {
	d := apd.New(n, -6)
	d.Reduce(d)
	return Charge{d.Text('f')}
}

// ChargeOf returns the charge that a decimal holds. NaN and infinities give
// the zero Charge.
func ChargeOf(d *apd.Decimal) Charge {
	if d.Form != apd.Finite {
		return Charge{}
	}
	return Charge{d.Text('f')}
}

// String returns the text that the charge was read from.
func (c Charge) String() string { return c.text }

// IsZero reports whether the charge is absent.
func (c Charge) IsZero() bool { return c.text == "" }

// Decimal returns the charge's exact value; zero where it is absent.
func (c Charge) Decimal() *apd.Decimal {
	d, _, err := apd.NewFromString(c.text)
	if err != nil {
		return new(apd.Decimal)
	}
	return d
}

// Millionths returns the charge in millionths of a unit, rounded half to even,
// as the ledger keeps it. The error is a [*Error] with [CodeInvalid] where the
// charge is beyond ±[MaxCharge].
func (c Charge) Millionths() (int64, error) {
	if n, ok := plainMillionths(c.text); ok {
		return n, nil
	}
	d := c.Decimal()
	if d.NumDigits()+int64(d.Exponent) > 14 {
		return 0, errChargeRange
	}
	if _, err := exact.Quantize(d, d, -6); err != nil {
		return 0, errChargeRange
	}
	d.Exponent = 0
	n, err := d.Int64()
	if err != nil || n > MaxCharge*1_000_000 || n < -MaxCharge*1_000_000 {
		return 0, errChargeRange
	}
	return n, nil
}

var errChargeRange = &Error{Code: CodeInvalid, Message: "is beyond nine trillion units"}

// plainMillionths reads the usual charge, up to 12 digits before the point and
// up to 6 behind it, where no rounding can happen.
func plainMillionths(s string) (int64, bool) {
	whole, fraction, _ := strings.Cut(s, ".")
	if len(whole) == 0 || len(whole) > 12 || len(fraction) > 6 || !isPlainDecimal(s) {
		return 0, false
	}
	const zeros = "000000"
	n, err := strconv.ParseInt(whole+fraction+zeros[len(fraction):], 10, 64)
	return n, err == nil
}

// Cmp compares the values: -1 where c is the smaller one, 0 where they are
// equal whatever their texts, +1 where it is the larger.
func (c Charge) Cmp(other Charge) int {
	if c.text == other.text {
		return 0
	}
	return c.Decimal().Cmp(other.Decimal())
}

// canonical returns the shortest plain text of the charge's value.
func (c Charge) canonical() string {
	if c.text == "" {
		return ""
	}
	d := c.Decimal()
	d.Reduce(d)
	if d.IsZero() {
		return "0"
	}
	return d.Text('f')
}

// MarshalJSON writes the charge as JSON text, or null where it is absent.
func (c Charge) MarshalJSON() ([]byte, error) {
	if c.text == "" {
		return []byte("null"), nil
	}
	return appendString(nil, c.text), nil
}

// UnmarshalJSON reads a JSON number or text of any length, digit by digit.
func (c *Charge) UnmarshalJSON(data []byte) error {
	text, err := scalarText(data)
	if err != nil || text == "" {
		*c = Charge{}
		return err
	}
	parsed, err := ParseCharge(text)
	if err != nil {
		return &ValidationError{[]FieldError{{"charge", err.Error()}}}
	}
	*c = parsed
	return nil
}

// scalarText returns the text of a JSON text or number, and "" for null.
func scalarText(data []byte) (string, error) {
	switch {
	case len(data) == 0 || string(data) == "null":
		return "", nil
	case data[0] == '"':
		var s string
		err := json.Unmarshal(data, &s)
		return s, err
	case data[0] == '-' || data[0] >= '0' && data[0] <= '9':
		return string(data), nil
	}
	return "", &Error{Code: CodeInvalid, Message: "is neither text nor a number: " + quoteShort(string(data))}
}
