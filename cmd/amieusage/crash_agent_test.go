package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
)

// crashSite is the configuration of a site whose sacct is a script. It looks
// back by seconds only, so that a cursor that has moved too far loses jobs.
const crashSite = `site: SITE
api_key_file: key
state: STATE
usage_url: URL
confirm_wait: 5s
max_request_bytes: 5000
slurm: {lookback: 2s, sacct: ./sacct}
resources:
  - {resource: rm, partitions: [cpu], charge: {per_hour: {cpu: 450}, decimals: 6}}
  - {resource: ghost, partitions: [ghost], charge: {per_hour: {cpu: 450}, decimals: 6}}
`

// crashSacct prints those of the accounting that had not ended when the window
// begins.
const crashSacct = `#!/bin/sh
cd "$(dirname "$0")"
if [ "$1" = --helpformat ]; then
  head -n 1 accounting | tr '|' ' '
  exit 0
fi
for argument; do
  case $argument in
  --delimiter=*) delimiter=${argument#*=} ;;
  --starttime=*) start=$(date -u -d "${argument#*=}" +%s) ;;
  esac
done
awk -F '|' -v OFS="$delimiter" -v start="$start" 'NR == 1 || $11 >= start { $1 = $1; print }' accounting
`

const crashHeader = "Cluster|JobIDRaw|JobID|User|Account|Partition|QOS|State|Submit|Start|End|ElapsedRaw|NNodes|NCPUS|ReqMem|AllocTRES|JobName"

// A crashJob is a job in the accounting of a site.
type crashJob struct {
	id, cores          int
	account, partition string
	end                int64 // in seconds since the epoch
}

const crashElapsed = 3600 // seconds, of each job

func (j *crashJob) submit() int64 { return 1_770_000_000 + int64(j.id) }

// A siteAgent is a site that reports from sacct, whose accounting grows and
// changes. Each run of the agent is a process.
type siteAgent struct {
	*fleetClient // whose account is what the jobs become
	folder       string
	state        string // the file of the outbox
	env          []string
	clock        func() time.Time // the site's
	jobs         []crashJob
	storage      int // records
	plans        chan *crashPlan
	kills        chan bool // whether a plan was carried out
	runs, killed int
}

func newSiteAgent(t *testing.T, f *fleet, site, state string) *siteAgent {
	t.Helper()
	a := &siteAgent{fleetClient: f.newClient(t, site), folder: t.TempDir(), state: state, clock: time.Now,
		plans: make(chan *crashPlan), kills: make(chan bool)}
	a.random = rand.New(rand.NewPCG(f.seed, rand.NewPCG(uint64(site[0]), uint64(site[1])).Uint64()))
	a.env = []string{"AMIEUSAGE_FAILPOINT=" + filepath.Join(a.folder, "failpoint"),
		"AMIEUSAGE_CLOCK_OFFSET=" + filepath.Join(a.folder, "clock")}
	a.point(0)
	a.write("key", a.key+"\n")
	a.write("sacct", crashSacct)
	if err := os.Chmod(filepath.Join(a.folder, "sacct"), 0o700); err != nil {
		t.Fatal(err)
	}
	// The first run sets the cursor, behind which nothing is looked for.
	a.work()
	a.report(t)
	return a
}

// point makes the agent send to a replica.
func (a *siteAgent) point(replica int) {
	a.write("site.yaml", strings.NewReplacer("SITE", a.site, "STATE", a.state, "URL", a.fleet.replicas[replica].url).Replace(crashSite))
}

func (a *siteAgent) write(name, text string) {
	if err := os.WriteFile(filepath.Join(a.folder, name), []byte(text), 0o600); err != nil {
		a.fault(err.Error())
	}
}

