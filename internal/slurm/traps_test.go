package slurm_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/slurm"
)

// columns is the layout of the rows that these tests write.
const columns = "Cluster|JobIDRaw|JobID|User|Account|Partition|QOS|State|Submit|Start|End|ElapsedRaw|NNodes|NCPUS|ReqMem|AllocTRES|JobName"

// line is a row that nothing is wrong with, in which tests change what they are about.
func line(change ...string) string {
	row := map[string]string{
		"Cluster": "testc", "JobIDRaw": "12", "JobID": "12", "User": "alice", "Account": "p.abc123456.000", "Partition": "cpu",
		"QOS": "normal", "State": "COMPLETED", "Submit": "1795346887", "Start": "1795346888", "End": "1795346898", "ElapsedRaw": "10",
		"NNodes": "1", "NCPUS": "8", "ReqMem": "800M", "AllocTRES": "billing=8,cpu=8,mem=800M,node=1", "JobName": "run",
	}
	for i := 0; i+1 < len(change); i += 2 {
		row[change[i]] = change[i+1]
	}
	var fields []string
	for _, name := range strings.Split(columns, "|") {
		fields = append(fields, row[name])
	}
	return strings.Join(fields, "|")
}

// dump is a header and rows.
func dump(rows ...string) string {
	return columns + "\n" + strings.Join(rows, "\n") + "\n"
}

func at(t *testing.T, text string) time.Time {
	t.Helper()
	instant, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return instant
}

