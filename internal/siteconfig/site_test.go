package siteconfig

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/siterules"
)

const wholeSite = `
site: PSC
time_zone: America/New_York
slurm: {time_zone: UTC, lookback: 3d, timeout: 5s, clusters: [ocean]}
resources:
  - resource: gpu
    match: {partitions: ["GPU*"], accounts: ["phys/*"], users: [alice], reservations: [r], states: [COMPLETED], clusters: [ocean], qos: [normal, high]}
    charge:
      - {from: 2025-10-01, per_hour: {gres/gpu: 1}}
      - {from: 2026-10-01, per_hour: {gres/gpu: 1.2}, factors: {qos: {high: 3}}}
    charge_by: end
  - {resource: rm, partitions: ["*"], charge: {per_hour: {cpu: 1}, combine: max, decimals: 2}, factors: {partitions: {old: 0.5}}}
factors: {qos: {high: 2, preempt: 0.5}}
exempt: [{reservations: ["maint*"]}, {states: [NODE_FAIL, BOOT_FAIL]}, {users: [monitor]}]
projects:
  include: ["*"]
  rewrite: [{match: '^pn_(che.*)$', to: '$1', case: upper}]
  map_file: projects.csv
  map: {training: own}
users: {by_uid: {1003: alice}, by_project: {p.x: {gateway: pi}, p.y: boss}, map: {al: alice}}
local_record_id: "{cluster}-{job_id}"
limits: {per_job: 100000, per_run: 5000000.5}
`

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestEveryRule reads each key of the rules, and asks what became of it.
func TestEveryRule(t *testing.T) {
	path := write(t, "site.yaml", wholeSite)
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "projects.csv"), []byte("account,project\n# a comment\nphy1, PHY1\ntraining,theirs\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Read(path, "")
	if err != nil {
		t.Fatal(err)
	}
	if s.Slurm.Lookback != 72*time.Hour || s.Slurm.Timeout != 5*time.Second || len(s.Slurm.Clusters) != 1 || s.Slurm.Zone != time.UTC {
		t.Errorf("slurm: %+v", s.Slurm)
	}
	r := s.Rules
	gpu := r.Resources[0]
	if gpu.ChargeBy != siterules.ByEnd || len(gpu.Rates) != 2 || gpu.Line != 6 || gpu.Rates[1].Line != 10 {
		t.Errorf("gpu: %+v", gpu)
	}
	if want := time.Date(2026, 10, 1, 4, 0, 0, 0, time.UTC); !gpu.Rates[1].From.Equal(want) {
		t.Errorf("from %s; want midnight in New York, %s", gpu.Rates[1].From, want)
	}
	for i, want := range []string{"2", "3"} { // of all, of its own
		if got := gpu.Rates[i].Factors.QOS["high"].String(); got != want {
			t.Errorf("factor %s; want %s", got, want)
		}
	}
	if f := r.Resources[1].Rates[0].Factors; f.QOS["preempt"].String() != "0.5" || f.Partitions["old"].String() != "0.5" {
		t.Errorf("factors of rm: %+v", f)
	}
	if len(r.Exempt) != 3 || r.Exempt[1].States[1] != "BOOT_FAIL" || r.RecordID.String() != "{cluster}-{job_id}" ||
		r.Limits.PerRun.Cmp(mustCharge(t, "5000000.5")) != 0 {
		t.Errorf("rules: %+v", r)
	}
	for account, want := range map[string]string{"phy1": "PHY1", "training": "own", "pn_che7": "CHE7", "a/b": "a/b"} {
		if got, _, _, _, _ := r.NamesOf(&scheduler.Job{Account: account, User: "u"}); got != want {
			t.Errorf("account %s is of project %s; want %s", account, got, want)
		}
	}
	for _, who := range []struct{ user, uid, account, want string }{{"", "1003", "z", "alice"}, {"gateway", "", "p.x", "pi"}, {"any", "", "p.y", "boss"}, {"al", "", "z", "alice"}} {
		if _, _, got, _, _ := r.NamesOf(&scheduler.Job{Account: who.account, User: who.user, UID: who.uid}); got != who.want {
			t.Errorf("%+v: %s", who, got)
		}
	}
}

