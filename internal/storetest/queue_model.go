package storetest

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/outbox"
)

// queueModel is a queue of plain Go beside the one under test.
type queueModel struct {
	*queueTest
	entries       []outbox.Entry // by their IDs, from 1
	cursors       map[string]time.Time
	service       time.Time // the service's clock
	failedRecords int64
}

var (
	queueResources = []string{queueGPUs, queueBulk} // in order
	queueSources   = []string{"dump", "slurm"}
)

// testQueueModel enqueues, sends, confirms, fails, retries and reopens in any
// order, and after each step compares all that can be seen with the model: no
// entry vanishes, an identity is there once, and the cursor moves only with
// what it covers.
func testQueueModel(t *testing.T, open OpenQueue) {
	parent := t.TempDir()
	CheckModel(t, 100, func(rt *rapid.T, _ int) {
		dir, err := os.MkdirTemp(parent, "")
		if err != nil {
			rt.Fatal(err)
		}
		m := &queueModel{
			queueTest: &queueTest{t: rt, dir: dir, openQueue: open},
			cursors:   map[string]time.Time{},
			service:   queueEpoch.AddDate(5, 0, 0),
		}
		m.open()
		defer func() { m.check(m.Close()) }()
		rt.Repeat(map[string]func(*rapid.T){
			"":                 m.compare,
			"enqueue":          m.enqueueSome,
			"enqueue, wrong":   m.enqueueWrong,
			"preview":          m.preview,
			"sent":             m.sent,
			"loaded":           m.takeLoaded,
			"failed":           m.takeFailed,
			"retry":            m.retry,
			"no such entry":    m.noSuchEntry,
			"list":             m.list,
			"reopen sometimes": m.reopenSometimes,
		})
	})
}

func (m *queueModel) reopenSometimes(rt *rapid.T) {
	if rapid.IntRange(0, 4).Draw(rt, "really") == 0 {
		m.reopen()
	}
}

// item draws a record of few identities and few contents.
func (m *queueModel) item(rt *rapid.T) outbox.Item {
	r := queueJob(
		rapid.SampledFrom([]string{"1", "2", "1|2"}).Draw(rt, "id"),
		rapid.SampledFrom(queueResources).Draw(rt, "resource"),
		rapid.SampledFrom([]string{"10", "10.00", "20"}).Draw(rt, "charge"))
	r.JobName = rapid.SampledFrom([]string{"relax", "bulk"}).Draw(rt, "name")
	item := outbox.Item{Record: r, Place: rapid.SampledFrom([]string{"a.psv:1", "b.psv:2"}).Draw(rt, "place")}
	switch rapid.IntRange(0, 5).Draw(rt, "kind") {
	case 0:
		item.Record = &amieusage.StorageRecord{Username: r.JobName, LocalProjectID: r.LocalProjectID, LocalRecordID: r.LocalRecordID,
			Resource: r.Resource, CollectionTime: r.SubmitTime, Charge: r.Charge}
	case 1:
		item.Record = &amieusage.AdjustmentRecord{AdjustmentType: amieusage.Refund, Username: r.JobName, LocalProjectID: r.LocalProjectID,
			LocalRecordID: r.LocalRecordID, Resource: r.Resource, StartTime: r.SubmitTime, Charge: r.Charge}
	}
	return item
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

func (m *queueModel) cursor(rt *rapid.T) *outbox.Cursor {
	if rapid.Bool().Draw(rt, "no cursor") {
		return nil
	}
	m.service = m.service.Add(time.Second)
	return &outbox.Cursor{Source: rapid.SampledFrom(queueSources).Draw(rt, "source"), At: m.service}
}

// take enqueues items in the model.
func (m *queueModel) take(items []outbox.Item) (outcomes []outbox.Outcome) {
	read, err := outbox.NewEntries(items, m.now)
	m.check(err)
	seen := map[outbox.ID]bool{}
	for _, r := range read {
		outcome := outbox.Outcome{Change: outbox.Unchanged}
		if e := m.find(r.Record.Identity()); e == nil {
			r.ID = outbox.ID(len(m.entries) + 1)
			m.entries = append(m.entries, r)
			outcome = outbox.Outcome{ID: r.ID, Change: outbox.Added}
		} else {
			outcome.ID, outcome.Repeated = e.ID, seen[e.ID]
			if e.Revise(r.Progress) {
				e.Record, e.Place = r.Record, r.Place
				outcome.Change = outbox.Revised
			}
		}
		seen[outcome.ID] = true
		outcomes = append(outcomes, outcome)
	}
	return outcomes
}

func (m *queueModel) same(rt *rapid.T, what string, want, got any) {
	rt.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		rt.Fatalf("%s differs (-want +got):\n%s", what, diff)
	}
}

func (m *queueModel) enqueueSome(rt *rapid.T) {
	items, cursor := m.items(rt, 0), m.cursor(rt)
	got, err := m.Enqueue(context.Background(), items, cursor)
	m.check(err)
	m.same(rt, "what became of the items", m.take(items), got)
	if cursor != nil {
		m.cursors[cursor.Source] = cursor.At
	}
}

