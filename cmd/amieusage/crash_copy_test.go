package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/pgtest"
	"github.com/amieusage/amieusage/internal/sqlite"
)

// copyCommits are the commits of a copy of two sites by the names that their
// fail points have, each with how many there are at least.
var copyCommits = []struct {
	what  string
	least int
}{
	{"copy site", 2},
	{"copy rows", 26},   // each table of each site
	{"remove copy", 26}, // so, too
	{"serve copy", 1},   // both sites
}

// A copyCrash is one run of TestCrashCopy.
type copyCrash struct {
	*movedLedger
	program string
	env     []string
	random  *rand.Rand
	whole   []copyView // what is said of a copy that was not cut off
	rows    int64      // of that one
	killed  []string
}

// TestCrashCopy kills copies on each side of their commits, and at random
// instants, and runs them again: some are killed again, and the last one comes
// to the end. No site is served before all are whole, nothing that was committed
// is copied again, and in the end all that is in one ledger is in the other.
//
// One commit of each name is drawn from the seed; from 150 kills on it is each
// that a copy makes. How the copy goes on is always drawn.
func TestCrashCopy(t *testing.T) {
	t.Parallel()
	seed := *crashSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	every := *crashKills >= 150
	records, instants := 500, 1
	if every {
		records, instants = 10_500, 50 // the records of a site are more than one commit
	}
	c := &copyCrash{movedLedger: newMovedLedger(t, records), program: buildFailpoints(t),
		env:    []string{"AMIEUSAGE_FAILPOINT=" + filepath.Join(t.TempDir(), "failpoint")},
		random: rand.New(rand.NewPCG(seed, 0))}
	t.Cleanup(func() {
		t.Logf("seed %d: %d copies were killed", seed, len(c.killed))
		if t.Failed() {
			t.Logf("again: go test ./cmd/amieusage -run TestCrashCopy -kills %d -crash-seed %d; the kills were\n%s",
				*crashKills, seed, strings.Join(c.killed, "\n"))
		}
	})
	url := pgtest.Database(t)
	c.whole, _ = c.run(t, url, &crashPlan{}, false)
	c.rows = stateOfCopy(t, url).rows
	for _, commit := range copyCommits {
		for _, side := range []string{"before commit", "committed"} {
			p := &crashPlan{who: "copy", point: commit.what + ": " + side, nth: 1 + c.random.IntN(commit.least)}
			if !every {
				if url = pgtest.Database(t); !c.cutOff(t, url, p) {
					t.Errorf("nobody came to the point: %v", p)
				}
				continue
			}
			for p.nth = 1; c.cutOff(t, pgtest.Database(t), p) && !t.Failed(); p.nth++ {
			}
			if t.Logf("%s: %d commits", p.point, p.nth-1); p.nth <= commit.least {
				t.Errorf("nobody came to the point: %v", p)
			}
		}
	}
	for range instants {
		url = pgtest.Database(t)
		c.cutOff(t, url, &crashPlan{who: "copy", point: randomInstant, delay: time.Duration(1+c.random.IntN(300)) * time.Millisecond})
	}
	c.wantSame(t, url)
}

// cutOff begins a copy, which is killed by the plan, and brings it to its end.
// It reports whether it came to the point.
func (c *copyCrash) cutOff(t *testing.T, url string, p *crashPlan) (died bool) {
	t.Helper()
	if isRestart(p) {
		// There must be something to remove.
		c.run(t, url, &crashPlan{who: "copy", point: "serve copy: before commit", nth: 1}, false)
	}
	_, died = c.run(t, url, p, isRestart(p))
	for range c.random.IntN(3) {
		commit := copyCommits[c.random.IntN(len(copyCommits))]
		again := &crashPlan{who: "copy", nth: 1 + c.random.IntN(commit.least),
			point: commit.what + ": " + []string{"before commit", "committed"}[c.random.IntN(2)]}
		c.run(t, url, again, isRestart(again))
	}
	had := stateOfCopy(t, url).rows
	views, _ := c.run(t, url, &crashPlan{}, false)
	if diff := cmp.Diff(c.whole, views, looksByText, cmpopts.IgnoreFields(copyView{}, "Copied")); diff != "" {
		t.Errorf("%v: what is said of the copy (-one that was not cut off +this):\n%s", p, diff)
	}
	for i := range views {
		had += views[i].Copied
	}
	if had != c.rows {
		t.Errorf("%v: %d rows were there or copied, want %d", p, had, c.rows)
	}
	c.wantEqual(t, url)
	return died
}

