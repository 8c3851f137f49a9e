package storetest

import (
	"context"
	"math"
	"strconv"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/outbox"
)

func testSent(q *queueTest) {
	ctx := context.Background()
	q.enqueue(queueItem("1", queueBulk, "10"), queueItem("2", queueBulk, "10"), queueItem("3", queueBulk, "10"))
	q.enqueue(queueItem("3", queueBulk, "11"))
	answers := []outbox.Delivery{{ID: 1, Revision: 1}, {ID: 2, Revision: 1, Rejected: true, Reason: "unknown resource"}, {ID: 3, Revision: 1}}
	q.count(2)(q.Sent(ctx, answers))
	q.states(outbox.Queued, outbox.Rejected, outbox.Pending)
	e := q.get(2)
	if e.Reason != "unknown resource" || e.Attempts != 1 || !e.SentAt.Equal(q.now) {
		q.t.Errorf("rejected for %q, attempt %d, at %v; now is %v", e.Reason, e.Attempts, e.SentAt, q.now)
	}
	q.unchanged(func() {
		q.count(0)(q.Sent(ctx, answers))
		_, err := q.Sent(ctx, []outbox.Delivery{{ID: 3, Revision: 2}, {ID: 99, Revision: 1}})
		q.checkCode(err, amieusage.CodeNotFound)
	})
	q.count(0)(q.Sent(ctx, nil))
}

func testQueueLoaded(q *queueTest) {
	ctx := context.Background()
	job := queueJob("1", queueBulk, "10")
	storage := &amieusage.StorageRecord{Username: "alice", LocalProjectID: "p", LocalRecordID: "1", Resource: queueBulk,
		CollectionTime: job.SubmitTime, Charge: job.Charge}
	refund := &amieusage.AdjustmentRecord{AdjustmentType: amieusage.Refund, Username: "alice", LocalProjectID: "p",
		LocalRecordID: "1", Resource: queueBulk, StartTime: job.SubmitTime, Charge: job.Charge}
	other := queueJob("2", queueBulk, "10")
	var sent []outbox.Delivery
	for _, o := range q.enqueue(outbox.Item{Record: job}, outbox.Item{Record: storage}, outbox.Item{Record: refund}, outbox.Item{Record: other}) {
		sent = append(sent, outbox.Delivery{ID: o.ID, Revision: 1})
	}
	q.count(0)(q.Loaded(ctx, []amieusage.LoadedRecord{queueLoaded(job, queueEpoch)}, 0)) // pending
	q.count(4)(q.Sent(ctx, sent))

	at := time.Date(2031, 1, 1, 0, 0, 0, 123456789, time.FixedZone("", 3600))
	wild := queueLoaded(other, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC))
	wildKey := queueLoaded(other, at)
	wildKey.SubmitTime = wildKey.SubmitTime.Add(math.MaxInt64).Add(math.MaxInt64).Add(2) // 2^64 ns on
	unnamed := queueLoaded(job, at)
	unnamed.UsageType = "" // means a compute record
	q.unchanged(func() {
		q.count(0)(q.Loaded(ctx, []amieusage.LoadedRecord{
			{}, wild, wildKey, queueLoaded(queueJob("3", queueBulk, "10"), at), queueLoaded(queueJob("2", "elsewhere", "10"), at),
			queueLoaded(queueJob("2", queueBulk, "11"), at),
		}, 0))
	})
	q.count(3)(q.Loaded(ctx, []amieusage.LoadedRecord{unnamed, queueLoaded(storage, at), queueLoaded(refund, at), queueLoaded(job, at)}, 0))
	q.states(outbox.Loaded, outbox.Loaded, outbox.Loaded, outbox.Queued)
	if e := q.get(1); !e.LoadedAt.Equal(at) {
		q.t.Errorf("loaded at %v, want %v", e.LoadedAt, at)
	}

	// A correction of equal charge is told from what was loaded before, also
	// by a queue that was closed meanwhile.
	job.JobName = "renamed"
	q.enqueue(outbox.Item{Record: job})
	q.count(1)(q.Sent(ctx, []outbox.Delivery{{ID: 1, Revision: 2}}))
	q.reopen()
	q.count(0)(q.Loaded(ctx, []amieusage.LoadedRecord{queueLoaded(job, at)}, 0))
	q.count(1)(q.Loaded(ctx, []amieusage.LoadedRecord{queueLoaded(job, at.Add(time.Nanosecond))}, 0))
}

