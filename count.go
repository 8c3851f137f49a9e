package amieusage

import (
	"strconv"

	"github.com/cockroachdb/apd/v3"
)

// A Count is a whole number of things (nodes, bytes, files, days) that may be
// absent. The zero Count is absent, which is not the same as a count of 0.
type Count struct {
	n   int64
	set bool
}

// CountOf returns the count n.
func CountOf(n int64) Count { return Count{n, true} }

// ParseCount reads a whole number as any client writes it: "4", "4.0", "1e3".
// The error is a [*Error] with [CodeInvalid]. The sign is a matter of
// [Record.Validate].
func ParseCount(s string) (Count, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return CountOf(n), nil
	}
	bad := &Error{Code: CodeInvalid, Message: "is not a whole number: " + quoteShort(s)}
	if len(s) > 64 || !chargeSyntax.MatchString(s) {
		return Count{}, bad
	}
	d, _, err := apd.NewFromString(s)
	if err != nil || d.NumDigits()+int64(d.Exponent) > 19 || d.Exponent < -64 {
		return Count{}, bad
	}
	n, err := d.Int64()
	if err != nil {
		return Count{}, bad
	}
	return CountOf(n), nil
}

// Get returns the number, and whether there is one.
func (c Count) Get() (int64, bool) { return c.n, c.set }

// IsSet reports whether there is a count: 0 is one.
func (c Count) IsSet() bool { return c.set }

// String returns the number, or "" where it is absent.
func (c Count) String() string {
	if !c.set {
		return ""
	}
	return strconv.FormatInt(c.n, 10)
}

// MarshalJSON writes the count as a JSON number, or null where it is absent.
func (c Count) MarshalJSON() ([]byte, error) {
	if !c.set {
		return []byte("null"), nil
	}
	return strconv.AppendInt(nil, c.n, 10), nil
}

// UnmarshalJSON reads a JSON number or text as [ParseCount] does; null and ""
// are an absent count.
func (c *Count) UnmarshalJSON(data []byte) error {
	text, err := scalarText(data)
	if err != nil || text == "" {
		*c = Count{}
		return err
	}
	if *c, err = ParseCount(text); err != nil {
		return &Error{Code: CodeInvalid, Message: "a count", Err: err}
	}
	return nil
}
