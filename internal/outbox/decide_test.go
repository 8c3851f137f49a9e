package outbox_test

import (
	"testing"
	"time"

	"github.com/cockroachdb/apd/v3"

	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/siterules"

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

// TestSettingsDoNotReachBack reads a job that was charged again, by other settings of
// what its source counts: it stays as it was charged until it is repriced.
func TestSettingsDoNotReachBack(t *testing.T) {
	rules := &siterules.Rules{Resources: []siterules.Resource{{Name: "rm", Rates: []siterules.Rate{{PerHour: map[string]*apd.Decimal{"cpu": apd.New(1, 0)}, Decimals: 6}}}}}
	if err := rules.Check(); err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1790841600, 0).UTC()
	read := func(cpus int64, by string) outbox.Reading {
		t.Helper()
		job := &scheduler.Job{ID: "1", DisplayID: "1", User: "alice", Account: "p", Partition: "q", State: "COMPLETED", Submit: at, Start: at, End: at.Add(time.Hour),
			ElapsedSeconds: 3600, Nodes: 1, CPUs: cpus, TRES: []scheduler.TRES{{Name: "cpu", Count: cpus}}, By: by}
		today, err := rules.Assess(job)
		if err != nil || today.Problem != nil || today.Skip != "" {
			t.Fatalf("%+v, %v", today, err)
		}
		return outbox.Reading{Job: job, RecordID: "1", Today: today}
	}
	decider := &outbox.Decider{}
	entry := decider.Decide(nil, read(4, "")).Writes[0].Entry
	entry.ID, entry.State, entry.Revision, entry.Digest = 1, outbox.Loaded, 1, amieusage.ContentDigest(entry.Record)
	plan := decider.Decide([]outbox.Entry{entry}, read(36, "whole nodes cpu=36"))
	if plan.Effect != outbox.EffectCostly || plan.Sent != nil || plan.Was.String() != "4" || plan.Would.String() != "36" {
		t.Errorf("other settings: %+v", plan)
	}
	if plan = decider.Decide([]outbox.Entry{entry}, read(8, "")); plan.Sent == nil || plan.Sent.Common().Charge.String() != "8" {
		t.Errorf("other accounting: %+v", plan)
	}
	repricing := &outbox.Decider{Reprice: true}
	if plan = repricing.Decide([]outbox.Entry{entry}, read(36, "whole nodes cpu=36")); plan.Sent == nil || plan.Sent.Common().Charge.String() != "36" {
		t.Errorf("repriced: %+v", plan)
	}
}
