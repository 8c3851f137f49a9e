package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/pgtest"
	"github.com/amieusage/amieusage/internal/postgres"
)

// TestKillArchive kills an archive again and again, ever later, until it comes
// to its end. No record is lost, and none is archived twice.
func TestKillArchive(t *testing.T) {
	program := buildProgram(t)
	for name, db := range map[string]dbFlag{
		"sqlite":   dbFlag(filepath.Join(t.TempDir(), "ledger.db")),
		"postgres": dbFlag(pgtest.Database(t)),
	} {
		t.Run(name, func(t *testing.T) { killArchive(t, program, db) })
	}
}

func killArchive(t *testing.T, program string, db dbFlag) {
	const sites, batches, perBatch = 5, 8, 500
	store, err := db.open(t.Context(), postgres.Options{MaxConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	service := ledger.New(ledger.Config{Store: store, Policy: ledger.Open, Clock: time.Now, Logger: slog.New(slog.DiscardHandler)})
	var callers []ledger.Authority
	for i := range sites {
		name := fmt.Sprint("site", i)
		if _, err := store.Import(t.Context(), &ledger.RegistrySpec{Sites: []ledger.SiteSpec{{Name: name}}}); err != nil {
			t.Fatal(err)
		}
		authority, err := store.Authority(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		callers = append(callers, *authority)
		for n := range batches {
			batch := &ledger.Batch{Site: authority.Site, KeyID: 1, UsageType: amieusage.Compute, AcceptedAt: time.Now()}
			// Half of each batch corrects the one before.
			for _, r := range recordsOf(n*perBatch/2, perBatch) {
				r.(*amieusage.ComputeRecord).Charge = amieusage.ChargeOfMillionths(int64(n))
				batch.Records = append(batch.Records, r.AppendJSON(nil))
			}
			if err := store.Accept(t.Context(), batch, math.MaxInt64); err != nil {
				t.Fatal(err)
			}
		}
	}
	for {
		report, err := service.LoadSome(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if report.Batches == 0 {
			break
		}
	}
	summaries := func() (all []*amieusage.Summary) {
		for _, c := range callers {
			s, err := service.Summary(context.Background(), ledger.Caller{Site: c.Site},
				amieusage.SummaryQuery{GroupBy: []amieusage.GroupKey{amieusage.ByProject, amieusage.ByDay}})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, s)
		}
		return all
	}
	before := summaries()

	folder := t.TempDir()
	date := amieusage.FormatTime(time.Now())
	killed, killedArchiving := 0, 0
	for delay := 20 * time.Millisecond; ; delay += delay / 8 {
		cmd := exec.Command(program, "admin", "archive", "--before", date, "--to", folder, "--db", string(db))
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(delay, func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		kill.Stop()
		if cmd.ProcessState.Exited() {
			if err != nil {
				t.Fatal(err, out.String())
			}
			break
		}
		killed++
		if files, _ := filepath.Glob(filepath.Join(folder, "*.jsonl.gz")); 0 < len(files) && len(files) < sites {
			killedArchiving++
		}
	}
	t.Logf("%d runs were killed, %d of them between two archives", killed, killedArchiving)
	if killedArchiving == 0 {
		t.Error("no run was killed while it archived")
	}

	byCharge := func(c amieusage.Charge) string { return c.String() }
	if diff := cmp.Diff(before, summaries(), cmp.Transformer("charge", byCharge)); diff != "" {
		t.Errorf("the summaries differ (-before +after):\n%s", diff)
	}
	if err := store.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	type place struct {
		site    string
		batch   int64
		ordinal int
	}
	places, revisions := map[place]bool{}, 0
	for _, line := range archivedLines(t, folder) {
		at := place{line.Site, line.Batch, line.Ordinal}
		if places[at] {
			t.Fatalf("record %v is archived twice", at)
		}
		places[at] = true
		if line.Outcome == "loaded" {
			revisions++
		}
	}
	if want := sites * batches * perBatch; len(places) != want || revisions != want {
		t.Errorf("%d records and %d revisions are archived, want %d", len(places), revisions, want)
	}
	if left, _ := filepath.Glob(filepath.Join(folder, ".*.tmp")); len(left) > 0 {
		t.Errorf("unfinished files are left: %q", left)
	}
}

// archivedLines reads all archives in a folder.
func archivedLines(t *testing.T, folder string) (lines []ledger.ArchiveLine) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(folder, "*.jsonl.gz"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		file, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		plain, err := gzip.NewReader(file)
		if err != nil {
			t.Fatal(name, err)
		}
		for decoder := json.NewDecoder(plain); decoder.More(); {
			var line ledger.ArchiveLine
			if err := decoder.Decode(&line); err != nil {
				t.Fatal(name, err)
			}
			lines = append(lines, line)
		}
	}
	return lines
}
