package scheduler_test

import (
	"errors"
	"io/fs"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage/internal/scheduler"
)

func TestTRESCount(t *testing.T) {
	total := []scheduler.TRES{{Name: "cpu", Count: 8}, {Name: "gres/gpu:a100", Count: 2}, {Name: "gres/gpu", Count: 2}}
	typed := []scheduler.TRES{{Name: "gres/gpu:a100", Count: 2}, {Name: "gres/gpu:h100", Count: 3}, {Name: "gres/gpumem", Count: 7}}
	tests := []struct {
		what  string
		tres  []scheduler.TRES
		name  string
		count int64
		known bool
	}{
		{"plain", total, "cpu", 8, true},
		{"the total alone, never the total and its parts", total, "gres/gpu", 2, true},
		{"one type", total, "gres/gpu:a100", 2, true},
		{"sum of the types where no total is reported", typed, "gres/gpu", 5, true},
		{"a type that was not allocated", typed, "gres/gpu:v100", 0, false},
		{"a name that merely begins alike", typed, "gres/gpume", 0, false},
		{"in another letter case", []scheduler.TRES{{Name: "gres/gpu:H100", Count: 4}}, "GRES/gpu:h100", 4, true},
		{"not reported", total, "billing", 0, false},
		{"nothing allocated", nil, "cpu", 0, false},
		{"a sum beyond the range stays at its end", []scheduler.TRES{{Name: "x:a", Count: math.MaxInt64}, {Name: "x:b", Count: 1}}, "x", math.MaxInt64, true},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			job := scheduler.Job{TRES: tt.tres}
			count, known := job.TRESCount(tt.name)
			if count.Count != tt.count || count.Nanos != 0 || known != tt.known {
				t.Errorf("TRESCount(%q) = %v, %t; want %d, %t", tt.name, count, known, tt.count, tt.known)
			}
		})
	}
}

func TestFinished(t *testing.T) {
	running := scheduler.Job{Start: time.Unix(1, 0)}
	ended := scheduler.Job{End: time.Unix(2, 0)}
	if running.Finished() || !ended.Finished() {
		t.Errorf("Finished: running %t, ended %t; want false, true", running.Finished(), ended.Finished())
	}
}

func TestCloneSharesNothingThatIsReused(t *testing.T) {
	job := &scheduler.Job{ID: "1", TRES: []scheduler.TRES{{Name: "cpu", Count: 8}}}
	want := &scheduler.Job{ID: "1", TRES: []scheduler.TRES{{Name: "cpu", Count: 8}}}
	kept := job.Clone()
	job.ID, job.TRES[0].Count = "2", 1
	if diff := cmp.Diff(want, kept); diff != "" {
		t.Errorf("clone changed with the original (-want +got):\n%s", diff)
	}
}

func TestPlaceString(t *testing.T) {
	tests := []struct {
		place scheduler.Place
		want  string
	}{
		{scheduler.Place{File: "dump.psv", Line: 12}, "dump.psv:12"},
		{scheduler.Place{File: "dump.json", Record: 3}, "dump.json: job 3"},
		{scheduler.Place{File: "-", Line: 2}, "standard input:2"},
		{scheduler.Place{File: "-", Record: 2}, "standard input: job 2"},
		{scheduler.Place{File: "sacct"}, "sacct"},
	}
	for _, tt := range tests {
		if got := tt.place.String(); got != tt.want {
			t.Errorf("%#v: got %q, want %q", tt.place, got, tt.want)
		}
	}
}

func TestRowError(t *testing.T) {
	tests := []struct {
		err  scheduler.RowError
		want string
	}{
		{scheduler.RowError{Place: scheduler.Place{File: "d", Line: 2}, Problem: "too short"}, "d:2: too short"},
		{scheduler.RowError{Place: scheduler.Place{File: "d", Line: 2}, JobID: "3_7", Field: "End", Problem: `"x" is no time`, Remedy: "export it again"},
			`d:2: job 3_7: End: "x" is no time; export it again`},
		{scheduler.RowError{Place: scheduler.Place{File: "d", Line: 2}, Problem: "cannot be read", Err: fs.ErrClosed, Remedy: "try again"},
			"d:2: cannot be read: file already closed; try again"},
	}
	for _, tt := range tests {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
	if err := error(&tests[2].err); !errors.Is(err, fs.ErrClosed) {
		t.Error("the cause is not reached by errors.Is")
	}
}

func TestFinishedByState(t *testing.T) {
	end := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		state string
		end   time.Time
		want  bool
	}{
		{"COMPLETED", end, true}, {"CANCELLED", end, true}, {"REQUEUED", end, true}, {"RESIZING", end, true},
		{"COMPLETED", time.Time{}, false}, {"RUNNING", time.Time{}, false},
		// As sacct --truncate prints them.
		{"RUNNING", end, false}, {"SUSPENDED", end, false}, {"PENDING", end, false},
	} {
		if got := (&scheduler.Job{State: test.state, End: test.end}).Finished(); got != test.want {
			t.Errorf("%s with end %v: %v", test.state, test.end, got)
		}
	}
}

func TestTRESCountAddsFractions(t *testing.T) {
	job := scheduler.Job{TRES: []scheduler.TRES{{Name: "x:a", Count: 1, Nanos: 750_000_000}, {Name: "x:b", Count: 2, Nanos: 500_000_000}}}
	if got, _ := job.TRESCount("x"); got != (scheduler.TRES{Name: "x", Count: 4, Nanos: 250_000_000}) {
		t.Errorf("got %v", got)
	}
}
