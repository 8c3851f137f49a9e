// Package usagetest serves the Usage API in tests: the real service, with a
// ledger of its own, in the process of the test.
//
//	s := usagetest.NewServer(t)
//	c := s.Client("PSC")
//	result, err := c.Send(ctx, record)
//	s.Wait()
//	loaded := s.Loaded()
package usagetest

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/httpapi"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/siteconfig"
	"github.com/amieusage/amieusage/internal/sqlite"
	"github.com/amieusage/amieusage/usageclient"
)

// An Option changes what a [Server] is.
type Option func(*settings)

type settings struct {
	policy   ledger.Policy
	registry string
	fail     func(amieusage.Record) string
	clock    func() time.Time
}

// Strict has records fail whose project, user or allocation the registry does not
// have, as a service in earnest does. Without it, all that is met is registered.
func Strict() Option { return func(s *settings) { s.policy = ledger.Strict } }

// WithRegistry registers what a registry.yaml has, in the form that amieusage
// admin import takes.
func WithRegistry(yaml string) Option { return func(s *settings) { s.registry = yaml } }

// WithFailures has records fail when they are loaded: with the reason that fail
// returns, unless it is empty. It is called from other goroutines than the test's.
func WithFailures(fail func(amieusage.Record) string) Option {
	return func(s *settings) { s.fail = fail }
}

// WithClock sets the service's clock. It is called from other goroutines than the
// test's.
func WithClock(clock func() time.Time) Option { return func(s *settings) { s.clock = clock } }

// A Server is a service that a test has for itself. It ends with the test.
type Server struct {
	// URL is the base of the API: what usageclient.WithBaseURL takes.
	URL string

	t       testing.TB
	store   *sqlite.Ledger
	clock   func() time.Time
	mu      sync.Mutex
	clients map[string]*usageclient.Client
}

// NewServer starts a service. What cannot be started ends the test.
func NewServer(t testing.TB, opts ...Option) *Server {
	t.Helper()
	set := settings{policy: ledger.Open, clock: time.Now}
	for _, opt := range opts {
		opt(&set)
	}
	store, err := sqlite.OpenLedger(t.Context(), filepath.Join(t.TempDir(), "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, store: store, clock: set.clock, clients: map[string]*usageclient.Client{}}
	if set.registry != "" {
		spec, err := siteconfig.ParseRegistry("registry.yaml", []byte(set.registry))
		if err == nil {
			_, err = store.Import(t.Context(), spec)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	log := slog.New(slog.DiscardHandler)
	service := ledger.New(ledger.Config{Store: failing{store, set.fail}, Policy: set.policy, Clock: set.clock, Logger: log, RefuseAhead: true})
	server := httptest.NewServer(httpapi.New(httpapi.Config{Service: service, Logger: log, Clock: set.clock, Random: rand.Reader}))
	s.URL = server.URL + httpapi.Prefix
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx) }()
	t.Cleanup(func() {
		for _, c := range s.clients {
			c.CloseIdleConnections()
		}
		server.Close()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Client returns a client of a site, which is made where it is not there yet, with
// a key of its own. The options stand behind those that name the service.
func (s *Server) Client(site string, opts ...usageclient.Option) *usageclient.Client {
	s.t.Helper()
	ctx := context.Background()
	if _, err := s.store.Import(ctx, &ledger.RegistrySpec{Sites: []ledger.SiteSpec{{Name: site}}}); err != nil {
		s.t.Fatal(err)
	}
	key, _, err := ledger.CreateKey(ctx, s.store, site, "", s.clock())
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := usageclient.New(site, key, append([]usageclient.Option{usageclient.WithBaseURL(s.URL)}, opts...)...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients[site] = c
	return c
}

// sites returns the sites that have a client, in the order of their names.
func (s *Server) sites() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name := range s.clients {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// patience is how long Wait waits.
const patience = time.Minute

// Wait returns when all that was accepted is loaded or has failed. A minute
// without that ends the test.
func (s *Server) Wait() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, site := range s.sites() {
		authority, err := s.store.Authority(ctx, site)
		if err != nil {
			s.t.Fatal(err)
		}
		for {
			counts, err := s.store.Counts(ctx, authority.Site)
			if err != nil {
				s.t.Fatal(err)
			}
			if counts.Queued == 0 {
				break
			}
			select {
			case <-ctx.Done():
				s.t.Fatalf("%d records of %s are not loaded in %s", counts.Queued, site, patience)
			case <-time.After(time.Millisecond):
			}
		}
	}
}

// Loaded returns what was loaded of all sites that have a client, site by site, in
// the order in which it was loaded.
func (s *Server) Loaded() []amieusage.LoadedRecord {
	s.t.Helper()
	var all []amieusage.LoadedRecord
	for _, site := range s.sites() {
		s.mu.Lock()
		client := s.clients[site]
		s.mu.Unlock()
		for r, err := range client.AllLoaded(context.Background(), amieusage.LoadedQuery{}) {
			if err != nil {
				s.t.Fatal(fmt.Errorf("the loaded records of %s: %w", site, err))
			}
			all = append(all, r)
		}
	}
	return all
}

// failing is a store of which loading fails as a test wants it.
type failing struct {
	ledger.Store
	fail func(amieusage.Record) string
}

// Load loads.
func (f failing) Load(ctx context.Context, now time.Time, maxRecords int, judge ledger.Judge) (ledger.LoadReport, error) {
	if f.fail != nil {
		judge = failingJudge{judge, f.fail}
	}
	return f.Store.Load(ctx, now, maxRecords, judge)
}

type failingJudge struct {
	ledger.Judge
	fail func(amieusage.Record) string
}

// Check returns the test's reason, or the registry's.
func (j failingJudge) Check(registry *ledger.Registry, r amieusage.Record) ledger.Failure {
	if reason := j.fail(r); reason != "" {
		return ledger.Failure(reason)
	}
	return j.Judge.Check(registry, r)
}
