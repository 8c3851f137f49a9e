package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/amieusage/amieusage/usageclient"
)

var (
	soakLength = flag.Duration("soak", 20*time.Second, "how long TestSoak runs")
	soakDocs   = flag.String("soak-docs", "", "the folder in which TestSoak writes its plots and SOAK.md; one of its own unless given")
	soakSeed   = flag.Uint64("soak-seed", 0, "what decides when TestSoak kills runs of report; drawn unless given")
)

// The load of a soak: new records a second, of which most are jobs that report
// reads, and some are sent by a client whose wait for the answer is measured.
const (
	soakRate     = 2000
	probeRecords = 5
	probeEvery   = 50 * time.Millisecond
	jobRate      = soakRate - probeRecords*int64(time.Second/probeEvery)
)

// soakJudged is the length from which a soak is long enough to tell a line that
// climbs.
const soakJudged = 5 * time.Minute

// TestSoak runs the service, the agent and a direct client at soakRate, kills
// and restarts them on the way, and draws what they use over time. What was
// reported is in the ledger once in the end, and no line may climb.
func TestSoak(t *testing.T) {
	s := newSoak(t)
	samples, runErr := s.run(t)
	if len(samples) == 0 {
		t.Fatal("no samples: ", runErr)
	}
	folder := *soakDocs
	if folder == "" {
		folder = t.TempDir()
	}
	report := soakReport{soak: s, samples: samples}
	if err := report.write(folder); err != nil {
		t.Fatal(err)
	}
	report.check(t, folder)
	if runErr != nil {
		t.Fatal(runErr)
	}
	s.wantAccount(t)
}

// A soak is one run of everything.
type soak struct {
	program, folder string
	length          time.Duration
	interval        time.Duration // between samples
	period          time.Duration // between runs of report
	restarts        time.Duration // between restarts of serve
	seed            uint64
	log             func(format string, args ...any)

	service *soakService
	client  *usageclient.Client
	jobs    soakJobs
	start   time.Time
	total   int64 // jobs
	probes  int64 // messages of the direct client
	runs    int   // of report that came to their end
	killed  int   // runs of report that did not

	mu      sync.Mutex
	answers []time.Duration // of the direct client, since the last sample
	lastRun soakRun         // of report, that came to its end
	marks   []soakMark
}

// A soakRun is what a run of report took.
type soakRun struct {
	seconds, mib float64
	cpu          float64 // ms of processor time for 1,000 jobs that it read
}

// A soakMark is a restart of serve.
type soakMark struct {
	at     time.Duration
	killed bool // by SIGKILL; else by SIGTERM
}

func newSoak(t *testing.T) *soak {
	s := &soak{
		program: buildProgram(t), folder: t.TempDir(), log: t.Logf, seed: *soakSeed, lastRun: soakRun{math.NaN(), math.NaN(), math.NaN()},
		length:   *soakLength,
		interval: min(max(*soakLength/480, 250*time.Millisecond), 7500*time.Millisecond),
		period:   min(max(*soakLength/12, time.Second), 5*time.Second),
		restarts: min(max(*soakLength/12, 4*time.Second), 5*time.Minute),
	}
	for s.seed == 0 {
		s.seed = rand.Uint64()
	}
	s.total = int64(s.length.Seconds() * float64(jobRate))
	s.service = &soakService{program: s.program, db: filepath.Join(s.folder, "ledger.db"), address: "127.0.0.1:0"}
	write := func(name, text string) string {
		path := filepath.Join(s.folder, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	s.service.admin(t, "import", write("registry.yaml", soakRegistry()))
	key := s.service.admin(t, "key", "create", "--site", "PSC")
	write("key", key)
	if err := s.service.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.service.kill)
	write("site.yaml", fmt.Sprintf("site: PSC\napi_key_file: key\nusage_url: %s\nstate: outbox.db\nconfirm_wait: 20s\n"+
		"resources: [{resource: %s, charge: {per_hour: {cpu: 450}, decimals: 6}}]\n", s.service.url(), soakResource))
	s.client = s.service.client(t, key)
	return s
}

// run runs everything for the length of the soak, and report until nothing is
// left to be reported.
func (s *soak) run(t *testing.T) (samples []soakSample, err error) {
	raw, err := os.CreateTemp("", "soak-*.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	t.Logf("%s at %d records a second, seed %d, samples in %s", s.length, soakRate, s.seed, raw.Name())
	s.start = time.Now()
	s.jobs = soakJobs{epoch: s.start.Unix()}
	ctx, cancel := context.WithDeadline(t.Context(), s.start.Add(s.length))
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.report(ctx) })
	group.Go(func() error { return s.probe(ctx, t.Context()) })
	group.Go(func() error { return s.restart(ctx) })
	group.Go(func() (err error) {
		samples, err = s.sample(ctx, raw)
		return err
	})
	if err := group.Wait(); err != nil {
		return samples, err
	}
	if *soakDocs == "" {
		os.Remove(raw.Name())
	}
	return samples, nil
}

// ticks calls f at each interval until ctx ends: at once where it is late, but
// not again for each that it missed.
func ticks(ctx context.Context, every time.Duration, f func() error) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := f(); err != nil {
				return err
			}
		}
	}
}

