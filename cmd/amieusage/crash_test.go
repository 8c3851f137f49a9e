package main

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/amieusage/amieusage/internal/pgtest"
)

var (
	crashKills = flag.Int("kills", 20, "how many processes TestCrash kills on each engine; from 150 on it comes to every fail point")
	crashSeed  = flag.Uint64("crash-seed", 0, "what TestCrash draws its decisions from; 0: a new one")
)

// A crashPlan is one kill: of whom, and when.
type crashPlan struct {
	who   string        // service, agent or administrator
	which int           // of several
	point string        // a fail point, or another moment
	nth   int           // its hit at which the process ends
	delay time.Duration // until a random instant
}

// Moments that are no fail points.
const (
	randomInstant = "at a random instant"
	whileStarting = "while it starts"
	behindAnswer  = "behind an answer"
)

func (p *crashPlan) String() string {
	s := fmt.Sprintf("%s %d %s", p.who, p.which, p.point)
	if p.nth > 0 {
		s += fmt.Sprintf(", hit %d", p.nth)
	}
	if p.delay > 0 {
		s += fmt.Sprintf(", after %v", p.delay)
	}
	return s
}

// isRandom reports whether the moment is no point.
func (p *crashPlan) isRandom() bool { return p.point == randomInstant || p.point == whileStarting }

// crashPoints are the fail points by who comes to them, each with the last hit
// that is waited for: every acknowledgement, every move of a cursor, and every
// delete.
func crashPoints(engine string) map[string]map[string]int {
	around := func(points map[string]int, whats ...string) map[string]int {
		for _, what := range whats {
			points[what+": before commit"], points[what+": committed"] = 3, 3
		}
		return points
	}
	service := around(map[string]int{
		"POST: before answer": 20, "POST: answered": 20, "GET: before answer": 5, "GET: answered": 5,
		"DELETE: before answer": 2, "DELETE: answered": 2, behindAnswer: 20,
	}, "accept", "load", "clear")
	if engine == "postgres" {
		around(service, "notify")
	}
	return map[string]map[string]int{
		"service":       service,
		"agent":         around(map[string]int{}, "enqueue", "apply", "apply, move cursor", "leave", "sent", "take loaded", "take failed", "retry"),
		"administrator": around(map[string]int{"archive: written": 1, "archive: renamed": 1}, "archive", "import", "create key", "revoke key"),
	}
}

// A crash is one run of TestCrash on one engine.
type crash struct {
	*fleet
	random  *rand.Rand
	points  map[string]map[string]int
	agents  []*siteAgent
	archive string // the folder
	killed  []string
	count   map[string]int
}

// deck returns the plans of a round: one for each point, and some at random
// instants.
func (c *crash) deck() (deck []crashPlan) {
	add := func(who, point string, nth int) {
		which := map[string]int{"service": len(c.replicas), "agent": len(c.agents), "administrator": 1}[who]
		deck = append(deck, crashPlan{who: who, which: c.random.IntN(which), point: point, nth: nth})
	}
	for _, who := range []string{"service", "agent", "administrator"} {
		points := c.points[who]
		for _, point := range slices.Sorted(func(yield func(string) bool) {
			for point := range points {
				if !yield(point) {
					return
				}
			}
		}) {
			nth := 1 + c.random.IntN(points[point])
			if who != "service" {
				nth = 1 // of each run
			}
			add(who, point, nth)
		}
		for range 6 {
			add(who, randomInstant, 0)
			deck[len(deck)-1].delay = time.Duration(1+c.random.IntN(150)) * time.Millisecond
		}
	}
	for range 3 {
		add("service", whileStarting, 0)
		deck[len(deck)-1].delay = time.Duration(1+c.random.IntN(80)) * time.Millisecond
	}
	c.random.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
	return deck
}

// TestCrash has clients and agents of several sites at work with services, all
// real processes, and kills these with SIGKILL at random instants and at fail
// points. In the end all that anyone was told is in the ledger, once, in its
// last revision, and everything adds up.
//
// Who is killed, and when, follows from the seed.
func TestCrash(t *testing.T) {
	t.Parallel()
	seed := cmp.Or(*crashSeed, rand.Uint64())
	for engine, replicas := range map[string]int{"sqlite": 1, "postgres": 2} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			db := filepath.Join(t.TempDir(), "ledger.db")
			if engine == "postgres" {
				db = pgtest.Database(t)
			}
			c := &crash{
				fleet:  newFleet(t, buildFailpoints(t), db, replicas, seed),
				random: rand.New(rand.NewPCG(seed, 1<<32)),
				points: crashPoints(engine), archive: t.TempDir(), count: map[string]int{},
			}
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("again: go test ./cmd/amieusage -run TestCrash/%s -kills %d -crash-seed %d; the kills were\n%s",
						engine, *crashKills, seed, strings.Join(c.killed, "\n"))
				}
			})
			c.run(t)
			c.summarise(t, engine, seed)
		})
	}
}

func (c *crash) run(t *testing.T) {
	for _, site := range []string{"TACC", "IU"} {
		c.agents = append(c.agents, newSiteAgent(t, c.fleet, site, "outbox.db"))
	}
	var agents sync.WaitGroup
	stop := make(chan struct{})
	c.underLoad(t, func() {
		for _, a := range c.agents {
			agents.Go(func() { a.run(stop) })
		}
		defer agents.Wait()
		defer close(stop)
		for len(c.killed) < *crashKills {
			for _, plan := range c.deck() {
				c.goesWell(t, 1)
				c.kill(t, &plan)
				c.killed = append(c.killed, plan.String())
				c.count[plan.who+" "+plan.point]++
				if len(c.killed) == *crashKills || t.Failed() {
					return
				}
			}
		}
	})
	var accounts []*fleetClient
	for _, a := range c.agents {
		accounts = append(accounts, a.account(t))
	}
	c.check(t, accounts...)
	c.checkArchives(t)
	for _, a := range c.agents {
		a.wantNothingNew(t)
	}
	for _, s := range c.replicas {
		s.stop(t)
	}
}

