package sqlite_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/outbox"
)

// BenchmarkOutbox takes b.N records through the outbox, from enqueueing to
// confirmation, 1,000 a transaction, and reports the records/s of each step.
func BenchmarkOutbox(b *testing.B) {
	const perTransaction = 1000
	ctx := context.Background()
	q := openOutbox(b, filepath.Join(b.TempDir(), "outbox.db"))
	step := func(name string, f func(from, to int) error) {
		start := time.Now()
		for from := 0; from < b.N; from += perTransaction {
			if err := f(from, min(from+perTransaction, b.N)); err != nil {
				b.Fatal(name, err)
			}
		}
		b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), name+"/s")
	}
	all := func(n, from, to int, err error) error {
		if err == nil && n != to-from {
			err = fmt.Errorf("%d of %d", n, to-from)
		}
		return err
	}
	enqueue := func(from, to int) error {
		_, err := q.Enqueue(ctx, outboxItems(from, to), nil)
		return err
	}
	b.ResetTimer()
	step("enqueued", enqueue)
	step("enqueued-again", enqueue)
	step("listed", func(from, to int) error {
		page, err := q.List(ctx, outbox.Filter{States: []outbox.State{outbox.Pending}, After: outbox.ID(from), Limit: perTransaction})
		return all(len(page), from, to, err)
	})
	step("sent", func(from, to int) error {
		deliveries := make([]outbox.Delivery, to-from)
		for i := range deliveries {
			deliveries[i] = outbox.Delivery{ID: outbox.ID(from + i + 1), Revision: 1}
		}
		n, err := q.Sent(ctx, deliveries)
		return all(n, from, to, err)
	})
	step("loaded", func(from, to int) error {
		loaded := make([]amieusage.LoadedRecord, to-from)
		for i, item := range outboxItems(from, to) {
			id := item.Record.Identity()
			loaded[i] = amieusage.LoadedRecord{UsageType: id.UsageType, LocalRecordID: id.LocalRecordID, Resource: id.Resource,
				SubmitTime: id.KeyTime, LoadedTime: id.KeyTime, Charge: item.Record.Common().Charge}
		}
		n, err := q.Loaded(ctx, loaded, 0)
		return all(n, from, to, err)
	})
}
