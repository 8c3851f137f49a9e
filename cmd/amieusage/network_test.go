package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/httpapi"
	"github.com/amieusage/amieusage/internal/nettest"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/siteconfig"
	"github.com/amieusage/amieusage/internal/sqlite"
)

var networkSeed = flag.Uint64("network-seed", 0, "what decides the faults of TestNetwork; drawn unless given")

const networkRegistry = `sites:
  - name: PSC
    resources: [{name: rm}]
    projects:
      - id: p.one
        users: [alice]
        allocations: [{resource: rm, amount: 1e9, start: 2026-01-01, end: 2027-01-01}]
`

const networkSite = `site: PSC
api_key_file: key
usage_url: %s
confirm_wait: 10s
request_timeout: %s
retry_for: %s
max_request_bytes: 6000
resources:
  - {resource: gpu, partitions: [gpu], charge: {per_hour: {cpu: 450}, decimals: 6}}
  - {resource: rm, charge: {per_hour: {cpu: 450}, decimals: 6}}
`

// A networkSide is a site whose jobs are reported over bad networks.
type networkSide struct {
	service *killedService
	folder  string
	random  *rand.Rand
	cores   []int // of each job, as last reported
}

// Of the jobs some fail when they are loaded, because their user is not known,
// and some are rejected at once, because their resource is not the site's: one
// or more of each request.
func failsToLoad(job int) bool { return job%20 == 7 }
func isRejected(job int) bool  { return job%6 == 1 && !failsToLoad(job) }

// charge is what a job costs, in millionths.
func (n *networkSide) charge(job int) int64 { return int64(n.cores[job]) * int64(job%7200+1) * 125_000 }

