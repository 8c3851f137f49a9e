package htcondor_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/amieusage/amieusage/internal/htcondor"
	"github.com/amieusage/amieusage/internal/scheduler"
)

// usual is an ad, by its attributes.
var usual = []struct{ name, value string }{
	{"GlobalJobId", `"schedd#123.0#1767400000"`}, {"ClusterId", "123"}, {"ProcId", "0"}, {"Owner", `"alice"`}, {"QDate", "1767400000"},
	{"JobStartDate", "1767405600"}, {"JobCurrentStartDate", "1767405600"}, {"CompletionDate", "1767409200"}, {"EnteredCurrentStatus", "1767409200"},
	{"JobStatus", "4"}, {"RemoteWallClockTime", "3600.0"}, {"CumulativeSuspensionTime", "0"}, {"NumJobStarts", "1"}, {"RequestCpus", "2"},
	{"JobUniverse", "5"}, {"AccountingGroup", `"group_x.alice"`},
}

// classAd returns an ad whose attributes have these values: name, value, …; "": it has not.
func classAd(replace ...string) string {
	var b strings.Builder
	write := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s = %s\n", name, value)
		}
	}
	known := map[string]bool{}
	for _, a := range usual {
		for i := 0; i < len(replace); i += 2 {
			if replace[i] == a.name {
				a.value = replace[i+1]
			}
		}
		known[a.name] = true
		write(a.name, a.value)
	}
	for i := 0; i < len(replace); i += 2 {
		if !known[replace[i]] {
			write(replace[i], replace[i+1])
		}
	}
	return b.String() + "\n"
}

func only(t testing.TB, text string, opts htcondor.Options) (*scheduler.Job, *scheduler.RowError) {
	t.Helper()
	opts.Clock = clock
	for job, err := range htcondor.NewReader(strings.NewReader(text), "log", opts).Jobs(context.Background()) {
		row, bad := errors.AsType[*scheduler.RowError](err)
		if err != nil && !bad {
			t.Fatal(err)
		}
		if bad {
			return nil, row
		}
		return job.Clone(), nil
	}
	t.Fatal("no job")
	return nil, nil
}

func TestAds(t *testing.T) {
	const removed, start = "1767408000", "1767405600"
	for _, test := range []struct {
		what    string
		replace []string
		elapsed int64
		tres    string
		state   string
	}{
		{"plain", nil, 3600, "cpu=2,node=1", "COMPLETED"},
		{"what was provisioned", []string{"CpusProvisioned", "4", "GpusProvisioned", "1", "RequestGPUs", "2", "MemoryProvisioned", "2048", "RequestMemory", "1"}, 3600, "cpu=4,gres/gpu=1,mem=2147483648,node=1", "COMPLETED"},
		{"what was asked for", []string{"RequestGpus", "2", "RequestMemory", "1024"}, 3600, "cpu=2,gres/gpu=2,mem=1073741824,node=1", "COMPLETED"},
		{"other white space", []string{"  CpusProvisioned\t", "  4 "}, 3600, "cpu=4,node=1", "COMPLETED"},
		{"letter case", []string{"cpusPROVISIONED", "4"}, 3600, "cpu=4,node=1", "COMPLETED"},
		{"an expression that was provisioned as a number", []string{"RequestCpus", "ifThenElse(x, 1, 2)", "CpusProvisioned", "4"}, 3600, "cpu=4,node=1", "COMPLETED"},
		{"suspended", []string{"CumulativeSuspensionTime", "600"}, 3000, "cpu=2,node=1", "COMPLETED"},
		{"evicted twice", []string{"JobStartDate", "1767401000", "RemoteWallClockTime", "7000.0", "NumJobStarts", "3"}, 7000, "cpu=2,node=1", "COMPLETED"},
		{"no wall clock", []string{"RemoteWallClockTime", ""}, 3600, "cpu=2,node=1", "COMPLETED"},
		{"a wall clock of 0", []string{"RemoteWallClockTime", "0.0"}, 3600, "cpu=2,node=1", "COMPLETED"},
		{"failed", []string{"ExitCode", "3"}, 3600, "cpu=2,node=1", "FAILED"},
		{"killed", []string{"ExitBySignal", "true"}, 3600, "cpu=2,node=1", "FAILED"},
		{"removed while it ran", []string{"JobStatus", "3", "CompletionDate", "0", "EnteredCurrentStatus", removed, "RemoteWallClockTime", "2400.0"}, 2400, "cpu=2,node=1", "CANCELLED"},
		{"removed, and had run no second", []string{"JobStatus", "3", "CompletionDate", "0", "RemoteWallClockTime", "0.0"}, 0, "cpu=2,node=1", "CANCELLED"},
		{"removed before it ran", []string{"JobStatus", "3", "CompletionDate", "0", "RemoteWallClockTime", "0.0", "JobStartDate", "", "JobCurrentStartDate", ""}, 0, "", "CANCELLED"},
		{"parallel", []string{"JobUniverse", "11", "MaxHosts", "4"}, 3600, "cpu=8,node=4", "COMPLETED"},
		{"no start date but that of the last run", []string{"JobStartDate", "", "JobCurrentStartDate", start}, 3600, "cpu=2,node=1", "COMPLETED"},
	} {
		t.Run(test.what, func(t *testing.T) {
			job, bad := only(t, classAd(test.replace...), htcondor.Options{})
			if bad != nil {
				t.Fatal(bad)
			}
			var list []string
			for _, name := range []string{"cpu", "gres/gpu", "mem", "node"} {
				if count, ok := job.TRESCount(name); ok {
					list = append(list, count.String())
				}
			}
			if got := strings.Join(list, ","); job.ElapsedSeconds != test.elapsed || got != test.tres || job.State != test.state {
				t.Errorf("%d s, %s, %s; want %d, %s, %s", job.ElapsedSeconds, got, job.State, test.elapsed, test.tres, test.state)
			}
			if job.ID != "schedd#123.0#1767400000" || job.DisplayID != "123.0" || job.User != "alice" {
				t.Errorf("job %s, %s of %s", job.ID, job.DisplayID, job.User)
			}
		})
	}
}

