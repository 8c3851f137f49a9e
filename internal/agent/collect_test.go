package agent_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/agent"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/siterules"
)

// counts are those of a summary that collecting changes.
type counts struct{ Read, Bad, New, Changed, Unchanged int64 }

func (s *site) counts() counts {
	sum := &s.agent.Summary
	return counts{sum.Read, sum.Bad, sum.New, sum.Changed, sum.Unchanged}
}

func (s *site) wantCounts(t *testing.T, want counts) {
	t.Helper()
	if got := s.counts(); got != want {
		t.Errorf("got %+v, want %+v; problems %+v", got, want, s.agent.Summary.Problems)
	}
}

func TestCollectIsIdempotent(t *testing.T) {
	s := newSite(t)
	rows := []any{job("1"), job("2", onGPU), job("3", func(j *scheduler.Job) { j.End = time.Time{} }),
		job("4", func(j *scheduler.Job) { j.Partition = "other" })}
	s.collect(t, rows...)
	s.wantCounts(t, counts{Read: 4, New: 2})
	skipped := map[string]int64{string(siterules.SkipUnfinished): 1, string(siterules.SkipNoResource): 1}
	if diff := cmp.Diff(skipped, s.agent.Summary.Skipped); diff != "" {
		t.Errorf("skipped (-want +got):\n%s", diff)
	}
	charges := map[string]string{}
	for resource, c := range s.agent.Summary.Charge {
		charges[resource] = fmt.Sprintf("%s for %d", c.Total, c.Records)
	}
	if diff := cmp.Diff(map[string]string{rm: "8 for 1", gpu: "2 for 1"}, charges); diff != "" {
		t.Errorf("charges (-want +got):\n%s", diff)
	}
	s.again().collect(t, rows...)
	s.wantCounts(t, counts{Read: 4, Unchanged: 2})
	if len(s.agent.Summary.Charge) > 0 {
		t.Errorf("charges %v of what was known", s.agent.Summary.Charge)
	}
}

func TestCollectTakesCorrectionsRequeuedAndLateJobs(t *testing.T) {
	s := newSite(t)
	requeued := []any{job("102"), job("102", submitted(begin.Add(time.Hour)))}
	s.collect(t, append(requeued, job("1"))...)
	s.wantCounts(t, counts{Read: 3, New: 3})
	// The next window reaches back: two are known, one is corrected, and one
	// that ended before them appears late.
	late := job("7", submitted(begin.Add(-24*time.Hour)))
	s.again().collect(t, append(requeued, job("1", ran(2)), late)...)
	s.wantCounts(t, counts{Read: 4, New: 1, Changed: 1, Unchanged: 2})
	entry, err := s.queue.Get(context.Background(), 3)
	if err != nil || entry.Revision != 2 || entry.Record.Common().Charge.String() != "16" || entry.Place != "sacct:4" {
		t.Errorf("entry %+v, error %v", entry, err)
	}
}

func TestCursorMovesOnlyWhenAllWasRead(t *testing.T) {
	s := newSite(t)
	ctx := context.Background()
	cursor := &outbox.Cursor{Source: "sacct", At: begin}
	broken := errors.New("sacct was cut off")
	rows := make(source, 0, 2101)
	for i := range 2100 {
		rows = append(rows, job(fmt.Sprint(i)))
	}
	if err := s.agent.Collect(ctx, append(rows, broken), cursor, nil); !errors.Is(err, broken) {
		t.Errorf("error %v, want %v", err, broken)
	}
	s.wantCounts(t, counts{Read: 2100, New: 2100})
	if at := s.cursor(t); !at.IsZero() || s.states(t)[outbox.Pending] != 2100 {
		t.Errorf("cursor %s, entries %v", at, s.states(t))
	}

	cut, cancel := context.WithCancel(ctx)
	s.again().agent.Progress = func(string, *agent.Summary) { cancel() }
	if err := s.agent.Collect(cut, rows, cursor, nil); !errors.Is(err, context.Canceled) || !s.cursor(t).IsZero() {
		t.Errorf("cut off: error %v, cursor %s", err, s.cursor(t))
	}
	s.agent.Progress = nil

	bad := &scheduler.RowError{Place: scheduler.Place{File: "sacct", Line: 2}, Problem: "is no row"}
	if err := s.again().agent.Collect(ctx, append(rows, bad), cursor, nil); err != nil {
		t.Fatal(err)
	}
	s.wantCounts(t, counts{Read: 2100, Bad: 1, Unchanged: 2100})
	if at := s.cursor(t); !at.Equal(begin) {
		t.Errorf("cursor %s, want %s", at, begin)
	}

	// It moves even when the window holds nothing.
	cursor.At = begin.Add(time.Hour)
	if err := s.agent.Collect(ctx, source{}, cursor, nil); err != nil || !s.cursor(t).Equal(cursor.At) {
		t.Errorf("error %v, cursor %s", err, s.cursor(t))
	}
}