// kill carries out one plan: afterwards all is up again.
func (c *crash) kill(t *testing.T, p *crashPlan) {
	t.Helper()
	var died bool
	switch p.who {
	case "service":
		died = c.killService(t, c.replicas[p.which], p)
	case "agent":
		died = c.agents[p.which].kill(p)
	default:
		died = c.killAdministrator(t, p)
	}
	if !died {
		t.Errorf("nobody came to the point: %v", p)
	}
}

// killWait bounds the wait for a process to come to a point.
const killWait = 30 * time.Second

func (c *crash) killService(t *testing.T, s *killedService, p *crashPlan) (died bool) {
	t.Helper()
	defer s.start(t)
	defer s.kill()
	switch p.point {
	case whileStarting:
		s.kill()
		s.follow(s.begin(t))
		s.died(p.delay)
		return true
	case randomInstant:
		return !s.died(p.delay)
	case behindAnswer:
		u, err := url.Parse(s.url)
		if err != nil {
			t.Fatal(err)
		}
		process, left := s.cmd.Process, atomic.Int64{}
		left.Store(int64(p.nth))
		answered := func(host string) {
			if host == u.Host && left.Add(-1) == 0 {
				_ = process.Kill()
			}
		}
		c.gate.answered.Store(&answered)
		defer c.gate.answered.Store(nil)
		return s.died(killWait)
	}
	defer arm(t, s.env, p)()
	return s.died(killWait)
}

// arm makes the processes of an environment end at a point, until disarm.
func arm(t *testing.T, env []string, p *crashPlan) (disarm func()) {
	t.Helper()
	file := strings.TrimPrefix(env[0], "AMIEUSAGE_FAILPOINT=")
	writeFile(t, file, fmt.Sprintf("%d %s", p.nth, p.point))
	return func() {
		if err := os.Remove(file); err != nil {
			t.Error(err)
		}
	}
}

// writeFile writes a file that others read at the same time.
func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

// killAdministrator kills a command of an administrator, and runs it again to
// its end.
func (c *crash) killAdministrator(t *testing.T, p *crashPlan) (died bool) {
	t.Helper()
	admin := &killedService{program: c.program, db: c.db, env: []string{"AMIEUSAGE_FAILPOINT=" + filepath.Join(t.TempDir(), "failpoint")}}
	what, _, _ := strings.Cut(p.point, ":")
	if p.isRandom() {
		what = "archive"
	}
	command := func() []string {
		switch what {
		case "import":
			return []string{"import", c.clients[0].registry}
		case "create key":
			return []string{"key", "create", "--site", "PSC"}
		case "revoke key":
			out, err := admin.adminCommand("key", "create", "--site", "PSC").CombinedOutput()
			number := regexp.MustCompile(`key (\d+) of`).FindSubmatch(out)
			if err != nil || number == nil {
				t.Fatalf("%v: %s", err, out)
			}
			return []string{"key", "revoke", string(number[1]), "--site", "PSC"}
		}
		return []string{"archive", "--before", time.Now().Add(-time.Second).UTC().Format(time.RFC3339), "--to", c.archive}
	}
	for end := time.Now().Add(killWait); !died && time.Now().Before(end); {
		args := command()
		disarm := func() {}
		if !p.isRandom() {
			disarm = arm(t, admin.env, p)
		}
		cmd := admin.adminCommand(args...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(cmp.Or(p.delay, killWait), func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		kill.Stop()
		disarm()
		if died = !cmd.ProcessState.Exited(); died {
			admin.admin(t, args...)
		} else if err != nil {
			t.Fatalf("%v: %v: %s", args, err, &out)
		} else if p.isRandom() {
			p.delay = max(p.delay/2, time.Microsecond) // it was too fast
		}
	}
	return died
}

// checkArchives makes sure that no record is in two archives.
func (c *crash) checkArchives(t *testing.T) {
	t.Helper()
	type place struct {
		site    string
		batch   int64
		ordinal int
	}
	places := map[place]bool{}
	for _, line := range archivedLines(t, c.archive) {
		at := place{line.Site, line.Batch, line.Ordinal}
		if places[at] {
			t.Fatalf("record %v is archived twice", at)
		}
		places[at] = true
	}
	t.Logf("%d records are in archives", len(places))
}

// summarise says how often which process was killed where.
func (c *crash) summarise(t *testing.T, engine string, seed uint64) {
	t.Helper()
	var table strings.Builder
	missed := 0
	for _, who := range []string{"service", "agent", "administrator"} {
		points := []string{randomInstant, whileStarting}
		for point := range c.points[who] {
			points = append(points, point)
		}
		slices.Sort(points)
		for _, point := range points {
			n := c.count[who+" "+point]
			if n > 0 {
				fmt.Fprintf(&table, "%6d  %s: %s\n", n, who, point)
			} else if c.points[who][point] > 0 {
				missed++
			}
		}
	}
	records := 0
	for _, client := range c.clients {
		records += len(client.loaded) + len(client.failed)
	}
	verdict := "no difference"
	if t.Failed() {
		verdict = "DIFFERENCES, see above"
	}
	t.Logf("%s, seed %d: %d kills, %d records of clients, %s\n%s", engine, seed, len(c.killed), records, verdict, &table)
	if *crashKills >= 150 && missed > 0 {
		t.Errorf("%d points were not come to", missed)
	}
}