func testQueueFailed(q *queueTest) {
	ctx := context.Background()
	a, b := queueItem("1", queueBulk, "10"), queueItem("2", queueBulk, "10")
	q.enqueue(a, b)
	q.count(2)(q.Sent(ctx, []outbox.Delivery{{ID: 1, Revision: 1}, {ID: 2, Revision: 1}}))
	q.unchanged(func() {
		q.count(0)(q.Failed(ctx, []amieusage.FailedRecord{
			{FailedRecordID: 1, Error: "unreadable"},
			queueFailed(queueJob("1", queueBulk, "11"), 2, "of another content"),
			queueFailed(queueJob("3", queueBulk, "10"), 3, "of another program"),
		}))
	})
	q.count(2)(q.Failed(ctx, []amieusage.FailedRecord{
		queueFailed(a.Record, 8, "unknown user"), queueFailed(a.Record, 7, "no allocation"), queueFailed(b.Record, 9, "no allocation"),
	}))
	if e := q.get(1); e.State != outbox.Failed || e.Reason != "unknown user" || e.FailedRecordID != 8 {
		q.t.Errorf("%s for %q, number %d", e.State, e.Reason, e.FailedRecordID)
	}
	q.count(2)(q.Retry(ctx, outbox.Selection{States: []outbox.State{outbox.Failed}}))
	if e := q.get(1); e.State != outbox.Pending || e.Reason != "" || e.FailedRecordID != 8 {
		q.t.Errorf("after retry: %s for %q, number %d", e.State, e.Reason, e.FailedRecordID)
	}
	q.count(2)(q.Sent(ctx, []outbox.Delivery{{ID: 1, Revision: 1}, {ID: 2, Revision: 1}}))
	q.count(1)(q.Failed(ctx, []amieusage.FailedRecord{queueFailed(a.Record, 8, "unknown user"), queueFailed(b.Record, 10, "no allocation")}))
	q.states(outbox.Queued, outbox.Failed)
}

func testRetry(q *queueTest) {
	ctx := context.Background()
	q.enqueue(queueItem("1", queueBulk, "10"), queueItem("2", queueBulk, "10"), queueItem("3", queueBulk, "10"), queueItem("4", queueBulk, "10"))
	q.count(3)(q.Sent(ctx, []outbox.Delivery{{ID: 1, Revision: 1}, {ID: 2, Revision: 1, Rejected: true, Reason: "no"}, {ID: 3, Revision: 1}}))
	q.count(1)(q.Loaded(ctx, []amieusage.LoadedRecord{queueLoaded(queueJob("3", queueBulk, "10"), queueEpoch)}, 0))
	q.states(outbox.Queued, outbox.Rejected, outbox.Loaded, outbox.Pending)
	q.unchanged(func() {
		q.count(0)(q.Retry(ctx, outbox.Selection{}))
		q.count(0)(q.Retry(ctx, outbox.Selection{IDs: []outbox.ID{4}, States: []outbox.State{outbox.Failed, outbox.Pending}}))
		_, err := q.Retry(ctx, outbox.Selection{IDs: []outbox.ID{1, 99}})
		q.checkCode(err, amieusage.CodeNotFound)
	})
	q.count(2)(q.Retry(ctx, outbox.Selection{IDs: []outbox.ID{3, 3}, States: []outbox.State{outbox.Rejected}}))
	q.states(outbox.Queued, outbox.Pending, outbox.Pending, outbox.Pending)
	q.count(3)(q.Sent(ctx, []outbox.Delivery{{ID: 2, Revision: 1}, {ID: 3, Revision: 1}, {ID: 4, Revision: 1}}))
	q.count(4)(q.Retry(ctx, outbox.Selection{States: []outbox.State{outbox.Queued}}))
}

func testQueueGet(q *queueTest) {
	for _, id := range []outbox.ID{0, 1, -1} {
		_, err := q.Get(context.Background(), id)
		q.checkCode(err, amieusage.CodeNotFound)
	}
}