func TestWhose(t *testing.T) {
	for _, test := range []struct {
		replace                       []string
		user, account, group, project string
		attribute                     string
	}{
		{nil, "alice", "group_x", "group_x", "", ""},
		{[]string{"AccountingGroup", `"group_x.sub.alice"`}, "alice", "group_x.sub", "group_x", "", ""},
		{[]string{"AccountingGroup", `"alice"`}, "alice", "", "", "", ""},
		{[]string{"AccountingGroup", ""}, "alice", "", "", "", ""},
		{[]string{"AcctGroup", `"group_y"`}, "alice", "group_y", "group_y", "", ""},
		{[]string{"AccountingGroup", `"group_x.robot"`, "AcctGroupUser", `"robot"`}, "alice", "group_x", "group_x", "", ""},
		{[]string{"ProjectName", `"osg.P1"`}, "alice", "group_x", "group_x", "osg.P1", ""},
		{[]string{"x509UserProxyVOName", `"cms"`, "ProjectName", `"osg.P1"`}, "alice", "group_x", "group_x", "cms", "x509UserProxyVOName"},
		{[]string{"AcctGroup", `"y"`}, "alice", "group_x", "group_x", "y", "AcctGroup"},
		{[]string{"Owner", "", "User", `"bob@site"`, "AccountingGroup", ""}, "bob", "", "", "", ""},
	} {
		job, bad := only(t, classAd(test.replace...), htcondor.Options{Project: test.attribute})
		if bad != nil {
			t.Fatal(bad)
		}
		if job.User != test.user || job.Account != test.account || job.Group != test.group || job.Project != test.project {
			t.Errorf("%q: user %s, account %s, group %s, project %s", test.replace, job.User, job.Account, job.Group, job.Project)
		}
	}
}

func TestNoUsage(t *testing.T) {
	for universe, want := range map[string]string{"7": "ran on the access point (scheduler universe)", "12": "ran on the access point (local universe)", "5": "", "9": ""} {
		job, bad := only(t, classAd("JobUniverse", universe), htcondor.Options{})
		if bad != nil || job.NoUsage != want {
			t.Errorf("universe %s: %+v, %v", universe, job, bad)
		}
	}
	if job, bad := only(t, classAd("JobStatus", "2", "CompletionDate", "0"), htcondor.Options{}); bad != nil || job.Finished() {
		t.Errorf("a job that runs: %+v, %v", job, bad)
	}
	job, bad := only(t, classAd("RequestMemory", "ifThenElse(x, 1, 2)", "RequestGpus", "x + 1"), htcondor.Options{})
	if bad != nil || strings.Join(job.Unknown, " ") != "mem gres/gpu" {
		t.Errorf("amounts that are expressions: %+v, %v", job, bad)
	}
}

