package slurm_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/slurm"
)

// reorder writes a row's fields in the order of another header.
func reorder(header, row string) string {
	fields := make(map[string]string)
	for i, name := range strings.Split(columns, "|") {
		fields[name] = strings.SplitN(row, "|", strings.Count(columns, "|")+1)[i]
	}
	var out []string
	for _, name := range strings.Split(header, "|") {
		out = append(out, fields[name])
	}
	return strings.Join(out, "|")
}

func TestColumnsInAnyOrder(t *testing.T) {
	const (
		first  = "JobName|AllocTRES|End|Start|Submit|ElapsedRaw|State|Partition|Account|User|JobID|JobIDRaw|Cluster|QOS|NNodes|NCPUS|ReqMem"
		middle = "JobIDRaw|JobID|User|Account|JobName|Partition|State|Submit|Start|End|ElapsedRaw|AllocTRES|Cluster|QOS|NNodes|NCPUS|ReqMem"
	)
	row := line("JobName", "train|resnet 50")
	want := mustRead(t, dump(row), slurm.Options{}).jobs
	for what, header := range map[string]string{"JobName first": first, "JobName in the middle": middle} {
		t.Run(what, func(t *testing.T) {
			jobsEqual(t, want, mustRead(t, header+"\n"+reorder(header, row)+"\n", slurm.Options{}).jobs)
			jobsEqual(t, want, mustRead(t, strings.ToUpper(header)+"\n"+reorder(header, row)+"\n", slurm.Options{}).jobs)
			// sacct --parsable ends each line with the delimiter
			jobsEqual(t, want, mustRead(t, header+"|\n"+reorder(header, row)+"|\n", slurm.Options{}).jobs)
		})
		t.Run(what+", with line breaks", func(t *testing.T) {
			const broken = "three\n\nl|nes"
			text := reorder(header, line("JobName", broken)) + "\n" + reorder(header, row) + "\n"
			got := mustRead(t, header+"\n"+text, slurm.Options{})
			if len(got.jobs) != 2 || got.jobs[0].Name != broken || got.jobs[1].Name != "train|resnet 50" {
				t.Errorf("got %+v", got.jobs)
			}
		})
	}
}

// withColumns puts columns that are not used before the others of each row.
func withColumns(text string, n int) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.Count(line, "|") >= strings.Count(columns, "|") {
			b.WriteString(strings.Repeat("TRESUsageInMax|", n))
		}
		b.WriteString(line)
	}
	return b.String()
}

func TestLayouts(t *testing.T) {
	rows := []string{line("JobName", "a|b"), line("JobName", "new\nline"), line("JobName", "")}
	plain := dump(rows...)
	want := mustRead(t, plain, slurm.Options{}).jobs
	if len(want) != 3 || want[1].Name != "new\nline" {
		t.Fatalf("got %+v", want)
	}
	tests := []struct{ what, text string }{
		{"trailing delimiter", columns + "|\n" + strings.Join(rows, "|\n") + "|\n"},
		{"carriage returns", strings.ReplaceAll(plain, "\n", "\r\n")},
		{"byte order mark", "\ufeff" + plain},
		{"blank lines before the header", "\n\n" + plain},
		{"blank lines between", dump(rows[0]) + "\n" + rows[1] + "\n" + rows[2] + "\n\n"},
		{"no line feed at the end", strings.TrimSuffix(plain, "\n")},
		{"as many columns as sacct has", withColumns(plain, 400)},
		{"two dumps in one", dump(rows[0]) + dump(rows[1:]...)},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			jobsEqual(t, want, mustRead(t, tt.text, slurm.Options{}).jobs)
		})
	}
}

