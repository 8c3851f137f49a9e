package outbox_test

import (
	"testing"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/outbox"
)

// TestFormerOf looks for what may not be sent again: the content that a record had
// before its job went to another resource.
func TestFormerOf(t *testing.T) {
	record := func(resource string, charge int64) amieusage.Record {
		return &amieusage.ComputeRecord{LocalRecordID: "1", Resource: resource, SubmitTime: time.Unix(1, 0).UTC(), Charge: amieusage.ChargeOfMillionths(charge)}
	}
	entry := func(r amieusage.Record, superseded bool) outbox.Entry {
		return outbox.Entry{Record: r, Superseded: superseded, Progress: outbox.Progress{Digest: amieusage.ContentDigest(r)}}
	}
	moved := []outbox.Entry{entry(record("rm", 0), true), entry(record("gpu", 8), false)}
	for _, test := range []struct {
		what   string
		known  []outbox.Entry
		failed amieusage.Record
		want   bool
	}{
		{"the charge that it had there", moved, record("rm", 8), true},
		{"the 0 that it has there", moved, record("rm", 0), false},
		{"the record that charges the job now", moved, record("gpu", 7), false},
		{"a job that has not moved", []outbox.Entry{entry(record("rm", 8), false)}, record("rm", 7), false},
		{"a record that nobody knows", nil, record("rm", 8), false},
	} {
		if got := outbox.FormerOf(test.known, test.failed); (got != nil) != test.want {
			t.Errorf("%s: %+v", test.what, got)
		}
	}
}
