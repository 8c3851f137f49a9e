package storetest

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/outbox"
)

func testEnqueue(q *queueTest) {
	cases := []struct {
		what string
		item outbox.Item
		want outbox.Outcome
	}{
		{"new", queueItem("1", queueBulk, "10"), outbox.Outcome{ID: 1, Change: outbox.Added}},
		{"new", queueItem("2", queueBulk, "10"), outbox.Outcome{ID: 2, Change: outbox.Added}},
		{"equal", queueItem("1", queueBulk, "10"), outbox.Outcome{ID: 1, Change: outbox.Unchanged}},
		{"equal, written in another way", queueItem("1", queueBulk, "10.00"), outbox.Outcome{ID: 1, Change: outbox.Unchanged}},
		{"changed", queueItem("1", queueBulk, "11"), outbox.Outcome{ID: 1, Change: outbox.Revised}},
		{"changed back", queueItem("1", queueBulk, "10"), outbox.Outcome{ID: 1, Change: outbox.Revised}},
		{"new", queueItem("3", queueBulk, "10"), outbox.Outcome{ID: 3, Change: outbox.Added}},
	}
	for _, c := range cases {
		if got := q.enqueue(c.item)[0]; got != c.want {
			q.t.Errorf("%s: %+v, want %+v", c.what, got, c.want)
		}
	}
	outcomes := q.enqueue(queueItem("4", queueBulk, "1"), queueItem("2", queueBulk, "10"), queueItem("4", queueBulk, "2"),
		queueItem("2", queueBulk, "11"), queueItem("2", queueBulk, "11"))
	want := []outbox.Outcome{
		{ID: 4, Change: outbox.Added},
		{ID: 2, Change: outbox.Unchanged},
		{ID: 4, Change: outbox.Revised, Repeated: true},
		{ID: 2, Change: outbox.Revised, Repeated: true},
		{ID: 2, Change: outbox.Unchanged, Repeated: true},
	}
	if diff := cmp.Diff(want, outcomes); diff != "" {
		q.t.Errorf("outcomes of one call differ (-want +got):\n%s", diff)
	}
	item := queueItem("4", queueBulk, "2")
	e := q.get(4)
	wantEntry := entryView{4, string(item.Record.AppendJSON(nil)), item.Place, outbox.Progress{
		State: outbox.Pending, Revision: 2, Digest: amieusage.ContentDigest(item.Record), Charge: 2_000_000, EnqueuedAt: q.now,
	}}
	if diff := cmp.Diff(wantEntry, viewOf(e)); diff != "" {
		q.t.Errorf("entry differs (-want +got):\n%s", diff)
	}
}

// testEnqueueNothing enqueues equal content in every state of the entry.
func testEnqueueNothing(q *queueTest) {
	ctx := context.Background()
	var items []outbox.Item
	for _, id := range []string{"pending", "queued", "loaded", "failed", "rejected"} {
		items = append(items, queueItem(id, queueBulk, "10"))
	}
	q.enqueue(items...)
	q.count(4)(q.Sent(ctx, []outbox.Delivery{{ID: 2, Revision: 1}, {ID: 3, Revision: 1}, {ID: 4, Revision: 1},
		{ID: 5, Revision: 1, Rejected: true, Reason: "unknown resource"}}))
	q.count(1)(q.Loaded(ctx, []amieusage.LoadedRecord{queueLoaded(items[2].Record, queueEpoch)}, 0))
	q.count(1)(q.Failed(ctx, []amieusage.FailedRecord{queueFailed(items[3].Record, 7, "unknown user")}))
	q.states(outbox.Pending, outbox.Queued, outbox.Loaded, outbox.Failed, outbox.Rejected)
	q.unchanged(func() {
		for i := range items {
			items[i].Place = "another.psv:1"
		}
		for _, o := range q.enqueue(items...) {
			if o.Change != outbox.Unchanged || o.Repeated {
				q.t.Errorf("equal content: %+v", o)
			}
		}
	})
	for i := range items {
		items[i] = queueItem(items[i].Record.Common().LocalRecordID, queueBulk, "11")
	}
	q.enqueue(items...)
	q.states(outbox.Pending, outbox.Pending, outbox.Pending, outbox.Pending, outbox.Pending)
}