func (n *networkSide) write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(n.folder, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// dump writes a dump of new jobs, of some that were corrected and of some as
// they were.
func (n *networkSide) dump(t *testing.T) string {
	t.Helper()
	jobs := map[int]bool{}
	for range min(30, len(n.cores)) {
		job := n.random.IntN(len(n.cores))
		if jobs[job] = true; n.random.IntN(3) > 0 {
			n.cores[job]++
		}
	}
	for range 20 + n.random.IntN(20) {
		jobs[len(n.cores)] = true
		n.cores = append(n.cores, 1+n.random.IntN(64))
	}
	var b strings.Builder
	b.WriteString("Cluster|JobIDRaw|User|Account|Partition|State|Submit|Start|End|ElapsedRaw|NNodes|AllocTRES|JobName\n")
	for job := range n.cores {
		if !jobs[job] {
			continue
		}
		user, partition, submit, elapsed := "alice", "cpu", 1770000000+10*job, job%7200+1
		if failsToLoad(job) {
			user = "mallory"
		}
		if isRejected(job) {
			partition = "gpu"
		}
		fmt.Fprintf(&b, "hpc|%d|%s|p.one|%s|COMPLETED|%d|%d|%d|%d|1|billing=1,cpu=%d,node=1|run\n",
			job, user, partition, submit, submit+5, submit+5+elapsed, elapsed, n.cores[job])
	}
	return n.write(t, "dump.psv", b.String())
}

// report runs amieusage report over the address, and returns its exit status
// and what it complains about.
func (n *networkSide) report(t *testing.T, address, file, timeout, retryFor string) (status int, complaint string) {
	t.Helper()
	config := n.write(t, "site.yaml", fmt.Sprintf(networkSite, address, timeout, retryFor))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, n.service.program, "report", "--config", config, "--from-file", file)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || !exit.Exited()) {
		t.Fatalf("%v: %s", err, &out)
	}
	if strings.Contains(out.String(), n.service.key) {
		t.Errorf("the API key is shown: %s", &out)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// entries returns the outbox by job.
func (n *networkSide) entries(t *testing.T) map[int]outbox.Entry {
	t.Helper()
	queue := must[*sqlite.Outbox](t)(sqlite.OpenOutbox(t.Context(), filepath.Join(n.folder, siteconfig.DefaultState), time.Now))
	defer queue.Close()
	entries := map[int]outbox.Entry{}
	for e, err := range outbox.All(t.Context(), queue, outbox.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		var job int
		if _, err := fmt.Sscan(e.Record.Identity().LocalRecordID, &job); err != nil {
			t.Fatal(err)
		}
		entries[job] = e
	}
	if len(entries) != len(n.cores) {
		t.Errorf("the outbox has %d jobs, want %d", len(entries), len(n.cores))
	}
	return entries
}

// failed returns the charges of the failed records that the service lists.
func (n *networkSide) failed(t *testing.T) map[string]int64 {
	t.Helper()
	list, err := n.service.client(t).ListFailed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	charges := map[string]int64{}
	for _, f := range list {
		id := f.Record.Identity().LocalRecordID
		if _, twice := charges[id]; twice {
			t.Errorf("job %s has failed twice", id)
		}
		charges[id] = millionths(t, f.Record.Common().Charge)
	}
	return charges
}

// checkClaims holds what the outbox believes against the service: what it calls
// loaded or failed is, and what it calls queued is there, or will be.
func (n *networkSide) checkClaims(t *testing.T) (undelivered int) {
	t.Helper()
	entries := n.entries(t)
	deadline, tick := time.After(30*time.Second), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for {
		loaded, failed := n.service.loaded(t), n.failed(t)
		queued := 0
		undelivered = 0
		for job, e := range entries {
			id := fmt.Sprint(job)
			charge, isLoaded := loaded[id]
			isLoaded = isLoaded && charge == e.Charge
			charge, isFailed := failed[id]
			isFailed = isFailed && charge == e.Charge
			switch e.State {
			case outbox.Pending:
				undelivered++
			case outbox.Queued:
				undelivered++
				if !isLoaded && !isFailed {
					queued++
				}
			case outbox.Loaded:
				if !isLoaded {
					t.Errorf("job %d is loaded in the outbox and not in the ledger", job)
				}
			case outbox.Failed:
				if !isFailed || e.Reason == "" {
					t.Errorf("job %d failed in the outbox, for %q, and not at the service", job, e.Reason)
				}
			case outbox.Rejected:
				if !isRejected(job) || e.Reason == "" {
					t.Errorf("job %d is rejected, for %q", job, e.Reason)
				}
			}
		}
		if queued == 0 {
			return undelivered
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%d jobs are accepted in the outbox, and the service never had them", queued)
		}
	}
}

// checkAccount checks that each job is where it belongs, once, as last
// reported.
func (n *networkSide) checkAccount(t *testing.T) {
	t.Helper()
	loaded, failed, states := map[string]int64{}, map[string]int64{}, map[string]outbox.State{}
	for job := range n.cores {
		switch id := fmt.Sprint(job); {
		case isRejected(job):
			states[id] = outbox.Rejected
		case failsToLoad(job):
			states[id], failed[id] = outbox.Failed, n.charge(job)
		default:
			states[id], loaded[id] = outbox.Loaded, n.charge(job)
		}
	}
	got := map[string]outbox.State{}
	for job, e := range n.entries(t) {
		got[fmt.Sprint(job)] = e.State
		if (e.Reason == "") != (e.State == outbox.Loaded) {
			t.Errorf("job %d is %s for %q", job, e.State, e.Reason)
		}
	}
	if diff := cmp.Diff(states, got); diff != "" {
		t.Errorf("the outbox (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(loaded, n.service.loaded(t)); diff != "" {
		t.Errorf("the ledger's charges by job (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(failed, n.failed(t)); diff != "" {
		t.Errorf("the failed records' charges by job (-want +got):\n%s", diff)
	}
	n.service.wantSummary(t, loaded)
	n.checkClaims(t)
}

// TestNetwork reports jobs and corrections, each round over a network with
// another fault. Whatever the network does, no round makes the outbox believe
// what is not so; and after one round over a good network the account is that
// of a network that was always good. On PostgreSQL a quarter of the faults is
// drawn.
func TestNetwork(t *testing.T) {
	seed := *networkSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-network-seed %d", seed)
	for engine, share := range map[string]int{"sqlite": 1, "postgres": 4} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			testNetwork(t, engine, seed, share)
		})
	}
}

