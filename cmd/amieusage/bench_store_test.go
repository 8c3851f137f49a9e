package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/httpapi"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/pgtest"
	"github.com/amieusage/amieusage/internal/postgres"
	ledgerfile "github.com/amieusage/amieusage/internal/sqlite"
	"github.com/amieusage/amieusage/usageclient"
)

// benchSettings are those of a server that is to be measured: durable, and with
// some of the memory that such a machine would give it.
var benchSettings = []string{"shared_buffers=2GB", "max_wal_size=8GB", "checkpoint_timeout=15min"}

// replica is one service on a ledger that it may share.
type replica struct {
	store   ledger.Store
	service *ledger.Service
}

func newReplica(store ledger.Store) *replica {
	return &replica{store, ledger.New(ledger.Config{
		Store: store, Policy: ledger.Open, Clock: time.Now, Logger: slog.New(slog.DiscardHandler), MaxQueued: 1 << 40,
	})}
}

func openReplicas(b *testing.B, url string, n int) (replicas []*replica) {
	b.Helper()
	for range n {
		store, err := postgres.Open(b.Context(), url, postgres.Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = store.Close() })
		replicas = append(replicas, newReplica(store))
	}
	return replicas
}

func openFile(b *testing.B) *replica {
	b.Helper()
	store, err := ledgerfile.OpenLedger(b.Context(), filepath.Join(b.TempDir(), "ledger.db"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = store.Close() })
	return newReplica(store)
}

// benchSites are the sites that send, each on a connection of its own.
var benchSites = []string{"PSC", "SDSC", "NCSA", "TACC"}

// addSites adds the sites, and returns a key of each.
func addSites(b *testing.B, r *replica) map[string]string {
	b.Helper()
	keys := map[string]string{}
	for _, name := range benchSites {
		if _, err := r.store.Import(b.Context(), &ledger.RegistrySpec{Sites: []ledger.SiteSpec{{Name: name}}}); err != nil {
			b.Fatal(err)
		}
		key, _, err := ledger.CreateKey(b.Context(), r.store, name, "", time.Now())
		if err != nil {
			b.Fatal(err)
		}
		keys[name] = key
	}
	return keys
}

const (
	benchMessage = 1_000   // records
	benchRecords = 200_000 // of each run
)

// acceptOverHTTP sends records from four sites at once, spread over the
// replicas.
func acceptOverHTTP(b *testing.B, replicas []*replica, keys map[string]string, place, records int) {
	b.Helper()
	var group sync.WaitGroup
	for i, site := range benchSites {
		server := httptest.NewServer(httpapi.New(httpapi.Config{
			Service: replicas[i%len(replicas)].service, Logger: slog.New(slog.DiscardHandler), Clock: time.Now, Random: rand.Reader,
		}))
		defer server.Close()
		client, err := usageclient.New(site, keys[site], usageclient.WithBaseURL(server.URL+httpapi.Prefix))
		if err != nil {
			b.Fatal(err)
		}
		group.Go(func() {
			for n := 0; n < records/len(benchSites); n += benchMessage {
				if result, err := client.Send(b.Context(), recordsOf(place+n, benchMessage)...); err != nil || len(result.Accepted()) != benchMessage {
					b.Error(result, err)
				}
			}
		})
	}
	group.Wait()
}

// fill queues records of all sites.
func fill(b *testing.B, r *replica, place, records int) {
	b.Helper()
	fillAs(b, r, place, records, func(json []byte) []byte { return json })
}

// correct queues records of all sites that were queued before, each with
// another charge.
func correct(b *testing.B, r *replica, place, records int) {
	b.Helper()
	fillAs(b, r, place, records, func(json []byte) []byte { return bytes.Replace(json, []byte(`"Charge":"`), []byte(`"Charge":"1`), 1) })
}

