package amieusage

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseTime(t *testing.T) {
	for text, want := range map[string]string{
		"2026-10-01T23:59:00":                                      "2026-10-01T23:59:00Z",
		"2026-10-01T23:59:00.123456":                               "2026-10-01T23:59:00.123456Z",
		"2026-10-01T23:59:00+00:00":                                "2026-10-01T23:59:00Z",
		"2026-10-01T23:59:00-00:00":                                "2026-10-01T23:59:00Z",
		"2026-10-01T23:59:00-04:00":                                "2026-10-01T23:59:00-04:00",
		"2026-10-01T23:59:00Z":                                     "2026-10-01T23:59:00Z",
		"2026-10-01 23:59:00":                                      "2026-10-01T23:59:00Z",
		"2026-10-01 23:59:00+05:30":                                "2026-10-01T23:59:00+05:30",
		"2026-10-01 23:59:00.5-04":                                 "2026-10-01T23:59:00.5-04:00",
		"2026-10-01T23:59:00+0530":                                 "2026-10-01T23:59:00+05:30",
		"2026-10-01t23:59:00z":                                     "2026-10-01T23:59:00Z",
		"2026-10-01T23:59:00,25Z":                                  "2026-10-01T23:59:00.25Z",
		"2026-10-01T23:59Z":                                        "2026-10-01T23:59:00Z",
		"2026-10-01T23:59":                                         "2026-10-01T23:59:00Z",
		"2026-10-01T23:59+01":                                      "2026-10-01T23:59:00+01:00",
		"2026-10-01":                                               "2026-10-01T00:00:00Z",
		"2028-02-29":                                               "2028-02-29T00:00:00Z",
		"2026-10-01T00:00:00.1234567899999+00:00":                  "2026-10-01T00:00:00.123456789Z",
		"2026-10-01T23:59:59.9999999999Z":                          "2026-10-01T23:59:59.999999999Z",
		"0000-01-01T00:00:00Z":                                     "0000-01-01T00:00:00Z",
		"9999-12-31T23:59:59.999999999-23:59":                      "9999-12-31T23:59:59.999999999-23:59",
		"2026-10-01T00:00:00." + strings.Repeat("0", 100000) + "Z": "2026-10-01T00:00:00Z",
	} {
		got, err := ParseTime(text)
		if err != nil {
			t.Errorf("ParseTime(%.60q): %v", text, err)
			continue
		}
		if FormatTime(got) != want {
			t.Errorf("ParseTime(%.60q) = %s, want %s", text, FormatTime(got), want)
		}
		if !got.Equal(mustTime(t, want)) {
			t.Errorf("ParseTime(%.60q) is another instant than %s", text, want)
		}
	}
}

func TestParseTimeRefuses(t *testing.T) {
	const form = "write it as in 2026-10-01T23:59:00Z"
	for text, hint := range map[string]string{
		"":                           form,
		"yesterday":                  form,
		"Unknown":                    form,
		"1790899140":                 form,
		"20261001T235900Z":           form,
		"2026-10-1":                  form,
		"2026-10":                    form,
		"26-10-01T23:59:00":          form,
		"2026-10-01T":                form,
		"2026-10-01T23":              form,
		"2026-10-01T3:59:00":         form,
		"2026-10-01T23:5:00":         form,
		"2026-10-01T23:59:0":         form,
		"2026-10-01T23:59:00.":       form,
		"2026-10-01T23:59.5":         form,
		"2026-10-01T23:59:00 +00:00": form,
		"2026-10-01T23:59:00+5:30":   form,
		"2026-10-01T23:59:00+24:00":  form,
		"2026-10-01T23:59:00+05:60":  form,
		"2026-10-01T23:59:00+05:3x":  form,
		"2026-10-01T23:59:00EST":     form,
		"2026-10-01T23:59:00ZZ":      form,
		"2026-10-01_23:59:00":        form,
		"2026-+1-01T00:00:00Z":       form,
		" 2026-10-01":                form,
		"2026-10-01 ":                form,
		"２０26-10-01":                 form,
		"+2026-10-01T00:00:00Z":      form,
		"2026-13-01":                 "months run from 01 to 12",
		"2026-00-01":                 "months run from 01 to 12",
		"2026-02-29":                 "no such day",
		"2026-02-30T00:00:00Z":       "no such day",
		"2026-04-31":                 "no such day",
		"2026-10-00":                 "no such day",
		"2026-10-01T24:00:00":        "hours run from 00 to 23",
		"2026-10-01T23:60:00":        "minutes run from 00 to 59",
		"2026-12-31T23:59:60Z":       "write a leap second as 59",
		"2026-10-01" + strings.Repeat("0", 1<<20): form,
	} {
		got, err := ParseTime(text)
		var e *Error
		if !errors.As(err, &e) || e.Code != CodeInvalid || !strings.Contains(e.Hint, hint) || !got.IsZero() {
			t.Errorf("ParseTime(%.60q) = %v, %v, want the hint %q", text, got, err, hint)
		}
		if err != nil && len(err.Error()) > 300 {
			t.Errorf("ParseTime(%.60q): an error of %d bytes", text, len(err.Error()))
		}
	}
}

// What is written is read as the same instant with the same offset; and a time
// that the standard library reads as RFC 3339 is read the same.
func TestTimesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := timesFrom(1).Draw(t, "time")
		text := FormatTime(want)
		got, err := ParseTime(text)
		if err != nil {
			t.Fatalf("ParseTime(%q): %v", text, err)
		}
		mustEqual(t, "time", want, got)
		mustEqual(t, "time as the standard library reads it", mustTime(t, text), got)
	})
}

// Offsets that ISO 8601 cannot express never change the instant.
func TestFormatTimeKeepsTheInstant(t *testing.T) {
	at := time.Date(2026, 10, 1, 23, 59, 0, 0, time.UTC)
	for _, offset := range []int{-4*3600 - 56*60 - 2, 1, -59, 24 * 3600, -24 * 3600, 100 * 3600} {
		if got := FormatTime(at.In(time.FixedZone("LMT", offset))); got != "2026-10-01T23:59:00Z" {
			t.Errorf("at the offset of %d seconds: %s", offset, got)
		}
	}
}
