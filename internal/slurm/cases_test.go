package slurm_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/slurm"
)

func readCase(t *testing.T, name string) result {
	t.Helper()
	text, err := os.ReadFile("../../testdata/slurm/cases/" + name)
	if err != nil {
		t.Fatal(err)
	}
	got := readText(string(text), slurm.Options{})
	if got.err != nil {
		t.Fatal(got.err)
	}
	return got
}

// TestResizedJob: the row after a resize repeats the start of the whole job, whose time until then the row before has.
func TestResizedJob(t *testing.T) {
	got := readCase(t, "resized.psv")
	if len(got.jobs) != 2 {
		t.Fatalf("%d jobs", len(got.jobs))
	}
	first, second := got.jobs[0], got.jobs[1]
	if first.ElapsedSeconds != 3600 || second.ElapsedSeconds != 3*3600 {
		t.Errorf("elapsed %d and %d; want 3600 and 10800", first.ElapsedSeconds, second.ElapsedSeconds)
	}
	if !second.Start.Equal(time.Unix(1700003610, 0)) || second.Warning != "" {
		t.Errorf("the second row starts at %v, warning %q", second.Start, second.Warning)
	}
}

func TestResizedAndSuspendedJobWarns(t *testing.T) {
	text := dump(line("Submit", "1795346900", "Start", "1795346887", "End", "1795346987", "ElapsedRaw", "60"))
	job := mustRead(t, text, slurm.Options{}).jobs[0]
	if job.ElapsedSeconds != 60 || job.Warning == "" {
		t.Errorf("elapsed %d, warning %q", job.ElapsedSeconds, job.Warning)
	}
}

func TestImpossibleTimes(t *testing.T) {
	got := readCase(t, "badtimes.psv")
	want := map[string]string{
		"2": "End: the job ended at 2023-11-14T22:13:20Z, before it started at 2023-11-14T23:13:20Z",
		"3": "Start: the job ran for 1700000000 s, and has no start",
		"5": "ElapsedRaw: 4294967294 means that it was never set",
		"6": "Start: 4294967294 means that it was never set",
	}
	for _, bad := range got.bad {
		if !strings.Contains(bad.Error(), "job "+bad.JobID+": "+want[bad.JobID]) || want[bad.JobID] == "" {
			t.Errorf("got  %v\nwant %s", bad, want[bad.JobID])
		}
		delete(want, bad.JobID)
	}
	if len(want) > 0 {
		t.Errorf("not refused: %v", want)
	}
	for _, job := range got.jobs { // nothing to charge: it ran for 0 s, or has not finished
		if job.Finished() && job.ElapsedSeconds != 0 {
			t.Errorf("job %s counts", job.ID)
		}
	}
}

func TestPlausibility(t *testing.T) {
	now := time.Unix(1795346998, 0)
	clock := slurm.Options{Clock: func() time.Time { return now }}
	for _, tt := range []struct{ what, text, field string }{
		{"a run time longer than the run", line("ElapsedRaw", "1000000"), "ElapsedRaw"},
		{"an end in six days", line("End", "1795865298", "ElapsedRaw", "10"), "End"},
		{"submitted after it ended", line("Submit", "1795999999"), "Submit"},
	} {
		got := readText(dump(tt.text), clock)
		if len(got.bad) != 1 || got.bad[0].Field != tt.field || got.bad[0].JobID == "" {
			t.Errorf("%s: bad %v", tt.what, got.bad)
		}
	}
	running := readText(dump(line("State", "RUNNING", "End", "4294967294", "ElapsedRaw", "4294967295")), clock)
	if len(running.jobs) != 1 || running.jobs[0].Finished() || running.jobs[0].ElapsedSeconds != 0 {
		t.Errorf("a running job: %+v, bad %v", running.jobs, running.bad)
	}
}

func TestCasesOfTRES(t *testing.T) {
	billing := readCase(t, "billing.psv").jobs
	for i, want := range []string{"billing=1.5", "billing=0.25"} {
		if got, _ := billing[i].TRESCount("billing"); got.String() != want {
			t.Errorf("got %v; want %s", got, want)
		}
	}
	for i, want := range []int64{1, 2, 2} {
		if got, _ := readCase(t, "mig.psv").jobs[i].TRESCount("gres/gpu"); got.Count != want {
			t.Errorf("job %d: %d GPUs; want %d", i+1, got.Count, want)
		}
	}
	tracked := readCase(t, "notracked.psv").jobs
	if _, known := tracked[0].TRESCount("gres/gpu"); known {
		t.Error("GPUs that nobody tracked are known")
	}
	if got, _ := tracked[1].TRESCount("gres/gpu:H100"); got.Count != 4 {
		t.Errorf("%d GPUs; want 4", got.Count)
	}
}

// TestFactsThatADumpLacks: what a header does not give is unknown, not empty.
func TestFactsThatADumpLacks(t *testing.T) {
	lacks := mustRead(t, dump(line()), slurm.Options{}).jobs[0].Lacks
	if lacks.Has(scheduler.FactTRES) || lacks.Has(scheduler.FactQOS) || !lacks.Has(scheduler.FactUID|scheduler.FactReservation) {
		t.Errorf("lacks %b", lacks)
	}
	header := "JobIDRaw|User|UID|Account|Partition|State|Submit|Start|End|ElapsedRaw|NNodes|NCPUS|NodeList|Reservation|DBIndex\n"
	row := "1|alice|1003|p1|cpu|COMPLETED|1700000000|1700000000|1700003600|3600|1|4|n[1-4]|maint|77\n"
	job := mustRead(t, header+row, slurm.Options{}).jobs[0]
	if !job.Lacks.Has(scheduler.FactTRES|scheduler.FactName) || job.Lacks.Has(scheduler.FactUID) {
		t.Errorf("lacks %b", job.Lacks)
	}
	if job.UID != "1003" || job.NodeList != "n[1-4]" || job.Reservation != "maint" || job.DBIndex != "77" {
		t.Errorf("got %+v", job)
	}
}
