package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/usageclient"
)

var stoppedFor = flag.Duration("stopped", 3*time.Second, "for how long TestFaultStopped stops processes")

// A follower reads what is loaded, as it is loaded: each time from the newest
// LoadedTime on that it has seen.
type follower struct {
	*fleetClient
	newest time.Time
	seen   map[amieusage.Identity]amieusage.LoadedRecord
}

func (f *follower) look() {
	f.insist(func(ctx context.Context, client *usageclient.Client) error {
		for r, err := range client.AllLoaded(ctx, amieusage.LoadedQuery{MinLoadedTime: f.newest, PageSize: 500}) {
			if err != nil {
				return err
			}
			if r.LoadedTime.Before(f.newest) {
				f.fault("the times of loading go back")
			}
			f.newest, f.seen[r.Identity()] = r.LoadedTime, r
		}
		return nil
	})
}

// TestFaultClock steps the clocks of services and agents by hours, each on its
// own, so that none is more than a day ahead of another: what is, is refused. Nothing is lost, who follows what is loaded by its times misses nothing,
// and the agents see all confirmed.
func TestFaultClock(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			seed := rand.Uint64()
			random := rand.New(rand.NewPCG(seed, seed))
			t.Logf("the seed is %d", seed)
			db, replicas := newLedger(t, engine)
			f := newFleet(t, buildFailpoints(t), db, replicas, seed)
			agent := newSiteAgent(t, f, "TACC", "outbox.db")
			who := f.clients[3]
			following := &follower{fleetClient: &fleetClient{fleet: f, site: who.site, key: who.key, routes: random}, seen: map[amieusage.Identity]amieusage.LoadedRecord{}}
			step := func(env []string) time.Duration {
				off := time.Duration(random.IntN(24*3600)-12*3600) * time.Second
				writeFile(t, strings.TrimPrefix(env[1], "AMIEUSAGE_CLOCK_OFFSET="), off.String())
				return off
			}
			f.underLoad(t, func() {
				for range 6 {
					for _, s := range f.replicas {
						step(s.env)
						f.goesWell(t, 3)
						following.look()
					}
					off := step(agent.env)
					agent.clock = func() time.Time { return time.Now().Add(off) }
					agent.work()
					agent.once(nil, reportCommand)
				}
			})
			f.check(t, agent.account(t))
			following.look()
			for id, last := range who.loaded {
				if r, ok := following.seen[id]; !ok || millionths(t, r.Charge) != last.charge {
					t.Fatalf("who followed what is loaded knows of %+v: %v %+v, want %d millionths", id, ok, r, last.charge)
				}
			}
			for _, fault := range following.faults {
				t.Error(fault)
			}
		})
	}
}

// TestFaultStopped stops processes with SIGSTOP, for longer than their clients
// wait, while all the rest goes on. Afterwards nothing is lost or doubled.
func TestFaultStopped(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			db, replicas := newLedger(t, engine)
			f := newFleet(t, buildProgram(t), db, replicas, rand.Uint64())
			f.timeout = time.Second
			agent := newSiteAgent(t, f, "TACC", "outbox.db")
			f.underLoad(t, func() {
				for range 3 {
					f.goesWell(t, 3)
					signalTo(t, f.replicas[0].cmd, syscall.SIGSTOP)
					resume := time.After(*stoppedFor)
					if replicas > 1 && *stoppedFor > 20*time.Second {
						f.goesWell(t, 3) // the other takes over
					}
					<-resume
					signalTo(t, f.replicas[0].cmd, syscall.SIGCONT)
				}
				f.goesWell(t, 3)
			})
			if f.gate.cut.Load() == 0 {
				t.Error("no client has given up waiting")
			}
			// The agent, at random instants of its run.
			for range 4 {
				agent.work()
				cmd := agent.command(reportCommand...)
				var stderr bytes.Buffer
				cmd.Stderr = &stderr
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				<-time.After(time.Duration(agent.random.IntN(100)) * time.Millisecond)
				signalTo(t, cmd, syscall.SIGSTOP)
				other := agent.command(reportCommand...)
				var complaint bytes.Buffer
				other.Stderr = &complaint
				if err := other.Start(); err != nil {
					t.Fatal(err)
				}
				<-time.After(*stoppedFor / 4)
				signalTo(t, cmd, syscall.SIGCONT)
				for _, cmd := range []*exec.Cmd{cmd, other} {
					_ = cmd.Wait()
					if status := cmd.ProcessState.ExitCode(); status != exitOK && status != exitRefused && status != exitBusy {
						t.Errorf("exit status %d: %s%s", status, &stderr, &complaint)
					}
				}
				if text := stderr.String() + complaint.String(); strings.Contains(text, "panic") {
					t.Error(text)
				}
			}
			f.timeout = patience
			f.check(t, agent.account(t))
			agent.wantNothingNew(t)
		})
	}
}

func signalTo(t *testing.T, cmd *exec.Cmd, signal syscall.Signal) {
	t.Helper()
	if err := cmd.Process.Signal(signal); err != nil {
		t.Error(err)
	}
}

// TestFaultDescriptors lets the service run out of descriptors, by connections
// that nobody uses.
func TestFaultDescriptors(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			db, replicas := newLedger(t, engine)
			f := newFleet(t, buildProgram(t), db, replicas, rand.Uint64())
			s := f.replicas[0]
			f.underLoad(t, func() {
				for _, limit := range []int{40, 60} {
					s.stop(t)
					s.limit = limit
					s.start(t)
					f.goesWell(t, 1)
					u, err := url.Parse(s.url)
					if err != nil {
						t.Fatal(err)
					}
					var idle []net.Conn
					for range 3 * limit {
						conn, err := net.DialTimeout("tcp", u.Host, time.Second)
						if err != nil {
							break // what waits to be accepted is full, too
						}
						idle = append(idle, conn)
					}
					t.Logf("with %d descriptors: %d idle connections", limit, len(idle))
					<-time.After(2 * time.Second)
					for _, conn := range idle {
						conn.Close()
					}
					f.goesWell(t, 3)
				}
			})
			f.check(t)
		})
	}
}

// TestFaultAgentDescriptors runs the agent with ever more descriptors. With too
// few it says so, and loses nothing.
func TestFaultAgentDescriptors(t *testing.T) {
	t.Parallel()
	f := newFleet(t, buildProgram(t), filepath.Join(t.TempDir(), "ledger.db"), 1, rand.Uint64())
	f.clients = nil
	agent := newSiteAgent(t, f, "TACC", "outbox.db")
	told := map[string]bool{}
	for _, limit := range []int{8, 12, 15, 16, 18, 20, 22, 24} {
		agent.work()
		cmd := agent.command(reportCommand...)
		limitDescriptors(cmd, limit)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		_ = cmd.Run()
		status, complaint := cmd.ProcessState.ExitCode(), strings.TrimSpace(stderr.String())
		if strings.Contains(complaint, "amieusage: ") {
			told[complaint] = true
			t.Logf("with %d descriptors: exit status %d: %s", limit, status, complaint)
		}
		if status < exitOK || status > exitUnreachable || strings.Contains(complaint, "goroutine") {
			t.Errorf("with %d descriptors: exit status %d: %s", limit, status, complaint)
		}
	}
	if len(told) == 0 {
		t.Error("no run had too few")
	}
	f.check(t, agent.account(t))
}

// limitDescriptors makes a command run with so many descriptors at most.
func limitDescriptors(cmd *exec.Cmd, limit int) {
	cmd.Args = append([]string{"sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$@"`, limit), "sh"}, cmd.Args...)
	cmd.Path = "/bin/sh"
}
