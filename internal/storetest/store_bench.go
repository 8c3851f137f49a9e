package storetest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

const messageRecords = 1_000

// BenchmarkStore measures what a service costs on a Store: accepting, loading
// and asking. open gives a new, empty store, and closes it at the end of the
// benchmark.
func BenchmarkStore(b *testing.B, open func(b *testing.B) ledger.Store) {
	b.Run("Accept", func(b *testing.B) { benchmarkAccept(b, open) })
	b.Run("Load", func(b *testing.B) { benchmarkLoad(b, open) })
	b.Run("Queries", func(b *testing.B) { benchmarkQueries(b, open) })
}

// benchmarkLedger is a service on a real store, with one caller.
type benchmarkLedger struct {
	*ledger.Service
	store     ledger.Store
	caller    ledger.Caller
	resources map[string]bool
	sent      int
}

func newBenchmarkLedger(b *testing.B, open func(b *testing.B) ledger.Store) *benchmarkLedger {
	ctx := b.Context()
	store := open(b)
	if _, err := store.Import(ctx, benchmarkRegistry()); err != nil {
		b.Fatal(err)
	}
	authority, err := store.Authority(ctx, "PSC")
	if err != nil {
		b.Fatal(err)
	}
	service := ledger.New(ledger.Config{Store: store, Clock: time.Now, Logger: slog.New(slog.DiscardHandler), MaxQueued: 1 << 40})
	return &benchmarkLedger{service, store, ledger.Caller{Site: authority.Site, Name: "PSC"}, authority.Resources, 0}
}

// benchmarkRegistry has 100 projects of three of 300 users each.
func benchmarkRegistry() *ledger.RegistrySpec {
	site := ledger.SiteSpec{Name: "PSC", Resources: []string{"bridges2-rm.psc.access-ci.org", "bridges2-gpu.psc.access-ci.org"}}
	for i := range 100 {
		p := ledger.ProjectSpec{ID: fmt.Sprintf("p.abc%06d.000", i)}
		for j := range 3 {
			p.Users = append(p.Users, fmt.Sprintf("user%d", i+100*j))
		}
		for _, resource := range site.Resources {
			p.Allocations = append(p.Allocations, ledger.AllocationSpec{Resource: resource, Amount: 1e12,
				Start: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), End: time.Date(2028, 1, 1, 0, 0, 0, 0, time.UTC)})
		}
		site.Projects = append(site.Projects, p)
	}
	return &ledger.RegistrySpec{Sites: []ledger.SiteSpec{site}}
}

// benchmarkMessage returns the n-th message of 1,000 jobs, one every 30 seconds.
func benchmarkMessage(n int) []byte {
	dst := amieusage.AppendMessageStart(nil, amieusage.Compute)
	start := time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)
	for i := range messageRecords {
		id := n*messageRecords + i
		submit := start.Add(time.Duration(id) * 30 * time.Second)
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = fmt.Appendf(dst, `{"Username":"user%d","LocalProjectID":"p.abc%06d.000","LocalRecordID":"%d","Resource":"bridges2-%s.psc.access-ci.org",`+
			`"SubmitTime":"%s","StartTime":"%s","EndTime":"%s","Charge":"%d.%02d",`+
			`"Attributes":{"NodeCount":4,"CpuCoreCount":512,"JobName":"train resnet 50","Memory":"262144","Queue":"RM"},"LocalReference":"ref-%d"}`,
			id%300, id%100, 1_000_000+id, []string{"rm", "gpu"}[id/7%2],
			submit.Format(time.RFC3339), submit.Add(time.Minute).Format(time.RFC3339), submit.Add(time.Hour).Format(time.RFC3339),
			id%97, id%100, id)
	}
	return append(dst, amieusage.MessageEnd...)
}

func (l *benchmarkLedger) accept(b *testing.B, message []byte) {
	answer, err := l.Accept(b.Context(), l.caller, l.resources, message)
	if err != nil || len(answer.FailedRecords) > 0 {
		b.Errorf("accept: %v, %v", answer, err)
	}
}

// fill accepts and loads n records.
func (l *benchmarkLedger) fill(b *testing.B, n int) {
	for range n / messageRecords {
		l.accept(b, benchmarkMessage(l.sent))
		l.sent++
	}
	l.loadAll(b)
}

func (l *benchmarkLedger) loadAll(b *testing.B) {
	for {
		report, err := l.LoadSome(b.Context())
		if err != nil || report.Failed > 0 {
			b.Fatalf("load: %+v, %v", report, err)
		}
		if report.Batches == 0 {
			return
		}
	}
}

