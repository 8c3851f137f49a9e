package sqlite_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/sqlite"
)

// BenchmarkOutbox takes b.N records through the outbox, from enqueueing to
// confirmation, 1,000 a transaction, and reports the records/s of each step.
func BenchmarkOutbox(b *testing.B) {
	ctx := context.Background()
	q, err := sqlite.OpenOutbox(ctx, filepath.Join(b.TempDir(), "outbox.db"), time.Now)
	if err != nil {
		b.Fatal(err)
	}
	defer q.Close()
	submit := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	record := func(i int) amieusage.Record {
		charge, _ := amieusage.ParseCharge(fmt.Sprintf("%d.25", i%100))
		return &amieusage.ComputeRecord{
			Username: "alice", LocalProjectID: "p.abc123456.000", LocalRecordID: fmt.Sprint(4_000_000 + i),
			Resource: "bridges2-rm.psc.access-ci.org", Charge: charge,
			SubmitTime: submit.Add(time.Duration(i) * time.Second), StartTime: submit.Add(time.Duration(i+60) * time.Second),
			EndTime: submit.Add(time.Duration(i+7200) * time.Second), NodeCount: amieusage.CountOf(4),
			CpuCoreCount: amieusage.CountOf(512), JobName: "relax-bulk", Memory: "256000M", Queue: "RM",
		}
	}
	const perTransaction = 1000
	step := func(name string, f func(from, to int) error) {
		start := time.Now()
		for from := 0; from < b.N; from += perTransaction {
			if err := f(from, min(from+perTransaction, b.N)); err != nil {
				b.Fatal(name, err)
			}
		}
		b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), name+"/s")
	}
	enqueue := func(from, to int) error {
		items := make([]outbox.Item, to-from)
		for i := range items {
			items[i] = outbox.Item{Record: record(from + i), Place: fmt.Sprintf("dump.psv:%d", from+i)}
		}
		_, err := q.Enqueue(ctx, items, &outbox.Cursor{Source: "dump", At: submit.Add(time.Duration(to) * time.Second)})
		return err
	}
	b.ResetTimer()
	step("enqueued", enqueue)
	step("enqueued-again", enqueue)
	var after outbox.ID
	step("listed", func(from, to int) error {
		page, err := q.List(ctx, outbox.Filter{States: []outbox.State{outbox.Pending}, After: after, Limit: perTransaction})
		if err == nil && len(page) != to-from {
			err = fmt.Errorf("%d entries", len(page))
		}
		after = outbox.ID(to)
		return err
	})
	step("sent", func(from, to int) error {
		deliveries := make([]outbox.Delivery, to-from)
		for i := range deliveries {
			deliveries[i] = outbox.Delivery{ID: outbox.ID(from + i + 1), Revision: 1}
		}
		_, err := q.Sent(ctx, deliveries)
		return err
	})
	start := time.Now()
	if _, err := q.Unconfirmed(ctx); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "unconfirmed/s")
	step("loaded", func(from, to int) error {
		loaded := make([]amieusage.LoadedRecord, to-from)
		for i := range loaded {
			r := record(from + i).(*amieusage.ComputeRecord)
			loaded[i] = amieusage.LoadedRecord{UsageType: amieusage.Compute, LocalRecordID: r.LocalRecordID,
				Resource: r.Resource, SubmitTime: r.SubmitTime, LoadedTime: submit, Charge: r.Charge}
		}
		n, err := q.Loaded(ctx, loaded)
		if err == nil && n != to-from {
			err = fmt.Errorf("%d loaded", n)
		}
		return err
	})
}