func TestTrapJobNamesHoldAnything(t *testing.T) {
	long := strings.Repeat("x", 300)
	names := []string{"train|resnet 50", "new\nline|pipe `q` \x01 é", "tab\there", "naïve—ünïcode名", long, "\nstarts", "", "a\n\nb", "|", "||", "a,b\"c"}
	var rows []string
	for _, name := range names {
		rows = append(rows, line("JobName", name))
	}
	for _, delimiter := range []string{"|", "\x1f", "^", ";", "\t", "|~|", "\x1fab12"} {
		t.Run(delimiter, func(t *testing.T) {
			text := dump(rows...)
			opts := slurm.Options{}
			if delimiter == "\x1fab12" {
				opts.Delimiter = delimiter // its letters cannot be told from those of the columns
			}
			var want, got []string
			for _, name := range names {
				want = append(want, strings.ReplaceAll(name, "|", delimiter))
			}
			for _, j := range mustRead(t, strings.ReplaceAll(text, "|", delimiter), opts).jobs {
				got = append(got, j.Name)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTrapTimeFormats(t *testing.T) {
	want := at(t, "2026-11-22T11:28:07Z")
	tests := []struct {
		what, submit string
		zone         *time.Location
	}{
		{"seconds since the epoch", "1795346887", nil},
		{"seconds since the epoch, whatever the zone", "1795346887", newYork(t)},
		{"naive, UTC", "2026-11-22T11:28:07", time.UTC},
		{"naive, New York", "2026-11-22T06:28:07", newYork(t)},
		{"with an offset", "2026-11-22T06:28:07-05:00", nil},
		{"with an offset, whatever the zone", "2026-11-22T06:28:07-0500", time.UTC},
		{"with hours of offset", "2026-11-22T06:28:07-05", nil},
		{"with Z", "2026-11-22T11:28:07Z", newYork(t)},
		{"with a space", "2026-11-22 11:28:07", time.UTC},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			job := mustRead(t, dump(line("Submit", tt.submit)), slurm.Options{Zone: tt.zone}).jobs[0]
			if !job.Submit.Equal(want) || job.Submit.Location() != time.UTC {
				t.Errorf("got %s, want %s", job.Submit, want)
			}
		})
	}
}

func TestTrapNaiveTimeWithoutZoneStopsEverything(t *testing.T) {
	got := readText(dump(line(), line("JobID", "3_7", "End", "2026-11-22T06:28:07"), line()), slurm.Options{})
	const want = "dump:3: job 3_7: End: the time 2026-11-22T06:28:07 bears no offset; " +
		"state the zone of the dump's times (slurm.time_zone), or export with SLURM_TIME_FORMAT=%s"
	if len(got.jobs) != 1 || got.err == nil || got.err.Error() != want {
		t.Errorf("%d jobs, error %v;\nwant 1, %s", len(got.jobs), got.err, want)
	}
}

func TestTrapRepeatedAndSkippedHours(t *testing.T) {
	got := readText(dump(
		line("JobID", "1", "Submit", "2026-11-01T00:59:59"),
		line("JobID", "2", "Submit", "2026-11-01T01:30:00"), // clocks go back from 02:00 to 01:00
		line("JobID", "3", "Submit", "2026-11-01T02:00:00"),
		line("JobID", "4", "Submit", "2026-03-08T01:59:59"),
		line("JobID", "5", "Submit", "2026-03-08T02:30:00"), // clocks go forward from 02:00 to 03:00
		line("JobID", "6", "Submit", "2026-03-08T03:00:00"),
	), slurm.Options{Zone: newYork(t)})
	if got.err != nil {
		t.Fatal(got.err)
	}
	var read []string
	for _, j := range got.jobs {
		read = append(read, j.DisplayID+" "+j.Submit.Format(time.RFC3339))
	}
	for _, e := range got.bad {
		read = append(read, e.Error())
	}
	want := []string{
		"1 2026-11-01T04:59:59Z", "3 2026-11-01T07:00:00Z", "4 2026-03-08T06:59:59Z", "6 2026-03-08T07:00:00Z",
		"dump:3: job 2: Submit: 2026-11-01T01:30:00 happened twice in America/New_York: it may be 2026-11-01T05:30:00Z or 2026-11-01T06:30:00Z; export with SLURM_TIME_FORMAT=%s",
		"dump:6: job 5: Submit: 2026-03-08T02:30:00 did not happen in America/New_York, where the clocks went forward over it; export with SLURM_TIME_FORMAT=%s",
	}
	if diff := cmp.Diff(want, read); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTrapStateIsTheFirstWord(t *testing.T) {
	for printed, want := range map[string]string{"CANCELLED by 1003": "CANCELLED", "OUT_OF_MEMORY": "OUT_OF_MEMORY", "completed": "COMPLETED", "": ""} {
		if got := mustRead(t, dump(line("State", printed)), slurm.Options{}).jobs[0].State; got != want {
			t.Errorf("%q: got %q, want %q", printed, got, want)
		}
	}
}

func TestTrapRequeuedJobIsTwoAllocations(t *testing.T) {
	var got []string
	for _, j := range readFile(t, fixtures+"sacct-epoch.psv", slurm.Options{}).jobs {
		if j.ID == "102" {
			got = append(got, j.State+" "+j.Submit.Format(time.RFC3339))
		}
	}
	want := []string{"REQUEUED 2026-11-22T11:28:08Z", "COMPLETED 2026-11-22T11:28:24Z"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTrapArraysAndHeterogeneousJobs(t *testing.T) {
	tests := []struct{ raw, shown, parent string }{
		{"12", "12", ""},
		{"15", "3_7", "3"},
		{"3", "3_9", ""}, // the last task keeps the array's own id
		{"105", "104+1", "104"},
		{"104", "104+0", ""},
		{"2217", "2217_[1-300%1]", ""},
	}
	for _, tt := range tests {
		job := mustRead(t, dump(line("JobIDRaw", tt.raw, "JobID", tt.shown)), slurm.Options{}).jobs[0]
		if job.ID != tt.raw || job.DisplayID != tt.shown || job.ParentID != tt.parent {
			t.Errorf("%s, %s: got id %q, display %q, parent %q; want parent %q", tt.raw, tt.shown, job.ID, job.DisplayID, job.ParentID, tt.parent)
		}
	}
}

func TestTrapStepsAreNoJobs(t *testing.T) {
	var rows []string
	for _, id := range []string{"1.batch", "1.0", "1.extern", "1.interactive", "104.0"} {
		rows = append(rows, line("JobIDRaw", id, "JobID", strings.Replace(id, "104", "104+0", 1), "User", "", "End", "nonsense"))
	}
	got := mustRead(t, dump(append(rows, line())...), slurm.Options{})
	if len(got.jobs) != 1 || got.stats != (scheduler.Stats{Rows: 6, Steps: 5}) {
		t.Errorf("%d jobs, %+v; want 1 job and 5 steps", len(got.jobs), got.stats)
	}
}

// TestTrapShortenedTaskListIsNoStep: sacct shortens long lists of tasks with dots, as in the dots of a step's id.
func TestTrapShortenedTaskListIsNoStep(t *testing.T) {
	text := strings.Replace(dump(line("JobID", "2217_[1,3,5,...]", "State", "PENDING", "End", "Unknown")), "JobIDRaw|", "DBIndex|", 1)
	got := mustRead(t, text, slurm.Options{})
	if len(got.jobs) != 1 || got.jobs[0].ParentID != "2217" || got.jobs[0].Finished() {
		t.Errorf("got %+v, %+v; want one unfinished job of array 2217", got.jobs, got.stats)
	}
}

func TestTrapCancelledBeforeItRan(t *testing.T) {
	row := line("State", "CANCELLED by 1003", "Start", "1795346888", "End", "1795346888", "ElapsedRaw", "0", "NCPUS", "2", "AllocTRES", "")
	job := mustRead(t, dump(row), slurm.Options{}).jobs[0]
	if !job.Finished() || job.ElapsedSeconds != 0 || len(job.TRES) != 0 || job.Nodes != 0 || job.CPUs != 0 {
		t.Errorf("got %+v; want a finished job to which nothing was allocated", job)
	}
	// cancelled by its owner while pending, as other versions print it
	job = mustRead(t, dump(line("Start", "None", "ElapsedRaw", "0", "AllocTRES", "")), slurm.Options{}).jobs[0]
	if !job.Finished() || !job.Start.IsZero() {
		t.Errorf("got start %s, end %s; want no start", job.Start, job.End)
	}
}

func TestTrapUnfinishedJobsAreYielded(t *testing.T) {
	got := readFile(t, fixtures+"sacct-unfinished.psv", slurm.Options{})
	if len(got.jobs) != 3 || len(got.bad) != 0 {
		t.Fatalf("%d jobs, bad %v; want 3 jobs", len(got.jobs), got.bad)
	}
	for _, j := range got.jobs {
		if j.Finished() {
			t.Errorf("job %s: end %s; want none", j.DisplayID, j.End)
		}
	}
}

func TestTrapElapsedLeavesOutSuspension(t *testing.T) {
	job := mustRead(t, dump(line("Start", "1795346888", "End", "1795346896", "ElapsedRaw", "2")), slurm.Options{}).jobs[0]
	if job.ElapsedSeconds != 2 {
		t.Errorf("elapsed %d; want 2, as the accounting says", job.ElapsedSeconds)
	}
}

func TestTrapAllocTRES(t *testing.T) {
	job := mustRead(t, dump(line("AllocTRES", "billing=8,cpu=32,energy=18446744073709551614,gres/gpu:a100=4,gres/gpu=4,mem=250.50G,node=1")), slurm.Options{}).jobs[0]
	want := []scheduler.TRES{{Name: "billing", Count: 8}, {Name: "cpu", Count: 32}, {Name: "gres/gpu:a100", Count: 4}, {Name: "gres/gpu", Count: 4},
		{Name: "mem", Count: 256512 << 20}, {Name: "node", Count: 1}}
	if diff := cmp.Diff(want, job.TRES); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if gpus, _ := job.TRESCount("gres/gpu"); gpus.Count != 4 {
		t.Errorf("%d GPUs; want 4", gpus.Count)
	}
}

func TestTrapBadRowStopsOnlyItself(t *testing.T) {
	tests := []struct{ column, value, want string }{
		{"JobIDRaw", "Account", `dump:3: job 12: JobIDRaw: "Account" is no job id`},
		{"Submit", "Tomorr 12:00", `dump:3: job 12: Submit: "Tomorr 12:00" is no time; export with SLURM_TIME_FORMAT=%s`},
		{"Start", "2026-02-30T00:00:00", `dump:3: job 12: Start: "2026-02-30T00:00:00" is no time; export with SLURM_TIME_FORMAT=%s`},
		{"End", "-5", `dump:3: job 12: End: "-5" is no time; export with SLURM_TIME_FORMAT=%s`},
		{"ElapsedRaw", "", `dump:3: job 12: ElapsedRaw: "" is no run time`},
		{"ElapsedRaw", "-3", `dump:3: job 12: ElapsedRaw: "-3" is no run time`},
		{"AllocTRES", "cpu", `dump:3: job 12: AllocTRES: "cpu" is no name=count`},
		{"AllocTRES", "cpu=8,mem=lots", `dump:3: job 12: AllocTRES: "mem=lots" has no count that can be read`},
	}
	for _, tt := range tests {
		t.Run(tt.column+"="+tt.value, func(t *testing.T) {
			got := readText(dump(line("JobName", "before"), line(tt.column, tt.value), line("JobName", "after")), slurm.Options{})
			if got.err != nil || len(got.jobs) != 2 || got.jobs[0].Name != "before" || got.jobs[1].Name != "after" || len(got.bad) != 1 {
				t.Fatalf("jobs %v, bad %v, error %v; want two jobs around one bad row", got.jobs, got.bad, got.err)
			}
			if text := got.bad[0].Error(); !strings.HasPrefix(text, tt.want) {
				t.Errorf("got  %s\nwant %s", text, tt.want)
			}
			if got.stats != (scheduler.Stats{Rows: 3, Bad: 1}) {
				t.Errorf("got %+v", got.stats)
			}
		})
	}
}