func testQueueList(q *queueTest) {
	ctx := context.Background()
	var items []outbox.Item
	var sent []outbox.Delivery
	var loaded []amieusage.LoadedRecord
	for i := range 12 {
		item := queueItem(strconv.Itoa(i/2), []string{queueBulk, queueGPUs}[i%2], "10")
		items = append(items, item)
		d := outbox.Delivery{ID: outbox.ID(i + 1), Revision: 1}
		switch i % 4 {
		case 0:
			d.Rejected, d.Reason = true, "no"
		case 1:
			loaded = append(loaded, queueLoaded(item.Record, queueEpoch))
		case 2:
			continue
		}
		sent = append(sent, d)
	}
	q.enqueue(items...)
	q.count(9)(q.Sent(ctx, sent))
	q.count(3)(q.Loaded(ctx, loaded, 0))
	for _, c := range []struct {
		what   string
		filter outbox.Filter
		want   []outbox.ID
	}{
		{"all", outbox.Filter{}, []outbox.ID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}},
		{"a page", outbox.Filter{After: 3, Limit: 2}, []outbox.ID{4, 5}},
		{"pending", outbox.Filter{States: []outbox.State{outbox.Pending}}, []outbox.ID{3, 7, 11}},
		{"pending, a page", outbox.Filter{States: []outbox.State{outbox.Pending}, After: 3, Limit: 1}, []outbox.ID{7}},
		{"loaded", outbox.Filter{States: []outbox.State{outbox.Loaded}, After: 2}, []outbox.ID{6, 10}},
		{"none", outbox.Filter{States: []outbox.State{outbox.Failed}}, nil},
		{"unknown state", outbox.Filter{States: []outbox.State{"lost"}}, nil},
		{"several states", outbox.Filter{States: []outbox.State{outbox.Loaded, outbox.Rejected, outbox.Queued, outbox.Rejected}, After: 4, Limit: 4},
			[]outbox.ID{5, 6, 8, 9}},
		{"behind the end", outbox.Filter{After: 12}, nil},
		{"a record", outbox.Filter{LocalRecordID: "2"}, []outbox.ID{5, 6}},
		{"a record in a state", outbox.Filter{LocalRecordID: "2", States: []outbox.State{outbox.Loaded}}, []outbox.ID{6}},
		{"a record, a page", outbox.Filter{LocalRecordID: "2", After: 5, Limit: 1}, []outbox.ID{6}},
		{"no record", outbox.Filter{LocalRecordID: "2 "}, nil},
	} {
		page, err := q.List(ctx, c.filter)
		q.check(err)
		var got []outbox.ID
		for _, e := range page {
			got = append(got, e.ID)
			if diff := cmp.Diff(viewOf(q.get(e.ID)), viewOf(e)); diff != "" {
				q.t.Errorf("%s: listed and got differ:\n%s", c.what, diff)
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			q.t.Errorf("%s (-want +got):\n%s", c.what, diff)
		}
	}
	var got []outbox.ID
	for e, err := range outbox.All(ctx, q, outbox.Filter{States: []outbox.State{outbox.Pending, outbox.Loaded}, Limit: 2}) {
		q.check(err)
		got = append(got, e.ID)
		if e.ID == 10 {
			break
		}
	}
	if diff := cmp.Diff([]outbox.ID{2, 3, 6, 7, 10}, got); diff != "" {
		q.t.Errorf("All (-want +got):\n%s", diff)
	}
	drawn := map[outbox.ID]bool{}
	for range 100 {
		sample, err := q.Sample(ctx, outbox.Pending, 2)
		q.check(err)
		if len(sample) != 2 || sample[0].ID >= sample[1].ID {
			q.t.Fatalf("a sample of two has %d entries, or not in order", len(sample))
		}
		drawn[sample[0].ID], drawn[sample[1].ID] = true, true
	}
	if diff := cmp.Diff(map[outbox.ID]bool{3: true, 7: true, 11: true}, drawn); diff != "" {
		q.t.Errorf("drawn in 100 samples (-want +got):\n%s", diff)
	}
	for state, want := range map[outbox.State]int{outbox.Loaded: 3, outbox.Failed: 0} {
		if sample, err := q.Sample(ctx, state, 10); err != nil || len(sample) != want {
			q.t.Errorf("a sample of all that are %s has %d entries, error %v", state, len(sample), err)
		}
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	errs := 0
	for _, err := range outbox.All(cancelled, q, outbox.Filter{}) {
		if err != nil {
			errs++
		}
	}
	if errs != 1 {
		q.t.Errorf("%d errors of a context that has ended, want 1", errs)
	}
}

func testQueueCounts(q *queueTest) {
	ctx := context.Background()
	if v := q.view(); v.Counts != nil || v.Unconfirmed != nil {
		q.t.Errorf("an empty queue counts %v and %v", v.Counts, v.Unconfirmed)
	}
	q.enqueue(queueItem("1", queueBulk, "10"), queueItem("2", queueBulk, "10"), queueItem("3", queueBulk, "10"), queueItem("1", queueGPUs, "10"))
	q.count(1)(q.Sent(ctx, []outbox.Delivery{{ID: 2, Revision: 1}}))
	first := q.now
	q.count(2)(q.Sent(ctx, []outbox.Delivery{{ID: 1, Revision: 1}, {ID: 4, Revision: 1, Rejected: true}}))
	want := []outbox.Count{
		{Resource: queueGPUs, State: outbox.Rejected, Entries: 1},
		{Resource: queueBulk, State: outbox.Pending, Entries: 1},
		{Resource: queueBulk, State: outbox.Queued, Entries: 2},
	}
	v := q.view()
	if diff := cmp.Diff(want, v.Counts); diff != "" {
		q.t.Errorf("counts differ (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]outbox.Unconfirmed{{Resource: queueBulk, Entries: 2, FirstSentAt: first}}, v.Unconfirmed); diff != "" {
		q.t.Errorf("unconfirmed differ (-want +got):\n%s", diff)
	}
}
