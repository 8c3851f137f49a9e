package slurm_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/slurm"
)

// TestMain lets the test's own program stand in for sacct.
func TestMain(m *testing.M) {
	if role := os.Getenv("FAKE_SACCT"); role != "" {
		os.Exit(fakeSacct(role, os.Args[1:]))
	}
	os.Exit(m.Run())
}

const helpFormat = `Account             AdminComment        AllocCPUS           AllocNodes
AllocTRES           AssocID             Cluster             CPUTimeRAW
Elapsed             ElapsedRaw          Eligible            End
JobID               JobIDRaw            JobName             NCPUS
NNodes              Partition           QOS                 ReqMem
Start               State               Submit              User
`

// fakeSacct prints what sacct prints in each case.
func fakeSacct(role string, args []string) int {
	if log := os.Getenv("FAKE_SACCT_LOG"); log != "" {
		f, err := os.OpenFile(log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return 90
		}
		defer f.Close()
		fmt.Fprintf(f, "SLURM_TIME_FORMAT=%s TZ=%s SACCT_FEDERATION=%q\n", os.Getenv("SLURM_TIME_FORMAT"), os.Getenv("TZ"), os.Getenv("SACCT_FEDERATION"))
		for _, arg := range args {
			fmt.Fprintf(f, "\t%q\n", arg)
		}
	}
	if slices.Equal(args, []string{"--helpformat"}) {
		switch role {
		case "no database":
			fmt.Fprintln(os.Stderr, "Slurm accounting storage is disabled")
			return 1
		case "old":
			fmt.Print(strings.NewReplacer("QOS ", "", "NNodes", "", "ReqMem", "").Replace(helpFormat))
		case "not sacct":
			fmt.Println("usage: sacct [file]")
		case "lacks fields":
			fmt.Print(strings.NewReplacer("AllocTRES", "", "NCPUS", "", "AllocCPUS", "", "Partition", "").Replace(helpFormat))
		default:
			fmt.Print(helpFormat)
		}
		return 0
	}
	value := func(option string) string {
		for _, arg := range args {
			if v, ok := strings.CutPrefix(arg, option+"="); ok {
				return v
			}
		}
		return ""
	}
	if role == "too wide" && value("--jobs") == "" {
		from, _ := time.Parse("2006-01-02T15:04:05", value("--starttime"))
		to, _ := time.Parse("2006-01-02T15:04:05", value("--endtime"))
		if to.Sub(from) > 12*time.Hour {
			fmt.Fprintln(os.Stderr, "sacct: error: slurmdbd: Too wide of a date range in query")
			return 1
		}
	}
	header, delimiter := strings.Split(value("--format"), ","), value("--delimiter")
	job := func(id, name string) string {
		return writeJob(&scheduler.Job{
			Cluster: "testc", ID: id, DisplayID: id, User: "alice", Account: "p", Partition: "cpu", QOS: "normal", State: "COMPLETED", Name: name,
			Submit: time.Unix(1795346887, 0), Start: time.Unix(1795346888, 0), End: time.Unix(1795346898, 0), ElapsedSeconds: 10, Nodes: 1, CPUs: 8,
			ReqMem: "4G", TRES: []scheduler.TRES{{Name: "cpu", Count: 8}, {Name: "mem", Count: 4 << 30}, {Name: "node", Count: 1}},
		}, header, delimiter) + "\n"
	}
	if role == "prints nothing and fails" {
		fmt.Fprintln(os.Stderr, "sacct: error: slurm_persist_conn_open_without_init: Connection refused")
		return 1
	}
	if role == "prints rubbish and fails" {
		fmt.Println("rubbish")
		return 7
	}
	fmt.Print(strings.Join(header, delimiter) + "\n" + job("1", "one"))
	switch role {
	case "fails after output":
		fmt.Print(job("2", "two"))
		fmt.Fprint(os.Stderr, strings.Repeat("noise\n", 10_000), "\n\nsacct: error: slurmdbd: connection lost\nsacct: error: giving up\n")
		return 1
	case "warns":
		fmt.Fprintln(os.Stderr, "sacct: warning: one\n\nsacct: warning: two")
	case "never ends":
		out := bufio.NewWriterSize(os.Stdout, 1<<20)
		for {
			if _, err := out.WriteString(job("2", "two")); err != nil {
				return 0
			}
		}
	case "hangs":
		select {}
	case "hangs with a child":
		child := exec.Command("sleep", "600") // it holds the pipe, too
		child.Stdout = os.Stdout
		if err := child.Start(); err != nil {
			return 91
		}
		fmt.Fprintln(os.Stderr, "child", child.Process.Pid)
		_ = child.Wait()
	case "an error and status 0":
		fmt.Fprintln(os.Stderr, "sacct: error: Unknown error 1054")
	case "cut off":
		row := job("2", "two")
		fmt.Print(row[:len(row)-len(delimiter)-6])
	case "forged names":
		old := strings.ReplaceAll(job("1", "gone"), delimiter, "|")
		fmt.Print(job("3", "x\n"+strings.ReplaceAll(old, "|", "\x1f")+old), job("4", "four"))
	}
	return 0
}