func TestFinalErrors(t *testing.T) {
	tests := []struct {
		what, text string
		opts       slurm.Options
		want       string
	}{
		{"empty", "", slurm.Options{}, "dump: empty, without even the header that sacct prints when it finds no job; export again with: "},
		{"blank", " \n\n", slurm.Options{}, "dump: empty, without even the header"},
		{"no header", line() + "\n", slurm.Options{}, "dump:1: the first line is not the header that sacct prints, but \"testc|12|"},
		{"an error message", "sacct: error: slurmdbd is down\n", slurm.Options{},
			`dump:1: sacct said "sacct: error: slurmdbd is down"; export again with: `},
		{"an error message above the header", "welcome\nsacct: error: Problem talking to the database\n" + dump(line()), slurm.Options{},
			`dump:2: above the header, sacct said "sacct: error: Problem talking to the database": there may be more jobs than this has`},
		{"other columns than were named", "1|2\n", slurm.Options{Columns: []string{"JobID", "User", "Account"}},
			"dump:1: the row does not have the 3 columns that --columns names"},
		{"a column that is needed is not named", "1|2\n", slurm.Options{Columns: []string{"JobID", "User"}}, "dump:1: --columns: the header has no column Account"},
		{"columns missing", "JobID|User|Account|State|Start|End|JobName\n", slurm.Options{},
			"dump:1: the header has no column Partition, Submit, ElapsedRaw, AllocTRES; export again with: SLURM_TIME_FORMAT=%s sacct --allclusters"},
		{"no job id", strings.Replace(strings.Replace(columns, "JobIDRaw|", "", 1), "JobID|", "", 1), slurm.Options{}, "dump:1: the header has no column JobIDRaw;"},
		{"half a fallback for AllocTRES", strings.Replace(strings.Replace(columns, "AllocTRES|", "", 1), "NNodes|", "", 1), slurm.Options{},
			"dump:1: the header has no column AllocTRES;"},
		{"aligned columns", "JobID           JobName  Partition\n------- -----\n", slurm.Options{}, "dump:1: the columns are aligned with spaces"},
		{"a delimiter that fields hold", strings.ReplaceAll(dump(line()), "|", ","), slurm.Options{}, `dump:1: the delimiter "," occurs within fields`},
		{"not the delimiter that was stated", dump(line()), slurm.Options{Delimiter: ";"}, "dump:1: the first line is not the header"},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			got := readText(tt.text, tt.opts)
			if got.err == nil || !strings.HasPrefix(got.err.Error(), tt.want) || len(got.jobs) > 0 {
				t.Errorf("jobs %v, error\n%v\nwant\n%s", got.jobs, got.err, tt.want)
			}
		})
	}
}

func TestHeaderOnlyIsNoJobs(t *testing.T) {
	for _, text := range []string{columns + "\n", columns, columns + "|\n\n"} {
		if got := mustRead(t, text, slurm.Options{}); len(got.jobs) != 0 || got.stats != (scheduler.Stats{}) {
			t.Errorf("%q: got %+v", text, got)
		}
	}
}

// TestCutRowsAreReported: a row cut short must not become part of the name before it.
func TestCutRowsAreReported(t *testing.T) {
	const remedy = "; export it again"
	half := strings.Join(strings.Split(line("JobID", "13", "JobIDRaw", "13"), "|")[:6], "|")
	tests := []struct {
		what, text string
		jobs       int
		want       []string
	}{
		{"in the middle", dump(line("JobName", "a"), half, line("JobName", "b")), 2, []string{"dump:3: job 13: the row has 6 fields and the header 17" + remedy}},
		{"two in a row", dump(line(), half, half), 1, []string{
			"dump:3: job 13: the row has 6 fields and the header 17" + remedy, "dump:4: job 13: the row has 6 fields and the header 17" + remedy}},
		{"the first", dump(half, line()), 1, []string{"dump:2: job 13: the row has 6 fields and the header 17" + remedy}},
		{"a stray line first", dump("hello", "world", line()), 1, []string{"dump:2: the row has 1 fields and the header 17" + remedy}},
		{"the last, within its fields", dump(line()) + half, 1, []string{"dump:3: job 13: the text ends within the row" + remedy}},
		{"the last, within its first field", dump(line()) + "tes", 1, []string{"dump:3: the text ends within the row" + remedy}},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			got := readText(tt.text, slurm.Options{})
			var bad []string
			for _, e := range got.bad {
				bad = append(bad, e.Error())
			}
			if diff := cmp.Diff(tt.want, bad); diff != "" || got.err != nil || len(got.jobs) != tt.jobs {
				t.Errorf("%d jobs (want %d), final error %v, row errors (-want +got):\n%s", len(got.jobs), tt.jobs, got.err, diff)
			}
			for _, j := range got.jobs {
				if len(j.Name) > 3 {
					t.Errorf("a cut row became part of the name %q", j.Name)
				}
			}
		})
	}
}

