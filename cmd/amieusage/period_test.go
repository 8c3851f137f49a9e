package main

import (
	"strings"
	"testing"
	"time"
)

func TestPeriod(t *testing.T) {
	chicago, err := time.LoadLocation("America/Chicago")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		from, to, month  string
		wantFrom, wantTo string // as RFC 3339, in UTC
		past             bool
		problem          string
	}{
		{},
		{from: "2026-10-01", wantFrom: "2026-10-01T05:00:00Z"},
		{from: "2026-10-01T08:00", wantFrom: "2026-10-01T13:00:00Z"},
		{from: "2026-10-01 08:00:01.5", wantFrom: "2026-10-01T13:00:01.5Z"},
		{from: "2026-10-01T08:00Z", wantFrom: "2026-10-01T08:00:00Z"},
		{from: "2026-10-01T08:00-04", wantFrom: "2026-10-01T12:00:00Z"},
		{from: "2026-10-01T08:00:00+0200", wantFrom: "2026-10-01T06:00:00Z"},
		{to: "2026-12-01", wantTo: "2026-12-01T06:00:00Z"}, // winter
		{from: "2026-11-01", to: "2026-12-01", wantFrom: "2026-11-01T05:00:00Z", wantTo: "2026-12-01T06:00:00Z"},
		{month: "2026-11", wantFrom: "2026-11-01T05:00:00Z", wantTo: "2026-12-01T06:00:00Z"},
		{month: "2026-12", wantFrom: "2026-12-01T06:00:00Z", wantTo: "2027-01-01T06:00:00Z"},
		{month: "2026-13", problem: `--month "2026-13" is no month`},
		{month: "2026-11-01", problem: "write it as in 2026-11"},
		{from: "yesterday", problem: "--since is not an ISO 8601 time"},
		{to: "2026-02-30", problem: "--until is not an ISO 8601 time"},
		{from: "2026-11-01", to: "2026-11-01", problem: "--until 2026-11-01 is not after --since 2026-11-01"},
		{past: true, month: "2026-11", wantFrom: "2026-11-01T05:00:00Z", wantTo: "2026-11-20T12:00:00Z"},
		{past: true, month: "2026-10", wantFrom: "2026-10-01T05:00:00Z", wantTo: "2026-11-01T05:00:00Z"},
		{past: true, month: "2026-12", problem: "--month 2026-12 is not in the past"},
		{past: true, from: "2026-11-20T12:00Z", problem: "--since 2026-11-20T12:00Z is not in the past"},
		{past: true, to: "2026-11-01", problem: "--until needs --since"},
	} {
		f := periodFlags{fromFlag: "since", toFlag: "until", from: test.from, to: test.to, month: test.month}
		from, to, err := f.times(chicago)
		if test.past {
			from, to, err = f.past(chicago, now)
		}
		if test.problem != "" {
			if err == nil || !strings.Contains(err.Error(), test.problem) {
				t.Errorf("%+v: error %v, want %s", f, err, test.problem)
			}
			continue
		}
		if err != nil || inUTC(from) != test.wantFrom || inUTC(to) != test.wantTo {
			t.Errorf("%+v: from %q to %q, error %v; want from %q to %q", f, inUTC(from), inUTC(to), err, test.wantFrom, test.wantTo)
		}
	}
}

func inUTC(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
