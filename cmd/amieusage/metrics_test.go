package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// promtool runs Prometheus's own tool.
func promtool(t *testing.T, input []byte, args ...string) {
	t.Helper()
	cmd := exec.Command("promtool", args...)
	cmd.Dir, cmd.Stdin = filepath.Join("..", "..", "contrib", "prometheus"), bytes.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %q: %v: %s", args, err, out)
	}
}

// TestAgentMetrics writes what runs come to, and has Prometheus's own tool look at
// it, and at the alerts on it.
func TestAgentMetrics(t *testing.T) {
	s := newKilledService(t, "sqlite")
	folder := t.TempDir()
	noError(t, os.WriteFile(filepath.Join(folder, "psc.key"), []byte(s.key), 0o600))
	site, dump, metrics := filepath.Join(folder, "site.yaml"), filepath.Join(folder, "dump.psv"), filepath.Join(folder, "amieusage.prom")
	noError(t, os.WriteFile(site, fmt.Appendf(nil, `site: PSC
api_key_file: psc.key
usage_url: %s
metrics_file: amieusage.prom
slurm: {time_zone: UTC}
resources: [{resource: "r\"m", partitions: ["rm"], charge: {per_hour: {cpu: 1}}}]
`, s.url), 0o644))
	const header = "JobIDRaw|JobID|User|Account|Partition|State|Submit|Start|End|ElapsedRaw|NNodes|NCPUS|AllocTRES\n"
	row := func(id, partition, end string) string {
		return id + "|" + id + "|alice|p1|" + partition + "|COMPLETED|1790841600|1790841600|" + end + "|3600|1|8|cpu=8,node=1\n"
	}
	report := func(args ...string) error {
		cmd := exec.Command(s.program, append([]string{"report", "--config", site, "--from-file", dump}, args...)...)
		return cmd.Run()
	}
	values := func() map[string]string {
		t.Helper()
		text := must[[]byte](t)(os.ReadFile(metrics))
		promtool(t, text, "check", "metrics")
		found := map[string]string{}
		for line := range strings.Lines(string(text)) {
			if at := strings.LastIndexByte(line, ' '); !strings.HasPrefix(line, "#") && at > 0 {
				found[line[:at]] = strings.TrimSpace(line[at+1:])
			}
		}
		return found
	}
	noError(t, os.WriteFile(dump, []byte(header+row("1", "rm", "1790845200")+row("2", "gpu", "1790845200")), 0o644))
	noError(t, report("--dry-run"))
	if _, err := os.Stat(metrics); !os.IsNotExist(err) {
		t.Error("a dry run writes metrics")
	}
	noError(t, report())
	first := values()
	for name, want := range map[string]string{
		"amieusage_agent_last_run_ok": "1", `amieusage_agent_records{state="loaded"}`: "1", `amieusage_agent_run_skipped_jobs{reason="no resource matches"}`: "1",
		`amieusage_agent_run_charge{resource="r\"m"}`: "8", "amieusage_agent_oldest_unsent_seconds": "0", "amieusage_agent_bad_rows": "0",
		`amieusage_agent_run_records{what="read"}`: "2",
	} {
		if first[name] != want {
			t.Errorf("%s %q, want %s", name, first[name], want)
		}
	}
	if first[lastSuccess] == "" || first[lastSuccess] != first["amieusage_agent_last_run_timestamp_seconds"] {
		t.Errorf("%v", first)
	}
	// A run that fails leaves when the last one succeeded.
	noError(t, os.WriteFile(dump, []byte(header+row("1", "rm", "1790845200")+row("3", "rm", "1")), 0o644))
	if err := report(); err == nil {
		t.Error("a bad row is no failure")
	}
	second := values()
	if second["amieusage_agent_last_run_ok"] != "0" || second[lastSuccess] != first[lastSuccess] || second["amieusage_agent_bad_rows"] != "1" {
		t.Errorf("%v", second)
	}
	// The service is away: what is not sent waits.
	s.stop(t)
	noError(t, os.WriteFile(dump, []byte(header+row("4", "rm", "1790845200")), 0o644))
	cmd := exec.Command(s.program, "collect", "--config", site, "--from-file", dump)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if third := values(); third[`amieusage_agent_records{state="pending"}`] != "1" || third["amieusage_agent_oldest_unsent_seconds"] == "" {
		t.Errorf("%v", third)
	}
	promtool(t, nil, "check", "rules", "amieusage-agent.rules.yml")
	promtool(t, nil, "test", "rules", "amieusage-agent.test.yml")
}
