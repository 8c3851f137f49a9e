//go:build !race

package main

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/cockroachdb/apd/v3"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/siterules"
	"github.com/amieusage/amieusage/internal/slurm"
	"github.com/amieusage/amieusage/internal/sqlite"
)

// TestAllocations holds the hot paths to a number of allocations for each job,
// record or entry, which depends on no machine. Work that is done once for many
// is spread over them: a fraction is no allocation of each.
func TestAllocations(t *testing.T) {
	const n = 2_000
	ctx := context.Background()
	clock := func() time.Time { return time.Unix(1_790_000_000, 0) }
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	var dump bytes.Buffer
	dumpOf(&dump, n)
	var job scheduler.Job
	records := recordsOf(0, n)
	message, err := amieusage.NewMessage(records...)
	check(err)
	body, err := message.MarshalJSON()
	check(err)
	_, raws, err := amieusage.DecodeMessage(body)
	check(err)
	rules := &siterules.Rules{Resources: []siterules.Resource{{Name: "rm",
		Rates: []siterules.Rate{{PerHour: map[string]*apd.Decimal{"cpu": apd.New(1, 0)}, Decimals: 6}}}}}
	check(rules.Check())

	queue, err := sqlite.OpenOutbox(ctx, filepath.Join(t.TempDir(), "outbox.db"), clock)
	check(err)
	defer queue.Close()
	items := make([]outbox.Item, n)
	deliveries := make([]outbox.Delivery, n)
	loaded := make(amieusage.LoadedRecords, n)
	for i, r := range records {
		id := r.Identity()
		items[i] = outbox.Item{Record: r, Place: "dump.psv:7"}
		deliveries[i] = outbox.Delivery{ID: outbox.ID(i + 1), Revision: 1}
		loaded[i] = amieusage.LoadedRecord{UsageType: id.UsageType, LocalRecordID: id.LocalRecordID, Resource: id.Resource,
			SubmitTime: id.KeyTime, LoadedTime: clock(), Charge: r.Common().Charge}
	}
	page, err := loaded.MarshalJSON()
	check(err)

	store, err := sqlite.OpenLedger(ctx, filepath.Join(t.TempDir(), "ledger.db"))
	check(err)
	defer store.Close()
	_, err = store.Import(ctx, &ledger.RegistrySpec{Sites: []ledger.SiteSpec{{Name: "PSC"}}})
	check(err)
	authority, err := store.Authority(ctx, "PSC")
	check(err)
	service := ledger.New(ledger.Config{Store: store, Policy: ledger.Open, Clock: clock, Logger: slog.New(slog.DiscardHandler)})
	accept := func(body []byte) {
		answer, err := service.Accept(ctx, ledger.Caller{Site: authority.Site, Name: "PSC"}, authority.Resources, body)
		check(err)
		if len(answer.FailedRecords) > 0 {
			t.Fatal(answer.FailedRecords)
		}
	}
	load := func() {
		report, err := service.LoadSome(ctx)
		check(err)
		if report.Loaded != n {
			t.Fatalf("%+v", report)
		}
	}
	corrected := bytes.ReplaceAll(body, []byte(`"NodeCount":2`), []byte(`"NodeCount":3`))

	for _, path := range []struct {
		name string
		most float64
		why  string
		work func()
	}{
		{"parse a line", 1.1, "the row's text, of which its fields are cut", func() {
			for j, err := range slurm.NewReader(bytes.NewReader(dump.Bytes()), "dump", slurm.Options{}).Jobs(ctx) {
				check(err)
				job = *j
			}
		}},
		{"convert a job", 12.1, "the record, and the decimals of its charge", func() {
			for range n {
				_, _, err := rules.Convert(&job)
				check(err)
			}
		}},
		{"encode a record", 0.1, "one buffer for a message", func() { _, err := message.MarshalJSON(); check(err) }},
		{"take a message apart", 0.1, "records are pieces of the message", func() { _, _, err := amieusage.DecodeMessage(body); check(err) }},
		{"decode and validate a record", 2.1, "the record, and its text, of which its fields are cut", func() {
			for _, raw := range raws {
				_, err := amieusage.CheckRecord(amieusage.Compute, raw)
				check(err)
			}
		}},
		{"digest a record", 0.1, "a buffer that is used again", func() {
			for _, r := range records {
				amieusage.ContentDigest(r)
			}
		}},
		{"encode a loaded record", 0.1, "one buffer for a page", func() { _, err := loaded.MarshalJSON(); check(err) }},
		{"decode a loaded record", 0.1, "one text for a page, of which the fields are cut", func() { check(new(amieusage.LoadedRecords).UnmarshalJSON(page)) }},
		{"accept a record", 2.2, "it is decoded, to be validated", func() { accept(body) }},
		{"load a new record", 5, "it is decoded and makes an entry; the rest are its roll-ups", load},
		{"accept a correction", 2.2, "it is decoded, to be validated", func() { accept(corrected) }},
		{"load a correction", 8.5, "as a new record, and the entry that it replaces", load},
		{"enqueue an entry", 1.1, "the record's text", func() { _, err := queue.Enqueue(ctx, items, nil); check(err) }},
		{"enqueue it again", 1.1, "what is known of it", func() { _, err := queue.Enqueue(ctx, items, nil); check(err) }},
		{"list an entry", 4.2, "the record, its text, its place", func() { _, err := queue.List(ctx, outbox.Filter{Limit: n}); check(err) }},
		{"store that it was sent", 1.1, "what is known of it", func() { _, err := queue.Sent(ctx, deliveries); check(err) }},
		{"confirm it", 1.1, "what is known of it", func() { _, err := queue.Loaded(ctx, loaded, 0); check(err) }},
	} {
		if got := allocations(path.work) / n; got > path.most {
			t.Errorf("%s: %.2f allocations, at most %g (%s)", path.name, got, path.most, path.why)
		}
	}
}

// allocations counts those of work that can be done but once.
func allocations(work func()) float64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	work()
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs - before.Mallocs)
}
