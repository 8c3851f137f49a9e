package amieusage

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestParseCount(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "4": 4, "4.0": 4, "4.": 4, "+4": 4, "0004": 4, "1e3": 1000, "1.5e3": 1500, "40e-1": 4, "-0": 0, "0.0": 0,
		"-3": -3, "13421772800": 13421772800, "9223372036854775807": 9223372036854775807, "1E18": 1e18,
		"9223372036854775807.000": 9223372036854775807, "-9223372036854775808": -9223372036854775808,
	} {
		c, err := ParseCount(text)
		if n, set := c.Get(); err != nil || n != want || !set || !c.IsSet() {
			t.Errorf("ParseCount(%q) = %d, %t, %v, want %d", text, n, set, err, want)
		}
	}
	for _, text := range []string{"", " 4", "4 ", "4.5", "1e-1", "x", "NaN", "0x4", "4_000", "9223372036854775808", "1e19",
		"1e999999999", "1e-999999999", "1e99999999999", "4." + strings.Repeat("0", 100), "-", "."} {
		c, err := ParseCount(text)
		var e *Error
		if !errors.As(err, &e) || e.Code != CodeInvalid || c.IsSet() {
			t.Errorf("ParseCount(%.40q) = %v, %v, want an error", text, c, err)
		}
	}
}

func TestCountJSON(t *testing.T) {
	for in, want := range map[string]string{`4`: `4`, `"4"`: `4`, `4.0`: `4`, `"4.0"`: `4`, `null`: `null`, `""`: `null`, `0`: `0`} {
		c := mustDecode[Count](t, []byte(in))
		if got := string(mustMarshal(t, c)); got != want {
			t.Errorf("%s came back as %s, want %s", in, got, want)
		}
	}
	for _, in := range []string{`true`, `[1]`, `"x"`, `4.5`} {
		var c Count
		var e *Error
		if err := json.Unmarshal([]byte(in), &c); !errors.As(err, &e) || c.IsSet() {
			t.Errorf("%s was read as %q, %v", in, c, err)
		}
	}
	if got := (Count{}).String(); got != "" {
		t.Errorf("an absent count is %q", got)
	}
	if got := CountOf(0).String(); got != "0" {
		t.Errorf("no things are %q", got)
	}
}