func TestBadRowsStopOnlyThemselves(t *testing.T) {
	s := newSite(t)
	unreadable := &scheduler.RowError{Place: scheduler.Place{File: "sacct", Line: 9}, JobID: "2", Field: "End", Problem: "is no time"}
	s.collect(t, job("1"), unreadable, job("3", by("")), job("4"))
	s.wantCounts(t, counts{Read: 3, Bad: 2, New: 2})
	want := []agent.Problem{
		{Kind: "bad", Place: "sacct:9", Reason: "sacct:9: job 2: End: is no time"},
		{Kind: "bad", Place: "sacct:4", Reason: "sacct:4: job 3: User: the job's user is not known any more; name the user in the accounting"},
	}
	if diff := cmp.Diff(want, s.agent.Summary.Problems); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	if s.agent.Summary.OK() {
		t.Error("all well in spite of bad rows")
	}
	many := make(source, 1500)
	for i := range many {
		many[i] = unreadable
	}
	told := 0
	s.again().agent.Bad = func(agent.Problem) { told++ }
	s.collect(t, many...)
	if n := len(s.agent.Summary.Problems); n >= 1500 || s.agent.Summary.Bad != 1500 || told != 1500 {
		t.Errorf("%d problems of %d are named, %d told", n, s.agent.Summary.Bad, told)
	}
}

func TestPreviewChangesNothing(t *testing.T) {
	s := newSite(t)
	ctx := context.Background()
	s.collect(t, job("1"), job("2"))
	before := s.states(t)
	var got []string
	rows := source{job("1"), job("2", ran(3)), job("9"), job("10", by(""))}
	err := s.again().agent.Collect(ctx, rows, &outbox.Cursor{Source: "sacct", At: begin}, func(item outbox.Item) {
		got = append(got, item.Record.Identity().LocalRecordID+" "+item.Record.Common().Charge.String()+" "+item.Place)
	})
	if err != nil {
		t.Fatal(err)
	}
	s.wantCounts(t, counts{Read: 4, Bad: 1, New: 1, Changed: 1, Unchanged: 1})
	if diff := cmp.Diff([]string{"2 24 sacct:3", "9 8 sacct:4"}, got); diff != "" {
		t.Errorf("would be sent (-want +got):\n%s", diff)
	}
	entry, err := s.queue.Get(ctx, 2)
	if err != nil || entry.Revision != 1 || !s.cursor(t).IsZero() || !cmp.Equal(before, s.states(t)) {
		t.Errorf("entry %+v, error %v, cursor %s, states %v", entry, err, s.cursor(t), s.states(t))
	}
	// New records of several chunks are none of them the same.
	s = newSite(t)
	err = s.agent.Collect(ctx, manyJobs(2100), nil, func(outbox.Item) {})
	if err != nil {
		t.Fatal(err)
	}
	s.wantCounts(t, counts{Read: 2100, New: 2100})
}

func manyJobs(n int) source {
	rows := make(source, n)
	for i := range rows {
		rows[i] = job(fmt.Sprint(i))
	}
	return rows
}

