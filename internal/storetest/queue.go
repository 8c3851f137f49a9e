package storetest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/outbox"
)

// Queue is an outbox.Queue that can be closed.
type Queue interface {
	outbox.Queue
	Close() error
}

// OpenQueue opens the queue in the folder, or creates it. The same folder is
// the same queue.
type OpenQueue func(dir string, clock func() time.Time) (Queue, error)

// TestQueue holds a Queue to its contract.
func TestQueue(t *testing.T, open OpenQueue) {
	for name, test := range map[string]func(q *queueTest){
		"Enqueue":           testEnqueue,
		"EnqueueNothing":    testEnqueueNothing,
		"EnqueueAllOrNone":  testEnqueueAllOrNone,
		"EnqueueConcurrent": testEnqueueConcurrent,
		"Preview":           testPreview,
		"Records":           testQueueRecords,
		"Identities":        testQueueIdentities,
		"Cursor":            testCursor,
		"Sent":              testSent,
		"Loaded":            testQueueLoaded,
		"Failed":            testQueueFailed,
		"Retry":             testRetry,
		"Get":               testQueueGet,
		"List":              testQueueList,
		"Counts":            testQueueCounts,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q := &queueTest{t: t, dir: t.TempDir(), openQueue: open}
			q.open()
			defer func() { q.check(q.Close()) }()
			test(q)
			before := q.view()
			q.reopen()
			if diff := cmp.Diff(before, q.view()); diff != "" {
				t.Errorf("reopening changed the queue (-before +after):\n%s", diff)
			}
		})
	}
	t.Run("Model", func(t *testing.T) {
		t.Parallel()
		testQueueModel(t, open)
	})
}

// queueTest is a queue under test, with a clock that moves a second at each
// look.
type queueTest struct {
	Queue
	t         testReporter
	dir       string
	openQueue OpenQueue

	clock sync.Mutex
	now   time.Time
}

var queueEpoch = time.Date(2026, 10, 2, 8, 0, 0, 0, time.UTC)

func (q *queueTest) open() {
	q.t.Helper()
	var err error
	q.Queue, err = q.openQueue(q.dir, func() time.Time {
		q.clock.Lock()
		defer q.clock.Unlock()
		if q.now.IsZero() {
			q.now = queueEpoch
		}
		q.now = q.now.Add(time.Second)
		return q.now
	})
	q.check(err)
}

func (q *queueTest) reopen() {
	q.t.Helper()
	q.check(q.Close())
	q.open()
}

func (q *queueTest) check(err error) {
	q.t.Helper()
	if err != nil {
		q.t.Fatal(err)
	}
}

func (q *queueTest) checkCode(err error, want amieusage.Code) {
	q.t.Helper()
	if e, ok := errors.AsType[*amieusage.Error](err); !ok || e.Code != want {
		q.t.Errorf("error %v, want one with code %s", err, want)
	}
}

// queueView is all that can be seen of a queue.
type queueView struct {
	Entries     []entryView
	Counts      []outbox.Count
	Unconfirmed []outbox.Unconfirmed
}

type entryView struct {
	ID     outbox.ID
	Record string
	Place  string
	outbox.Progress
}

func viewOf(e outbox.Entry) entryView {
	return entryView{e.ID, string(e.Record.AppendJSON(nil)), e.Place, e.Progress}
}

// view returns what can be seen of the queue.
func (q *queueTest) view() (v queueView) {
	q.t.Helper()
	ctx := context.Background()
	for e, err := range outbox.All(ctx, q, outbox.Filter{}) {
		q.check(err)
		v.Entries = append(v.Entries, viewOf(e))
	}
	var err error
	v.Counts, err = q.Counts(ctx)
	q.check(err)
	v.Unconfirmed, err = q.Unconfirmed(ctx)
	q.check(err)
	return v
}

// unchanged runs f, which must change nothing.
func (q *queueTest) unchanged(f func()) {
	q.t.Helper()
	before := q.view()
	f()
	if diff := cmp.Diff(before, q.view()); diff != "" {
		q.t.Errorf("the queue changed (-before +after):\n%s", diff)
	}
}

func (q *queueTest) enqueue(items ...outbox.Item) []outbox.Outcome {
	q.t.Helper()
	outcomes, err := q.Enqueue(context.Background(), items, nil)
	q.check(err)
	return outcomes
}

func (q *queueTest) get(id outbox.ID) outbox.Entry {
	q.t.Helper()
	e, err := q.Get(context.Background(), id)
	q.check(err)
	return e
}

// count checks the number that a call returned.
func (q *queueTest) count(want int) func(got int, err error) {
	q.t.Helper()
	return func(got int, err error) {
		q.t.Helper()
		q.check(err)
		if got != want {
			q.t.Errorf("moved %d entries, want %d", got, want)
		}
	}
}

func (q *queueTest) states(want ...outbox.State) {
	q.t.Helper()
	var got []outbox.State
	for e, err := range outbox.All(context.Background(), q, outbox.Filter{}) {
		q.check(err)
		got = append(got, e.State)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		q.t.Errorf("states differ (-want +got):\n%s", diff)
	}
}

const (
	queueBulk = "rm.example.org"
	queueGPUs = "gpu.example.org"
)

// queueJob is a compute record; what it is besides its identity is its
// content. A charge that cannot be read leaves it without one, and not valid.
func queueJob(id, resource, charge string) *amieusage.ComputeRecord {
	c, _ := amieusage.ParseCharge(charge)
	submit := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	return &amieusage.ComputeRecord{
		Username: "alice", LocalProjectID: "p.abc123456.000", LocalRecordID: id, Resource: resource,
		SubmitTime: submit, StartTime: submit, EndTime: submit.Add(time.Hour), Charge: c,
		NodeCount: amieusage.CountOf(1),
	}
}

func queueItem(id, resource, charge string) outbox.Item {
	return outbox.Item{Record: queueJob(id, resource, charge), Place: "dump.psv:" + id}
}

func queueLoaded(r amieusage.Record, at time.Time) amieusage.LoadedRecord {
	id := r.Identity()
	submit := id.KeyTime
	if id.UsageType == amieusage.Adjustment {
		submit = r.AllocationTime()
	}
	return amieusage.LoadedRecord{UsageType: id.UsageType, LocalRecordID: id.LocalRecordID, Resource: id.Resource,
		SubmitTime: submit, LoadedTime: at, Charge: r.Common().Charge}
}

func queueFailed(r amieusage.Record, id int64, reason string) amieusage.FailedRecord {
	return amieusage.FailedRecord{UsageType: r.UsageType(), Error: reason, FailedRecordID: id, Record: r}
}
