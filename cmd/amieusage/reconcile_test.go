package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

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

// TestAccountMemory reconciles a short and a long period of which every record
// differs, and verifies a small and a large ledger: the memory of the processes
// is the same.
func TestAccountMemory(t *testing.T) {
	t.Parallel()
	reconcile, verify := accountMemory(t, 15_000)
	longReconcile, longVerify := accountMemory(t, 75_000)
	t.Logf("peaks for 15,000 and 75,000 jobs: reconcile %.0f and %.0f MiB, verify %.0f and %.0f MiB", reconcile, longReconcile, verify, longVerify)
	// A page of the service's list, what is parsed ahead, and the page caches, which
	// the short period does not fill, may be added: some 20 MiB. Holding 600 bytes
	// of each job would add more.
	if longReconcile > reconcile+32 || longVerify > verify+32 {
		t.Error("five times as many jobs take more memory")
	}
}

// littleGarbage has a process collect early: its largest memory is what it
// holds, however busy the machine is.
const littleGarbage = "GOGC=20"

// accountMemory returns the largest memory, in MiB, of processes that reconcile
// and that verify so many jobs.
func accountMemory(t *testing.T, jobs int) (reconciled, verified float64) {
	t.Helper()
	s := newKilledService(t, "sqlite")
	folder := t.TempDir()
	var dump bytes.Buffer
	dumpOf(&dump, jobs)
	path := func(name string) string { return filepath.Join(folder, name) }
	for name, content := range map[string]string{
		"dump.psv": dump.String(),
		"key":      s.key,
		"site.yaml": "site: PSC\napi_key_file: key\nusage_url: " + s.url + "\nconfirm_wait: 10m\n" +
			"resources: [{resource: rm, charge: {per_hour: {cpu: 1}}}]\n",
		// Its outbox has charged the jobs at another rate, and sent nothing of it.
		"other.yaml": "site: PSC\napi_key_file: key\nstate: other.db\nusage_url: " + s.url + "\n" +
			"resources: [{resource: rm, charge: {per_hour: {cpu: 2}}}]\n",
	} {
		if err := os.WriteFile(path(name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"report", "--config", path("site.yaml")}, {"collect", "--config", path("other.yaml")}} {
		if out, err := exec.Command(s.program, append(args, "--from-file", path("dump.psv"))...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	before, err := filepath.Glob(path("*"))
	if err != nil {
		t.Fatal(err)
	}
	var out, complaint bytes.Buffer
	reconcile := exec.Command(s.program, "reconcile", "--config", path("other.yaml"), "--since", "2026-01-01", "--until", "2026-12-01",
		"--from-file", path("dump.psv"), "-o", "json")
	reconcile.Stdout, reconcile.Stderr = &out, &complaint
	reconcile.Env = append(os.Environ(), littleGarbage, "TMPDIR="+folder)
	reconciled = peakOf(t, reconcile)
	var result struct {
		Records []differenceView
		Summary agent.Reconciled
	}
	if err := json.Unmarshal(out.Bytes(), &result); err != nil {
		t.Fatalf("%v: %s", err, &complaint)
	}
	rm := result.Summary.Resources["rm"]
	if code := reconcile.ProcessState.ExitCode(); code != exitRefused || len(result.Records) != jobs ||
		result.Summary.Kinds[outbox.DifferenceKind(outbox.Pending)] != int64(jobs) || rm == nil || rm.Service.Records != int64(jobs) {
		t.Errorf("exit status %d, %d records, summary %+v: %s", code, len(result.Records), result.Summary, &complaint)
	}
	if left, err := filepath.Glob(path("*")); err != nil || !slices.Equal(left, before) {
		t.Errorf("files that are left: %v, %v; before %v", left, err, before)
	}
	verify := exec.Command(s.program, "admin", "verify", "--db", s.db)
	verify.Env = append(os.Environ(), littleGarbage)
	verified = peakOf(t, verify)
	if !verify.ProcessState.Success() {
		t.Errorf("verify: %v", verify.ProcessState)
	}
	return reconciled, verified
}

// peakOf runs a command to its end, and returns its largest memory in MiB.
func peakOf(t *testing.T, cmd *exec.Cmd) float64 {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(gone)
	}()
	return peakMemory(cmd.Process.Pid, gone)
}

// A record may be called what stands for no charge.
func TestRecordCalledAbsent(t *testing.T) {
	v := differenceView{LocalRecordID: "-"}
	if cells := v.cells(""); cells[2] != "-" || cells[5] != "" {
		t.Errorf("%q", cells)
	}
}