// benchmarkAccept accepts messages of 1,000 records, one after another and by
// four senders; one operation is one record.
func benchmarkAccept(b *testing.B, open func(b *testing.B) ledger.Store) {
	for _, senders := range []int{1, 4} {
		b.Run(fmt.Sprintf("senders=%d", senders), func(b *testing.B) {
			l := newBenchmarkLedger(b, open)
			messages := make([][]byte, (b.N+messageRecords-1)/messageRecords)
			for i := range messages {
				messages[i] = benchmarkMessage(i)
			}
			next := make(chan []byte, len(messages))
			for _, m := range messages {
				next <- m
			}
			close(next)
			b.ResetTimer()
			done := make(chan bool)
			for range senders {
				go func() {
					for m := range next {
						l.accept(b, m)
					}
					done <- true
				}()
			}
			for range senders {
				<-done
			}
			perSecond(b)
		})
	}
}

func perSecond(b *testing.B) {
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

// benchmarkLoad loads records that are new, are there already, or are
// corrected; one operation is one record.
func benchmarkLoad(b *testing.B, open func(b *testing.B) ledger.Store) {
	for _, kind := range []string{"new", "again", "corrected"} {
		b.Run(kind, func(b *testing.B) {
			l := newBenchmarkLedger(b, open)
			messages := (b.N + messageRecords - 1) / messageRecords
			if kind != "new" {
				l.fill(b, messages*messageRecords)
				l.sent = 0
			}
			for range messages {
				m := benchmarkMessage(l.sent)
				if kind == "corrected" {
					m = bytes.ReplaceAll(m, []byte(`"NodeCount":4`), []byte(`"NodeCount":5`))
				}
				l.accept(b, m)
				l.sent++
			}
			b.ResetTimer()
			l.loadAll(b)
			perSecond(b)
		})
	}
}

// benchmarkQueries asks a ledger of a million records what operators ask.
func benchmarkQueries(b *testing.B, open func(b *testing.B) ledger.Store) {
	l := newBenchmarkLedger(b, open)
	l.fill(b, 1_000_000)
	day := func(n int) time.Time { return time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, n) }
	summary := func(from, to time.Time, keys ...amieusage.GroupKey) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			_, err := l.Summary(ctx, l.caller, amieusage.SummaryQuery{GroupBy: keys, From: from, To: to})
			return err
		}
	}
	page, err := l.Loaded(b.Context(), l.caller, amieusage.LoadedQuery{PageSize: 1, Offset: 500_000})
	if err != nil {
		b.Fatal(err)
	}
	loaded := func(q amieusage.LoadedQuery) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			_, err := l.Loaded(ctx, l.caller, q)
			return err
		}
	}
	for _, q := range []struct {
		name string
		ask  func(ctx context.Context) error
	}{
		{"status", func(ctx context.Context) error {
			_, err := l.Status(ctx, l.caller, amieusage.StatusQuery{})
			return err
		}},
		{"loaded/first100", loaded(amieusage.LoadedQuery{PageSize: 100})},
		{"loaded/cursor100", loaded(amieusage.LoadedQuery{PageSize: 100, Cursor: page.Next})},
		{"loaded/cursor25000", loaded(amieusage.LoadedQuery{PageSize: 25_000, Cursor: page.Next})},
		{"loaded/offset", loaded(amieusage.LoadedQuery{PageSize: 100, Offset: 500_000})},
		{"loaded/id", loaded(amieusage.LoadedQuery{LocalRecordID: "1400000"})},
		{"summary/resource", summary(time.Time{}, time.Time{}, amieusage.ByResource)},
		{"summary/project", summary(time.Time{}, time.Time{}, amieusage.ByProject)},
		{"summary/project/30days", summary(day(100), day(130), amieusage.ByProject)},
		{"summary/user/partdays", summary(day(100).Add(time.Hour), day(130).Add(5*time.Hour), amieusage.ByUser)},
		{"summary/month/user", summary(time.Time{}, time.Time{}, amieusage.ByMonth, amieusage.ByUser)},
		{"verify", func(ctx context.Context) error {
			if v, ok := l.store.(Verifier); ok {
				return v.Verify(ctx)
			}
			return nil
		}},
	} {
		b.Run(q.name, func(b *testing.B) {
			for b.Loop() {
				if err := q.ask(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