// Two allocations that the accounting gives one id and one submit time cannot
// both be in the ledger. That is told, whenever the two are read in one run.
func TestJobsThatOverwriteEachOther(t *testing.T) {
	first, second := job("42"), job("42", func(j *scheduler.Job) { j.Start = j.Start.Add(time.Minute) })
	named := func(s *site) (places []string) {
		for _, p := range s.agent.Summary.Problems {
			if p.Kind != "bad" || !strings.Contains(p.Record, "42") {
				t.Errorf("problem %+v", p)
			}
			places = append(places, p.Reason[:strings.Index(p.Reason, ":")]+p.Place[len("sacct"):]+" and "+
				between(p.Reason, "submit time of ", ": only"))
		}
		return places
	}
	t.Run("in one chunk", func(t *testing.T) {
		s := newSite(t)
		s.collect(t, first, job("1"), second)
		s.wantCounts(t, counts{Read: 3, Bad: 1, New: 2})
		if diff := cmp.Diff([]string{"sacct:4 and sacct:2"}, named(s)); diff != "" {
			t.Errorf("places (-want +got):\n%s", diff)
		}
		// A later run meets both again, and changes nothing.
		s.again().collect(t, first, job("1"), second)
		s.wantCounts(t, counts{Read: 3, Bad: 1, Unchanged: 2})
	})
	t.Run("chunks apart", func(t *testing.T) {
		s := newSite(t)
		s.collect(t, append(append([]any{first}, manyJobs(2200)[100:]...), second)...)
		s.wantCounts(t, counts{Read: 2102, Bad: 1, New: 2101, Changed: 1})
		if diff := cmp.Diff([]string{"sacct:2103 and an earlier row"}, named(s)); diff != "" {
			t.Errorf("places (-want +got):\n%s", diff)
		}
	})
	t.Run("the first one is known", func(t *testing.T) {
		s := newSite(t)
		s.collect(t, first)
		s.again().collect(t, first, second)
		s.wantCounts(t, counts{Read: 2, Bad: 1, Changed: 1})
	})
	t.Run("in a preview", func(t *testing.T) {
		s := newSite(t)
		if err := s.agent.Collect(context.Background(), source{first, second}, nil, func(outbox.Item) {}); err != nil {
			t.Fatal(err)
		}
		s.wantCounts(t, counts{Read: 2, Bad: 1, New: 1})
	})
	t.Run("equal contents, and sources of their own, are no problem", func(t *testing.T) {
		s := newSite(t)
		s.collect(t, first, first)
		s.collect(t, second)
		s.wantCounts(t, counts{Read: 3, New: 1, Changed: 1, Unchanged: 1})
	})
}

func between(s, before, after string) string {
	_, s, _ = strings.Cut(s, before)
	s, _, _ = strings.Cut(s, after)
	return s
}

func TestEnqueueTakesRecordsOfAnyKind(t *testing.T) {
	s := newSite(t)
	if err := s.agent.Enqueue(context.Background(), itemsOf(storageOf("1"), adjustment("2", amieusage.Refund), adjustment("2", amieusage.Credit)), nil); err != nil {
		t.Fatal(err)
	}
	s.wantCounts(t, counts{New: 2, Changed: 1}) // of several contents of a record the last counts
	bad := &scheduler.RowError{Place: scheduler.Place{File: "x", Line: 1}, Problem: "is no record"}
	broken := errors.New("broken")
	err := s.again().agent.Enqueue(context.Background(), func(yield func(outbox.Item, error) bool) {
		_ = yield(outbox.Item{}, bad) && yield(outbox.Item{Record: storageOf("3")}, nil) && yield(outbox.Item{}, broken)
	}, nil)
	if !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	s.wantCounts(t, counts{Bad: 1, New: 1})
}

func itemsOf(records ...amieusage.Record) iter.Seq2[outbox.Item, error] {
	return func(yield func(outbox.Item, error) bool) {
		for _, r := range records {
			if !yield(outbox.Item{Record: r, Place: "records.jsonl"}, nil) {
				return
			}
		}
	}
}

func charge(s string) amieusage.Charge {
	c, err := amieusage.ParseCharge(s)
	if err != nil {
		panic(err)
	}
	return c
}

func storageOf(id string) amieusage.Record {
	return &amieusage.StorageRecord{Username: "alice", LocalProjectID: project, LocalRecordID: id, Resource: rm,
		CollectionTime: begin, Charge: charge("1.5")}
}

func adjustment(id string, kind amieusage.AdjustmentType) amieusage.Record {
	return &amieusage.AdjustmentRecord{AdjustmentType: kind, Username: "alice", LocalProjectID: project, LocalRecordID: id,
		Resource: rm, StartTime: begin, Charge: charge("2")}
}
