package siterules_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/apd/v3"
	"pgregory.net/rapid"

	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/siterules"
	"github.com/amieusage/amieusage/internal/slurm"
)

// oneRule are rules with one resource, for every job.
func oneRule(t testing.TB, all ...siterules.Rate) *siterules.Rules {
	t.Helper()
	rules := &siterules.Rules{Resources: []siterules.Resource{{Name: rm, Rates: all}}}
	mustCheck(t, rules)
	return rules
}

// made assesses a job that the rules charge.
func made(t testing.TB, rules *siterules.Rules, job *scheduler.Job) siterules.Made {
	t.Helper()
	a, err := rules.Assess(job)
	if err != nil || a.Problem != nil || a.Skip != "" {
		t.Fatalf("skip %q, problem %v, error %v", a.Skip, a.Problem, err)
	}
	return a.Made
}

// TestRatesWithDates: a job is charged by the rate of its start, or of what the
// resource says, and by none before the first.
func TestRatesWithDates(t *testing.T) {
	newYork, err := time.LoadLocation("America/New_York")
	if err != nil {
		t.Fatal(err)
	}
	rules := oneRule(t,
		siterules.Rate{From: time.Date(2025, 10, 1, 0, 0, 0, 0, newYork), PerHour: rates(t, "cpu", "1"), Decimals: 6},
		siterules.Rate{From: time.Date(2026, 10, 1, 0, 0, 0, 0, newYork), PerHour: rates(t, "cpu", "1.2"), Decimals: 6})
	job := ranJob()
	for _, tt := range []struct {
		start time.Time
		by    siterules.ChargeBy
		want  string
	}{
		{time.Date(2026, 10, 1, 3, 59, 59, 0, time.UTC), "", "8"},
		{time.Date(2026, 10, 1, 4, 0, 0, 0, time.UTC), "", "9.6"},
		{time.Date(2026, 10, 1, 3, 59, 59, 0, time.UTC), siterules.ByEnd, "9.6"},
		{time.Date(2026, 10, 1, 4, 0, 0, 0, time.UTC), siterules.BySubmit, "8"},
	} {
		rules.Resources[0].ChargeBy = tt.by
		mustCheck(t, rules)
		job.Start, job.End, job.Submit = tt.start, tt.start.Add(time.Hour), tt.start.Add(-time.Minute)
		if got := made(t, rules, job).Charge.String(); got != tt.want {
			t.Errorf("start %s by %q: charge %s; want %s", tt.start, tt.by, got, tt.want)
		}
	}
	job.Start = time.Date(2025, 9, 30, 0, 0, 0, 0, time.UTC)
	rules.Resources[0].ChargeBy = ""
	a, err := rules.Assess(job)
	if err != nil || a.Problem == nil || !strings.Contains(a.Problem.Error(), "job 42: no rate of "+rm+" has begun by then; state what it costs from an earlier date") {
		t.Errorf("before the first rate: %+v, %v", a, err)
	}
}

func TestRatesOutOfOrder(t *testing.T) {
	day := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	rate := siterules.Rate{From: day, PerHour: rates(t, "cpu", "1")}
	rules := &siterules.Rules{Resources: []siterules.Resource{{Name: rm, Rates: []siterules.Rate{rate, rate}}}}
	if err := rules.Check(); err == nil || !strings.Contains(err.Error(), "not in order") {
		t.Error(err)
	}
}

func TestFactors(t *testing.T) {
	rules := oneRule(t, siterules.Rate{PerHour: rates(t, "cpu", "1"), Decimals: 6, Factors: siterules.Factors{
		QOS: rates(t, "high", "2", "preempt", "0.5"), Partitions: rates(t, "old", "0.1")}})
	for _, tt := range []struct{ qos, partition, want string }{
		{"normal", "RM", "8"}, {"high", "RM", "16"}, {"preempt", "RM", "4"}, {"high", "old", "1.6"}, {"normal", "old", "0.8"},
	} {
		job := ranJob()
		job.QOS, job.Partition = tt.qos, tt.partition
		m := made(t, rules, job)
		if m.Charge.String() != tt.want {
			t.Errorf("QOS %s on %s: %s; want %s", tt.qos, tt.partition, m.Charge, tt.want)
		}
		steps := m.Rate.Explain(job)
		if last := steps[len(steps)-1]; last.Is != tt.want {
			t.Errorf("explained as %v", steps)
		}
	}
}