func fillAs(b *testing.B, r *replica, place, records int, as func(json []byte) []byte) {
	b.Helper()
	for _, site := range benchSites {
		authority, err := r.store.Authority(b.Context(), site)
		if err != nil {
			b.Fatal(err)
		}
		for n := 0; n < records/len(benchSites); n += benchMessage {
			batch := &ledger.Batch{Site: authority.Site, KeyID: 1, UsageType: amieusage.Compute, AcceptedAt: time.Now()}
			for _, record := range recordsOf(place+n, benchMessage) {
				batch.Records = append(batch.Records, as(record.AppendJSON(nil)))
			}
			if err := r.store.Accept(b.Context(), batch, 1<<40); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// loadAll loads all that is queued, on all replicas at once.
func loadAll(b *testing.B, replicas []*replica, records int) {
	b.Helper()
	var loaded atomic.Int64
	var group sync.WaitGroup
	for _, r := range replicas {
		group.Go(func() {
			for loaded.Load() < int64(records) {
				report, err := r.service.LoadSome(b.Context())
				if err != nil || report.Failed > 0 {
					b.Error(report, err)
					return
				}
				loaded.Add(int64(report.Loaded))
			}
		})
	}
	group.Wait()
}

// cpuTime returns the time that this process and a server's have computed.
func cpuTime(b *testing.B, server *pgtest.Server) (own, database time.Duration) {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	own = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	if server == nil {
		return own, 0
	}
	pidFile, err := os.ReadFile(filepath.Join(server.Data, "postmaster.pid"))
	if err != nil {
		b.Fatal(err)
	}
	postmaster, _, _ := strings.Cut(string(pidFile), "\n")
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		b.Fatal(err)
	}
	const tick = 10 * time.Millisecond
	for _, stat := range stats {
		data, err := os.ReadFile(stat)
		if err != nil {
			continue // it has ended
		}
		// Behind the name in parentheses: state, parent, …
		fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		pid := filepath.Base(filepath.Dir(stat))
		if pid != postmaster && fields[1] != postmaster {
			continue
		}
		times := fields[11:13]
		if pid == postmaster {
			times = fields[11:15] // with those of its children that have ended
		}
		for _, text := range times {
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			database += time.Duration(n) * tick
		}
	}
	return own, database
}

// waits counts what the server's busy connections wait for, until it is told to
// stop: a sample every ten milliseconds.
func waits(b *testing.B, server *pgtest.Server) (stop func() map[string]float64) {
	b.Helper()
	done, result := make(chan struct{}), make(chan map[string]float64)
	go func() {
		shares := map[string]float64{}
		defer func() { result <- shares }()
		conn, err := pgx.Connect(b.Context(), server.URL("postgres"))
		if err != nil {
			b.Error(err)
			return
		}
		defer conn.Close(context.WithoutCancel(b.Context()))
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		samples := 0.0
		for {
			select {
			case <-done:
				for what := range shares {
					shares[what] /= samples
				}
				return
			case <-tick.C:
			}
			rows, err := conn.Query(b.Context(), `
				SELECT CASE WHEN wait_event IS NULL THEN 'computing' WHEN wait_event_type = 'Lock' THEN 'locks'
					WHEN wait_event LIKE 'WAL%' THEN 'commits' WHEN wait_event_type = 'Client' THEN 'client' ELSE 'other' END
				FROM pg_stat_activity WHERE backend_type = 'client backend' AND state <> 'idle' AND pid <> pg_backend_pid()`)
			if err != nil {
				b.Error(err)
				return
			}
			found, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				b.Error(err)
				return
			}
			for _, what := range found {
				shares[what]++
				samples++
			}
		}
	}()
	return func() map[string]float64 {
		close(done)
		return <-result
	}
}

// measured runs work on so many records once, and reports their rate, how many
// cores this process and the server have used, and what the server's busy
// connections were found waiting for.
func measured(b *testing.B, server *pgtest.Server, records int, work func()) {
	b.Helper()
	sampled := func() map[string]float64 { return nil }
	if server != nil {
		sampled = waits(b, server)
	}
	own, database := cpuTime(b, server)
	b.ResetTimer()
	work()
	b.StopTimer()
	for what, share := range sampled() {
		b.ReportMetric(100*share, what+"-%")
	}
	ownAfter, databaseAfter := cpuTime(b, server)
	seconds := b.Elapsed().Seconds()
	perSecond(b, records)
	b.ReportMetric((ownAfter-own).Seconds()/seconds, "own-cores")
	b.ReportMetric((databaseAfter-database).Seconds()/seconds, "db-cores")
}

// BenchmarkReplicas accepts over HTTP, loads, and loads corrections on SQLite,
// and on 1, 2 and 4 replicas on PostgreSQL, from four sites; the floors are as
// many plain rows into a table of SQLite with one index, and by COPY into one of
// PostgreSQL without any.
func BenchmarkReplicas(b *testing.B) {
	server := pgtest.Start(b, benchSettings...)
	run := func(name string, server *pgtest.Server, open func(b *testing.B) []*replica) {
		b.Run("accept/"+name, func(b *testing.B) {
			replicas := open(b)
			keys := addSites(b, replicas[0])
			measured(b, server, benchRecords, func() { acceptOverHTTP(b, replicas, keys, 0, benchRecords) })
		})
		b.Run("load/"+name, func(b *testing.B) {
			replicas := open(b)
			addSites(b, replicas[0])
			fill(b, replicas[0], 0, benchRecords)
			measured(b, server, benchRecords, func() { loadAll(b, replicas, benchRecords) })
		})
		b.Run("correct/"+name, func(b *testing.B) {
			replicas := open(b)
			addSites(b, replicas[0])
			fill(b, replicas[0], 0, benchRecords)
			loadAll(b, replicas, benchRecords)
			correct(b, replicas[0], 0, benchRecords)
			measured(b, server, benchRecords, func() { loadAll(b, replicas, benchRecords) })
		})
	}
	run("sqlite", nil, func(b *testing.B) []*replica { return []*replica{openFile(b)} })
	replicas := []int{1, 2, 4}
	if testing.Short() {
		replicas = replicas[:1]
	}
	for _, n := range replicas {
		run(fmt.Sprintf("postgres-%d", n), server, func(b *testing.B) []*replica { return openReplicas(b, server.Database(b), n) })
	}
	b.Run("rows/plain-insert", func(b *testing.B) { plainInsert(b, benchRecords, benchMessage) })
	b.Run("rows/plain-copy", func(b *testing.B) {
		conn, err := pgx.Connect(b.Context(), server.Database(b))
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close(context.WithoutCancel(b.Context()))
		measured(b, server, benchRecords, func() { plainCopy(b, conn, benchRecords) })
	})
}

// plainCopy copies rows of a record's size into a table without an index, as
// many a transaction as loading does.
func plainCopy(b *testing.B, conn *pgx.Conn, records int) {
	b.Helper()
	ctx := b.Context()
	_, err := conn.Exec(ctx, `CREATE TABLE plain (site bigint, resource text, record text, submit bigint, started bigint, ended bigint,
		project text, username text, charge bigint, nodes bigint, cores bigint, name text, queue text)`)
	if err != nil {
		b.Fatal(err)
	}
	const chunk = 4_000
	for place := 0; place < records; place += chunk {
		_, err := conn.CopyFrom(ctx, pgx.Identifier{"plain"}, []string{"site", "resource", "record", "submit", "started", "ended",
			"project", "username", "charge", "nodes", "cores", "name", "queue"},
			pgx.CopyFromSlice(chunk, func(i int) ([]any, error) {
				n := int64(place + i)
				return []any{int64(1), "bridges2-rm.psc.access-ci.org", strconv.FormatInt(n, 10), n, n, n,
					"p.abc123456.000", "alice", n, n, n, "mpi_run", "RM"}, nil
			}))
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkGrowth accepts, loads and asks on a ledger that is empty, and on one
// of one and of ten million records.
func BenchmarkGrowth(b *testing.B) {
	sizes := []int{0, 1_000_000, 10_000_000}
	if testing.Short() {
		sizes = []int{0, 1_000_000}
	}
	for _, engine := range []string{"sqlite", "postgres"} {
		var server *pgtest.Server
		var r *replica
		if engine == "postgres" {
			server = pgtest.Start(b, benchSettings...)
			r = openReplicas(b, server.Database(b), 1)[0]
		} else {
			r = openFile(b)
		}
		keys := addSites(b, r)
		place := 0 // of the next record of each site
		for _, size := range sizes {
			if size > 0 {
				const chunk = 1_000_000
				for have := place * len(benchSites); have < size; have = place * len(benchSites) {
					n := min(chunk, size-have)
					fill(b, r, place, n)
					loadAll(b, []*replica{r}, n)
					place += n / len(benchSites)
				}
			}
			name := fmt.Sprintf("%s/%d", engine, size)
			const records, runs = 40_000, 5
			for range runs {
				b.Run("accept/"+name, func(b *testing.B) {
					measured(b, server, records, func() { acceptOverHTTP(b, []*replica{r}, keys, place, records) })
				})
				b.Run("load/"+name, func(b *testing.B) {
					measured(b, server, records, func() { loadAll(b, []*replica{r}, records) })
				})
				place += records / len(benchSites)
			}
			if size > 0 {
				benchmarkQuestions(b, name, r, size)
			}
		}
	}
}

// benchmarkQuestions reports the median and the 99th percentile of what is asked
// of a ledger.
func benchmarkQuestions(b *testing.B, name string, r *replica, size int) {
	authority, err := r.store.Authority(b.Context(), benchSites[0])
	if err != nil {
		b.Fatal(err)
	}
	who := ledger.Caller{Site: authority.Site, Name: benchSites[0]}
	half, err := r.service.Loaded(b.Context(), who, amieusage.LoadedQuery{PageSize: 1, Offset: int64(size / len(benchSites) / 2)})
	if err != nil {
		b.Fatal(err)
	}
	start := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	for _, q := range []struct {
		name string
		ask  func(ctx context.Context) error
	}{
		{"status", func(ctx context.Context) error {
			_, err := r.service.Status(ctx, who, amieusage.StatusQuery{})
			return err
		}},
		{"summary", func(ctx context.Context) error {
			_, err := r.service.Summary(ctx, who, amieusage.SummaryQuery{GroupBy: []amieusage.GroupKey{amieusage.ByProject}})
			return err
		}},
		{"summary-partial-days", func(ctx context.Context) error {
			_, err := r.service.Summary(ctx, who, amieusage.SummaryQuery{GroupBy: []amieusage.GroupKey{amieusage.ByResource},
				From: start.Add(90 * time.Minute), To: start.Add(5*24*time.Hour + 90*time.Minute)})
			return err
		}},
		{"loaded-page", func(ctx context.Context) error {
			_, err := r.service.Loaded(ctx, who, amieusage.LoadedQuery{PageSize: 1_000, Cursor: half.Next})
			return err
		}},
	} {
		b.Run(q.name+"/"+name, func(b *testing.B) {
			const times = 300
			var took []time.Duration
			for range times {
				begin := time.Now()
				if err := q.ask(b.Context()); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(begin))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[times/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(took[times*99/100].Microseconds())/1000, "p99-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}
