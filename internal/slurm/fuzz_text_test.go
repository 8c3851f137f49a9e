package slurm

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/amieusage/amieusage/internal/scheduler"
)

// slowHeader is the layout that sacct is asked for.
const slowHeader = "Cluster|JobIDRaw|JobID|User|Account|Partition|QOS|State|Submit|Start|End|ElapsedRaw|NNodes|NCPUS|ReqMem|AllocTRES|JobName"

// slowRow is a row of text below slowHeader, with all the lines that belong to it.
type slowRow struct {
	line int
	text string
	cut  bool // it has too few fields, or ends within
}

var slowJobID = regexp.MustCompile(`(?s)^[0-9]+(?:[_+.\[].*)?$`)

// slowRows parts text into rows: a line with all its delimiters begins one. What has fewer is more of a name, unless a job's
// id stands in its place; then it is a row cut short, which takes the lines without any delimiter along.
func slowRows(body string) (rows []slowRow) {
	delimiters := strings.Count(slowHeader, "|")
	var last *slowRow
	for i, line := range strings.Split(body, "\n") {
		ended := i < strings.Count(body, "\n")
		if !ended && line == "" {
			break
		}
		n := strings.Count(line, "|")
		id := ""
		if fields := strings.Split(line, "|"); len(fields) > 1 {
			id = fields[1]
		}
		switch {
		case last != nil && last.cut && n == 0:
			continue
		case last != nil && !last.cut && ended && n < delimiters && (n == 0 || !slowJobID.MatchString(id)):
			last.text += "\n" + line
			continue
		case line == "", line == slowHeader:
			last = nil
			continue
		}
		rows = append(rows, slowRow{i + 2, line, n < delimiters})
		last = &rows[len(rows)-1]
	}
	return rows
}

// slowSettle makes the times of a finished job agree, and tells whether they can.
func slowSettle(job *scheduler.Job) bool {
	unset := func(n int64) bool { return n == 4294967294 || n == 4294967295 }
	all := []*time.Time{&job.Submit, &job.Start, &job.End}
	if !job.Finished() {
		for _, at := range all {
			if unset(at.Unix()) {
				*at = time.Time{}
			}
		}
		if unset(job.ElapsedSeconds) {
			job.ElapsedSeconds = 0
		}
		return true
	}
	for _, at := range all {
		if unset(at.Unix()) {
			return false
		}
	}
	submit, start, end := job.Submit.Unix(), job.Start.Unix(), job.End.Unix()
	switch {
	case unset(job.ElapsedSeconds):
		return false
	case job.ElapsedSeconds == 0:
		return true
	case job.Start.IsZero() || start > end || end > time.Now().Unix()+86400 || submit > end || job.ElapsedSeconds > end-start:
		return false
	}
	if submit > start {
		if job.ElapsedSeconds != end-start {
			job.Warning = "suspended"
		}
		job.Start, job.ElapsedSeconds = job.Submit, min(job.ElapsedSeconds, end-submit)
	}
	return true
}

// ignoreWarnings leaves out the words of warnings, but not whether there is one.
var ignoreWarnings = cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Warning" },
	cmp.Comparer(func(a, b string) bool { return (a == "") == (b == "") }))

// slowJob reads a row; nil and true of a step.
func slowJob(row slowRow) (job *scheduler.Job, ok bool) {
	if row.cut {
		return nil, false
	}
	value := map[string]string{}
	names := strings.Split(slowHeader, "|")
	for i, field := range strings.SplitN(strings.ToValidUTF8(row.text, "\uFFFD"), "|", len(names)) {
		value[names[i]] = field
	}
	id, shown := value["JobIDRaw"], value["JobID"]
	if id == "" && strings.Contains(strings.Split(shown, "[")[0], ".") || strings.Contains(id, ".") {
		return nil, true
	}
	if id == "" {
		id = shown
	}
	if shown == "" {
		shown = id
	}
	state, _, _ := strings.Cut(value["State"], " ")
	name := value["JobName"]
	if len(name) > maxName {
		name = strings.ToValidUTF8(name[:maxName], "")
	}
	job = &scheduler.Job{
		Cluster: value["Cluster"], ID: id, DisplayID: shown, User: value["User"], Account: value["Account"], Partition: value["Partition"],
		QOS: value["QOS"], ReqMem: value["ReqMem"], State: strings.ToUpper(state), Name: strings.TrimRight(name, "\r\n"),
		Lacks: scheduler.FactUID | scheduler.FactReservation | scheduler.FactNodeList | scheduler.FactDBIndex | scheduler.FactGroup | scheduler.FactProject,
	}
	if parent := strings.FieldsFunc(" "+shown, func(r rune) bool { return r == '_' || r == '+' })[0][1:]; parent != shown && parent != id {
		job.ParentID = parent
	}
	var submit, start, end, elapsed, tres bool
	job.Submit, submit = slowTime(value["Submit"], time.UTC)
	job.Start, start = slowTime(value["Start"], time.UTC)
	job.End, end = slowTime(value["End"], time.UTC)
	seconds, err := strconv.ParseUint(value["ElapsedRaw"], 10, 63)
	job.ElapsedSeconds, elapsed = int64(seconds), err == nil && len(value["ElapsedRaw"]) <= 19
	job.TRES, tres = slowTRES(value["AllocTRES"])
	if !slowJobID.MatchString(id) || !submit || !start || !end || !elapsed || !tres || !slowSettle(job) {
		return nil, false
	}
	bare := len(job.TRES) == 0
	for _, want := range []struct {
		count        *int64
		tres, column string
	}{{&job.CPUs, "cpu", "NCPUS"}, {&job.Nodes, "node", "NNodes"}} {
		text := value[want.column]
		tres, known := job.TRESCount(want.tres)
		if *want.count = tres.Count; known || job.ElapsedSeconds == 0 || text == "" {
			continue
		}
		n, ok := slowCount(text, false)
		if !ok || n.Nanos != 0 {
			return nil, false
		}
		*want.count = n.Count
		if bare {
			job.TRES = append(job.TRES, scheduler.TRES{Name: want.tres, Count: n.Count})
		}
	}
	return job, true
}

