package main

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/pgtest"
	"github.com/amieusage/amieusage/internal/postgres"
)

// patience bounds each wait for what must happen soon.
const patience = 2 * time.Minute

// fleetRegistry is what a fleet knows: a project that is not in it fails.
const fleetRegistry = `sites:
  - name: SITE
    resources: [{name: rm}, {name: ocean}]
    projects:
      - id: p.one
        users: [alice, bob]
        allocations: &year
          - {resource: rm, amount: 1000, start: 2026-01-01, end: 2026-12-31}
          - {resource: ocean, amount: 1000, start: 2026-01-01, end: 2026-12-31}
      - {id: p.two, users: [alice, bob], allocations: *year}
`

// A fleet is four services as processes on one PostgreSQL, and clients that
// send to any of them.
type fleet struct {
	server   *pgtest.Server
	db       string
	replicas []*killedService
	clients  []*fleetClient
	gate     *gate
	random   *rand.Rand

	mu   sync.Mutex
	urls []string // of the replicas
}

// newFleet starts a fleet, with two clients of PSC, which have a key each, and
// one each of NCSA and SDSC.
func newFleet(t *testing.T, program string) *fleet {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("the seed is %d", seed)
	f := &fleet{server: pgtest.Start(t), gate: &gate{}, random: rand.New(rand.NewPCG(seed, seed))}
	f.db = f.server.Database(t)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		log.Close()
		if t.Failed() {
			showErrors(t, log.Name())
		}
	})
	registry := filepath.Join(t.TempDir(), "registry.yaml")
	admin := &killedService{program: program, db: f.db}
	for i, site := range []string{"PSC", "PSC", "NCSA", "SDSC"} {
		if err := os.WriteFile(registry, []byte(strings.Replace(fleetRegistry, "SITE", site, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		admin.admin(t, "import", registry)
		f.clients = append(f.clients, &fleetClient{
			fleet: f, site: site, key: strings.TrimSpace(admin.admin(t, "key", "create", "--site", site)),
			prefix: fmt.Sprintf("c%d-", i), random: rand.New(rand.NewPCG(seed, uint64(i))),
			loaded: map[amieusage.Identity]int64{}, failed: map[amieusage.Identity]int64{},
		})
	}
	for range 4 {
		s := &killedService{program: program, db: f.db, policy: "strict", log: log}
		t.Cleanup(func() {
			if s.cmd != nil {
				s.kill()
			}
		})
		s.start(t)
		f.replicas = append(f.replicas, s)
		f.urls = append(f.urls, s.url)
	}
	return f
}

// showErrors shows the end of what the replicas complained about.
func showErrors(t *testing.T, log string) {
	text, err := os.ReadFile(log)
	if err != nil {
		t.Error(err)
	}
	var errors []string
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "level=ERROR") || strings.Contains(line, "panic") {
			errors = append(errors, line)
		}
	}
	t.Logf("the last of %d errors in the log:\n%s", len(errors), strings.Join(errors[max(0, len(errors)-5):], ""))
}

// restart starts a replica again that was ended.
func (f *fleet) restart(t *testing.T, i int) {
	t.Helper()
	f.replicas[i].start(t)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.urls[i] = f.replicas[i].url
}

func (f *fleet) url(i int) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.urls[i]
}

// underLoad does something while all clients send, waits until each knows what
// became of all that it has sent, and says how it went.
func (f *fleet) underLoad(t *testing.T, do func()) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	defer func() {
		stop()
		clients.Wait()
		f.report(t)
	}()
	for _, c := range f.clients {
		clients.Go(func() { c.run(ctx) })
	}
	do()
}

func (f *fleet) report(t *testing.T) {
	records, again, sends := 0, 0, 0
	for _, c := range f.clients {
		records, again, sends = records+c.accepted, again+c.unknown, sends+int(c.sends.Load())
		for _, fault := range c.faults {
			t.Errorf("a client of %s: %s", c.site, fault)
		}
	}
	t.Logf("%d sends, %d records accepted, %d records sent again; answers 503: %d, connections refused: %d, cut: %d",
		sends, records, again, f.gate.unavailable.Load(), f.gate.refused.Load(), f.gate.cut.Load())
	if wrong := f.gate.wrong.Load(); wrong != nil {
		t.Error(*wrong)
	}
}

// goesWell waits until each client has had a few more sends accepted.
func (f *fleet) goesWell(t *testing.T) {
	t.Helper()
	deadline, tick := time.After(patience), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for _, c := range f.clients {
		for enough := c.sends.Load() + 5; c.sends.Load() < enough; {
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatalf("a client of %s gets nothing accepted", c.site)
			}
		}
	}
}

// check waits until all is loaded, and compares all that is there with what the
// clients were told.
func (f *fleet) check(t *testing.T) {
	t.Helper()
	store, err := postgres.Open(t.Context(), f.db, postgres.Options{MaxConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	sites := map[string]*fleetClient{} // all clients of each site as one
	for _, c := range f.clients {
		all := sites[c.site]
		if all == nil {
			sites[c.site] = c
			continue
		}
		maps.Copy(all.loaded, c.loaded)
		maps.Copy(all.failed, c.failed)
		all.accepted += c.accepted
		all.unknown += c.unknown
	}
	for _, c := range sites {
		c.checkCounts(t, store)
		c.checkLedger(t)
	}
	f.replicas[0].admin(t, "verify")
}

// TestReplicas has four clients send to four replicas on one PostgreSQL, and
// lets things happen meanwhile. Afterwards all is there that they were told
// is accepted, in its last revision, once.
func TestReplicas(t *testing.T) {
	program := buildProgram(t)
	t.Run("killed", func(t *testing.T) {
		kills := 60
		if testing.Short() {
			kills = 3
		}
		f := newFleet(t, program)
		f.underLoad(t, func() {
			second := time.NewTicker(time.Second)
			defer second.Stop()
			for range kills {
				<-second.C
				i := f.random.IntN(len(f.replicas))
				f.replicas[i].kill()
				f.restart(t, i)
			}
		})
		t.Logf("%d replicas were killed", kills)
		f.check(t)
	})
	t.Run("PostgreSQL crashes", func(t *testing.T) {
		crashes := 5
		if testing.Short() {
			crashes = 1
		}
		f := newFleet(t, program)
		f.underLoad(t, func() {
			f.goesWell(t)
			for range crashes {
				f.server.Restart("immediate")
				since := time.Now()
				f.goesWell(t)
				t.Logf("all went well %v after the server was ready", time.Since(since).Round(time.Millisecond))
			}
		})
		f.check(t)
	})
	t.Run("replaced", func(t *testing.T) {
		f := newFleet(t, program)
		f.underLoad(t, func() {
			for i, replica := range f.replicas {
				f.goesWell(t)
				replica.stop(t)
				f.restart(t, i)
			}
			f.goesWell(t)
		})
		// A request may be on its way when the service closes its connection: it
		// has no answer, but nothing of it was accepted.
		for _, c := range f.clients {
			c.unknown = 0
		}
		f.check(t)
	})
}