func testEnqueueAllOrNone(q *queueTest) {
	ctx := context.Background()
	q.enqueue(queueItem("1", queueBulk, "10"))
	q.unchanged(func() {
		_, err := q.Enqueue(ctx, []outbox.Item{queueItem("1", queueBulk, "11"), queueItem("2", queueBulk, "-1")},
			&outbox.Cursor{Source: "slurm", At: queueEpoch})
		q.checkCode(err, amieusage.CodeInvalid)
		cancelled, cancel := context.WithCancel(ctx)
		cancel()
		if _, err = q.Enqueue(cancelled, []outbox.Item{queueItem("1", queueBulk, "11")},
			&outbox.Cursor{Source: "slurm", At: queueEpoch}); err == nil {
			q.t.Error("enqueued although the context has ended")
		}
	})
	if c, err := q.Cursor(ctx, "slurm"); err != nil || !c.At.IsZero() {
		q.t.Errorf("cursor %v, %v; want none", c, err)
	}
}

func testEnqueueConcurrent(q *queueTest) {
	const writers, records = 4, 50
	outcomes := make([][]outbox.Outcome, writers)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range records {
				o, err := q.Enqueue(context.Background(), []outbox.Item{queueItem(string(rune('a'+i)), queueBulk, "10")}, nil)
				if err != nil {
					q.t.Error(err)
					return
				}
				outcomes[w] = append(outcomes[w], o...)
			}
		})
	}
	wg.Wait()
	added := map[outbox.ID]int{}
	for _, writer := range outcomes {
		for _, o := range writer {
			if o.Change == outbox.Added {
				added[o.ID]++
			}
		}
	}
	entries := q.view().Entries
	if len(entries) != records || len(added) != records {
		q.t.Errorf("%d entries, %d of them added; want %d", len(entries), len(added), records)
	}
}

func testPreview(q *queueTest) {
	q.enqueue(queueItem("1", queueBulk, "10"), queueItem("2", queueBulk, "10"))
	items := []outbox.Item{queueItem("1", queueBulk, "10"), queueItem("2", queueBulk, "11"), queueItem("3", queueGPUs, "1"),
		queueItem("3", queueGPUs, "2")}
	var preview []outbox.Outcome
	q.unchanged(func() {
		var err error
		preview, err = q.Preview(context.Background(), items)
		q.check(err)
		_, err = q.Preview(context.Background(), []outbox.Item{{}})
		q.checkCode(err, amieusage.CodeInvalid)
	})
	for i, o := range q.enqueue(items...) {
		if preview[i].Change != o.Change || preview[i].Repeated != o.Repeated {
			q.t.Errorf("item %d: previewed %+v, became %+v", i, preview[i], o)
		}
	}
}

// testQueueRecords stores each kind of record with every field.
func testQueueRecords(q *queueTest) {
	for t, text := range map[amieusage.UsageType]string{
		amieusage.Compute: `{"Username":"alice","LocalProjectID":"p.abc123456.000","LocalRecordID":"4711|7 \"é\"",` +
			`"Resource":"rm.example.org","SubmitTime":"2026-10-01T23:59:00.123456789-04:00","StartTime":"2026-10-02T04:00:00Z",` +
			`"EndTime":"2026-10-02T05:00:00Z","Charge":"16.250","Attributes":{"NodeCount":4,"CpuCoreCount":512,` +
			`"JobName":"relax\nbulk","Memory":"256000M","Queue":"RM","Energy":{"J":[1,2]}},"ParentRecordID":"4710",` +
			`"LocalReference":"x","Cluster":"b2"}`,
		amieusage.Storage: `{"Username":"alice","LocalProjectID":"p.abc123456.000","LocalRecordID":"fs1",` +
			`"Resource":"rm.example.org","CollectionTime":"2026-10-01T00:00:00Z","Charge":"1e-3",` +
			`"Attributes":{"BytesStored":9007199254740993}}`,
		amieusage.Adjustment: `{"AdjustmentType":"refund","Username":"alice","LocalProjectID":"p.abc123456.000",` +
			`"LocalRecordID":"r1","Resource":"rm.example.org","StartTime":"2026-10-01T00:00:00Z","Charge":"0","Comment":"sorry"}`,
	} {
		r, err := amieusage.CheckRecord(t, json.RawMessage(text))
		q.check(err)
		id := q.enqueue(outbox.Item{Record: r, Place: "x"})[0].ID
		e := q.get(id)
		if diff := cmp.Diff(string(r.AppendJSON(nil)), string(e.Record.AppendJSON(nil))); diff != "" {
			q.t.Errorf("%s record differs (-want +got):\n%s", t, diff)
		}
		if e.Digest != amieusage.ContentDigest(r) || e.Digest != amieusage.ContentDigest(e.Record) {
			q.t.Errorf("%s record: the digest is not that of the content", t)
		}
		if e.Record.Identity() != r.Identity() {
			q.t.Errorf("%s record: identity %v, want %v", t, e.Record.Identity(), r.Identity())
		}
	}
}

