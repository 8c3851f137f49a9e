package storetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/outbox"
)

// queueModel is a queue of plain Go beside the one under test. Each check has
// resources and sources of its own in a queue that is common to all.
type queueModel struct {
	*queueTest
	first         outbox.ID // the check's entries come behind it
	resources     []string  // in order
	sources       []string
	entries       []outbox.Entry
	cursors       map[string]time.Time
	service       time.Time // the service's clock
	failedRecords int64
}

// testQueueModel enqueues, sends, confirms, fails, retries and reopens in any
// order, and compares all that can be seen with the model now and then: no
// entry vanishes, an identity is there once, and the cursor moves only with
// what it covers.
func testQueueModel(q *queueTest) {
	checkModel(q.t, 100, func(rt *rapid.T, check int) {
		m := &queueModel{
			queueTest: q,
			resources: []string{fmt.Sprintf("gpu%d", check), fmt.Sprintf("rm%d", check)},
			sources:   []string{fmt.Sprintf("dump%d", check), fmt.Sprintf("slurm%d", check)},
			cursors:   map[string]time.Time{},
			service:   queueEpoch.AddDate(5, 0, 0),
		}
		counts, err := q.Counts(context.Background())
		q.check(err)
		for _, c := range counts {
			m.first += outbox.ID(c.Entries)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"enqueue":        m.enqueueSome,
			"enqueue, wrong": m.enqueueWrong,
			"send":           m.send,
			"loaded":         m.takeLoaded,
			"failed":         m.takeFailed,
			"retry":          m.retry,
			"reopen": func(rt *rapid.T) {
				if rapid.IntRange(0, 9).Draw(rt, "really") == 0 {
					m.reopen()
				}
			},
			"compare": m.compare,
		})
		m.compare(rt)
	})
}

func (m *queueModel) item(rt *rapid.T) outbox.Item {
	r := queueJob(
		rapid.SampledFrom([]string{"1", "2", "1|2"}).Draw(rt, "id"),
		rapid.SampledFrom(m.resources).Draw(rt, "resource"),
		rapid.SampledFrom([]string{"10", "20"}).Draw(rt, "charge"))
	r.JobName = rapid.SampledFrom([]string{"relax", "bulk"}).Draw(rt, "name")
	return outbox.Item{Record: r, Place: rapid.SampledFrom([]string{"a.psv:1", "b.psv:2"}).Draw(rt, "place")}
}

func (m *queueModel) items(rt *rapid.T, atLeast int) []outbox.Item {
	items := make([]outbox.Item, rapid.IntRange(atLeast, 5).Draw(rt, "items"))
	for i := range items {
		items[i] = m.item(rt)
	}
	return items
}

func (m *queueModel) find(id amieusage.Identity) *outbox.Entry {
	i := slices.IndexFunc(m.entries, func(e outbox.Entry) bool { return e.Record.Identity() == id })
	if i < 0 {
		return nil
	}
	return &m.entries[i]
}

func (m *queueModel) enqueueSome(rt *rapid.T) {
	items := m.items(rt, 0)
	var cursor *outbox.Cursor
	if rapid.Bool().Draw(rt, "cursor") {
		m.service = m.service.Add(time.Second)
		cursor = &outbox.Cursor{Source: rapid.SampledFrom(m.sources).Draw(rt, "source"), At: m.service}
		m.cursors[cursor.Source] = cursor.At
	}
	outcomes, err := m.Enqueue(context.Background(), items, cursor)
	m.check(err)
	read, err := outbox.NewEntries(items, m.now)
	m.check(err)
	seen := map[outbox.ID]bool{}
	for i, r := range read {
		want := outbox.Outcome{Change: outbox.Unchanged}
		if e := m.find(r.Record.Identity()); e == nil {
			r.ID = m.first + outbox.ID(len(m.entries)+1)
			m.entries = append(m.entries, r)
			want = outbox.Outcome{ID: r.ID, Change: outbox.Added}
		} else {
			want.ID, want.Repeated = e.ID, seen[e.ID]
			if e.Revise(r.Progress) {
				e.Record, e.Place = r.Record, r.Place
				want.Change = outbox.Revised
			}
		}
		seen[want.ID] = true
		if outcomes[i] != want {
			rt.Fatalf("item %d: %+v, want %+v", i, outcomes[i], want)
		}
	}
}

func (m *queueModel) enqueueWrong(rt *rapid.T) {
	items := m.items(rt, 1)
	items[len(items)-1].Record.(*amieusage.ComputeRecord).Username = ""
	if _, err := m.Enqueue(context.Background(), items, &outbox.Cursor{Source: m.sources[0], At: m.service}); err == nil {
		rt.Fatal("a record that is not valid was enqueued")
	}
}