func TestMatchAndExempt(t *testing.T) {
	rules := &siterules.Rules{
		Resources: []siterules.Resource{
			{Name: gpu, Match: siterules.Match{Accounts: []string{"phys/*"}, Users: []string{"al?ce"}, Reservations: []string{"r[0-9]"}}, Rates: []siterules.Rate{{PerHour: rates(t, "cpu", "1")}}},
			{Name: rm, Match: siterules.Match{States: []string{"COMP*"}}, Rates: []siterules.Rate{{PerHour: rates(t, "cpu", "1")}}},
		},
		Exempt: []siterules.Match{{Reservations: []string{"maint*"}}, {States: []string{"NODE_FAIL", "BOOT_FAIL"}}, {Users: []string{"monitor"}, Partitions: []string{"RM"}}},
	}
	mustCheck(t, rules)
	for _, tt := range []struct {
		what   string
		change func(j *scheduler.Job)
		want   string
		skip   siterules.Skip
	}{
		{"state", func(j *scheduler.Job) {}, rm, ""},
		{"an account with a slash", func(j *scheduler.Job) { j.Account, j.Reservation = "phys/a/b", "r7" }, gpu, ""},
		{"only some fit", func(j *scheduler.Job) { j.Account = "phys/a" }, rm, ""},
		{"none", func(j *scheduler.Job) { j.State = "FAILED" }, "", siterules.SkipNoResource},
		{"reservation", func(j *scheduler.Job) { j.Reservation = "maint-2026" }, "", siterules.SkipExempt},
		{"a failed node", func(j *scheduler.Job) { j.State = "NODE_FAIL" }, "", siterules.SkipExempt},
		{"both", func(j *scheduler.Job) { j.User = "monitor" }, "", siterules.SkipExempt},
		{"not both", func(j *scheduler.Job) { j.User, j.Partition = "monitor", "GPU" }, rm, ""},
	} {
		job := ranJob()
		tt.change(job)
		a, err := rules.Assess(job)
		if err != nil || a.Problem != nil || a.Made.Resource != tt.want || a.Skip != tt.skip {
			t.Errorf("%s: %+v, %v", tt.what, a, err)
		}
	}
	rules.Exempt = append(rules.Exempt, siterules.Match{})
	if err := rules.Check(); err == nil || !strings.Contains(err.Error(), "exempt 4 names nothing") {
		t.Error(err)
	}
}

func TestNames(t *testing.T) {
	rules := oneRule(t, siterules.Rate{PerHour: rates(t, "cpu", "1")})
	rules.Projects = siterules.Projects{
		Include: []string{"p.*"}, Map: map[string]string{"tg-phy": "TG-PHY"},
		Rewrite: []siterules.Rewrite{{Match: regexp.MustCompile(`^pn_(che.*)$`), To: "$1", Case: siterules.CaseUpper}},
	}
	rules.Users = siterules.Users{
		Map: map[string]string{"alice": "asmith"}, ByUID: map[string]string{"1003": "carol"},
		ByProject: map[string]map[string]string{"CHE100": {"gateway": "pi"}, "p.all": {"*": "boss"}},
	}
	mustCheck(t, rules)
	for _, tt := range []struct{ account, user, uid, project, name string }{
		{"p.x", "alice", "", "p.x", "asmith"},
		{"p.a/b", "bob", "", "p.a/b", "bob"},
		{"tg-phy", "bob", "", "TG-PHY", "bob"},
		{"pn_che100", "gateway", "", "CHE100", "pi"},
		{"pn_che100", "alice", "", "CHE100", "asmith"},
		{"p.all", "alice", "", "p.all", "boss"},
		{"p.x", "", "1003", "p.x", "carol"},
	} {
		job := ranJob()
		job.Account, job.User, job.UID = tt.account, tt.user, tt.uid
		if m := made(t, rules, job); m.Project != tt.project || m.User != tt.name {
			t.Errorf("%+v: %s of %s", tt, m.User, m.Project)
		}
	}
	job := ranJob()
	job.Account, job.User, job.UID = "p.x", "", "7"
	a, _ := rules.Assess(job)
	if a.Problem == nil || !strings.Contains(a.Problem.Error(), "only its number 7; state whose it is in site.yaml: users: {by_uid: {7: NAME}}") {
		t.Errorf("a user whose name is gone: %+v", a)
	}
	rules.Projects.From = []siterules.AccountFrom{siterules.FromGroup}
	job.User, job.Group, job.Account = "bob", "p.group", "other"
	if m := made(t, rules, job); m.Project != "p.group" {
		t.Errorf("project %s", m.Project)
	}
}

