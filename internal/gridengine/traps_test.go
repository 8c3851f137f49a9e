package gridengine_test

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/amieusage/amieusage/internal/gridengine"
	"github.com/amieusage/amieusage/internal/scheduler"
)

// usual is a line, by the names of its fields.
var usual = []struct{ name, value string }{
	{"qname", "all.q"}, {"hostname", "n1"}, {"group", "phys"}, {"owner", "alice"}, {"job_name", "run"}, {"job_number", "4711"}, {"account", "sge"},
	{"priority", "0"}, {"submission_time", "1767400000"}, {"start_time", "1767405600"}, {"end_time", "1767409200"}, {"failed", "0"}, {"exit_status", "0"},
	{"ru_wallclock", "3600"}, {"rusage", "1:1:0.0:0:0:0:0:1:0:0:0:0:0:0:0:0:0"}, {"project", "p1"}, {"department", "d"}, {"granted_pe", "NONE"},
	{"slots", "1"}, {"task_number", "0"}, {"cpu", "1.5"}, {"mem", "0.1"}, {"io", "0.0"}, {"category", "NONE"}, {"iow", "0.0"}, {"pe_taskid", "NONE"},
	{"maxvmem", "1000.0"}, {"arid", "0"}, {"ar_submission_time", "0"},
}

// line returns a line whose fields have these values: name, value, …
func line(t testing.TB, replace ...string) string {
	t.Helper()
	var fields []string
	for _, f := range usual {
		for i := 0; i < len(replace); i += 2 {
			if replace[i] == f.name {
				f.value = replace[i+1]
			}
		}
		fields = append(fields, f.value)
	}
	return strings.Join(fields, ":") + "\n"
}