func mustCharge(t *testing.T, text string) amieusage.Charge {
	t.Helper()
	c, err := amieusage.ParseCharge(text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestMistakes: each is named with its place and what helps.
func TestMistakes(t *testing.T) {
	csv := write(t, "bad.csv", "account,project\nphy1,PHY1\nphy2\n")
	for text, want := range map[string]string{
		"resources: [{resource: r, charge: [{from: 2026-10-01, per_hour: {cpu: 1}}, {from: 2025-10-01, per_hour: {cpu: 1}}]}]": "2:24: resource r: the rates are not in order of their dates",
		"resources: [{resource: r, charge: [{from: soon, per_hour: {cpu: 1}}]}]":                                               `2:36: from "soon" is no date, as in from: 2026-10-01`,
		"resources: [{resource: r, charge: {per_hour: {cpu: 1}, factors: {qos: {high: much}}}}]":                               `2:78: the factor of high is not a decimal number: "much"`,
		"resources: [{resource: r, charge: {per_hour: {cpu: 1}, factors: {qos: {high: -1}}}}]":                                 "2:71: the factor of high must be a decimal number of at most 18 digits, and not negative",
		"resources: [{resource: r, match: {partition: [a]}, charge: {per_hour: {cpu: 1}}}]":                                    `2:35: unknown key "partition"; did you mean "partitions"?`,
		"resources: [{resource: r, match: {qos: ['[']}, charge: {per_hour: {cpu: 1}}}]":                                        `2:41: "[" is not a pattern`,
		"resources: [{resource: r}]":                                    "2:24: resource r: charge has no rate, as in charge: {per_hour: {cpu: 1}}",
		"resources: [{resource: r, charge: {per_hour: {cpu: 1,5: 2}}}]": `2:24: resource r: "5" under per_hour is no TRES`,
		"exempt: [{}]": "2:10: exempt 1 names nothing, and would exempt every job",
		"projects: {rewrite: [{match: '(', to: x}]}":        `2:30: match "(" is no regular expression`,
		"projects: {rewrite: [{to: x}]}":                    "2:22: rewrite 1 has no match",
		"projects: {map_file: nowhere.csv}":                 "2:22: map_file: open ",
		"projects: {map_file: " + csv + "}":                 csv + ":3: a line must be ACCOUNT,PROJECT",
		"local_record_id: '{cluster}'":                      `2:18: "{cluster}" would give many jobs one id`,
		"projects: {rewrite: [{match: ^pn_, case: upper}]}": "2:22: rewrite 1 has no to: say what the project is, as in {match: ^pn_(.*)$, to: $1}",
		"limits: {per_job: none}":                           "2:19: limits: per_job is not a decimal number",
		"limits: {per_jobs: 1}":                             `2:10: unknown key "per_jobs"; did you mean "per_job"?`,
		"charge_by: queue":                                  `2:12: charge_by "queue" is not one of start, end, submit`,
		"combine: max":                                      `2:1: unknown key "combine" here: it belongs under resources: charge:`,
		"users: {map: {a: [b]}}":                            "2:18: must be text",
		"state: !!str x":                                    "2:8: a tag such as !!str: state the value without it",
		"state: a\nstate: b":                                `3:1: "state" stands here twice`,
		"state: a\n---\nstate: b":                           "3:1: a second document: state all of it in one",
		"retry_for: -1s":                                    "2:12: retry_for must be a duration",
		"time_zone: Local":                                  `2:12: time_zone "Local" is no time zone`,
	} {
		_, err := ParseSite("site.yaml", []byte("site: PSC\n"+text+"\n"))
		if err == nil || !strings.HasPrefix(strings.TrimPrefix(err.Error(), "site.yaml:"), want) {
			t.Errorf("%s\ngot  %v\nwant %s", text, err, want)
		}
	}
}
