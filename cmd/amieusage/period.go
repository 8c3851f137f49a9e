package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage"
)

// periodFlags are the flags that name a period. Times without an offset are the
// site's: who writes 2026-11-01 means the midnight on the cluster's clock.
type periodFlags struct {
	fromFlag, toFlag string
	from, to, month  string
}

// add gives a command the flags. what is what they select, as in "jobs that
// ended".
func (f *periodFlags) add(cmd *cobra.Command, fromFlag, toFlag, what string) {
	f.fromFlag, f.toFlag = fromFlag, toFlag
	cmd.Flags().StringVar(&f.from, fromFlag, "", what+" at or after this time: 2026-11-01, 2026-11-01T08:00 in the site's time zone, or with an offset")
	cmd.Flags().StringVar(&f.to, toFlag, "", what+" before this time")
	cmd.Flags().StringVar(&f.month, "month", "", what+" in this month: 2026-11")
	cmd.MarkFlagsMutuallyExclusive("month", fromFlag)
	cmd.MarkFlagsMutuallyExclusive("month", toFlag)
}

func (f *periodFlags) isSet() bool { return f.from+f.to+f.month != "" }

// times returns the period in the site's time zone: [from, to), where a zero time
// is no limit.
func (f *periodFlags) times(zone *time.Location) (from, to time.Time, err error) {
	if f.month != "" {
		if from, err = time.ParseInLocation("2006-01", f.month, zone); err != nil {
			return from, to, usageError("--month %q is no month: write it as in 2026-11", f.month)
		}
		return from, from.AddDate(0, 1, 0), nil
	}
	if from, err = timeFlag(f.fromFlag, f.from, zone); err != nil {
		return from, to, err
	}
	if to, err = timeFlag(f.toFlag, f.to, zone); err != nil {
		return from, to, err
	}
	if f.from != "" && f.to != "" && !from.Before(to) {
		return from, to, usageError("--%s %s is not after --%s %s", f.toFlag, f.to, f.fromFlag, f.from)
	}
	return from, to, nil
}

// past returns the period up to now, of what must have begun.
func (f *periodFlags) past(zone *time.Location, now time.Time) (from, to time.Time, err error) {
	from, to, err = f.times(zone)
	switch {
	case err != nil:
		return from, to, err
	case from.IsZero():
		return from, to, usageError("--%s needs --%s", f.toFlag, f.fromFlag)
	case !from.Before(now) && f.month != "":
		return from, to, usageError("--month %s is not in the past", f.month)
	case !from.Before(now):
		return from, to, usageError("--%s %s is not in the past", f.fromFlag, f.from)
	}
	if to.After(now) {
		to = now
	}
	return from, to, nil
}

// timeFlag reads the time of a flag. Without an offset it is in the zone, and a
// date alone is its midnight there. "" is the zero time.
func timeFlag(flag, text string, zone *time.Location) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := amieusage.ParseTime(text)
	if err != nil {
		return t, usageError("--%s %w", flag, err)
	}
	if len(text) > len(time.DateOnly) {
		if _, err := amieusage.ParseTime(text + "Z"); err != nil {
			return t, nil // it has an offset
		}
	}
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), zone), nil
}
