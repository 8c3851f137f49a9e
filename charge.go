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
// is absent, which is not the same as a charge of "0". Compare charges with
// [Charge.Cmp]: == compares their texts.
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
// beyond ±1,000; the error is a [*Error] with [CodeInvalid]. Sign and range are
// matters of [Record.Validate].
func ParseCharge(s string) (Charge, error) {
	if len(s) > maxChargeText {
		return Charge{}, errChargeLength
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

// MustParseCharge is [ParseCharge] for literals: it panics where the text is no
// charge.
func MustParseCharge(s string) Charge {
	c, err := ParseCharge(s)
	if err != nil {
		panic("amieusage.MustParseCharge: " + err.Error())
	}
	return c
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

// ChargeOf returns the charge of so many whole units.
func ChargeOf(units int64) Charge { return Charge{strconv.FormatInt(units, 10)} }

// String returns the text that the charge was read from.
func (c Charge) String() string { return c.text }

// IsSet reports whether there is a charge: "0" is one.
func (c Charge) IsSet() bool { return c.text != "" }

// decimal returns the charge's exact value; zero where it is absent.
func (c Charge) decimal() *apd.Decimal {
	d, _, err := apd.NewFromString(c.text)
	if err != nil {
		return new(apd.Decimal)
	}
	return d
}

// Millionths returns the charge in millionths of a unit, rounded half to even,
// as the ledger keeps it; 0 where it is absent. The error is a [*Error] with
// [CodeInvalid] where the charge is beyond ±[MaxCharge].
func (c Charge) Millionths() (int64, error) {
	if n, ok := plainMillionths(c.text); ok {
		return n, nil
	}
	d := c.decimal()
	if d.IsZero() {
		return 0, nil
	}
	if d.NumDigits()+int64(d.Exponent) > maxWholeDigits {
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

// maxWholeDigits is the number of digits of [MaxCharge].
const maxWholeDigits = 13

var (
	errChargeRange  = &Error{Code: CodeInvalid, Message: "must not be beyond nine trillion units"}
	errChargeLength = &Error{Code: CodeInvalid, Message: "must not be longer than 1024 bytes"}
)

// plainMillionths reads the usual charge: digits, and perhaps a point between
// digits, within the range.
func plainMillionths(s string) (n int64, ok bool) {
	whole, fraction, _ := strings.Cut(s, ".")
	if !isPlainDecimal(s) || len(whole) >= maxWholeDigits {
		return 0, false
	}
	for i := range whole {
		n = n*10 + int64(whole[i]-'0')
	}
	for i := range 6 {
		n *= 10
		if i < len(fraction) {
			n += int64(fraction[i] - '0')
		}
	}
	if len(fraction) > 6 {
		rest := strings.TrimRight(fraction[6:], "0")
		if rest > "5" || rest == "5" && n%2 == 1 {
			n++
		}
	}
	return n, true
}

// Cmp compares the values: -1 where c is the smaller one, 0 where they are
// equal whatever their texts, +1 where it is the larger.
func (c Charge) Cmp(other Charge) int {
	if c.text == other.text {
		return 0
	}
	return c.decimal().Cmp(other.decimal())
}

// canonical returns the shortest plain text of the charge's value.
func (c Charge) canonical() string {
	if text := c.text; isPlainDecimal(text) {
		for len(text) > 1 && text[0] == '0' && text[1] != '.' {
			text = text[1:]
		}
		if strings.Contains(text, ".") {
			text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
		}
		return text
	}
	d := c.decimal()
	if d.IsZero() {
		return "0"
	}
	d.Reduce(d)
	return d.Text('f')
}

// MarshalJSON writes the charge as JSON text, or null where it is absent.
func (c Charge) MarshalJSON() ([]byte, error) { return c.appendJSON(nil), nil }

func (c Charge) appendJSON(dst []byte) []byte {
	if c.text == "" {
		return append(dst, "null"...)
	}
	return appendString(dst, c.text)
}

// UnmarshalJSON reads a JSON number or text as [ParseCharge] does, digit by
// digit; null and "" are an absent charge.
func (c *Charge) UnmarshalJSON(data []byte) error {
	text, err := scalarText(data)
	if err != nil || text == "" {
		*c = Charge{}
		return err
	}
	if *c, err = ParseCharge(text); err != nil {
		return &Error{Code: CodeInvalid, Message: "a charge", Err: err}
	}
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
