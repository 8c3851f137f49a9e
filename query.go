package amieusage

import (
	"net/url"
	"strconv"
	"time"
)

func setTime(v url.Values, name string, t time.Time) {
	if !t.IsZero() {
		v.Set(name, FormatTime(t))
	}
}

func setNumber(v url.Values, name string, n int64) {
	if n != 0 {
		v.Set(name, strconv.FormatInt(n, 10))
	}
}

func timeParameter(v url.Values, name string) (time.Time, error) {
	s := v.Get(name)
	if s == "" {
		return time.Time{}, nil
	}
	t, err := ParseTime(s)
	if err != nil {
		return t, &Error{
			Code:    CodeInvalid,
			Message: "parameter " + name + " is not an ISO 8601 time: " + quoteShort(s),
			Hint:    "as in 2026-10-01 or 2026-10-01T12:00:00%2B00:00, with the + of an offset percent-encoded",
		}
	}
	return t, nil
}

func numberParameter(v url.Values, name string, low, high int64) (int64, error) {
	s := v.Get(name)
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < low || n > high {
		return 0, &Error{
			Code: CodeInvalid,
			Message: "parameter " + name + " must be a whole number from " + strconv.FormatInt(low, 10) +
				" to " + strconv.FormatInt(high, 10) + ", not " + quoteShort(s),
		}
	}
	return n, nil
}

func checkPeriod(fromName string, from time.Time, toName string, to time.Time) error {
	if !from.IsZero() && !to.IsZero() && to.Before(from) {
		return &Error{Code: CodeInvalid, Message: "parameter " + toName + " must not be before " + fromName}
	}
	return nil
}
