package ledger

import (
	"math"
	"time"

	"github.com/amieusage/amieusage"
)

// What a ledger is stored as is the same numbers in every engine: times are
// nanoseconds since 1970, days days since 1970, charges millionths of a unit.

// Hour and Day are in nanoseconds.
const (
	Hour = int64(time.Hour)
	Day  = 24 * Hour
)

// latestNanos stands for all times that are later; a day's length fits above
// it.
const latestNanos = math.MaxInt64 - Day

var earliestTime, latestTime = time.Unix(0, 0), time.Unix(0, latestNanos)

// Nanos returns the number that stands for a time, cut to what a number can
// hold: 0 for the zero time and all times before 1970.
func Nanos(t time.Time) int64 {
	switch {
	case t.Before(earliestTime):
		return 0
	case t.After(latestTime):
		return latestNanos
	}
	return t.UnixNano()
}

// EndNanos is [Nanos] for the end of a period; the zero time sets none.
func EndNanos(t time.Time) int64 {
	if t.IsZero() {
		return latestNanos
	}
	return Nanos(t)
}

// TimeOf returns the time that a number stands for.
func TimeOf(n int64) time.Time { return time.Unix(0, n).UTC() }

// TimeOrZero is [TimeOf] where 0 stands for no time.
func TimeOrZero(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return TimeOf(n)
}

// FirstOfMonth returns the first day of a day's month.
func FirstOfMonth(day int64) int64 {
	return day - int64(TimeOf(day*Day).Day()) + 1
}

// usageTypes are the usage types by the numbers that stand for them.
var usageTypes = []amieusage.UsageType{1: amieusage.Compute, 2: amieusage.Storage, 3: amieusage.Adjustment}

// UsageTypeNumber returns the number that stands for a usage type.
func UsageTypeNumber(t amieusage.UsageType) int64 {
	for n, name := range usageTypes {
		if name == t {
			return int64(n)
		}
	}
	return 0
}

// UsageTypeOf returns the usage type that a number stands for.
func UsageTypeOf(n int64) amieusage.UsageType {
	if n < 0 || n >= int64(len(usageTypes)) {
		return ""
	}
	return usageTypes[n]
}

// A Span is how much time one row of a roll-up is about: loads are summed up by
// transaction and by hour, usage by day and by month.
const (
	SpanTransaction = 0
	SpanHour        = 1

	SpanDay   = 0
	SpanMonth = 1
)

// States of a failed record.
const (
	FailedOpen       = 0
	FailedCleared    = 1
	FailedSuperseded = 2
)