// some draws entries of the model.
func (m *queueModel) some(rt *rapid.T) []*outbox.Entry {
	var some []*outbox.Entry
	for i := range m.entries {
		if rapid.Bool().Draw(rt, "chosen") {
			some = append(some, &m.entries[i])
		}
	}
	return some
}

func (m *queueModel) send(rt *rapid.T) {
	chosen := m.some(rt)
	deliveries := make([]outbox.Delivery, len(chosen))
	for i, e := range chosen {
		deliveries[i] = outbox.Delivery{ID: e.ID, Revision: e.Revision - rapid.Int64Range(0, 1).Draw(rt, "late")}
		if rapid.IntRange(0, 3).Draw(rt, "rejected") == 0 {
			deliveries[i].Rejected, deliveries[i].Reason = true, "unknown resource"
		}
	}
	n, err := m.Sent(context.Background(), deliveries)
	m.check(err)
	for i, e := range chosen {
		if e.Sent(deliveries[i], m.now) {
			n--
		}
	}
	m.moved(rt, n)
}

func (m *queueModel) takeLoaded(rt *rapid.T) {
	var records []amieusage.LoadedRecord
	for range rapid.IntRange(0, 6).Draw(rt, "records") {
		m.service = m.service.Add(time.Second)
		at := m.service.Add(-time.Duration(rapid.IntRange(0, 3).Draw(rt, "earlier")) * time.Second)
		records = append(records, queueLoaded(m.item(rt).Record, at))
	}
	n, err := m.Loaded(context.Background(), records)
	m.check(err)
	for _, r := range records {
		if e := m.find(r.Identity()); e != nil && e.Confirm(r) {
			n--
		}
	}
	m.moved(rt, n)
}

func (m *queueModel) takeFailed(rt *rapid.T) {
	var records []amieusage.FailedRecord
	for range rapid.IntRange(0, 6).Draw(rt, "records") {
		m.failedRecords++
		id := m.failedRecords - rapid.Int64Range(0, 2).Draw(rt, "earlier")
		records = append(records, queueFailed(m.item(rt).Record, id, "unknown user"))
	}
	n, err := m.Failed(context.Background(), records)
	m.check(err)
	for _, r := range records {
		if e := m.find(r.Record.Identity()); e != nil && e.Fail(r) && e.State == outbox.Failed {
			n--
		}
	}
	m.moved(rt, n)
}

func (m *queueModel) retry(rt *rapid.T) {
	var which outbox.Selection
	chosen := m.some(rt)
	for _, e := range chosen {
		which.IDs = append(which.IDs, e.ID)
	}
	n, err := m.Retry(context.Background(), which)
	m.check(err)
	for _, e := range chosen {
		if e.Retry() {
			n--
		}
	}
	m.moved(rt, n)
}

// moved fails unless the queue moved as many entries as the model.
func (m *queueModel) moved(rt *rapid.T, excess int) {
	if excess != 0 {
		rt.Fatalf("the queue says that it moved %d entries more than the model did", excess)
	}
}

func (m *queueModel) compare(rt *rapid.T) {
	var want queueView
	for _, e := range m.entries {
		want.Entries = append(want.Entries, viewOf(e))
	}
	for _, resource := range m.resources {
		counts := map[outbox.State]int64{}
		unconfirmed := outbox.Unconfirmed{Resource: resource}
		for _, e := range m.entries {
			if e.Record.Common().Resource != resource {
				continue
			}
			counts[e.State]++
			if e.State == outbox.Queued {
				if unconfirmed.Entries++; unconfirmed.Entries == 1 || e.SentAt.Before(unconfirmed.FirstSentAt) {
					unconfirmed.FirstSentAt = e.SentAt
				}
			}
		}
		for _, state := range slices.SortedFunc(slices.Values(outbox.States), func(a, b outbox.State) int {
			return strings.Compare(string(a), string(b))
		}) {
			if counts[state] > 0 {
				want.Counts = append(want.Counts, outbox.Count{Resource: resource, State: state, Entries: counts[state]})
			}
		}
		if unconfirmed.Entries > 0 {
			want.Unconfirmed = append(want.Unconfirmed, unconfirmed)
		}
	}
	got := m.view(m.first)
	ours := func(resource string) bool { return slices.Contains(m.resources, resource) }
	got.Counts = slices.DeleteFunc(got.Counts, func(c outbox.Count) bool { return !ours(c.Resource) })
	got.Unconfirmed = slices.DeleteFunc(got.Unconfirmed, func(u outbox.Unconfirmed) bool { return !ours(u.Resource) })
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		rt.Fatalf("queue differs from the model (-want +got):\n%s", diff)
	}
	for _, source := range m.sources {
		c, err := m.Cursor(context.Background(), source)
		m.check(err)
		if !c.At.Equal(m.cursors[source]) {
			rt.Fatalf("cursor of %s at %v, want %v", source, c.At, m.cursors[source])
		}
	}
}
