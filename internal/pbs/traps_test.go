package pbs_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage/internal/pbs"
	"github.com/amieusage/amieusage/internal/scheduler"
)

// usual is what the lines of these tests say beside what they are about.
const usual = "user=alice group=g account=\"P001\" project=p1 jobname=x queue=cpu ctime=1767400000 start=1767405600 " +
	"exec_host=n1/0*4 exec_vnode=(n1:ncpus=4:mem=8gb) end=1767409200 Exit_status=0 resources_used.walltime=01:00:00 run_count=1"

// line returns a line of an E, with replacements of what it says.
func line(replace ...string) string {
	return "01/03/2026 04:01:11;E;4711.srv;" + strings.NewReplacer(replace...).Replace(usual) + "\n"
}

// only reads a log with one line of usage.
func only(t testing.TB, text string, opts pbs.Options) (*scheduler.Job, *scheduler.RowError) {
	t.Helper()
	if opts.Clock == nil {
		opts.Clock = clock
	}
	for job, err := range pbs.NewReader(strings.NewReader(text), "log", opts).Jobs(context.Background()) {
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

func tres(j *scheduler.Job) string {
	var list []string
	for _, t := range j.TRES {
		list = append(list, t.String())
	}
	return strings.Join(list, ",")
}

func TestAllocated(t *testing.T) {
	whole := pbs.Options{Exclusive: true, Whole: []pbs.Whole{
		{Nodes: []string{"n1"}, TRES: []scheduler.TRES{{Name: "cpu", Count: 36}, {Name: "gres/gpu", Count: 4}, {Name: "mem", Count: 1 << 40}}},
	}}
	const vnode = "exec_vnode=(n1:ncpus=4:mem=8gb)"
	for _, test := range []struct {
		what string
		line string
		opts pbs.Options
		want string
	}{
		{"what was assigned", line(), pbs.Options{}, "cpu=4,mem=8589934592,node=1"},
		{"not what was asked for", line(vnode, vnode+" Resource_List.ncpus=1 Resource_List.mem=1gb"), pbs.Options{}, "cpu=4,mem=8589934592,node=1"},
		{"what was asked for, where nothing says what was assigned", line(vnode, "Resource_List.ncpus=16 Resource_List.ngpus=2 Resource_List.mem=2048kb"), pbs.Options{}, "cpu=16,mem=2097152,node=1,gres/gpu=2"},
		{"several parts of several nodes", line(vnode, "exec_vnode=(n1:ncpus=2+n2:ncpus=2)+(n2:ncpus=1:ngpus=1)", "exec_host=n1/0*4", "exec_host=n1/0*2+n2/0*3"), pbs.Options{}, "cpu=5,node=2,gres/gpu=1"},
		{"parts of one node", line(vnode, "exec_vnode=(n1[0]:ncpus=2+n1[1]:ncpus=2)", "exec_host=n1/0*4 ", ""), pbs.Options{}, "cpu=4,node=1"},
		{"another resource", line(vnode, "exec_vnode=(n1:ncpus=2:nfpga=1:model=x)"), pbs.Options{}, "cpu=2,node=1,nfpga=1"},
		{"words", line(vnode, "exec_vnode=(n1:ncpus=2:mem=2kw)"), pbs.Options{}, "cpu=2,mem=16384,node=1"},
		{"Torque", line(vnode, "Resource_List.ncpus=1 Resource_List.nodes=2:ppn=8:gpus=1+n7:ppn=4", "n1/0*4", "n1/0+n1/1+n2/0+n7/0"), pbs.Options{}, "cpu=20,node=3,gres/gpu=2"},
		{"Torque's procs", line(vnode, "Resource_List.procs=12"), pbs.Options{}, "cpu=12,node=1"},
		{"shared, where whole nodes are charged", line(vnode, vnode+" Resource_List.place=pack"), whole, "cpu=4,mem=8589934592,node=1"},
		{"exclusive", line(vnode, vnode+" Resource_List.place=scatter:exclhost"), whole, "cpu=36,mem=1099511627776,node=1,gres/gpu=4"},
		{"exclusive, which nobody charges", line(vnode, vnode+" Resource_List.place=excl"), pbs.Options{}, "cpu=4,mem=8589934592,node=1"},
		{"exclusive, of a node that nobody knows", line("n1", "n2", vnode, vnode+" Resource_List.place=excl"), whole, "cpu=4,mem=8589934592,node=1"},
	} {
		t.Run(test.what, func(t *testing.T) {
			job, bad := only(t, test.line, test.opts)
			if bad != nil {
				t.Fatal(bad)
			}
			if got := tres(job); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

// TestNodesOfAWideJob has more nodes than are looked through one by one.
func TestNodesOfAWideJob(t *testing.T) {
	var hosts, vnodes []string
	for i := range 100 {
		name := "n" + strings.Repeat("x", i%50) + string(rune('a'+i/50))
		hosts, vnodes = append(hosts, name+"/0*2", name+"/1*2"), append(vnodes, "("+name+":ncpus=4)")
	}
	job, bad := only(t, line("n1/0*4", strings.Join(hosts, "+"), "(n1:ncpus=4:mem=8gb)", strings.Join(vnodes, "+")), pbs.Options{})
	if bad != nil {
		t.Fatal(bad)
	}
	if job.Nodes != 100 || job.CPUs != 400 || strings.Count(job.NodeList, ",") != 99 {
		t.Errorf("%d nodes, %d CPUs, %s", job.Nodes, job.CPUs, job.NodeList)
	}
}

func TestTimes(t *testing.T) {
	for _, test := range []struct {
		what    string
		line    string
		elapsed int64
		warning string
	}{
		{"hh:mm:ss", line(), 3600, ""},
		{"seconds", line("walltime=01:00:00", "walltime=3500"), 3500, ""},
		{"minutes", line("walltime=01:00:00", "walltime=59:59"), 3599, ""},
		{"a fraction", line("walltime=01:00:00", "walltime=00:59:59.75"), 3599, ""},
		{"days", line("walltime=01:00:00", "walltime=1:02:10:00", "end=1767409200", "end=1767505600"), 94200, ""},
		{"more hours than a day has", line("walltime=01:00:00", "walltime=26:10:00", "end=1767409200", "end=1767505600"), 94200, ""},
		{"suspended: less than from start to end", line("walltime=01:00:00", "walltime=00:10:00"), 600, ""},
		{"a little more, by another clock", line("walltime=01:00:00", "walltime=01:00:40"), 3640, ""},
		{"none", line(" resources_used.walltime=01:00:00", ""), 3600, "the log has no walltime of it: it counts from its start to its end"},
		{"0 s", line("walltime=01:00:00", "walltime=00:00:00"), 0, ""},
	} {
		t.Run(test.what, func(t *testing.T) {
			job, bad := only(t, test.line, pbs.Options{})
			if bad != nil {
				t.Fatal(bad)
			}
			if job.ElapsedSeconds != test.elapsed || job.Warning != test.warning {
				t.Errorf("%d s, %q; want %d, %q", job.ElapsedSeconds, job.Warning, test.elapsed, test.warning)
			}
		})
	}
}

// TestRequeued has a run that is followed by another one, which has no end of its own in some versions.
func TestRequeued(t *testing.T) {
	zone, err := time.LoadLocation("America/Denver")
	if err != nil {
		t.Fatal(err)
	}
	r := func(replace ...string) string { return strings.Replace(line(replace...), ";E;", ";R;", 1) }
	job, bad := only(t, r(), pbs.Options{})
	if bad != nil || job.Run != "1" || job.State != "REQUEUED" {
		t.Errorf("%+v, %v", job, bad)
	}
	if job, bad = only(t, r(" run_count=1", ""), pbs.Options{}); bad != nil || job.Run != "at-1767405600" {
		t.Errorf("without a count: %+v, %v", job, bad)
	}
	noEnd := []string{" end=1767409200", "", " resources_used.walltime=01:00:00", ""}
	if job, bad = only(t, r(noEnd...), pbs.Options{Zone: zone}); bad != nil || !job.End.Equal(time.Date(2026, 1, 3, 11, 1, 11, 0, time.UTC)) || job.ElapsedSeconds != 32471 {
		t.Errorf("without an end: %+v, %v", job, bad)
	}
	if _, bad = only(t, r(noEnd...), pbs.Options{}); bad == nil || bad.Field != "end" {
		t.Errorf("without an end and a zone: %v", bad)
	}
	if last, bad := only(t, line(), pbs.Options{}); bad != nil || last.Run != "" {
		t.Errorf("the last run: %+v, %v", last, bad)
	}
}

func TestNames(t *testing.T) {
	for _, test := range []struct {
		what string
		line string
		want [5]string // user, group, account, project, name
	}{
		{"plain", line(), [5]string{"alice", "g", "P001", "p1", "x"}},
		{"no account", line(`account="P001"`, `account=""`), [5]string{"alice", "g", "", "p1", "x"}},
		{"an account without quotes", line(`account="P001"`, `account=P001`), [5]string{"alice", "g", "P001", "p1", "x"}},
		{"an account with spaces", line(`account="P001"`, `account="chem lab 2"`), [5]string{"alice", "g", "chem lab 2", "p1", "x"}},
		{"no project", line("project=p1", "project=_pbs_project_default"), [5]string{"alice", "g", "P001", "", "x"}},
		{"a name like a line", line("jobname=x", "jobname=a b=c;d end=9 resources_used.walltime=00:00:01 user=eve"), [5]string{"alice", "g", "P001", "p1", "a b=c;d end=9 resources_used.walltime=00:00:01 user=eve"}},
		{"a name that holds a queue", line("jobname=x", "jobname=x queue=free ctime=1"), [5]string{"alice", "g", "P001", "p1", "x queue=free ctime=1"}},
		{"no name", line("jobname=x ", ""), [5]string{"alice", "g", "P001", "p1", ""}},
		{"no UTF-8", line("jobname=x", "jobname=\xff"), [5]string{"alice", "g", "P001", "p1", "\uFFFD"}},
	} {
		t.Run(test.what, func(t *testing.T) {
			job, bad := only(t, test.line, pbs.Options{})
			if bad != nil {
				t.Fatal(bad)
			}
			got := [5]string{job.User, job.Group, job.Account, job.Project, job.Name}
			if diff := cmp.Diff(test.want, got); diff != "" || job.Partition != "cpu" || job.ElapsedSeconds != 3600 || job.CPUs != 4 {
				t.Errorf("queue %s, %d s, %d CPUs (-want +got):\n%s", job.Partition, job.ElapsedSeconds, job.CPUs, diff)
			}
		})
	}
}

func TestBadLines(t *testing.T) {
	for _, test := range []struct{ what, line, field, problem string }{
		{"no submit time", line("ctime=1767400000 ", ""), "ctime", "missing"},
		{"a time that is none", line("start=1767405600", "start=soon"), "start", "no time"},
		{"no end", line("end=1767409200 ", ""), "end", "missing"},
		{"an end before the start", line("end=1767409200", "end=1767405000"), "end", "before it started"},
		{"an end to come", line("end=1767409200", "end=1970300000"), "end", "has not come yet"},
		{"submitted after it ended", line("ctime=1767400000", "ctime=1767409201"), "ctime", "after it ended"},
		{"more walltime than there was", line("walltime=01:00:00", "walltime=02:00:00"), "resources_used.walltime", "3600 s from its start"},
		{"a walltime that is none", line("walltime=01:00:00", "walltime=1h"), "resources_used.walltime", "no time such as"},
		{"no CPUs", line("exec_vnode=(n1:ncpus=4:mem=8gb) ", ""), "exec_vnode", "how many CPUs"},
		{"CPUs that are no number", line("ncpus=4", "ncpus=four"), "exec_vnode", "no number"},
		{"memory that is no size", line("mem=8gb", "mem=8x"), "exec_vnode", "no size"},
		{"an account that forges a project", line(`account="P001"`, `account="P001" project=p9"`), "", "project is there twice"},
		{"two values", line("end=1767409200", "end=1767409200 end=1767405601"), "", "end is there twice"},
		{"a name that forges a name", line("jobname=x", "jobname=x jobname=y"), "", "two job's names"},
		{"no queue behind the name", line("queue=cpu ", ""), "", "no queue"},
		{"nothing behind the id", "01/03/2026 04:01:11;E;4711.srv\n", "", "nothing behind it"},
		{"cut", strings.TrimSuffix(line(), "\n"), "", "ends within the line"},
	} {
		t.Run(test.what, func(t *testing.T) {
			job, bad := only(t, test.line, pbs.Options{})
			if bad == nil {
				t.Fatalf("it is a job: %+v", job)
			}
			if bad.Field != test.field || !strings.Contains(bad.Problem, test.problem) || test.what != "nothing behind the id" && bad.JobID != "4711" {
				t.Errorf("job %q, field %q: %s", bad.JobID, bad.Field, bad.Problem)
			}
		})
	}
}

// TestOtherLines has lines between those of a log that are none of it.
func TestOtherLines(t *testing.T) {
	reader := open(strings.NewReader(line()+"\nhalf a line\n"+line()), false)
	jobs, bad := 0, 0
	for _, err := range reader.Jobs(context.Background()) {
		if err != nil {
			bad++
		} else {
			jobs++
		}
	}
	if jobs != 2 || bad != 1 || reader.Stats() != (scheduler.Stats{Rows: 3, Bad: 1}) {
		t.Errorf("%d jobs, %d bad, %+v", jobs, bad, reader.Stats())
	}
}

func FuzzLine(f *testing.F) {
	for l := range strings.Lines(string(fixture(f, "log"))) {
		f.Add(strings.TrimSuffix(l, "\n"))
	}
	f.Fuzz(func(t *testing.T, l string) {
		l = strings.NewReplacer("\n", " ", "\r", " ").Replace(l)
		for job, err := range open(strings.NewReader(line()+l+"\n"), false).Jobs(context.Background()) {
			if err == nil && (job.ElapsedSeconds < 0 || job.CPUs < 0 || job.Nodes < 0 || job.End.After(clock().Add(48*time.Hour)) && job.ElapsedSeconds > 0) {
				t.Errorf("%+v", job)
			}
		}
	})
}

func BenchmarkLog(b *testing.B) {
	text := []byte(strings.Repeat(string(fixture(b, "log")), 10_000))
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