func only(t testing.TB, text string, opts gridengine.Options) (*scheduler.Job, *scheduler.RowError) {
	t.Helper()
	opts.Clock = clock
	for job, err := range gridengine.NewReader(strings.NewReader("# Version: 8\n"+text), "log", opts).Jobs(context.Background()) {
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

func TestLines(t *testing.T) {
	for _, test := range []struct {
		what    string
		replace []string
		id      string
		elapsed int64
		cpus    int64
		run     string
		noUsage string
	}{
		{"plain", nil, "4711", 3600, 1, "", ""},
		{"a task of an array", []string{"task_number", "7"}, "4711.7", 3600, 1, "", ""},
		{"slots", []string{"granted_pe", "mpi", "slots", "64"}, "4711", 3600, 64, "", ""},
		{"a name with colons", []string{"job_name", "a:1:b"}, "4711", 3600, 1, "", ""},
		{"a name with numbers between colons", []string{"job_name", "1:2:3:4:5:6:7:8:9:10:11"}, "4711", 3600, 1, "", ""},
		{"a category with colons", []string{"category", "-l h_rt=1:00:00,x=NONE:1"}, "4711", 3600, 1, "", ""},
		{"milliseconds", []string{"submission_time", "1767400000123", "start_time", "1767405600000", "end_time", "1767409200400", "ru_wallclock", "3600.4"}, "4711", 3600, 1, "", ""},
		{"milliseconds everywhere", []string{"submission_time", "1767400000123", "start_time", "1767405600000", "end_time", "1767409200400", "ru_wallclock", "3600400"}, "4711", 3600, 1, "", ""},
		{"no wallclock", []string{"ru_wallclock", "0"}, "4711", 3600, 1, "", ""},
		{"suspended", []string{"ru_wallclock", "1800"}, "4711", 1800, 1, "", ""},
		{"failed before it ran", []string{"ru_wallclock", "0", "failed", "26"}, "4711", 0, 1, "", "failed before it ran"},
		{"died", []string{"failed", "100", "exit_status", "137"}, "4711", 3600, 1, "", ""},
		{"migrated", []string{"failed", "24"}, "4711", 3600, 1, "at-1767405600", ""},
		{"rescheduled", []string{"failed", "25"}, "4711", 3600, 1, "at-1767405600", ""},
		{"rescheduled, after an error of the application", []string{"failed", "30"}, "4711", 3600, 1, "at-1767405600", ""},
		{"deleted before it started", []string{"start_time", "0", "end_time", "0", "ru_wallclock", "0"}, "4711", 0, 0, "", "never started"},
		{"a slave of a parallel job", []string{"granted_pe", "mpi", "slots", "64", "pe_taskid", "3.n17"}, "4711", 0, 0, "", "task of a parallel job, whose own line counts"},
	} {
		t.Run(test.what, func(t *testing.T) {
			job, bad := only(t, line(t, test.replace...), gridengine.Options{})
			if bad != nil {
				t.Fatal(bad)
			}
			if job.ID != test.id || job.ElapsedSeconds != test.elapsed || job.CPUs != test.cpus || job.Run != test.run || job.NoUsage != test.noUsage {
				t.Errorf("%+v", job)
			}
			if job.User != "alice" || job.Account != "" || job.Project != "p1" || job.Group != "phys" || job.Partition != "all.q" {
				t.Errorf("of %s, account %q, project %s, group %s, queue %s", job.User, job.Account, job.Project, job.Group, job.Partition)
			}
		})
	}
}

func TestGPUs(t *testing.T) {
	for _, test := range []struct {
		category string
		perJob   bool
		want     int64 // -1: none
	}{
		{"NONE", false, -1}, {"-l gpu=2", false, 8}, {"-l gpu=2", true, 2}, {"-l h_rt=60,gpu=1 -l gpu=1", true, 2}, {"-soft -l gpu=2", true, -1},
		{"-soft -l x=1 -hard -l gpu=2", true, 2}, {"-u alice -l gputype=a100", true, -1}, {"-l gpu=0", true, 0},
	} {
		job, bad := only(t, line(t, "category", test.category, "granted_pe", "mpi", "slots", "4"), gridengine.Options{GPU: "gpu", GPUPerJob: test.perJob})
		if bad != nil {
			t.Fatal(bad)
		}
		count, ok := job.TRESCount("gres/gpu")
		if got := count.Count; !ok && test.want >= 0 || ok && got != test.want {
			t.Errorf("%q, per job %t: %d, %t; want %d", test.category, test.perJob, got, ok, test.want)
		}
	}
	if _, bad := only(t, line(t, "category", "-l gpu=many"), gridengine.Options{GPU: "gpu"}); bad == nil || bad.Field != "category" {
		t.Errorf("a number of GPUs that is none: %v", bad)
	}
}

func TestBadLines(t *testing.T) {
	for _, test := range []struct {
		what    string
		text    string
		problem string
	}{
		{"too short", "all.q:n1:phys:alice:run:4711:sge\n", "no job's number"},
		{"no number", line(t, "job_number", "x"), "no job's number"},
		{"a name that is a line of its own", line(t, "job_name", "x:1:a:0:1767400000:1767405600:1767405601:0:0:1:"+strings.Repeat("0:", 17)+"p:d:NONE:1:0"), "in two places"},
		{"slots that are none", line(t, "slots", "x"), "no job's number"},
		{"an end before the start", line(t, "end_time", "1767405000"), "before it started"},
		{"no end", line(t, "end_time", "0"), "end is missing"},
		{"an end to come", line(t, "end_time", "1970300000"), "has not come yet"},
		{"no submit time", line(t, "submission_time", "0"), "no job's number, times"},
		{"submitted after it ended", line(t, "submission_time", "1767409300"), "after it ended"},
		{"a wallclock beyond its end", line(t, "ru_wallclock", "7200"), "3600 s from its start"},
		{"no pe_taskid", line(t, "pe_taskid", "SOME"), "before its pe_taskid"},
	} {
		t.Run(test.what, func(t *testing.T) {
			job, bad := only(t, test.text, gridengine.Options{})
			if bad == nil || !strings.Contains(bad.Problem, test.problem) {
				t.Errorf("%+v, %v", job, bad)
			}
		})
	}
}

func FuzzLine(f *testing.F) {
	for _, name := range []string{"accounting", "accounting-univa"} {
		for l := range strings.Lines(string(fixture(f, name))) {
			f.Add(strings.TrimSuffix(l, "\n"))
		}
	}
	f.Fuzz(func(t *testing.T, l string) {
		l = strings.NewReplacer("\n", " ", "\r", " ").Replace(l)
		for job, err := range open(strings.NewReader("# Version\n"+l+"\n"), false).Jobs(context.Background()) {
			if err == nil && (job.ElapsedSeconds < 0 || job.CPUs < 0 || job.ElapsedSeconds > 0 && job.End.After(clock().Add(48*time.Hour))) {
				t.Errorf("%+v", job)
			}
		}
	})
}

func BenchmarkAccounting(b *testing.B) {
	var text []byte
	for i := range 50_000 {
		text = append(text, line(b, "job_number", strconv.Itoa(i+1), "category", "-u alice -l h_rt=3600 -pe mpi 16")...)
	}
	b.SetBytes(int64(len(text)))
	var rows int64
	for b.Loop() {
		reader := open(bytes.NewReader(text), false)
		for range reader.Jobs(context.Background()) {
		}
		rows += reader.Stats().Rows
	}
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "lines/s")
}