func TestTemplate(t *testing.T) {
	rules := oneRule(t, siterules.Rate{PerHour: rates(t, "cpu", "1")})
	job := ranJob()
	job.DBIndex, job.DisplayID, job.ParentID = "77", "40_2", "40"
	for text, want := range map[string]string{
		"{job_id}": "42", "{cluster}-{job_id}": "testc-42", "{db_index}": "77", "x{array_id}.{display_id}": "x40.40_2", "{submit}/{job_id}": "1790841600/42",
	} {
		template, err := siterules.ParseTemplate(text)
		if err != nil {
			t.Fatal(err)
		}
		rules.RecordID = template
		if got := made(t, rules, job).RecordID; got != want || template.String() != text {
			t.Errorf("%s: %s; want %s", text, got, want)
		}
	}
	for text, want := range map[string]string{"{cluster}": "one id", "job": "one id", "{job}": "{job} is not one of", "{job_id": "{job_id} is not one of"} {
		if _, err := siterules.ParseTemplate(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	rules.RecordID, _ = siterules.ParseTemplate("{db_index}")
	job.DBIndex = ""
	if a, _ := rules.Assess(job); a.Problem == nil || !strings.Contains(a.Problem.Error(), "needs {db_index}") {
		t.Errorf("without an index: %+v", a)
	}
}

// TestRateText: what charged a job can be read back, and charges the same.
func TestRateText(t *testing.T) {
	decimal := rapid.Custom(func(t *rapid.T) *apd.Decimal {
		return apd.New(rapid.Int64Range(0, 999_999).Draw(t, "coefficient"), rapid.Int32Range(-9, 3).Draw(t, "exponent"))
	})
	rapid.Check(t, func(rt *rapid.T) {
		rate := siterules.Rate{
			PerHour:  map[string]*apd.Decimal{"cpu": decimal.Draw(rt, "cpu"), "mem": decimal.Draw(rt, "mem"), "gres/gpu:h100": decimal.Draw(rt, "gpu")},
			Decimals: rapid.IntRange(0, 6).Draw(rt, "decimals"),
			Combine:  rapid.SampledFrom([]siterules.Combine{"", siterules.CombineSum, siterules.CombineMax}).Draw(rt, "combine"),
		}
		if rapid.Bool().Draw(rt, "factors") {
			rate.Factors.QOS = map[string]*apd.Decimal{"normal": decimal.Draw(rt, "factor")}
			rate.From = time.Date(2026, 1, 1, 5, 0, 0, 0, time.UTC)
		}
		rules := oneRule(t, rate)
		text := rules.Resources[0].Rates[0].Text()
		back, err := siterules.ParseRate(text)
		if err != nil {
			rt.Fatal(err)
		}
		job := ranJob()
		job.TRES = append(job.TRES, scheduler.TRES{Name: "gres/gpu:H100", Count: 3, Nanos: 250_000_000})
		job.ElapsedSeconds = rapid.Int64Range(1, 1e6).Draw(rt, "elapsed")
		if want, got := rules.Resources[0].Rates[0].Charge(job), back.Charge(job); want != got || back.Text() != text {
			rt.Fatalf("%s charges %s, and read back %s", text, want, got)
		}
	})
	for _, text := range []string{"", "{}", "null", `{"per_hour":{"cpu":"x"}}`, `{"per_hour":{"cpu":"1"},"decimals":7}`, `{"per_hour":{"cpu":"1"},"from":"today"}`} {
		if _, err := siterules.ParseRate(text); err == nil {
			t.Errorf("%q is taken for a rate", text)
		}
	}
}

func FuzzParseRate(f *testing.F) {
	f.Add(`{"per_hour":{"cpu":"1","mem":"0.25"},"combine":"max","decimals":6}`)
	f.Add(`{"from":"2026-01-01T00:00:00-05:00","per_hour":{"gres/gpu":"1E+2"},"decimals":0,"factors_qos":{"high":"2"}}`)
	f.Fuzz(func(t *testing.T, text string) {
		rate, err := siterules.ParseRate(text)
		if err != nil {
			return
		}
		again, err := siterules.ParseRate(rate.Text())
		if err != nil || again.Text() != rate.Text() || again.Charge(ranJob()) != rate.Charge(ranJob()) {
			t.Fatalf("%s was read as %s: %v", text, rate.Text(), err)
		}
	})
}

// TestCases: the right values of what real accounting has shown.
func TestCases(t *testing.T) {
	for _, tt := range []struct {
		file  string
		rates []string
		want  []string
	}{
		{"resized.psv", []string{"cpu", "1"}, []string{"2", "3"}},
		{"billing.psv", []string{"billing", "1"}, []string{"1.5", "0.25"}},
		{"mig.psv", []string{"gres/gpu", "1"}, []string{"1", "2", "2"}},
		{"notracked.psv", []string{"gres/gpu", "1"}, []string{"0 untracked", "4"}},
		{"notracked.psv", []string{"gres/gpu:H100", "2"}, []string{"0 untracked", "8"}},
		{"badtimes.psv", []string{"cpu", "1"}, nil},
	} {
		rules := oneRule(t, siterules.Rate{PerHour: rates(t, tt.rates...), Decimals: 6})
		in, err := os.Open(filepath.Join("../../testdata/slurm/cases", tt.file))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for job, err := range slurm.NewReader(in, tt.file, slurm.Options{}).Jobs(t.Context()) {
			if err != nil {
				continue // a bad row; slurm's tests have them
			}
			a, err := rules.Assess(job)
			if err != nil || a.Problem != nil {
				t.Fatal(err, a.Problem)
			}
			if a.Skip == "" {
				charge := a.Made.Charge.String()
				if a.Made.Untracked {
					charge += " untracked"
				}
				got = append(got, charge)
			}
		}
		in.Close()
		if strings.Join(got, ", ") != strings.Join(tt.want, ", ") {
			t.Errorf("%s: charges %v; want %v", tt.file, got, tt.want)
		}
	}
}

// TestDumpWithoutAllocTRES: no job of it can be charged by what it does not have.
func TestDumpWithoutAllocTRES(t *testing.T) {
	job := ranJob()
	job.Lacks = scheduler.FactTRES
	job.TRES = job.TRES[:1]
	if got := made(t, oneRule(t, siterules.Rate{PerHour: rates(t, "CPU", "1", "node", "1"), Decimals: 6}), job); got.Charge.String() != "8" {
		t.Errorf("charge %s", got.Charge)
	}
	_, err := oneRule(t, siterules.Rate{PerHour: rates(t, "cpu", "1", "gres/gpu", "0")}).Assess(job)
	if missing, ok := errors.AsType[*siterules.TRESError](err); !ok || missing.TRES != "gres/gpu" || !strings.Contains(err.Error(), "dump.psv: there is no column AllocTRES, and "+rm+" is charged by gres/gpu") {
		t.Errorf("got %v", err)
	}
}
