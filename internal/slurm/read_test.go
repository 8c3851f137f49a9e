package slurm_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/slurm"
)

var update = flag.Bool("update", false, "write the golden files anew")

const fixtures = "../../testdata/slurm/"

// result is all that a Source yielded.
type result struct {
	jobs  []*scheduler.Job
	bad   []*scheduler.RowError
	err   error // the final one
	stats scheduler.Stats
}

func readAll(source interface {
	scheduler.Source
	Stats() scheduler.Stats
}) result {
	var r result
	for job, err := range source.Jobs(context.Background()) {
		var row *scheduler.RowError
		switch {
		case err == nil:
			r.jobs = append(r.jobs, job.Clone())
		case errors.As(err, &row):
			r.bad = append(r.bad, row)
		default:
			r.err = err
		}
	}
	r.stats = source.Stats()
	return r
}

func readText(text string, opts slurm.Options) result {
	return readAll(slurm.NewReader(strings.NewReader(text), "dump", opts))
}

// mustRead reads text that holds nothing wrong.
func mustRead(t *testing.T, text string, opts slurm.Options) result {
	t.Helper()
	r := readText(text, opts)
	if r.err != nil || len(r.bad) > 0 {
		t.Fatalf("final error %v, row errors %v", r.err, r.bad)
	}
	return r
}

func readFile(t *testing.T, path string, opts slurm.Options) result {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return readAll(slurm.NewReader(f, filepath.Base(path), opts))
}

func newYork(t testing.TB) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation("America/New_York")
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

// jobsEqual compares jobs wherever they were read.
func jobsEqual(t *testing.T, want, got []*scheduler.Job) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(scheduler.Job{}, "Place", "Lacks"), cmpopts.EquateEmpty(), cmpopts.SortSlices(func(a, b scheduler.TRES) bool { return a.Name < b.Name })); diff != "" {
		t.Errorf("jobs differ (-want +got):\n%s", diff)
	}
}

func (r result) golden() string {
	var b strings.Builder
	at := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return t.Format(time.RFC3339)
	}
	for _, j := range r.jobs {
		fmt.Fprintf(&b, "%s: %s id=%s parent=%q cluster=%s user=%s account=%s partition=%s qos=%s state=%s\n", j.Place, j.DisplayID, j.ID,
			j.ParentID, j.Cluster, j.User, j.Account, j.Partition, j.QOS, j.State)
		fmt.Fprintf(&b, "\tsubmit=%s start=%s end=%s elapsed=%d\n", at(j.Submit), at(j.Start), at(j.End), j.ElapsedSeconds)
		fmt.Fprintf(&b, "\tnodes=%d cpus=%d reqmem=%s tres=%v\n\tname=%q\n", j.Nodes, j.CPUs, j.ReqMem, j.TRES, j.Name)
	}
	for _, e := range r.bad {
		fmt.Fprintf(&b, "bad: %v\n", e)
	}
	fmt.Fprintf(&b, "final error: %v\nrows=%d steps=%d bad=%d\n", r.err, r.stats.Rows, r.stats.Steps, r.stats.Bad)
	return b.String()
}

func checkGolden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// TestFixtures reads what sacct 22.05 printed; sacct-24.05.json is written by hand, the jobs of sacct-22.05.json in the shape
// that data_parser v0.0.41 gives them.
func TestFixtures(t *testing.T) {
	tests := []struct {
		path string
		opts slurm.Options
	}{
		{fixtures + "sacct-epoch.psv", slurm.Options{}},
		{fixtures + "sacct-utc.psv", slurm.Options{Zone: time.UTC}},
		{fixtures + "sacct-newyork-naive.psv", slurm.Options{Zone: newYork(t)}},
		{fixtures + "sacct-with-steps.psv", slurm.Options{Zone: time.UTC}},
		{fixtures + "sacct-unfinished.psv", slurm.Options{}},
		{fixtures + "sacct-22.05.json", slurm.Options{}},
		{"testdata/sacct-24.05.json", slurm.Options{}},
	}
	for _, tt := range tests {
		t.Run(filepath.Base(tt.path), func(t *testing.T) {
			checkGolden(t, filepath.Base(tt.path), readFile(t, tt.path, tt.opts).golden())
		})
	}
}

// key is a job's identity within one cluster.
type key struct {
	id     string
	submit time.Time
}

// TestEveryFormSaysTheSame reads the same jobs in each form that sacct has printed them in.
func TestEveryFormSaysTheSame(t *testing.T) {
	epoch := readFile(t, fixtures+"sacct-epoch.psv", slurm.Options{})
	if epoch.err != nil || len(epoch.jobs) != 19 {
		t.Fatalf("%d jobs, error %v; want 19, none", len(epoch.jobs), epoch.err)
	}
	byKey := make(map[key]*scheduler.Job)
	for _, j := range epoch.jobs {
		byKey[key{j.ID, j.Submit}] = j
	}
	if len(byKey) != 19 {
		t.Fatalf("%d identities; want 19", len(byKey))
	}
	tests := []struct {
		path string
		opts slurm.Options
		jobs int
	}{
		{fixtures + "sacct-utc.psv", slurm.Options{Zone: time.UTC}, 19},
		{fixtures + "sacct-newyork-naive.psv", slurm.Options{Zone: newYork(t)}, 8},
		{fixtures + "sacct-with-steps.psv", slurm.Options{Zone: time.UTC}, 6},
		{fixtures + "sacct-22.05.json", slurm.Options{}, 7},
		{"testdata/sacct-24.05.json", slurm.Options{}, 7},
	}
	for _, tt := range tests {
		t.Run(filepath.Base(tt.path), func(t *testing.T) {
			got := readFile(t, tt.path, tt.opts)
			if got.err != nil || len(got.bad) > 0 || len(got.jobs) != tt.jobs {
				t.Fatalf("%d jobs, row errors %v, error %v; want %d jobs", len(got.jobs), got.bad, got.err, tt.jobs)
			}
			var want []*scheduler.Job
			for _, j := range got.jobs {
				same := byKey[key{j.ID, j.Submit}]
				if same == nil {
					t.Fatalf("job %s submitted %s is not in the other dump", j.ID, j.Submit)
				}
				// What one form cannot give is no difference.
				same = same.Clone()
				if j.Lacks.Has(scheduler.FactUID) {
					same.UID = ""
				}
				if j.Lacks.Has(scheduler.FactDBIndex) {
					same.DBIndex = ""
				}
				same.Lacks = j.Lacks
				want = append(want, same)
			}
			jobsEqual(t, want, got.jobs)
		})
	}
}