// TestCutRowsWithNameInTheMiddle: such a row may be one whose name goes on in the next line.
func TestCutRowsWithNameInTheMiddle(t *testing.T) {
	const header = "JobIDRaw|JobName|User|Account|Partition|State|Submit|Start|End|ElapsedRaw|AllocTRES"
	row := reorder(header, line())
	got := readText(header+"\n12|cut|alice\n"+row+"\n13|lost\n", slurm.Options{})
	if got.err != nil || len(got.jobs) != 1 || len(got.bad) != 2 || got.bad[0].Place.Line != 2 || got.bad[1].Place.Line != 4 {
		t.Errorf("got %d jobs, bad %v, %v; want 1 job, and lines 2 and 4 bad", len(got.jobs), got.bad, got.err)
	}
}

// TestSeveralColumnsOfFreeText: nobody can tell whose the delimiter is.
func TestSeveralColumnsOfFreeText(t *testing.T) {
	header := strings.Replace(columns, "Cluster|", "Cluster|Comment|", 1)
	comment := func(comment, row string) string { return strings.Replace(row, "testc|", "testc|"+comment+"|", 1) }
	text := strings.Join([]string{header, comment("", line()), comment("a|b", line()), comment("", line("JobName", "a|b")),
		comment("split\nhere", line()), comment("", line("JobName", "two\nlines")), ""}, "\n")
	got := readText(text, slurm.Options{})
	if got.err != nil || len(got.jobs) != 2 || got.jobs[1].Name != "two\nlines" {
		t.Errorf("got %+v, %v; want the first job and the last", got.jobs, got.err)
	}
	var places []int
	for _, e := range got.bad {
		places = append(places, e.Place.Line)
	}
	if diff := cmp.Diff([]int{3, 4, 5, 6}, places); diff != "" {
		t.Errorf("bad lines (-want +got):\n%s", diff)
	}
}

func TestFallbackColumns(t *testing.T) {
	const header = "JobID|User|Account|Partition|State|Submit|Start|End|Elapsed|NNodes|AllocCPUS"
	row := func(elapsed string) string {
		return header + "\n3_7|alice|p|cpu|COMPLETED|10|20|1000030|" + elapsed + "|2|16\n"
	}
	for elapsed, want := range map[string]int64{"00:00:10": 10, "01:02:03": 3723, "2-00:00:01": 172801, "10-23:59:59": 950399} {
		got := mustRead(t, row(elapsed), slurm.Options{})
		jobsEqual(t, []*scheduler.Job{{
			ID: "3_7", DisplayID: "3_7", ParentID: "3", User: "alice", Account: "p", Partition: "cpu", State: "COMPLETED",
			Submit: time.Unix(10, 0).UTC(), Start: time.Unix(20, 0).UTC(), End: time.Unix(1000030, 0).UTC(),
			ElapsedSeconds: want, Nodes: 2, CPUs: 16, TRES: []scheduler.TRES{{Name: "cpu", Count: 16}, {Name: "node", Count: 2}},
		}}, got.jobs)
	}
	for _, elapsed := range []string{"INVALID", "10", "1:2:3", "24:00:00", "-0:00:16", "x-00:00:01", "", "1000000000000-00:00:00"} {
		if got := readText(row(elapsed), slurm.Options{}); len(got.bad) != 1 || got.bad[0].Field != "Elapsed" {
			t.Errorf("Elapsed %q: got %v, bad %v; want a row error", elapsed, got.jobs, got.bad)
		}
	}
}