// report runs the agent as a timer would: each run is given what ended by then,
// and again what ended a while before the last run. Some runs are killed.
func (s *soak) report(ctx context.Context) error {
	random := rand.New(rand.NewPCG(s.seed, 0))
	var reported int64 // jobs that a run to its end has been given
	one := func(to int64, kill time.Duration) error {
		dump := filepath.Join(s.folder, "dump.psv")
		bad := (s.runs+s.killed)%10 == 9
		from := max(0, reported-soakOverlap*jobRate)
		if err := s.jobs.dump(dump, from, to, to == s.total, bad); err != nil {
			return err
		}
		survived, err := s.runReport(dump, to-from, kill)
		if !survived {
			s.killed++
			return err
		}
		s.runs++
		reported = to
		return err
	}
	err := ticks(ctx, s.period, func() error {
		var kill time.Duration
		if (s.runs+s.killed)%8 == 4 {
			kill = 50*time.Millisecond + time.Duration(random.Int64N(int64(1500*time.Millisecond)))
		}
		return one(min(s.total-1, int64(time.Since(s.start).Seconds()*float64(jobRate))), kill)
	})
	if err != nil || !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return err
	}
	// The rest, with what is corrected late, and then until all is confirmed.
	for deadline := time.Now().Add(5 * time.Minute); ; {
		if err := one(s.total, 0); err != nil {
			return err
		}
		open, err := s.outboxOpen()
		if err != nil || open == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d entries of the outbox are still not loaded", open)
		}
	}
}

// runReport runs report on a dump of n jobs to its end, or kills it after a time
// that is not 0.
func (s *soak) runReport(dump string, n int64, kill time.Duration) (survived bool, err error) {
	cmd := exec.Command(s.program, "report", "--config", filepath.Join(s.folder, "site.yaml"), "--from-file", dump, "-o", "json")
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	started := time.Now()
	if err := cmd.Start(); err != nil {
		return false, err
	}
	if kill > 0 {
		defer time.AfterFunc(kill, func() { _ = cmd.Process.Kill() }).Stop()
	}
	gone, peak := make(chan struct{}), make(chan float64)
	go func() { peak <- peakMemory(cmd.Process.Pid, gone) }()
	err = cmd.Wait()
	close(gone)
	mib := <-peak
	if !cmd.ProcessState.Exited() {
		return false, nil
	}
	switch cmd.ProcessState.ExitCode() {
	case exitOK, exitRefused, exitUnreachable:
	default:
		return true, fmt.Errorf("%v: %w: %s", cmd.Args, err, &complaint)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	s.lastRun = soakRun{time.Since(started).Seconds(), mib, cpu.Seconds() * 1e6 / float64(n)}
	return true, nil
}

// probe sends small messages at a steady pace, whether those before are
// answered or not, and measures how long each waits for its answer.
func (s *soak) probe(ctx, whole context.Context) error {
	var group errgroup.Group
	err := ticks(ctx, probeEvery, func() error {
		// A ticker leaves out what it is late for: the clock says how many
		// messages are due.
		for due := int64(time.Since(s.start) / probeEvery); s.probes < due; s.probes++ {
			records := s.jobs.probe(s.probes)
			group.Go(func() error {
				begin := time.Now()
				result, err := s.client.Send(whole, records...)
				if err == nil && len(result.Accepted()) < probeRecords {
					err = fmt.Errorf("%+v", result.Refused())
				}
				if err != nil {
					return fmt.Errorf("a message was not accepted within %s: %w", time.Since(begin), err)
				}
				s.mu.Lock()
				defer s.mu.Unlock()
				s.answers = append(s.answers, time.Since(begin))
				return nil
			})
		}
		return nil
	})
	if sendErr := group.Wait(); err == nil {
		err = sendErr
	}
	return err
}

// restart ends serve by SIGKILL and by SIGTERM in turns, and starts it again.
func (s *soak) restart(ctx context.Context) error {
	kill := false
	return ticks(ctx, s.restarts, func() error {
		kill = !kill
		s.mu.Lock()
		s.marks = append(s.marks, soakMark{time.Since(s.start), kill})
		s.mu.Unlock()
		if kill {
			s.service.kill()
		} else if err := s.service.stop(); err != nil {
			return err
		}
		return s.service.start()
	})
}

// wantAccount holds the ledger and the outbox against what was reported.
func (s *soak) wantAccount(t *testing.T) {
	t.Helper()
	want := soakAccount{jobs: s.jobs, total: s.total, probes: s.probes * probeRecords}
	want.checkLedger(t, s.client)
	out, err := exec.Command(s.program, "records", "list", "--config", filepath.Join(s.folder, "site.yaml"),
		"--state", "pending,queued,failed,rejected", "-o", "json").Output()
	if err != nil {
		t.Fatal(err, string(out))
	}
	var open []struct {
		State, Reason string
		Record        struct{ LocalRecordID string }
	}
	if err := json.Unmarshal(out, &open); err != nil {
		t.Fatal(err)
	}
	var failed int64
	for _, e := range open {
		if i, ok := s.jobs.index(e.Record.LocalRecordID); !ok || !s.jobs.fails(i) || e.State != "failed" || e.Reason == "" {
			t.Errorf("entry of the outbox %+v", e)
		}
		failed++
	}
	if failed != want.failed() {
		t.Errorf("%d entries of the outbox are not loaded, want %d", failed, want.failed())
	}
	if entries := s.outboxEntries(t); entries != s.total {
		t.Errorf("the outbox has %d entries, want %d", entries, s.total)
	}
	if err := s.service.stop(); err != nil {
		t.Error(err)
	}
	s.service.admin(t, "verify")
}