// work changes the accounting: it grows, and jobs of before are corrected.
func (a *siteAgent) work() {
	now := a.clock().Unix()
	for range a.random.IntN(5) {
		if n := a.random.IntN(len(a.jobs) + 1); n < len(a.jobs) {
			// What was good stays so: it would not be known which of its contents
			// was sent.
			a.jobs[n].cores, a.jobs[n].end = 1+a.random.IntN(1000), now
			if a.random.IntN(2) == 0 {
				a.jobs[n].account = "p.one"
			}
		}
	}
	for range 1 + a.random.IntN(15) {
		j := crashJob{id: len(a.jobs), cores: 1 + a.random.IntN(1000), account: "p.one", partition: "cpu", end: now}
		switch a.random.IntN(20) {
		case 0:
			j.account = noProject
		case 1:
			j.partition = noResource
		}
		a.jobs = append(a.jobs, j)
	}
	a.storage++
	var accounting, storage strings.Builder
	fmt.Fprintln(&accounting, crashHeader)
	for _, j := range a.jobs {
		fmt.Fprintf(&accounting, "hpc|%d|%d|alice|%s|%s|normal|COMPLETED|%d|%d|%d|%d|1|%d|800M|billing=%d,cpu=%d,mem=800M,node=1|job\n",
			j.id, j.id, j.account, j.partition, j.submit(), j.end-crashElapsed, j.end, crashElapsed, j.cores, j.cores, j.cores)
	}
	for n := range a.storage {
		fmt.Fprintf(&storage, "%s\n", a.stored(n).AppendJSON(nil))
	}
	a.write("accounting", accounting.String())
	a.write("storage.jsonl", storage.String())
}

// stored is the nth storage record.
func (a *siteAgent) stored(n int) *amieusage.StorageRecord {
	return &amieusage.StorageRecord{Username: "bob", LocalProjectID: "p.two", LocalRecordID: fmt.Sprint("volume", n), Resource: "ocean",
		CollectionTime: time.Date(2026, 3, 1, 0, 0, n, 0, time.UTC), Charge: amieusage.ChargeOfMillionths(int64(n)*1_000_003 + 1)}
}

var (
	reportCommand  = []string{"report"}
	enqueueCommand = []string{"send", "storage.jsonl"}
	retryCommand   = []string{"records", "resend", "--state", "failed,rejected"}
)

// run runs the agent again and again until stop is closed.
func (a *siteAgent) run(stop <-chan struct{}) {
	var plan *crashPlan
	for tries := 0; ; {
		select {
		case <-stop:
			return
		case plan = <-a.plans:
			tries = 0
		case <-time.After(20 * time.Millisecond):
		}
		for {
			a.work()
			command := [][]string{reportCommand, reportCommand, reportCommand, enqueueCommand, retryCommand}[a.random.IntN(5)]
			if plan != nil {
				switch what, _, _ := strings.Cut(plan.point, ":"); what {
				case "enqueue":
					command = enqueueCommand
				case "retry":
					command = retryCommand
				default:
					command = reportCommand
				}
			}
			killed := a.once(plan, command)
			a.sends.Add(1)
			if plan == nil {
				break
			}
			if tries++; killed || tries == 10 || plan.point == randomInstant {
				a.kills <- killed || plan.point == randomInstant
				plan = nil
			}
		}
	}
}

// kill carries out a plan in the agent's next runs.
func (a *siteAgent) kill(p *crashPlan) bool {
	a.plans <- p
	return <-a.kills
}

// command is a run of the agent.
func (a *siteAgent) command(args ...string) *exec.Cmd {
	cmd := exec.Command(a.fleet.program, append(args, "--config", "site.yaml", "-o", "json")...)
	cmd.Dir = a.folder
	cmd.Env = append(os.Environ(), a.env...)
	return cmd
}