func isRestart(p *crashPlan) bool { return strings.HasPrefix(p.point, "remove copy") }

// run runs the copy, and returns what it says in the end, where it is not killed
// by the plan before that.
func (c *copyCrash) run(t *testing.T, url string, p *crashPlan, restart bool) (views []copyView, died bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), c.program, "admin", "copy", "--from", c.path, "--to", url, "-o", "json", fmt.Sprint("--restart=", restart))
	cmd.Env = append(os.Environ(), c.env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if p.nth > 0 {
		defer arm(t, c.env, p)()
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if p.delay > 0 {
		defer time.AfterFunc(p.delay, func() { _ = cmd.Process.Kill() }).Stop()
	}
	err := cmd.Wait()
	if died = !cmd.ProcessState.Exited(); died {
		c.killed = append(c.killed, p.String())
		switch served := stateOfCopy(t, url).served; {
		case p.isRandom() && served == len(c.sites):
		case p.point == "serve copy: committed" && served == len(c.sites):
		case p.point != "serve copy: committed" && served == 0:
		default:
			t.Errorf("%v: %d sites are served", p, served)
		}
		if strings.HasPrefix(p.point, "serve copy: ") {
			c.wantMoved(t, p)
		}
		return nil, true
	}
	if err == nil {
		err = json.Unmarshal(stdout.Bytes(), &views)
	}
	if err != nil {
		t.Fatalf("%v: %v: %s%s", cmd.Args, err, &stdout, &stderr)
	}
	return views, false
}

// wantMoved holds that the file serves no site whose copy was about to be served.
func (c *copyCrash) wantMoved(t *testing.T, p *crashPlan) {
	t.Helper()
	file := must[*sqlite.Ledger](t)(sqlite.OpenLedger(t.Context(), c.path))
	defer file.Close()
	for _, s := range c.sites {
		if _, err := file.Authority(t.Context(), s.name); amieusage.CodeOf(err) != amieusage.CodeForbidden {
			t.Errorf("%v: the file serves %s, too: %v", p, s.name, err)
		}
	}
}

// A copyState is how far a copy is.
type copyState struct {
	rows   int64
	served int // sites
}

// stateOfCopy looks into a database once nobody else is at it: the server may
// end what a process has begun that is not there any more.
func stateOfCopy(t *testing.T, url string) (s copyState) {
	t.Helper()
	ctx := t.Context()
	conn := must[*pgx.Conn](t)(pgx.Connect(ctx, url))
	defer conn.Close(context.WithoutCancel(ctx))
	deadline, tick := time.After(patience), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for others := 1; others > 0; {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the server does not end what a killed copy has begun")
		}
		err := conn.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()`).Scan(&others)
		if err != nil {
			t.Fatal(err)
		}
	}
	rows := make([]string, len(ledger.CopyTables))
	for i, table := range ledger.CopyTables {
		rows[i] = "(SELECT count(*) FROM " + table.Name + " WHERE site_id <> 0)"
	}
	err := conn.QueryRow(ctx, "SELECT "+strings.Join(rows, " + ")+", (SELECT count(*) FROM sites WHERE served)").Scan(&s.rows, &s.served)
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "42P01" { // undefined_table
		return copyState{} // it has no schema yet
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}