func testNetwork(t *testing.T, engine string, seed uint64, share int) {
	n := &networkSide{service: newKilledService(t, engine), folder: t.TempDir(), random: rand.New(rand.NewPCG(seed, 0))}
	n.service.admin(t, "import", n.write(t, "registry.yaml", networkRegistry))
	n.service.stop(t)
	n.service.admin(t, "policy", "strict")
	n.service.policy = "strict"
	n.service.start(t)
	n.write(t, "key", n.service.key+"\n")

	faults := networkFaults(n.random)
	n.random.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
	faults = faults[:len(faults)/share]
	for _, fault := range faults {
		t.Run(fault.name, func(t *testing.T) { n.round(t, &fault) })
	}
	status, complaint := n.report(t, n.service.url, n.dump(t), "20s", "10s")
	if status != exitOK && status != exitRefused {
		t.Errorf("the last run over a good network ended with status %d: %s", status, complaint)
	}
	n.checkAccount(t)
	t.Logf("%d jobs in %d rounds", len(n.cores), len(faults)+1)
}

// round reports new jobs and corrections over a network with the fault.
func (n *networkSide) round(t *testing.T, fault *networkFault) {
	address := n.service.url
	if fault.answer != nil {
		address = newFront(t, address, n.random, fault).URL + httpapi.Prefix
	}
	target, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	proxy := nettest.NewProxy(t, target.Host, fault.toxics...)
	if fault.down > 0 {
		proxy.Stop()
		defer time.AfterFunc(fault.down, func() {
			if err := proxy.Start(); err != nil {
				t.Error(err)
			}
		}).Stop()
	}
	timeout, retryFor := "20s", "10s"
	if fault.fails != "" || fault.mayFail {
		retryFor = "300ms"
	}
	if strings.Contains(fault.fails, "within") {
		timeout = "700ms"
	}
	start := time.Now()
	status, complaint := n.report(t, "http://"+proxy.Listen+target.Path, n.dump(t), timeout, retryFor)
	undelivered := n.checkClaims(t)
	t.Logf("status %d after %v, %d not delivered", status, time.Since(start).Round(time.Millisecond), undelivered)

	_, failure, _ := strings.Cut(complaint, "amieusage: ")
	switch {
	case status == exitUnreachable && (fault.fails != "" || fault.mayFail):
		if !regexp.MustCompile(fault.fails).MatchString(failure) || !strings.Contains(failure, "nothing is lost: the next run goes on") {
			t.Errorf("the error says neither %q nor what to do: %s", fault.fails, complaint)
		}
	case fault.fails != "":
		t.Errorf("status %d, want %d: %s", status, exitUnreachable, complaint)
	case status != exitOK && status != exitRefused:
		t.Errorf("status %d: %s", status, complaint)
	case fault.garbles && strings.Contains(failure, "status 400"):
		// The service refused what came, and all is pending.
	case undelivered > 0:
		t.Errorf("status %d, and %d jobs are not delivered: %s", status, undelivered, complaint)
	case status == exitRefused && !strings.Contains(complaint, "rejected: Compute") && !strings.Contains(complaint, "failed: Compute"):
		t.Errorf("status %d, and nothing says why: %s", status, complaint)
	}
}

// loaded returns the charges in the ledger, in millionths, by LocalRecordID.
func (s *killedService) loaded(t *testing.T) map[string]int64 {
	t.Helper()
	charges := map[string]int64{}
	for r, err := range s.client(t).AllLoaded(t.Context(), amieusage.LoadedQuery{PageSize: amieusage.MaxLoadedPage}) {
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := charges[r.LocalRecordID]; twice {
			t.Errorf("the ledger holds record %s twice", r.LocalRecordID)
		}
		charges[r.LocalRecordID] = millionths(t, r.Charge)
	}
	return charges
}

// wantSummary checks the number of records and the total charge on the only
// resource, and that the ledger adds up.
func (s *killedService) wantSummary(t *testing.T, want map[string]int64) {
	t.Helper()
	var total int64
	for _, charge := range want {
		total += charge
	}
	summary, err := s.client(t).Summary(t.Context(), amieusage.SummaryQuery{GroupBy: []amieusage.GroupKey{amieusage.ByResource}})
	if err != nil {
		t.Fatal(err)
	}
	if len(summary.Rows) != 1 {
		t.Fatalf("the summary has %d resources, want 1", len(summary.Rows))
	}
	row := summary.Rows[0]
	if got := millionths(t, row.Charge); row.RecordCount != int64(len(want)) || got != total {
		t.Errorf("the summary has %d records and %d millionths, want %d and %d", row.RecordCount, got, len(want), total)
	}
	s.admin(t, "verify")
}
