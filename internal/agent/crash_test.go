package agent_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/amieusage/amieusage/internal/agent"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/slurm"
	"github.com/amieusage/amieusage/internal/sqlite"
	"github.com/amieusage/amieusage/usageclient"
)

var seed = flag.Uint64("seed", 0, "the seed of the crash test; 0: a new one")

// childVariable makes a run of the test binary the agent that the crash test
// kills: it reports the dump that is its argument.
const childVariable = "AGENT_TEST_REPORT_TO"

func TestMain(m *testing.M) {
	if url := os.Getenv(childVariable); url != "" {
		if err := report(url, os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// report is a whole run of the agent.
func report(url, outboxPath, dumpPath string) error {
	ctx := context.Background()
	queue, err := sqlite.OpenOutbox(ctx, outboxPath, time.Now)
	if err != nil {
		return err
	}
	defer queue.Close()
	unlock, err := queue.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	client, err := usageclient.New(siteName, key, usageclient.WithBaseURL(url), usageclient.WithMaxRequestRecords(25))
	if err != nil {
		return err
	}
	text, err := os.ReadFile(dumpPath)
	if err != nil {
		return err
	}
	a := &agent.Agent{Rules: rules(nil), Queue: queue, Client: client, Clock: time.Now, Log: slog.New(slog.DiscardHandler)}
	cursor := &outbox.Cursor{Source: "sacct", At: begin}
	if err := a.Collect(ctx, slurm.NewReader(bytes.NewReader(text), "dump", slurm.Options{}), cursor, nil); err != nil {
		return err
	}
	if err := a.Send(ctx); err != nil {
		return err
	}
	return a.Confirm(ctx, time.Minute)
}

// TestCrash kills the agent again and again at random moments. In the end each
// job is in the ledger once, and the outbox knows.
func TestCrash(t *testing.T) {
	const jobs, kills = 600, 10
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("-seed %d", *seed)
	random := rand.New(rand.NewPCG(*seed, 0))
	service := newService(t, ledger.Open)
	service.run(t)
	folder := t.TempDir()
	outboxPath, dumpPath := filepath.Join(folder, "outbox.db"), filepath.Join(folder, "dump.psv")
	var killed, survived int
	for round, cores := range []int64{8, 9} { // and then everything is corrected
		text := bytes.ReplaceAll(dump(jobs), []byte(",cpu=8,"), fmt.Appendf(nil, ",cpu=%d,", cores))
		if err := os.WriteFile(dumpPath, text, 0o600); err != nil {
			t.Fatal(err)
		}
		for run := range kills + 1 {
			command := exec.Command(os.Args[0], outboxPath, dumpPath)
			command.Env = append(os.Environ(), childVariable+"="+service.URL)
			var complaint bytes.Buffer
			command.Stderr = &complaint
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			var kill *time.Timer
			if run < kills {
				// Ever later, for machines of any speed.
				delay := time.Duration(random.Int64N(int64(20*time.Millisecond)<<(run*6/kills))) + 10*time.Millisecond
				kill = time.AfterFunc(delay, func() { _ = command.Process.Kill() })
			}
			err := command.Wait()
			if kill != nil {
				kill.Stop()
			}
			switch {
			case err == nil:
				survived++
			case !command.ProcessState.Exited():
				killed++
			default:
				t.Fatalf("round %d, run %d: %v: %s", round, run, err, &complaint)
			}
		}
		service.load(t)
		s := openSite(t, outboxPath)
		s.wantStates(t, map[outbox.State]int64{outbox.Loaded: jobs})
		if !s.cursor(t).Equal(begin) {
			t.Errorf("cursor %s", s.cursor(t))
		}
		records, charge := service.inLedger(t)
		if want := jobs * cores * 1_000_000; records != jobs || charge != want {
			t.Errorf("round %d: the ledger holds %d records and %d millionths, want %d and %d", round, records, charge, jobs, want)
		}
	}
	if killed == 0 {
		t.Errorf("no run of %d was killed", survived)
	}
	t.Logf("%d runs were killed, %d were not", killed, survived)
}