// mustAgreeWithSlowText reads what stands below the header that sacct is asked for: every line belongs to a row that is a
// job, a step or bad, or is blank, or that header again.
func mustAgreeWithSlowText(t *testing.T, body []byte, piece byte) {
	got := mustReadTheSame(t, append([]byte(slowHeader+"\n"), body...), piece, Options{Zone: time.UTC})
	if got.err != nil {
		t.Fatal(got.err)
	}
	var want reading
	var badLines []int
	for _, row := range slowRows(string(body)) {
		want.stats.Rows++
		switch job, ok := slowJob(row); {
		case !ok:
			want.stats.Bad++
			badLines = append(badLines, row.line)
		case job == nil:
			want.stats.Steps++
		default:
			job.Place = scheduler.Place{File: "fuzz", Line: row.line}
			want.jobs = append(want.jobs, job)
		}
	}
	var gotBad []int
	for _, bad := range got.bad {
		gotBad = append(gotBad, bad.Place.Line)
	}
	mustBeSame(t, badLines, gotBad)
	mustBeSame(t, want.stats, got.stats)
	mustBeSame(t, want.jobs, got.jobs, cmpopts.EquateComparable(time.Time{}), ignoreWarnings)
}

func FuzzText(f *testing.F) {
	for _, file := range fixtureFiles(f, "../../testdata/slurm/*.psv", "../../testdata/demo/*.psv") {
		f.Add(file[:min(len(file), 1200)], byte(7))
		_, rows, _ := bytes.Cut(file, []byte("\n"))
		f.Add(rows[:min(len(rows), 600)], byte(0))
	}
	const row = "testc|12|12|alice|p.abc123456.000|cpu|normal|COMPLETED|1795346887|2026-11-22T11:28:08|1795346898|10|1|8|800M|cpu=8,mem=800M,node=1|run"
	for _, body := range []string{
		row, row + "\n", row + "\n\ntwo|lines\n" + row + "\n", row + "\n" + slowHeader + "\n" + row, "\n\n" + row + "\r\n", row + "\ntestc|13|cut\nmore\n" + row + "\n",
		strings.Replace(row, "|12|12|", "|12.batch|12.batch|", 1), strings.Replace(row, "|12|12|", "||3_[1-4]|", 1), strings.Replace(row, "|12|12|", "|14|3_7|", 1),
		strings.Replace(row, "cpu=8,mem=800M,node=1", "", 1), strings.Replace(row, "run", "a|b\xff|c", 1),
		"JobName|JobIDRaw|User|Account|Partition|State|Submit|Start|End|Elapsed|NNodes|NCPUS|\na\nb|1|u|a|p|S|1|2|3|00:00:01|1|1|\n",
	} {
		f.Add([]byte(body), byte(3))
	}
	newYork, err := time.LoadLocation("America/New_York")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte, piece byte) {
		mustReadTheSame(t, data, piece, Options{})
		mustReadTheSame(t, data, piece, Options{Zone: newYork})
		mustReadTheSame(t, append([]byte(strings.ReplaceAll(slowHeader, "|", "\x1fab12")+"\n"), data...), piece, Options{Zone: newYork, Delimiter: "\x1fab12"})
		if len(data) < 1<<16 {
			mustAgreeWithSlowText(t, data, piece)
		}
	})
}