// testQueueIdentities stores records that differ in one part of the identity
// alone, and the same once more.
func testQueueIdentities(q *queueTest) {
	var items []outbox.Item
	add := func(r amieusage.Record) { items = append(items, outbox.Item{Record: r}) }
	add(queueJob("1", "a", "1"))
	add(queueJob("1", "a|1", "1"))
	add(queueJob("1|1", "a", "1"))
	add(queueJob("01", "a", "1"))
	later := queueJob("1", "a", "1")
	later.StartTime = later.StartTime.Add(time.Nanosecond)
	later.SubmitTime = later.StartTime
	add(later)
	job := queueJob("1", "a", "1")
	add(&amieusage.StorageRecord{Username: job.Username, LocalProjectID: job.LocalProjectID, LocalRecordID: "1",
		Resource: "a", CollectionTime: job.SubmitTime, Charge: job.Charge})
	add(&amieusage.AdjustmentRecord{AdjustmentType: amieusage.Refund, Username: job.Username,
		LocalProjectID: job.LocalProjectID, LocalRecordID: "1", Resource: "a", StartTime: job.SubmitTime, Charge: job.Charge})
	for i, o := range q.enqueue(items...) {
		if o.Change != outbox.Added || o.Repeated {
			q.t.Errorf("record %d: %+v", i, o)
		}
	}
	// The same instant in another zone is the same identity, and a time of an
	// adjustment is no part of it.
	zoned := queueJob("1", "a", "1")
	zoned.SubmitTime = zoned.SubmitTime.In(time.FixedZone("", -4*3600))
	adjustment := *items[6].Record.(*amieusage.AdjustmentRecord)
	adjustment.StartTime = adjustment.StartTime.Add(time.Hour)
	outcomes := q.enqueue(outbox.Item{Record: zoned}, outbox.Item{Record: &adjustment})
	if outcomes[0].Change != outbox.Unchanged || outcomes[0].ID != 1 || outcomes[1].Change != outbox.Revised || outcomes[1].ID != 7 {
		q.t.Errorf("outcomes %+v", outcomes)
	}
}

func testCursor(q *queueTest) {
	ctx := context.Background()
	want := func(source string, at time.Time) {
		q.t.Helper()
		c, err := q.Cursor(ctx, source)
		q.check(err)
		if c.Source != source || !c.At.Equal(at) {
			q.t.Errorf("cursor %+v, want %s at %v", c, source, at)
		}
	}
	move := func(source string, at time.Time, items ...outbox.Item) {
		q.t.Helper()
		_, err := q.Enqueue(ctx, items, &outbox.Cursor{Source: source, At: at})
		q.check(err)
	}
	want("slurm", time.Time{})
	at := time.Date(2026, 10, 1, 23, 59, 0, 123456789, time.FixedZone("", -4*3600))
	move("slurm", at, queueItem("1", queueBulk, "10"))
	want("slurm", at)
	want("dump", time.Time{})
	move("dump", at.Add(time.Hour))
	q.enqueue(queueItem("2", queueBulk, "10"))
	want("slurm", at)
	move("slurm", at.Add(-time.Hour)) // to collect again
	want("slurm", at.Add(-time.Hour))
	want("dump", at.Add(time.Hour))
	q.reopen()
	want("slurm", at.Add(-time.Hour))
}
