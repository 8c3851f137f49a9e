package agent_test

import (
	"context"
	"crypto/rand"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/apd/v3"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/agent"
	"github.com/amieusage/amieusage/internal/httpapi"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/siterules"
	"github.com/amieusage/amieusage/internal/sqlite"
	"github.com/amieusage/amieusage/usageclient"
)

const (
	siteName = "PSC"
	key      = "k3y"
	gpu      = "bridges2-gpu.psc.access-ci.org"
	rm       = "bridges2-rm.psc.access-ci.org"
	project  = "p.abc123456.000"
)

var quiet = slog.New(slog.DiscardHandler)

// A service is a real one, on a ledger file of its own.
type service struct {
	*ledger.Service
	file *sqlite.Ledger
	// URL is where the Usage API is.
	URL string

	mu   sync.Mutex
	wrap func(next http.Handler) http.Handler // nil: none
	skew time.Duration
}

func (s *service) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Add(s.skew)
}

// through lets every request go through another handler.
func (s *service) through(wrap func(next http.Handler) http.Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrap = wrap
}

// newService starts a service that does not load on its own.
func newService(t testing.TB, policy ledger.Policy) *service {
	t.Helper()
	file, err := sqlite.OpenLedger(context.Background(), filepath.Join(t.TempDir(), "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	s := &service{file: file}
	s.register(t, "alice")
	if _, err := file.CreateKey(context.Background(), siteName, ledger.HashKey(key), "test", time.Now()); err != nil {
		t.Fatal(err)
	}
	s.Service = ledger.New(ledger.Config{Store: file, Policy: policy, Clock: s.clock, Logger: quiet})
	handler := httpapi.New(httpapi.Config{Service: s.Service, Logger: quiet, Clock: s.clock, Random: rand.Reader})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		next := http.Handler(handler)
		if s.wrap != nil {
			next = s.wrap(next)
		}
		s.mu.Unlock()
		next.ServeHTTP(w, r)
	}))
	s.URL = server.URL + httpapi.Prefix
	t.Cleanup(func() {
		server.Close()
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// register makes these the users of the project.
func (s *service) register(t testing.TB, users ...string) {
	t.Helper()
	allocation := func(resource string) ledger.AllocationSpec {
		return ledger.AllocationSpec{Resource: resource, Amount: 1_000_000_000_000,
			Start: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), End: time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC)}
	}
	_, err := s.file.Import(context.Background(), &ledger.RegistrySpec{Sites: []ledger.SiteSpec{{
		Name: siteName, Resources: []string{gpu, rm},
		Projects: []ledger.ProjectSpec{{ID: project, Users: users,
			Allocations: []ledger.AllocationSpec{allocation(gpu), allocation(rm)}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
}

// run loads what comes until the test ends.
func (s *service) run(t testing.TB) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// load loads all that is queued.
func (s *service) load(t testing.TB) {
	t.Helper()
	for {
		report, err := s.LoadSome(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if report.Batches == 0 {
			return
		}
	}
}

// inLedger returns how many records the ledger has, and their charge in
// millionths.
func (s *service) inLedger(t testing.TB) (records int, charge int64) {
	t.Helper()
	for _, r := range s.loaded(t) {
		n, err := r.Charge.Millionths()
		if err != nil {
			t.Fatal(err)
		}
		records++
		charge += n
	}
	return records, charge
}

func (s *service) loaded(t testing.TB) (all []amieusage.LoadedRecord) {
	t.Helper()
	for r, err := range s.client(t).AllLoaded(context.Background(), amieusage.LoadedQuery{}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func (s *service) client(t testing.TB, options ...usageclient.Option) *usageclient.Client {
	t.Helper()
	return clientAt(t, s.URL, options...)
}

// clientAt makes a client that tries nothing twice.
func clientAt(t testing.TB, url string, options ...usageclient.Option) *usageclient.Client {
	t.Helper()
	options = append([]usageclient.Option{usageclient.WithBaseURL(url),
		usageclient.WithRetry(usageclient.RetryPolicy{MaxAttempts: 1})}, options...)
	client, err := usageclient.New(siteName, key, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdleConnections)
	return client
}

// A site has an outbox file and an agent on it.
type site struct {
	agent *agent.Agent
	queue *sqlite.Outbox
}

// newSite makes a site with an empty outbox.
func newSite(t testing.TB) *site {
	t.Helper()
	return openSite(t, filepath.Join(t.TempDir(), "outbox.db"))
}

func openSite(t testing.TB, path string) *site {
	t.Helper()
	site := openUnmet(t, path)
	// It knows already that the service had nothing before: of this, other tests
	// tell.
	if err := site.queue.Meet(context.Background(), nil, true); err != nil {
		t.Fatal(err)
	}
	return site
}

// openUnmet opens an outbox that has not met its service yet, where it is new.
func openUnmet(t testing.TB, path string) *site {
	t.Helper()
	queue, err := sqlite.OpenOutbox(context.Background(), path, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := queue.Close(); err != nil {
			t.Error(err)
		}
	})
	return &site{queue: queue, agent: &agent.Agent{Rules: rules(t), Queue: queue, Clock: time.Now, Log: quiet}}
}

// site makes a site that reports to the service.
func (s *service) site(t testing.TB, options ...usageclient.Option) *site {
	t.Helper()
	site := newSite(t)
	site.agent.Client = s.client(t, options...)
	return site
}

// rules charge an hour of a core, or of a GPU, as one unit.
func rules(t testing.TB) *siterules.Rules {
	rate := func(tres string) []siterules.Rate {
		return []siterules.Rate{{PerHour: map[string]*apd.Decimal{tres: apd.New(1, 0)}, Decimals: 6}}
	}
	r := &siterules.Rules{
		Resources: []siterules.Resource{
			{Name: gpu, Match: siterules.Match{Partitions: []string{"GPU*"}}, Rates: rate("gres/gpu")},
			{Name: rm, Match: siterules.Match{Partitions: []string{"RM*"}}, Rates: rate("cpu")},
		},
	}
	if err := r.Check(); err != nil {
		t.Fatal(err)
	}
	return r
}

// again starts a new run: all counts are zero.
func (s *site) again() *site {
	old := s.agent
	s.agent = &agent.Agent{Rules: old.Rules, Queue: old.Queue, Client: old.Client, Clock: old.Clock, Log: old.Log, Progress: old.Progress,
		Bad: old.Bad, Clusters: old.Clusters}
	return s
}

func (s *site) states(t testing.TB) map[outbox.State]int64 {
	t.Helper()
	counts, err := s.queue.Counts(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	states := map[outbox.State]int64{}
	for _, c := range counts {
		states[c.State] += c.Entries
	}
	return states
}

func (s *site) cursor(t testing.TB) time.Time {
	t.Helper()
	c, err := s.queue.Cursor(context.Background(), "sacct")
	if err != nil {
		t.Fatal(err)
	}
	return c.At
}

func (s *site) collect(t testing.TB, rows ...any) {
	t.Helper()
	if err := s.agent.Collect(context.Background(), source(rows), nil, nil); err != nil {
		t.Fatal(err)
	}
}

func (s *site) send(t testing.TB) {
	t.Helper()
	if err := s.agent.Send(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func (s *site) confirm(t testing.TB, wait time.Duration) {
	t.Helper()
	if err := s.agent.Confirm(context.Background(), wait); err != nil {
		t.Fatal(err)
	}
}

// A source yields these rows: a *scheduler.Job or an error each.
type source []any

func (s source) Jobs(ctx context.Context) iter.Seq2[*scheduler.Job, error] {
	return func(yield func(*scheduler.Job, error) bool) {
		var reused scheduler.Job
		for i, row := range s {
			if err := ctx.Err(); err != nil {
				yield(nil, err)
				return
			}
			switch row := row.(type) {
			case *scheduler.Job:
				reused = *row
				reused.Place = scheduler.Place{File: "sacct", Line: i + 2}
				if !yield(&reused, nil) {
					return
				}
			case *scheduler.RowError:
				if !yield(nil, row) {
					return
				}
			case error:
				yield(nil, row)
				return
			}
		}
	}
}

var begin = time.Date(2026, 10, 1, 8, 0, 0, 0, time.UTC)

// job returns a finished job that costs 8 units on rm.
func job(id string, change ...func(*scheduler.Job)) *scheduler.Job {
	j := &scheduler.Job{
		Cluster: "testc", ID: id, DisplayID: id, User: "alice", Account: project, Partition: "RM", Name: "run", State: "COMPLETED",
		Submit: begin, Start: begin.Add(time.Minute), End: begin.Add(time.Minute + time.Hour), ElapsedSeconds: 3600,
		Nodes: 1, CPUs: 8, TRES: []scheduler.TRES{{Name: "cpu", Count: 8}, {Name: "gres/gpu", Count: 2}},
	}
	for _, c := range change {
		c(j)
	}
	return j
}

func onGPU(j *scheduler.Job) { j.Partition = "GPU" }

func by(user string) func(*scheduler.Job) { return func(j *scheduler.Job) { j.User = user } }

func ran(hours int64) func(*scheduler.Job) {
	return func(j *scheduler.Job) {
		j.ElapsedSeconds = hours * 3600
		j.End = j.Start.Add(time.Duration(hours) * time.Hour)
	}
}

func submitted(at time.Time) func(*scheduler.Job) {
	return func(j *scheduler.Job) {
		j.Start, j.End, j.Submit = j.Start.Add(at.Sub(j.Submit)), j.End.Add(at.Sub(j.Submit)), at
	}
}
