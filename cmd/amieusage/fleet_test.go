package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/postgres"
)

// patience bounds each wait for what must happen soon.
const patience = 2 * time.Minute

// fleetRegistry is what a fleet knows: a project that is not in it fails, and a
// resource that is not in it is refused.
const fleetRegistry = `sites:
  - name: SITE
    resources: [{name: rm}, {name: ocean}]
    projects:
      - id: p.one
        users: [alice, bob]
        allocations: &year
          - {resource: rm, amount: 1000, start: 2026-01-01, end: 2036-12-31}
          - {resource: ocean, amount: 1000, start: 2026-01-01, end: 2036-12-31}
      - {id: p.two, users: [alice, bob], allocations: *year}
`

// A fleet is services as processes on one ledger, and clients that send to any
// of them.
type fleet struct {
	program, db string
	seed        uint64
	log         io.Writer
	replicas    []*killedService
	clients     []*fleetClient
	gate        *gate
	timeout     time.Duration // of each request
}

// newFleet starts a fleet, with two clients of PSC, which have a key each, and
// one each of NCSA and SDSC. A replica has a folder for what tests tell it.
func newFleet(t *testing.T, program, db string, replicas int, seed uint64) *fleet {
	t.Helper()
	f := &fleet{program: program, db: db, seed: seed, gate: &gate{}, timeout: patience}
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	f.log = log
	t.Cleanup(func() {
		log.Close()
		if t.Failed() {
			showErrors(t, log.Name())
		}
	})
	for _, site := range []string{"PSC", "PSC", "NCSA", "SDSC"} {
		f.clients = append(f.clients, f.newClient(t, site))
	}
	for range replicas {
		folder := t.TempDir()
		s := &killedService{program: program, db: db, policy: "strict", log: log, listen: freeAddress(t), env: []string{
			"AMIEUSAGE_FAILPOINT=" + filepath.Join(folder, "failpoint"),
			"AMIEUSAGE_CLOCK_OFFSET=" + filepath.Join(folder, "clock"),
		}}
		t.Cleanup(s.kill)
		s.start(t)
		f.replicas = append(f.replicas, s)
	}
	return f
}

// newClient makes a site's registry and a key.
func (f *fleet) newClient(t *testing.T, site string) *fleetClient {
	t.Helper()
	registry := filepath.Join(t.TempDir(), "registry.yaml")
	if err := os.WriteFile(registry, []byte(strings.Replace(fleetRegistry, "SITE", site, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	admin := &killedService{program: f.program, db: f.db}
	admin.admin(t, "import", registry)
	i := uint64(len(f.clients))
	return &fleetClient{
		fleet: f, site: site, key: strings.TrimSpace(admin.admin(t, "key", "create", "--site", site)), prefix: fmt.Sprintf("c%d-", i),
		registry: registry,
		random:   rand.New(rand.NewPCG(f.seed, i)), routes: rand.New(rand.NewPCG(f.seed, i)),
		loaded: map[amieusage.Identity]content{}, failed: map[amieusage.Identity]content{}, doubtful: map[amieusage.Identity]bool{},
	}
}

// freeAddress returns an address to listen on that stays the same when a
// service is started again: none that the system would give to others.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(10_000)))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no port is free")
	return ""
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
	records, again, sends, cleared := 0, 0, 0, 0
	for _, c := range f.clients {
		records, again, sends, cleared = records+c.accepted, again+c.unknown, sends+int(c.sends.Load()), cleared+c.cleared
		for _, fault := range c.faults {
			t.Errorf("a client of %s: %s", c.site, fault)
		}
	}
	t.Logf("%d sends, %d records accepted, %d records sent again, %d cleared; answers 503: %d, connections refused: %d, cut: %d",
		sends, records, again, cleared, f.gate.unavailable.Load(), f.gate.refused.Load(), f.gate.cut.Load())
	if wrong := f.gate.wrong.Load(); wrong != nil {
		t.Error(*wrong)
	}
}

// goesWell waits until each client has had a few more sends accepted.
func (f *fleet) goesWell(t *testing.T, few int64) {
	t.Helper()
	deadline, tick := time.After(patience), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for _, c := range f.clients {
		for enough := c.sends.Load() + few; c.sends.Load() < enough; {
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatalf("a client of %s gets nothing accepted", c.site)
			}
		}
	}
}

// check waits until all is loaded, and compares all that is there with what the
// clients were told; and again when everything was sent again.
func (f *fleet) check(t *testing.T, more ...*fleetClient) {
	t.Helper()
	store, err := dbFlag(f.db).open(t.Context(), postgres.Options{MaxConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	clients := append(more, f.clients...)
	for _, again := range []bool{false, true} {
		sites := map[string]*fleetClient{} // all clients of each site as one
		for _, c := range clients {
			if again {
				c.sendAgain()
			}
			for _, fault := range c.faults {
				t.Errorf("a client of %s: %s", c.site, fault)
			}
			if sites[c.site] == nil {
				sites[c.site] = &fleetClient{fleet: f, site: c.site, key: c.key, routes: c.routes,
					loaded: map[amieusage.Identity]content{}, failed: map[amieusage.Identity]content{}}
			}
			sites[c.site].join(c)
		}
		for _, c := range sites {
			c.checkCounts(t, store)
			c.checkLedger(t)
		}
		f.replicas[0].admin(t, "verify")
	}
}