// once runs the agent once, and reports whether it was killed by the plan, if
// there is one.
func (a *siteAgent) once(plan *crashPlan, args []string) (killed bool) {
	cmd := a.command(args...)
	if args[0] == "records" {
		cmd.Args = cmd.Args[:len(cmd.Args)-2] // it has no form
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	os.Remove(filepath.Join(a.folder, "failpoint"))
	if plan != nil && plan.point != randomInstant {
		a.write("failpoint", fmt.Sprintf("%d %s", plan.nth, plan.point))
	}
	if err := cmd.Start(); err != nil {
		a.fault(err.Error())
		return false
	}
	if plan != nil && plan.delay > 0 {
		defer time.AfterFunc(plan.delay, func() { _ = cmd.Process.Kill() }).Stop()
	}
	_ = cmd.Wait()
	a.runs++
	if !cmd.ProcessState.Exited() {
		a.killed++
		return true
	}
	// With status 1 some have failed, as they must; anything else that goes
	// wrong is told.
	status := cmd.ProcessState.ExitCode()
	if strings.Contains(stderr.String(), "panic") || status != exitOK && status != exitUnreachable &&
		(status != exitRefused || strings.Contains(stderr.String(), "amieusage: ")) {
		a.fault(fmt.Sprintf("%v: exit status %d: %s", args, status, &stderr))
	}
	return false
}

// outboxView is what a run says about the outbox.
type outboxView struct {
	New, Changed, Sent int64
	Outbox             map[string]int64
}

func (a *siteAgent) report(t *testing.T) (view outboxView) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := a.command(reportCommand...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run()
	if err := json.Unmarshal(stdout.Bytes(), &view); err != nil {
		t.Fatalf("%v: %v: %s%s", cmd.Args, err, &stdout, &stderr)
	}
	return view
}

// account brings the outbox to rest, checks that every entry is loaded or has
// its reason, and returns what must be in the ledger.
func (a *siteAgent) account(t *testing.T) *fleetClient {
	t.Helper()
	os.Remove(filepath.Join(a.folder, "failpoint"))
	a.once(nil, enqueueCommand)
	for end := time.Now().Add(patience); ; {
		view := a.report(t)
		if view.Outbox["pending"]+view.Outbox["queued"] == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%s: the outbox does not come to rest: %+v", a.site, view)
		}
	}
	type entry struct {
		State       string
		Charge      int64
		Unexplained bool
	}
	want, got := map[amieusage.Identity]entry{}, map[amieusage.Identity]entry{}
	for _, j := range a.jobs {
		id := amieusage.Identity{Resource: "rm", UsageType: amieusage.Compute, LocalRecordID: fmt.Sprint(j.id), KeyTime: time.Unix(j.submit(), 0).UTC()}
		last := content{charge: int64(j.cores) * crashElapsed * 125_000, project: j.account}
		switch {
		case j.partition == noResource:
			id.Resource = noResource
			want[id] = entry{"rejected", last.charge, false}
		case j.account == noProject:
			a.failed[id] = last
			want[id] = entry{"failed", last.charge, false}
		default:
			a.loaded[id] = last
			want[id] = entry{"loaded", last.charge, false}
		}
	}
	for n := range a.storage {
		r := a.stored(n)
		last, err := contentOf(r)
		if err != nil {
			t.Fatal(err)
		}
		last.record = nil
		a.loaded[r.Identity()] = last
		want[r.Identity()] = entry{"loaded", last.charge, false}
	}
	out, err := a.command("records", "list").Output()
	if err != nil {
		t.Fatal(err, string(out))
	}
	var entries []struct {
		State     string
		Reason    string
		UsageType amieusage.UsageType `json:"usage_type"`
		Record    struct {
			LocalRecordID, Resource    string
			SubmitTime, CollectionTime time.Time
			Charge                     amieusage.Charge
		}
	}
	if err := json.Unmarshal(out, &entries); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		id := amieusage.Identity{Resource: e.Record.Resource, UsageType: e.UsageType, LocalRecordID: e.Record.LocalRecordID,
			KeyTime: e.Record.SubmitTime.UTC()}
		if e.UsageType == amieusage.Storage {
			id.KeyTime = e.Record.CollectionTime.UTC()
		}
		got[id] = entry{e.State, millionths(t, e.Record.Charge), e.State != "loaded" && e.Reason == ""}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: the outbox (-want +got):\n%s", a.site, diff)
	}
	t.Logf("%s: %d runs of the agent, %d of them killed; %d entries in the outbox", a.site, a.runs, a.killed, len(got))
	a.accepted = len(a.loaded) + len(a.failed)
	a.unknown = 1 << 40 // contents of before, and what was sent again
	return a.fleetClient
}

// wantNothingNew reports once more: it sends nothing.
func (a *siteAgent) wantNothingNew(t *testing.T) {
	t.Helper()
	if view := a.report(t); view.New+view.Changed+view.Sent != 0 {
		t.Errorf("%s: a report of nothing new: %+v", a.site, view)
	}
}