// A window is a Sacct and what it is asked for.
type window struct {
	*slurm.Sacct
	From, To time.Time
}

func (w *window) Jobs(ctx context.Context) iter.Seq2[*scheduler.Job, error] {
	return w.Ended(ctx, w.From, w.To)
}

// fake is a Sacct that runs this test's program in a role.
func fake(t *testing.T, role string) *window {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	sacct := &slurm.Sacct{
		Path: self,
		// A program with the race detector sleeps a second before it exits, unless told not to.
		Env: append(os.Environ(), "FAKE_SACCT="+role, "SACCT_FEDERATION=1", "TZ=Asia/Tokyo", "GORACE=atexit_sleep_ms=0"),
	}
	return &window{sacct, time.Date(2026, 11, 21, 23, 0, 0, 500, time.FixedZone("", -5*3600)), time.Date(2026, 11, 23, 0, 0, 0, 500, time.UTC)}
}

func TestSacct(t *testing.T) {
	got := readAll(fake(t, "works"))
	if got.err != nil || len(got.bad) > 0 || len(got.jobs) != 1 || got.stats != (scheduler.Stats{Rows: 1}) {
		t.Fatalf("got %+v", got)
	}
	want := []*scheduler.Job{{
		Cluster: "testc", ID: "1", DisplayID: "1", User: "alice", Account: "p", Partition: "cpu", QOS: "normal", State: "COMPLETED", Name: "one",
		Submit: time.Unix(1795346887, 0).UTC(), Start: time.Unix(1795346888, 0).UTC(), End: time.Unix(1795346898, 0).UTC(), ElapsedSeconds: 10,
		Nodes: 1, CPUs: 8, ReqMem: "4G", TRES: []scheduler.TRES{{Name: "cpu", Count: 8}, {Name: "mem", Count: 4 << 30}, {Name: "node", Count: 1}},
	}}
	jobsEqual(t, want, got.jobs)
	if place := got.jobs[0].Place; place != (scheduler.Place{File: "sacct", Line: 2}) {
		t.Errorf("read at %s", place)
	}
}

func TestSacctCommandLine(t *testing.T) {
	tests := []struct {
		name, role string
		clusters   []string
	}{
		{"sacct-command", "works", nil},
		{"sacct-command-clusters", "works", []string{"testc", "other"}},
		{"sacct-command-old", "old", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			log := filepath.Join(t.TempDir(), "log")
			s := fake(t, tt.role)
			s.Env = append(s.Env, "FAKE_SACCT_LOG="+log)
			s.Clusters = tt.clusters
			s.Rand = bytes.NewReader([]byte{0xde, 0xad, 0xbe, 0xef})
			if got := readAll(s); got.err != nil || len(got.jobs) != 1 {
				t.Fatalf("got %+v", got)
			}
			ran, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			checkGolden(t, tt.name, string(ran))
		})
	}
}

// TestSacctForgedRows: a name with line breaks must not become a job, nor blot one out.
func TestSacctForgedRows(t *testing.T) {
	got := readAll(fake(t, "forged names"))
	var ids []string
	for _, j := range got.jobs {
		ids = append(ids, j.ID)
	}
	if diff := cmp.Diff([]string{"1", "3", "4"}, ids); diff != "" || got.err != nil || len(got.bad) > 0 {
		t.Errorf("bad %v, error %v, jobs (-want +got):\n%s", got.bad, got.err, diff)
	}
}