func TestBadAds(t *testing.T) {
	for _, test := range []struct {
		what           string
		replace        []string
		field, problem string
	}{
		{"CPUs that are an expression", []string{"RequestCpus", "ifThenElse(x, 1, 2)"}, "RequestCpus", "it is an expression, ifThenElse(x, 1, 2)"},
		{"no CPUs", []string{"RequestCpus", ""}, "RequestCpus", "how many CPUs"},
		{"no schedd", []string{"GlobalJobId", ""}, "GlobalJobId", "missing"},
		{"no id", []string{"ProcId", ""}, "ClusterId", "no ClusterId and ProcId"},
		{"no submit time", []string{"QDate", ""}, "QDate", "missing"},
		{"no end", []string{"CompletionDate", "0", "EnteredCurrentStatus", ""}, "CompletionDate", "missing"},
		{"an end to come", []string{"CompletionDate", "1970300000"}, "CompletionDate", "not come yet"},
		{"an end before the start", []string{"CompletionDate", "1767405000"}, "CompletionDate", "before it started"},
		{"a clock beyond its end", []string{"RemoteWallClockTime", "7200.0"}, "RemoteWallClockTime", "3600 s from its start"},
		{"a clock that is an expression", []string{"RemoteWallClockTime", "time() - 3"}, "RemoteWallClockTime", "an expression"},
		{"suspended for longer than it ran", []string{"CumulativeSuspensionTime", "7200"}, "CumulativeSuspensionTime", "suspended for 7200 s"},
		{"no clock of several runs", []string{"RemoteWallClockTime", "0.0", "NumJobStarts", "2"}, "RemoteWallClockTime", "first of 2 runs"},
		{"no clock of a job that was removed", []string{"RemoteWallClockTime", "", "JobStatus", "3"}, "RemoteWallClockTime", "before it was removed"},
		{"ran, and never started", []string{"JobStartDate", "", "JobCurrentStartDate", ""}, "JobStartDate", "no start"},
		{"parallel on nobody knows how many", []string{"JobUniverse", "11"}, "MaxHosts", "how many machines"},
	} {
		t.Run(test.what, func(t *testing.T) {
			job, bad := only(t, classAd(test.replace...), htcondor.Options{})
			if bad == nil || bad.Field != test.field || !strings.Contains(bad.Problem, test.problem) {
				t.Errorf("%+v, %v", job, bad)
			}
		})
	}
}

func TestIsHistory(t *testing.T) {
	for text, want := range map[string]bool{
		"[\n]": true, "ClusterId = 4\n": true, "\n\nA = 1\n": true, "JobID|User\n1|a\n": false, "": false, "01/03/2026 04:01:11;E;1;a = b\n": false,
	} {
		if got := htcondor.IsHistory([]byte(text)); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
}

func FuzzHistory(f *testing.F) {
	for _, name := range []string{"history", "long", "history.json"} {
		f.Add(fixture(f, name))
	}
	f.Add([]byte(classAd()))
	f.Fuzz(func(t *testing.T, text []byte) {
		for job, err := range open(bytes.NewReader(text), false).Jobs(context.Background()) {
			if err == nil && (job.ElapsedSeconds < 0 || job.CPUs < 0 || job.ElapsedSeconds > 0 && job.End.After(clock().Add(48*time.Hour))) {
				t.Errorf("%+v", job)
			}
		}
	})
}

func benchmark(b *testing.B, text []byte) {
	b.SetBytes(int64(len(text)))
	var rows int64
	for b.Loop() {
		reader := open(bytes.NewReader(text), false)
		for range reader.Jobs(context.Background()) {
		}
		rows += reader.Stats().Rows
	}
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "jobs/s")
}

func BenchmarkClassAds(b *testing.B) { benchmark(b, bytes.Repeat([]byte(classAd()), 20_000)) }

func BenchmarkJSON(b *testing.B) {
	text := fixture(b, "history.json")
	benchmark(b, bytes.Repeat(text, 2_500))
}