// TestAllocTRESMissingForAJobThatRan: what was counted otherwise is charged, never nothing.
func TestAllocTRESMissingForAJobThatRan(t *testing.T) {
	job := mustRead(t, dump(line("AllocTRES", "", "NNodes", "2", "NCPUS", "64")), slurm.Options{}).jobs[0]
	if cpus, _ := job.TRESCount("cpu"); cpus.Count != 64 || job.CPUs != 64 || job.Nodes != 2 {
		t.Errorf("got %+v; want 64 CPUs on 2 nodes", job)
	}
	got := readText(dump(line("AllocTRES", "", "NCPUS", "many")), slurm.Options{})
	if len(got.bad) != 1 || got.bad[0].Field != "NCPUS" {
		t.Errorf("bad %v; want NCPUS blamed", got.bad)
	}
}

func TestInvalidUTF8IsReplaced(t *testing.T) {
	job := mustRead(t, dump(line("JobName", "lat\xe9in \xff\xfe!")), slurm.Options{}).jobs[0]
	if want := "lat\uFFFDin \uFFFD!"; job.Name != want {
		t.Errorf("got %q, want %q", job.Name, want)
	}
}

func TestLongNamesAreCut(t *testing.T) {
	broken := strings.Repeat("line\n", 100_000)
	wide := "x" + strings.Repeat("é", 4096)
	got := mustRead(t, dump(line("JobName", broken), line("JobName", wide), line("JobName", "after")), slurm.Options{})
	if len(got.jobs) != 3 || got.jobs[2].Name != "after" {
		t.Fatalf("%d jobs; want 3", len(got.jobs))
	}
	if want := strings.TrimRight(broken[:4096], "\n"); got.jobs[0].Name != want {
		t.Errorf("%d bytes of a name of many lines; want %d", len(got.jobs[0].Name), len(want))
	}
	if want := wide[:4095]; got.jobs[1].Name != want {
		t.Errorf("%d bytes of a wide name; want %d", len(got.jobs[1].Name), len(want))
	}
}

func TestOverlongLineIsOneBadRow(t *testing.T) {
	huge := line("JobName", strings.Repeat("x", 3<<20))
	got := readText(dump(line("JobName", "before"), huge, line("JobName", "after"))+huge, slurm.Options{})
	if got.err != nil || len(got.jobs) != 2 || len(got.bad) != 2 {
		t.Fatalf("%d jobs, bad %v, error %v; want 2 jobs and 2 bad rows", len(got.jobs), got.bad, got.err)
	}
	if want := "dump:3: job 12: the row is longer than 1048576 bytes; export it again"; got.bad[0].Error() != want {
		t.Errorf("got %s, want %s", got.bad[0], want)
	}
	if got := readText(strings.Repeat("x", 3<<20), slurm.Options{}); got.err == nil || !strings.HasPrefix(got.err.Error(), "dump:1: the first line is longer than") {
		t.Errorf("an overlong header: got %v", got.err)
	}
	const header = "JobIDRaw|JobName|User|Account|Partition|State|Submit|Start|End|ElapsedRaw|AllocTRES"
	got = readText(header+"\n12|"+strings.Repeat("line\n", 1<<19)+"\n"+reorder(header, line())+"\n", slurm.Options{})
	if len(got.jobs) != 1 || len(got.bad) != 1 || !strings.Contains(got.bad[0].Problem, "longer than") {
		t.Errorf("a row of too many lines: %d jobs, bad %v", len(got.jobs), got.bad)
	}
}

