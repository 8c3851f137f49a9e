package outbox_test

import (
	"testing"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/outbox"
)

// TestAdoptedThenTheContentOfTheService adopts a record of which the service has
// another content with the same charge. Sent with that content, it is loaded no
// more: the row that was there confirms it.
func TestAdoptedThenTheContentOfTheService(t *testing.T) {
	at := time.Date(2026, 10, 1, 9, 0, 0, 0, time.UTC)
	listed := amieusage.LoadedRecord{UsageType: amieusage.Compute, LocalRecordID: "1", Resource: "rm", LoadedTime: at, Charge: amieusage.ChargeOfMillionths(0)}
	found := outbox.Found{AtService: listed, Entry: outbox.Entry{ID: 1, Record: &amieusage.ComputeRecord{LocalRecordID: "1", Resource: "rm", Charge: amieusage.ChargeOfMillionths(5)}}}
	writes := found.Adopt(outbox.Note{})
	adopted := writes[len(writes)-1].Entry
	adopted.Digest = amieusage.ContentDigest(adopted.Record)
	p := adopted.Progress
	if p.State != outbox.Loaded || p.LoadedAt.IsZero() {
		t.Fatalf("adopted: %+v", p)
	}
	p.LoadedDigest, p.LoadedCharge = p.Digest, 0
	p.Digest, p.Revision, p.State = amieusage.Digest{1}, 2, outbox.Queued // another content, sent
	if !p.Confirm(listed, 0) || p.State != outbox.Loaded {
		t.Errorf("sent with what the service has: %+v", p)
	}
}
