package amieusage

import (
	"time"
)

// timeLayouts are the forms of ISO 8601 that real clients send, by what tells
// them apart: the length of the date and time, and the offset behind it.
var timeLayouts = []string{
	time.RFC3339,
	"2006-01-02T15:04:05",
	"2006-01-02 15:04:05Z07:00",
	"2006-01-02 15:04:05",
	"2006-01-02T15:04:05Z0700",
	"2006-01-02 15:04:05Z0700",
	"2006-01-02T15:04:05Z07",
	"2006-01-02T15:04Z07:00",
	"2006-01-02T15:04",
	"2006-01-02",
}

// ParseTime reads an ISO 8601 time: with an offset or "Z", or naive, which
// means UTC; with "T" or a space between date and time; with or without
// fractions of a second; or a date alone, which is its midnight in UTC. The
// offset is kept.
func ParseTime(s string) (time.Time, error) {
	if len(s) <= 64 {
		for _, layout := range timeLayouts {
			if t, err := time.ParseInLocation(layout, s, time.UTC); err == nil {
				return t, nil
			}
		}
	}
	return time.Time{}, &Error{Code: CodeInvalid, Message: "is not an ISO 8601 time: " + quoteShort(s)}
}

// FormatTime writes a time as ISO 8601 with its offset, to the nanosecond
// where there are any.
func FormatTime(t time.Time) string { return t.Format(time.RFC3339Nano) }

// Times of records lie in these years: everything else is a slip of the pen,
// and would not fit a ledger.
var (
	earliestTime = time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)
	latestTime   = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
)

// keyTime returns the instant in the one form in which equal instants are
// equal values.
func keyTime(t time.Time) time.Time { return t.Round(0).UTC() }
