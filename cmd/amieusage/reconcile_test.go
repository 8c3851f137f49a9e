package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage/internal/agent"
	"github.com/amieusage/amieusage/internal/outbox"
)

// execSQL executes statements behind a database's back: sql DB STATEMENT...
func execSQL(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: sql DB STATEMENT...")
	}
	if !dbFlag(args[0]).isFile() {
		conn, err := pgx.Connect(context.Background(), args[0])
		ts.Check(err)
		defer conn.Close(context.Background())
		for _, statement := range args[1:] {
			_, err := conn.Exec(context.Background(), statement)
			ts.Check(err)
		}
		return
	}
	conn, err := sqlite.OpenConn(ts.MkAbs(args[0]), sqlite.OpenReadWrite)
	ts.Check(err)
	defer conn.Close()
	for _, statement := range args[1:] {
		ts.Check(sqlitex.ExecuteTransient(conn, statement, nil))
	}
}

// TestReconcileMemory compares a short and a long period of which every record
// differs: the memory of the process is the same.
func TestReconcileMemory(t *testing.T) {
	short, long := reconcileMemory(t, 15_000), reconcileMemory(t, 75_000)
	t.Logf("peak of reconcile: %d KiB for 15,000 jobs, %d KiB for 75,000", short, long)
	// A page of the service is 10,000 records: the garbage of a second one is
	// all that may be added. Holding each job would add far more.
	if long > short+short/4 {
		t.Errorf("five times as many jobs took %d KiB, not %d", long, short)
	}
}

// reconcileMemory returns the largest memory, in KiB, of a process that
// reconciles so many jobs.
func reconcileMemory(t *testing.T, jobs int) int {
	t.Helper()
	s := newKilledService(t)
	folder := t.TempDir()
	var dump bytes.Buffer
	dumpOf(&dump, jobs)
	path := func(name string) string { return filepath.Join(folder, name) }
	for name, content := range map[string]string{
		"dump.psv": dump.String(),
		"key":      s.key,
		"site.yaml": "site: PSC\napi_key_file: key\nusage_url: " + s.url + "\nconfirm_wait: 10m\n" +
			"resources: [{resource: rm, charge: {per_hour: {cpu: 1}}}]\n",
		"other.yaml": "site: PSC\napi_key_file: key\nusage_url: " + s.url + "\n" +
			"resources: [{resource: rm, charge: {per_hour: {cpu: 2}}}]\n",
	} {
		if err := os.WriteFile(path(name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	report := exec.Command(s.program, "report", "--config", path("site.yaml"), "--from-file", path("dump.psv"))
	if out, err := report.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var out, complaint bytes.Buffer
	reconcile := exec.Command(s.program, "reconcile", "--config", path("other.yaml"), "--since", "2026-01-01", "--until", "2026-12-01",
		"--from-file", path("dump.psv"), "-o", "json")
	reconcile.Stdout, reconcile.Stderr = &out, &complaint
	reconcile.Env = append(os.Environ(), "TMPDIR="+folder)
	if err := reconcile.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- reconcile.Wait() }()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	peak := regexp.MustCompile(`VmHWM:\s+(\d+) kB`)
	most := 0
	for running := true; running; {
		select {
		case <-ended:
			running = false
		case <-look.C:
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", reconcile.Process.Pid))
			if m := peak.FindSubmatch(status); m != nil {
				n, _ := strconv.Atoi(string(m[1]))
				most = max(most, n)
			}
		}
	}
	var result struct {
		Records []differenceView
		Summary agent.Reconciled
	}
	if err := json.Unmarshal(out.Bytes(), &result); err != nil {
		t.Fatalf("%v: %s", err, &complaint)
	}
	rm := result.Summary.Resources["rm"]
	if code := reconcile.ProcessState.ExitCode(); code != exitRefused || len(result.Records) != jobs ||
		result.Summary.Kinds[outbox.Different] != int64(jobs) || rm == nil || rm.Service.Records != int64(jobs) {
		t.Errorf("exit status %d, %d records, summary %+v: %s", code, len(result.Records), result.Summary, &complaint)
	}
	left, err := filepath.Glob(path("*"))
	if err != nil || len(left) > 9 {
		t.Errorf("files that are left: %v, %v", left, err)
	}
	return most
}
