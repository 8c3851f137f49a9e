package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/usageclient"
)

const (
	soakResource = "rm.psc.access-ci.org"
	// soakOverlap is for how many seconds before the last run's end each dump
	// reaches back.
	soakOverlap = 4
	// soakLate is after how many seconds the accounting corrects a job.
	soakLate = 3
	// firstSoakJob is the id of job 0: all ids are of the same length.
	firstSoakJob = 10_000_000
	probePrefix  = "direct-"
)

// soakRegistry is the registry of the soak, as admin import reads it: three
// users on each of 100 projects.
func soakRegistry() string {
	var b strings.Builder
	fmt.Fprintf(&b, "sites:\n  - name: PSC\n    resources: [{name: %s}]\n    projects:\n", soakResource)
	for p := range 100 {
		fmt.Fprintf(&b, "      - id: %s\n        users: [user%d, user%d, user%d]\n"+
			"        allocations: [{resource: %s, amount: 10000000000, start: 2020-01-01, end: 2099-12-31}]\n",
			soakProject(p), p, p+100, p+200, soakResource)
	}
	return b.String()
}

func soakProject(p int) string { return fmt.Sprintf("p.abc%06d.000", p) }

// soakJobs are the jobs that end at jobRate from an epoch on, numbered from 0.
// What each is follows from its number.
type soakJobs struct{ epoch int64 } // seconds since 1970

// corrected reports whether the accounting first has another core count.
func (soakJobs) corrected(i int64) bool { return i%97 == 5 }

// repaired reports whether the accounting first has an unknown project.
func (soakJobs) repaired(i int64) bool { return i%20_000 == 11_234 }

// fails reports whether the job's project is never known.
func (soakJobs) fails(i int64) bool { return i%20_000 == 1234 }

// millionths is the charge of a job in the end.
func (j soakJobs) millionths(i int64) int64 {
	cores := int64(8)
	if j.corrected(i) {
		cores = 9
	}
	return cores * j.elapsed(i) * 125_000
}

func (soakJobs) elapsed(i int64) int64 { return i%7200 + 1 }

// index is the number of the job with this id.
func (soakJobs) index(id string) (i int64, ok bool) {
	n, err := strconv.ParseInt(id, 10, 64)
	return n - firstSoakJob, err == nil && n >= firstSoakJob
}

// dump writes sacct's output for the jobs from (inclusive) to (exclusive), the
// last of which has just ended, or, where settled, ended long ago; bad: with a
// row that cannot be read.
func (j soakJobs) dump(path string, from, to int64, settled, bad bool) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	w := bufio.NewWriterSize(file, 1<<16)
	io.WriteString(w, "Cluster|JobIDRaw|JobID|User|Account|Partition|QOS|State|Submit|Start|End|ElapsedRaw|NNodes|NCPUS|ReqMem|AllocTRES|JobName\n")
	if bad {
		io.WriteString(w, "hpc|7|7|user1|p.abc000001.000|cpu|normal|COMPLETED|yesterday|today|today|60|2|8|800M|cpu=8|bad\n")
	}
	for i := from; i < to; i++ {
		isFinal := settled || to-i > soakLate*jobRate
		cores, project := 8, soakProject(int(i%100))
		if j.corrected(i) && isFinal {
			cores = 9
		}
		if j.fails(i) || j.repaired(i) && !isFinal {
			project = "p.unknown.000"
		}
		end := j.epoch + i/jobRate
		start := end - j.elapsed(i)
		fmt.Fprintf(w, "hpc|%[1]d|%[1]d|user%[2]d|%[3]s|cpu|normal|COMPLETED|%[4]d|%[5]d|%[6]d|%[7]d|2|%[8]d|800M|billing=%[8]d,cpu=%[8]d,mem=800M,node=2|mpi_run\n",
			firstSoakJob+i, i%300, project, start-5, start, end, j.elapsed(i), cores)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return file.Close()
}

// probe returns the records of the nth message of the direct client.
func (j soakJobs) probe(n int64) []amieusage.Record {
	records := make([]amieusage.Record, probeRecords)
	for k := range records {
		i := n*probeRecords + int64(k)
		end := time.Unix(j.epoch+n*int64(probeEvery)/int64(time.Second), 0).UTC()
		records[k] = &amieusage.ComputeRecord{
			Username: fmt.Sprintf("user%d", i%300), LocalProjectID: soakProject(int(i % 100)),
			LocalRecordID: fmt.Sprintf("%s%09d", probePrefix, i), Resource: soakResource,
			SubmitTime: end.Add(-time.Hour), StartTime: end.Add(-time.Minute), EndTime: end,
			Charge: amieusage.ChargeOfMillionths(i + 1), NodeCount: amieusage.CountOf(1), CpuCoreCount: amieusage.CountOf(8),
			JobName: "direct", Queue: "cpu",
		}
	}
	return records
}

