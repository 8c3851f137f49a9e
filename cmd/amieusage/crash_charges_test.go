package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
)

// TestCrashCharges corrects the rules again and again, each time with another
// rate and on another resource, and kills the run that charges the jobs anew on
// each side of each of its commits. The run behind it completes the move: each
// job is charged once, on one resource, and its refund has followed.
func TestCrashCharges(t *testing.T) {
	t.Parallel()
	s := newKilledService(t, "sqlite")
	folder := t.TempDir()
	path := func(name string) string { return filepath.Join(folder, name) }
	write := func(name, text string) {
		if err := os.WriteFile(path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const jobs = 30
	dump := "JobIDRaw|JobID|User|Account|Partition|State|Submit|Start|End|ElapsedRaw|NNodes|NCPUS|AllocTRES\n"
	for n := range jobs {
		dump += fmt.Sprintf("%d|%d|alice|p1|cpu|COMPLETED|1790000000|1790000000|1790003600|3600|1|4|cpu=4,node=1\n", n, n)
	}
	write("jobs.psv", dump)
	write("key", s.key)
	rates := map[string]int64{"one": 1, "two": 2, "three": 3}
	for resource, rate := range rates {
		write(resource+".yaml", fmt.Sprintf("site: PSC\napi_key_file: key\nusage_url: %s\nconfirm_wait: 30s\n"+
			"resources: [{resource: %s, charge: {per_hour: {cpu: %d}}}]\n", s.url, resource, rate))
	}
	program := buildFailpoints(t)
	run := func(args ...string) ([]byte, *os.ProcessState) {
		cmd := exec.Command(program, args...)
		cmd.Env = append(os.Environ(), "AMIEUSAGE_FAILPOINT="+path("failpoint"))
		out, _ := cmd.Output()
		return out, cmd.ProcessState
	}
	report := func(resource string) ([]byte, *os.ProcessState) {
		return run("report", "--config", path(resource+".yaml"), "--from-file", path("jobs.psv"), "--reprice", "--yes", "-o", "json")
	}
	if out, state := report("one"); !state.Success() {
		t.Fatalf("%v: %s", state, out)
	}
	if out, state := run("refund", "7", "--percent", "50", "--config", path("one.yaml")); !state.Success() {
		t.Fatalf("refund: %v: %s", state, out)
	}

	points := []string{"apply", "leave", "sent", "take loaded"}
	resources := []string{"two", "three", "one"}
	killed := 0
	for n := range 24 {
		resource := resources[n%3]
		point, moment := points[n/2%4], []string{"before commit", "committed"}[n%2]
		write("failpoint", fmt.Sprintf("%d %s: %s", 1+n/12, point, moment))
		if _, state := report(resource); !state.Exited() {
			killed++
		}
		if err := os.Remove(path("failpoint")); err != nil {
			t.Fatal(err)
		}
		for runs := 1; ; runs++ {
			out, state := report(resource)
			var view outboxView
			if err := json.Unmarshal(out, &view); err != nil || !state.Success() {
				t.Fatalf("%v: %v: %s", state, err, out)
			}
			if view.Outbox["pending"]+view.Outbox["queued"]+view.Outbox["waiting"] == 0 {
				break
			}
			if runs == 10 {
				t.Fatalf("behind %s: %s, the outbox does not come to rest: %v", point, moment, view)
			}
		}
		out, _ := run("summary", "--config", path("one.yaml"), "--by", "resource", "-o", "json")
		var summary amieusage.Summary
		if err := json.Unmarshal(out, &summary); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		got, want := map[string]string{}, map[string]string{}
		for _, r := range summary.Rows {
			got[r.Resource] = r.Deducted.String() + " less " + r.GivenBack.String()
		}
		for other := range got {
			want[other] = "0 less 0"
		}
		want[resource] = fmt.Sprintf("%d less %d", rates[resource]*4*jobs, rates[resource]*2)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("behind %s: %s, on %s (-want +got):\n%s", point, moment, resource, diff)
		}
	}
	if killed < 16 {
		t.Errorf("only %d runs were killed", killed)
	}
	s.admin(t, "verify")
}
