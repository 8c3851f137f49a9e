package amieusage

import (
	"strings"
	"time"
)

// ParseTime reads an ISO 8601 time: with an offset ("-04:00", "-0400", "-04")
// or "Z", or naive, which means UTC; with "T" or a space between date and
// time; with or without seconds and fractions of a second, of which all behind
// the ninth digit are dropped; or a date alone, which is its midnight in UTC.
// The offset is kept. The hour 24 and the leap second 60 are refused. The error
// is a [*Error] with [CodeInvalid].
func ParseTime(s string) (time.Time, error) {
	t, hint := parseTime(s)
	if hint != "" {
		return time.Time{}, &Error{Code: CodeInvalid, Message: "is not an ISO 8601 time: " + quoteShort(s), Hint: hint}
	}
	return t, nil
}

func parseTime(s string) (t time.Time, hint string) {
	const form = "write it as in 2026-10-01T23:59:00Z or 2026-10-01T19:59:00-04:00"
	if len(s) < 10 || s[4] != '-' || s[7] != '-' {
		return t, form
	}
	year, month, day := digits(s[:4]), digits(s[5:7]), digits(s[8:10])
	hour, minute, second, nanos, zone := 0, 0, 0, 0, time.UTC
	if rest := s[10:]; rest != "" {
		if len(rest) < 6 || !strings.ContainsRune("Tt ", rune(rest[0])) || rest[3] != ':' {
			return t, form
		}
		hour, minute, rest = digits(rest[1:3]), digits(rest[4:6]), rest[6:]
		if len(rest) >= 3 && rest[0] == ':' {
			second, rest = digits(rest[1:3]), rest[3:]
			nanos, rest = fraction(rest)
		}
		if zone = parseZone(rest); zone == nil {
			return t, form
		}
	}
	switch {
	case min(year, month, day, hour, minute, second) < 0:
		return t, form
	case month < 1 || month > 12:
		return t, "months run from 01 to 12"
	case day < 1 || day > 28 && day > daysIn(year, month):
		return t, "there is no such day in that month"
	case hour > 23:
		return t, "hours run from 00 to 23; the end of a day is 00:00:00 of the next"
	case minute > 59:
		return t, "minutes run from 00 to 59"
	case second > 59:
		return t, "seconds run from 00 to 59; write a leap second as 59"
	}
	return time.Date(year, time.Month(month), day, hour, minute, second, nanos, zone), ""
}

// digits reads a number that consists of digits alone; anything else gives -1.
func digits(s string) int {
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return -1
		}
		n = n*10 + int(s[i]-'0')
	}
	return n
}

// fraction reads the fraction of a second that s may begin with, and returns
// it in nanoseconds, and what is behind it.
func fraction(s string) (nanos int, rest string) {
	if len(s) < 2 || s[0] != '.' && s[0] != ',' || digits(s[1:2]) < 0 {
		return 0, s
	}
	unit := 100_000_000
	for rest = s[1:]; rest != "" && rest[0] >= '0' && rest[0] <= '9'; rest = rest[1:] {
		nanos += unit * int(rest[0]-'0')
		unit /= 10
	}
	return nanos, rest
}

// parseZone reads an offset from UTC, and returns nil where it is none. No
// offset means UTC.
func parseZone(s string) *time.Location {
	if s == "" || s == "Z" || s == "z" {
		return time.UTC
	}
	hours, minutes := 0, 0
	switch {
	case s[0] != '+' && s[0] != '-':
		return nil
	case len(s) == len("+05"):
		hours = digits(s[1:])
	case len(s) == len("+0530"):
		hours, minutes = digits(s[1:3]), digits(s[3:])
	case len(s) == len("+05:30") && s[3] == ':':
		hours, minutes = digits(s[1:3]), digits(s[4:])
	default:
		return nil
	}
	if hours < 0 || hours > 23 || minutes < 0 || minutes > 59 {
		return nil
	}
	offset := (hours*60 + minutes) * 60
	if offset == 0 {
		return time.UTC
	}
	if s[0] == '-' {
		offset = -offset
	}
	return time.FixedZone("", offset)
}

func daysIn(year, month int) int {
	return time.Date(year, time.Month(month)+1, 0, 0, 0, 0, 0, time.UTC).Day()
}

// FormatTime writes a time as ISO 8601 with its offset, to the nanosecond
// where there are any. A time whose offset is no whole number of minutes is
// written in UTC.
func FormatTime(t time.Time) string { return string(appendTime(nil, t)) }

func appendTime(dst []byte, t time.Time) []byte {
	if _, offset := t.Zone(); offset%60 != 0 || offset <= -24*3600 || offset >= 24*3600 {
		t = t.UTC()
	}
	return t.AppendFormat(dst, time.RFC3339Nano)
}

// Times of records lie in these years: everything else is a slip of the pen,
// and would not fit a ledger.
var (
	earliestTime = time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)
	latestTime   = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
)

// keyTime returns the instant in the one form in which equal instants are
// equal values; it has no monotonic reading.
func keyTime(t time.Time) time.Time { return t.UTC() }