// A soakAccount is what a soak leaves.
type soakAccount struct {
	jobs          soakJobs
	total, probes int64 // jobs, and records of the direct client
}

// failed is how many jobs the service could not load.
func (a *soakAccount) failed() (n int64) {
	for i := range a.total {
		if a.jobs.fails(i) {
			n++
		}
	}
	return n
}

// checkLedger asks the service for all that it has: each job and each record of
// the direct client once, at its charge.
func (a *soakAccount) checkLedger(t *testing.T, client *usageclient.Client) {
	t.Helper()
	jobs, direct := make([]bool, a.total), make([]bool, a.probes)
	var records, sum int64
	for r, err := range client.AllLoaded(t.Context(), amieusage.LoadedQuery{PageSize: amieusage.MaxLoadedPage}) {
		if err != nil {
			t.Fatal(err)
		}
		seen, i, want := jobs, int64(0), int64(0)
		if id, ok := strings.CutPrefix(r.LocalRecordID, probePrefix); ok {
			n, _ := strconv.ParseInt(id, 10, 64)
			seen, i, want = direct, n, n+1
		} else if i, ok = a.jobs.index(r.LocalRecordID); ok {
			want = a.jobs.millionths(i)
		}
		if i < 0 || i >= int64(len(seen)) || seen[i] {
			t.Fatalf("the ledger has %s twice, or it was never reported", r.LocalRecordID)
		}
		seen[i] = true
		records++
		sum += want
		if got := millionths(t, r.Charge); got != want {
			t.Errorf("record %s has a charge of %d millionths, want %d", r.LocalRecordID, got, want)
		}
	}
	if want := a.total + a.probes - a.failed(); records != want {
		t.Errorf("the ledger has %d records, want %d", records, want)
	}
	summary, err := client.Summary(t.Context(), amieusage.SummaryQuery{GroupBy: []amieusage.GroupKey{amieusage.ByResource}})
	if err != nil {
		t.Fatal(err)
	}
	if len(summary.Rows) != 1 || summary.Rows[0].RecordCount != records || millionths(t, summary.Rows[0].Charge) != sum {
		t.Errorf("the summary is %+v, want one row of %d records and %d millionths", summary.Rows, records, sum)
	}
	failed, err := client.ListFailed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range failed {
		if i, ok := a.jobs.index(f.Record.Identity().LocalRecordID); !ok || !a.jobs.fails(i) {
			t.Errorf("record %s failed: %s", f.Record, f.Error)
		}
	}
	if int64(len(failed)) != a.failed() {
		t.Errorf("%d records failed, want %d", len(failed), a.failed())
	}
}

// A soakService is the service as a process that is ended and started again, on
// the same file and at the same address.
type soakService struct {
	program, db string
	address     string // port 0: any, at the first start
	mu          sync.Mutex
	cmd         *exec.Cmd
}

func (s *soakService) url() string { return "http://" + s.address + "/api/v1" }

func (s *soakService) admin(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(s.program, append(append([]string{"admin"}, args...), "--db", s.db)...).Output()
	if err != nil {
		t.Fatalf("admin %v: %v: %s", args, err, out)
	}
	return string(out)
}

func (s *soakService) client(t *testing.T, key string) *usageclient.Client {
	t.Helper()
	client, err := usageclient.New("PSC", strings.TrimSpace(key), usageclient.WithBaseURL(s.url()),
		usageclient.WithRetry(usageclient.RetryPolicy{MaxAttempts: 100, FirstDelay: 100 * time.Millisecond, MaxDelay: time.Second}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdleConnections)
	return client
}

// start starts the service, and returns when it is ready.
func (s *soakService) start() error {
	cmd := exec.Command(s.program, "serve", "--db", s.db, "--listen", s.address)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(stderr)
	ready := regexp.MustCompile(`url=http://([^/]+)/`)
	var complaint strings.Builder
	for lines.Scan() {
		if m := ready.FindStringSubmatch(lines.Text()); m != nil {
			go func() { _, _ = io.Copy(io.Discard, stderr) }()
			s.mu.Lock()
			defer s.mu.Unlock()
			s.cmd, s.address = cmd, m[1]
			return nil
		}
		complaint.WriteString(lines.Text() + "\n")
	}
	return fmt.Errorf("the service did not start: %w: %s", cmd.Wait(), &complaint)
}

func (s *soakService) process() *exec.Cmd {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cmd
}

// kill ends the service with SIGKILL, if it runs, and returns when it is gone.
func (s *soakService) kill() {
	cmd := s.process()
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// signalDeadline is how long a service may take to end after SIGTERM: it loads
// for 10 seconds at most.
const signalDeadline = 30 * time.Second

// stop ends the service with SIGTERM; it must exit with status 0.
func (s *soakService) stop() error {
	cmd := s.process()
	defer time.AfterFunc(signalDeadline, func() { _ = cmd.Process.Kill() }).Stop()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("the service did not exit with status 0: %w", err)
	}
	return nil
}