func TestReadErrorIsFinal(t *testing.T) {
	broken := errors.New("the disk is gone")
	r := io.MultiReader(strings.NewReader(dump(line(), line())), iotest.ErrReader(broken))
	got := readAll(slurm.NewReader(r, "dump", slurm.Options{}))
	if !errors.Is(got.err, broken) || !strings.HasPrefix(got.err.Error(), "dump:4: ") {
		t.Errorf("got %v; want the reader's error at line 4", got.err)
	}
	if got := readAll(slurm.NewReader(iotest.ErrReader(broken), "dump", slurm.Options{})); !errors.Is(got.err, broken) {
		t.Errorf("got %v; want the reader's error", got.err)
	}
}

func TestContextEndsTheIteration(t *testing.T) {
	for what, text := range map[string]string{"text": dump(line(), line(), line()), "JSON": jobsJSON(jobJSON(""), jobJSON(""), jobJSON(""))} {
		t.Run(what, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			jobs := 0
			var final error
			for _, err := range slurm.NewReader(strings.NewReader(text), "dump", slurm.Options{}).Jobs(ctx) {
				if err != nil {
					final = err
					continue
				}
				jobs++
				cancel()
			}
			if jobs != 1 || !errors.Is(final, context.Canceled) {
				t.Errorf("%d jobs, %v; want 1 and the context's error", jobs, final)
			}
		})
	}
}

func TestConsumerMayStop(t *testing.T) {
	bad := line("Submit", "x")
	for what, text := range map[string]string{"text": dump(line(), line()), "bad row": dump(bad, bad), "JSON": jobsJSON(jobJSON(""), jobJSON("")),
		"bad JSON": jobsJSON("1", "2"), "empty": ""} {
		t.Run(what, func(t *testing.T) {
			for range slurm.NewReader(strings.NewReader(text), "dump", slurm.Options{}).Jobs(context.Background()) {
				break // a second call of yield would panic
			}
		})
	}
}

// endless gives a header and then rows for ever.
type endless struct{ head, rows []byte }

func (e *endless) Read(p []byte) (int, error) {
	if len(e.head) > 0 {
		n := copy(p, e.head)
		e.head = e.head[n:]
		return n, nil
	}
	n := 0
	for n+len(e.rows) <= len(p) {
		n += copy(p[n:], e.rows)
	}
	if n == 0 {
		n = copy(p, e.rows)
		e.rows = append(e.rows[n:len(e.rows):len(e.rows)], e.rows[:n]...)
	}
	return n, nil
}

// TestMemoryIsConstant reads a hundred times as many jobs, and must not hold more.
func TestMemoryIsConstant(t *testing.T) {
	held := func(read io.Reader, jobs int) uint64 {
		reader := slurm.NewReader(read, "dump", slurm.Options{})
		n := 0
		var stats runtime.MemStats
		for _, err := range reader.Jobs(context.Background()) {
			if err != nil {
				t.Fatal(err)
			}
			if n++; n == jobs {
				runtime.GC()
				runtime.ReadMemStats(&stats)
				break
			}
		}
		return stats.HeapAlloc
	}
	for what, input := range map[string]func() io.Reader{
		"text": func() io.Reader {
			return &endless{head: []byte(columns + "\n"), rows: bytes.Repeat([]byte(line("JobName", "two\nlines")+"\n"), 10)}
		},
		"JSON": func() io.Reader {
			return &endless{head: []byte(`{"jobs": [` + jobJSON("")), rows: bytes.Repeat([]byte(","+jobJSON("")), 10)}
		},
	} {
		t.Run(what, func(t *testing.T) {
			few, many := held(input(), 300), held(input(), 30_000)
			if many > few+1<<20 {
				t.Errorf("%d bytes held after 30,000 jobs, %d after 300", many, few)
			}
		})
	}
}