// preview is what enqueueing would do, and nothing is done.
func (m *queueModel) preview(rt *rapid.T) {
	items := m.items(rt, 1)
	got, err := m.Preview(context.Background(), items)
	m.check(err)
	kept := slices.Clone(m.entries)
	m.same(rt, "preview", m.take(items), got)
	m.entries = kept
}

func (m *queueModel) enqueueWrong(rt *rapid.T) {
	items := m.items(rt, 1)
	wrong := queueJob("1", queueBulk, "10")
	wrong.Username = ""
	items[rapid.IntRange(0, len(items)-1).Draw(rt, "wrong")].Record = wrong
	_, err := m.Enqueue(context.Background(), items, &outbox.Cursor{Source: queueSources[0], At: m.service.Add(time.Hour)})
	m.checkCode(err, amieusage.CodeInvalid)
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

func (m *queueModel) sent(rt *rapid.T) {
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
	n, err := m.Loaded(context.Background(), records, 0)
	m.check(err)
	for _, r := range records {
		if e := m.find(r.Identity()); e != nil && e.Confirm(r, 0) {
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
		if rapid.IntRange(0, 9).Draw(rt, "unreadable") == 0 {
			records[len(records)-1].Record = nil
		}
	}
	n, err := m.Failed(context.Background(), records)
	m.check(err)
	for _, r := range records {
		if r.Record == nil {
			continue
		}
		if e := m.find(r.Record.Identity()); e != nil && e.Fail(r) && e.State == outbox.Failed {
			n--
		}
	}
	m.moved(rt, n)
}

// someStates draws some of the states, in any order.
func (m *queueModel) someStates(rt *rapid.T) []outbox.State {
	return rapid.SliceOfN(rapid.SampledFrom(outbox.States), 0, 3).Draw(rt, "states")
}

func (m *queueModel) retry(rt *rapid.T) {
	which := outbox.Selection{States: m.someStates(rt)}
	chosen := m.some(rt)
	for _, e := range chosen {
		which.IDs = append(which.IDs, e.ID)
	}
	for i := range m.entries {
		if slices.Contains(which.States, m.entries[i].State) {
			chosen = append(chosen, &m.entries[i])
		}
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

// noSuchEntry names an entry that is not there beside those that are: nothing
// is done.
func (m *queueModel) noSuchEntry(rt *rapid.T) {
	none := outbox.ID(len(m.entries) + 1)
	var deliveries []outbox.Delivery
	var which outbox.Selection
	for _, e := range m.entries {
		deliveries = append(deliveries, outbox.Delivery{ID: e.ID, Revision: e.Revision})
		which.IDs = append(which.IDs, e.ID)
	}
	_, err := m.Sent(context.Background(), append(deliveries, outbox.Delivery{ID: none, Revision: 1}))
	m.checkCode(err, amieusage.CodeNotFound)
	which.IDs = append(which.IDs, none)
	_, err = m.Retry(context.Background(), which)
	m.checkCode(err, amieusage.CodeNotFound)
	_, err = m.Get(context.Background(), none)
	m.checkCode(err, amieusage.CodeNotFound)
}

// moved fails unless the queue moved as many entries as the model.
func (m *queueModel) moved(rt *rapid.T, excess int) {
	if excess != 0 {
		rt.Fatalf("the queue says that it moved %d entries more than the model did", excess)
	}
}

// list compares a page, and gets each of its entries.
func (m *queueModel) list(rt *rapid.T) {
	f := outbox.Filter{
		States:        m.someStates(rt),
		LocalRecordID: rapid.SampledFrom([]string{"", "", "1", "1|2", "none"}).Draw(rt, "id"),
		After:         outbox.ID(rapid.IntRange(0, len(m.entries)+1).Draw(rt, "after")),
		Limit:         rapid.IntRange(0, 4).Draw(rt, "limit"),
	}
	var want, got []entryView
	for _, e := range m.entries {
		if e.ID > f.After && (len(f.States) == 0 || slices.Contains(f.States, e.State)) &&
			(f.LocalRecordID == "" || f.LocalRecordID == e.Record.Common().LocalRecordID) && (f.Limit == 0 || len(want) < f.Limit) {
			want = append(want, viewOf(e))
		}
	}
	page, err := m.List(context.Background(), f)
	m.check(err)
	for _, e := range page {
		got = append(got, viewOf(m.get(e.ID)))
		m.same(rt, "entry that was listed", got[len(got)-1], viewOf(e))
	}
	m.same(rt, "page", want, got)
}

// compare compares all that can be seen.
func (m *queueModel) compare(rt *rapid.T) {
	var want queueView
	for _, e := range m.entries {
		want.Entries = append(want.Entries, viewOf(e))
	}
	for _, resource := range queueResources {
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
	m.same(rt, "queue", want, m.view())
	for _, source := range queueSources {
		c, err := m.Cursor(context.Background(), source)
		m.check(err)
		m.same(rt, "cursor", outbox.Cursor{Source: source, At: m.cursors[source]}, c)
	}
}
