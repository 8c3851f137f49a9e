package sqlite_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/sqlite"
)

// Environment variables that tell the test binary that it is a process to be
// killed: the ledger's file, and the number of its first message.
const (
	crashLedger  = "AMIEUSAGE_TEST_CRASH_LEDGER"
	crashMessage = "AMIEUSAGE_TEST_CRASH_MESSAGE"
)

const crashSenders = 3

// crashSite returns a service on the ledger, and the one site in it.
func crashSite(t *testing.T, store *sqlite.Ledger) (*ledger.Service, ledger.Caller, map[string]bool) {
	t.Helper()
	ctx := context.Background()
	spec := &ledger.RegistrySpec{Sites: []ledger.SiteSpec{{Name: "PSC", Resources: []string{"rm.example.org"},
		Projects: []ledger.ProjectSpec{{ID: "p.abc123456.000", Users: []string{"alice"}, Allocations: []ledger.AllocationSpec{{
			Resource: "rm.example.org", Amount: 1, Start: time.Unix(0, 0), End: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)}}}}}}}
	if _, err := store.Import(ctx, spec); err != nil {
		t.Fatal(err)
	}
	authority, err := store.Authority(ctx, "PSC")
	if err != nil {
		t.Fatal(err)
	}
	service := ledger.New(ledger.Config{Store: store, Clock: time.Now, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	return service, ledger.Caller{Site: authority.Site, Name: "PSC"}, authority.Resources
}

// crashMessageOf is message n of a sender: four records that load, one of which
// is corrected by the next message, and one that fails.
func crashMessageOf(sender, n int) []byte {
	submit := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	record := func(id, user, charge string) *amieusage.ComputeRecord {
		c, _ := amieusage.ParseCharge(charge)
		return &amieusage.ComputeRecord{Username: user, LocalProjectID: "p.abc123456.000", LocalRecordID: id, Resource: "rm.example.org",
			SubmitTime: submit, StartTime: submit, EndTime: submit.Add(time.Duration(n) * time.Hour), Charge: c, NodeCount: amieusage.CountOf(1)}
	}
	id := fmt.Sprintf("%d.%d.", sender, n)
	data, _ := (&amieusage.Message{UsageType: amieusage.Compute, Records: []amieusage.Record{
		record(id+"1", "alice", "1.25"), record(id+"2", "alice", "1.25"), record(id+"3", "alice", "1.25"),
		record(fmt.Sprintf("%d.last", sender), "alice", strconv.Itoa(n)),
		record(id+"4", "eve", "1.25"),
	}}).MarshalJSON()
	return data
}

// TestLedgerCrash kills, again and again, a service that accepts from several
// sides and loads, and looks at what it left: what was acknowledged is there,
// all adds up, and after everything was sent again each charge counts once.
func TestLedgerCrash(t *testing.T) {
	if path := os.Getenv(crashLedger); path != "" {
		crashChild(t, path)
		return
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	// Killed while the file is made and its schema is laid.
	for range 6 {
		path := filepath.Join(t.TempDir(), "ledger.db")
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(5+random.IntN(150))*time.Millisecond)
		child := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestLedgerCrash$")
		child.Env = append(os.Environ(), crashLedger+"="+path, crashMessage+"=0")
		_ = child.Run()
		cancel()
		checkVerified(t, openLedger(t, path))
	}

	path := filepath.Join(t.TempDir(), "ledger.db")
	acknowledged := [crashSenders]int{} // messages of each sender, without a gap
	for range 8 {
		first := max(acknowledged[0], acknowledged[1], acknowledged[2])
		child := exec.Command(os.Args[0], "-test.run=^TestLedgerCrash$")
		child.Env = append(os.Environ(), crashLedger+"="+path, crashMessage+"="+strconv.Itoa(first))
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		acks := map[[2]int]bool{}
		lines := bufio.NewScanner(out)
		for enough := random.IntN(60); lines.Scan(); {
			var sender, n int
			if _, err := fmt.Sscanf(lines.Text(), "accepted %d %d", &sender, &n); err != nil {
				t.Errorf("the child says %q", lines.Text())
			}
			acks[[2]int{sender, n}] = true
			if len(acks) == enough+1 {
				if err := child.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := child.Wait(); child.ProcessState.Exited() {
			t.Fatalf("the child ended by itself: %v", err)
		}
		checkAfterLedgerCrash(t, path, first, acks)
		for ack := range acks {
			acknowledged[ack[0]] = max(acknowledged[ack[0]], ack[1]+1)
		}
	}

	store := openLedger(t, path)
	service, who, resources := crashSite(t, store)
	last := max(acknowledged[0], acknowledged[1], acknowledged[2])
	for n := range last {
		for sender := range crashSenders {
			if _, err := service.Accept(context.Background(), who, resources, crashMessageOf(sender, n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	loadAll(t, service)
	checkVerified(t, store)
	summary, err := service.Summary(context.Background(), who, amieusage.SummaryQuery{})
	if err != nil || len(summary.Rows) != 1 {
		t.Fatalf("summary %v, %v", summary, err)
	}
	// Some message may have been accepted without being acknowledged, for each
	// sender and crash: it may be one above the last.
	row := summary.Rows[0]
	want := int64(crashSenders * (3*last + 1))
	if row.RecordCount < want || row.RecordCount > want+3*crashSenders {
		t.Errorf("%d records, want %d, or a few more", row.RecordCount, want)
	}
}

// crashChild accepts and loads until it is killed.
func crashChild(t *testing.T, path string) {
	store := openLedger(t, path)
	service, who, resources := crashSite(t, store)
	first, err := strconv.Atoi(os.Getenv(crashMessage))
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for sender := range crashSenders {
		group.Go(func() {
			for n := first; ; n++ {
				answer, err := service.Accept(context.Background(), who, resources, crashMessageOf(sender, n))
				if err != nil || len(answer.FailedRecords) > 0 {
					t.Errorf("accept: %v, %v", answer, err)
					return
				}
				fmt.Printf("accepted %d %d\n", sender, n)
			}
		})
	}
	group.Go(func() { _ = service.Run(context.Background()) })
	group.Wait()
}

func checkVerified(t *testing.T, store *sqlite.Ledger) {
	t.Helper()
	if err := store.Verify(context.Background()); err != nil {
		t.Error(err)
	}
}

func loadAll(t *testing.T, service *ledger.Service) {
	t.Helper()
	for {
		report, err := service.LoadSome(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if report.Batches == 0 {
			return
		}
	}
}

func checkAfterLedgerCrash(t *testing.T, path string, first int, acks map[[2]int]bool) {
	t.Helper()
	store := openLedger(t, path)
	checkVerified(t, store)
	service, who, _ := crashSite(t, store)
	counts, err := service.Counts(context.Background(), who)
	if err != nil || counts.Accepted != counts.Loaded+counts.Failed+counts.Queued {
		t.Errorf("counts %+v, %v", counts, err)
	}
	loadAll(t, service)
	checkVerified(t, store)
	page, err := service.Loaded(context.Background(), who, amieusage.LoadedQuery{})
	if err != nil {
		t.Fatal(err)
	}
	loaded := map[string]string{}
	for _, r := range page.Records {
		loaded[r.LocalRecordID] = r.Charge.String()
	}
	failedRecords, _, err := service.Failed(context.Background(), who, ledger.FailedQuery{})
	if err != nil {
		t.Fatal(err)
	}
	failed := map[string]bool{}
	for _, f := range failedRecords {
		failed[f.Record.Common().LocalRecordID] = true
	}
	want, got := map[string]string{}, map[string]string{}
	last := [crashSenders]int{}
	for ack := range acks {
		for i := 1; i <= 3; i++ {
			id := fmt.Sprintf("%d.%d.%d", ack[0], ack[1], i)
			want[id], got[id] = "1.25", loaded[id]
		}
		if !failed[fmt.Sprintf("%d.%d.4", ack[0], ack[1])] {
			t.Errorf("the record that fails in message %d of sender %d is not there", ack[1], ack[0])
		}
		last[ack[0]] = max(last[ack[0]], ack[1])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what was acknowledged is not there (-want +got):\n%s", diff)
	}
	// What was accepted last stands: the last message acknowledged, or the one
	// behind it.
	for sender, n := range last {
		charge, err := strconv.Atoi(loaded[fmt.Sprintf("%d.last", sender)])
		if n >= first && n > 0 && (err != nil || charge != n && charge != n+1) {
			t.Errorf("sender %d: the record that all correct has the charge %d, the last message acknowledged is %d", sender, charge, n)
		}
	}
}