func TestSacctFailures(t *testing.T) {
	tests := []struct {
		role string
		jobs int
		want string
	}{
		{"no database", 0, "sacct: exit status 1: Slurm accounting storage is disabled"},
		{"not sacct", 0, "sacct --helpformat offers no JobIDRaw, User, Account"},
		{"lacks fields", 0, "sacct --helpformat offers no Partition, AllocTRES, which jobs cannot be read without"},
		{"prints nothing and fails", 0, "sacct: exit status 1: sacct: error: slurm_persist_conn_open_without_init: Connection refused"},
		{"prints rubbish and fails", 0, "sacct: exit status 7"},
		{"fails after output", 2, "sacct: exit status 1: "},
	}
	for _, tt := range tests {
		t.Run(tt.role, func(t *testing.T) {
			got := readAll(fake(t, tt.role))
			if got.err == nil || !strings.HasPrefix(got.err.Error(), tt.want) || len(got.jobs) != tt.jobs {
				t.Fatalf("%d jobs (want %d), error\n%v\nwant\n%s", len(got.jobs), tt.jobs, got.err, tt.want)
			}
			if tt.role == "fails after output" {
				var exit *exec.ExitError
				if !errors.As(got.err, &exit) || !strings.HasSuffix(got.err.Error(), " / sacct: error: slurmdbd: connection lost / sacct: error: giving up") || len(got.err.Error()) > 8192 {
					t.Errorf("got %d bytes: %.300v", len(got.err.Error()), got.err)
				}
			}
		})
	}
	t.Run("not found", func(t *testing.T) {
		s := fake(t, "works")
		s.Path = filepath.Join(t.TempDir(), "sacct")
		if got := readAll(s); !errors.Is(got.err, os.ErrNotExist) {
			t.Errorf("got %v", got.err)
		}
	})
	t.Run("empty window", func(t *testing.T) {
		s := fake(t, "works")
		s.To = s.From
		if got := readAll(s); got.err == nil || !strings.Contains(got.err.Error(), "is empty") {
			t.Errorf("got %v", got.err)
		}
	})
	t.Run("no random bytes", func(t *testing.T) {
		s := fake(t, "works")
		s.Rand = strings.NewReader("")
		if got := readAll(s); !errors.Is(got.err, io.EOF) {
			t.Errorf("got %v", got.err)
		}
	})
}

func TestSacctWarningsAreLogged(t *testing.T) {
	var log bytes.Buffer
	s := fake(t, "warns")
	s.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	if got := readAll(s); got.err != nil || len(got.jobs) != 1 {
		t.Fatalf("got %+v", got)
	}
	const want = "level=WARN msg=\"sacct wrote to standard error\" line=\"sacct: warning: one\"\n" +
		"level=WARN msg=\"sacct wrote to standard error\" line=\"sacct: warning: two\"\n"
	if diff := cmp.Diff(want, log.String()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

func TestSacctIsKilledWhenTheContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	jobs := 0
	var final error
	for _, err := range fake(t, "never ends").Jobs(ctx) {
		if jobs++; jobs == 10 {
			cancel()
		}
		final = err
	}
	if !errors.Is(final, context.Canceled) || jobs != 11 {
		t.Errorf("%d jobs, %v; want 10 and the context's error", jobs-1, final)
	}
}

// TestSacctIsKilledWhileItHangs: the context ends while a row is being waited for.
func TestSacctIsKilledWhileItHangs(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	s := fake(t, "hangs")
	log := filepath.Join(t.TempDir(), "log")
	s.Env = append(s.Env, "FAKE_SACCT_LOG="+log)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for ctx.Err() == nil {
			if ran, _ := os.ReadFile(log); bytes.Contains(ran, []byte("--format")) {
				cancel()
			}
		}
	}()
	got := 0
	var final error
	for job, err := range s.Jobs(ctx) {
		if job != nil {
			got++
		}
		final = err
	}
	cancel()
	<-watched
	if !errors.Is(final, context.Canceled) || got != 0 {
		t.Errorf("%d jobs, %v; want none, for the only row may be half of one, and the context's error", got, final)
	}
}

