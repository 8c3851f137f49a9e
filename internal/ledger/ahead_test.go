package ledger

import (
	"testing"
	"time"

	"github.com/amieusage/amieusage"
)

func TestTimesAhead(t *testing.T) {
	last := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	before, after := last.Add(-time.Hour), last.Add(time.Nanosecond)
	for _, test := range []struct {
		record amieusage.Record
		want   string
	}{
		{&amieusage.ComputeRecord{SubmitTime: before, StartTime: before, EndTime: last}, ""},
		{&amieusage.ComputeRecord{SubmitTime: before, StartTime: before, EndTime: after}, "EndTime is more than a day ahead: 2026-11-28T12:00:00.000000001Z"},
		{&amieusage.ComputeRecord{SubmitTime: last.In(time.FixedZone("", -4*3600)), StartTime: before, EndTime: before}, ""},
		{&amieusage.ComputeRecord{SubmitTime: last.AddDate(1, 0, 0), StartTime: last.AddDate(1, 0, 0), EndTime: before},
			"SubmitTime is more than a day ahead: 2027-11-28T12:00:00Z; StartTime is more than a day ahead: 2027-11-28T12:00:00Z"},
		{&amieusage.StorageRecord{CollectionTime: last}, ""},
		{&amieusage.StorageRecord{CollectionTime: after}, "CollectionTime is more than a day ahead: 2026-11-28T12:00:00.000000001Z"},
		{&amieusage.AdjustmentRecord{StartTime: last.AddDate(1, 0, 0)}, ""}, // a reservation
	} {
		got := ""
		if err := timesAhead(test.record, last); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%v: %q, want %q", test.record, got, test.want)
		}
	}
}