func TestSacctConsumerMayStop(t *testing.T) {
	jobs := 0
	for _, err := range fake(t, "never ends").Jobs(context.Background()) {
		if err != nil {
			t.Fatal(err)
		}
		if jobs++; jobs == 10 {
			break // which kills sacct and waits for it, or this would hang
		}
	}
	if jobs != 10 {
		t.Errorf("%d jobs; want 10", jobs)
	}
}

// TestSacctHalvesTheWindow: what MaxQueryTimeRange refuses is asked for in parts that leave nothing out.
func TestSacctHalvesTheWindow(t *testing.T) {
	s := fake(t, "too wide")
	log := filepath.Join(t.TempDir(), "log")
	s.Env = append(s.Env, "FAKE_SACCT_LOG="+log)
	got := readAll(s)
	if got.err != nil || len(got.jobs) != 2 || got.stats.Rows != 2 {
		t.Fatalf("%d jobs, stats %v, error %v; want the job in each of two windows", len(got.jobs), got.stats, got.err)
	}
	ran, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var asked []string
	for _, line := range strings.Split(string(ran), "\n") {
		if time := strings.TrimSpace(line); strings.HasPrefix(time, `"--starttime=`) || strings.HasPrefix(time, `"--endtime=`) {
			asked = append(asked, strings.Trim(time[strings.IndexByte(time, '=')+1:], `"`))
		}
	}
	want := []string{
		"2026-11-22T04:00:00", "2026-11-23T00:00:01",
		"2026-11-22T04:00:00", "2026-11-22T14:00:00",
		"2026-11-22T14:00:00", "2026-11-23T00:00:01",
	}
	if diff := cmp.Diff(want, asked); diff != "" {
		t.Errorf("windows (-want +got):\n%s", diff)
	}
}

func TestSacctFindsJobsByID(t *testing.T) {
	s := fake(t, "too wide")
	log := filepath.Join(t.TempDir(), "log")
	s.Env = append(s.Env, "FAKE_SACCT_LOG="+log)
	found := 0
	for _, err := range s.ByID(context.Background(), "testc", []string{"1", "2_7"}) {
		if err != nil {
			t.Fatal(err)
		}
		found++
	}
	ran, _ := os.ReadFile(log)
	if found != 1 || !bytes.Contains(ran, []byte(`"--jobs=1,2_7"`)) || !bytes.Contains(ran, []byte(`"--clusters=testc"`)) || bytes.Contains(ran, []byte("--allclusters")) {
		t.Errorf("%d jobs; ran\n%s", found, ran)
	}
}

// TestSacctTimeout: a sacct that hangs is ended with all that it has started, run once more, and then given up.
func TestSacctTimeout(t *testing.T) {
	var log bytes.Buffer
	s := fake(t, "hangs with a child")
	s.Timeout = time.Second
	s.Logger = slog.New(slog.NewTextHandler(&log, nil))
	got := readAll(s)
	var incomplete *scheduler.IncompleteError
	if !errors.As(got.err, &incomplete) || !strings.Contains(got.err.Error(), "did not end in time (1s); see whether slurmdbd answers") {
		t.Fatalf("got %v", got.err)
	}
	if strings.Count(log.String(), "sacct is run once more") != 1 {
		t.Errorf("log %s", log.String())
	}
}

// TestSacctIncomplete: what may not be all there is says so, whatever the exit status.
func TestSacctIncomplete(t *testing.T) {
	for role, want := range map[string]string{
		"an error and status 0": "sacct exited with status 0, and reported: sacct: error: Unknown error 1054; jobs may be missing; see to its error",
		"cut off":               "sacct: its output ends within a row; run it again",
		"fails after output":    "sacct: exit status 1: ",
	} {
		got := readAll(fake(t, role))
		var incomplete *scheduler.IncompleteError
		if !errors.As(got.err, &incomplete) || !strings.HasPrefix(got.err.Error(), want) || len(got.jobs) == 0 {
			t.Errorf("%s: %d jobs, error %v", role, len(got.jobs), got.err)
		}
	}
}
