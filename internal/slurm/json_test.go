package slurm_test

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/slurm"
)

// jobJSON is a job that nothing is wrong with. Members given last win over it only if it does not have them.
func jobJSON(more string) string {
	return changedJSON(map[string]string{}, more)
}

// changedJSON is that job with members changed; "" takes one out.
func changedJSON(change map[string]string, more string) string {
	members := [][2]string{
		{"account", `"p.abc123456.000"`}, {"allocation_nodes", `1`}, {"array", `{"job_id": 0, "task": null, "task_id": null}`},
		{"association", `{"account": "p", "user": "carol"}`}, {"cluster", `"testc"`}, {"het", `{"job_id": 0, "job_offset": null}`},
		{"job_id", `12`}, {"name", `"run"`}, {"partition", `"cpu"`}, {"qos", `"normal"`}, {"state", `{"current": "COMPLETED"}`},
		{"time", `{"elapsed": 10, "submission": 1795346887, "start": 1795346888, "end": 1795346898}`},
		{"tres", `{"allocated": [{"type": "cpu", "name": null, "id": 1, "count": 8}, {"type": "node", "name": null, "id": 4, "count": 1}]}`},
		{"user", `"alice"`},
	}
	var out []string
	for _, m := range members {
		if value, changed := change[m[0]]; changed {
			m[1] = value
		}
		if m[1] != "" {
			out = append(out, fmt.Sprintf("%q: %s", m[0], m[1]))
		}
	}
	if more != "" {
		out = append(out, more)
	}
	return "{" + strings.Join(out, ", ") + "}"
}

func jobsJSON(jobs ...string) string {
	return `{"meta": {"plugin": {}}, "errors": [], "jobs": [` + strings.Join(jobs, ",\n") + `]}` + "\n"
}

// changed reads the job with one member changed.
func changed(t *testing.T, member, value string) *scheduler.Job {
	t.Helper()
	got := mustRead(t, jobsJSON(changedJSON(map[string]string{member: value}, "")), slurm.Options{})
	if len(got.jobs) != 1 {
		t.Fatalf("%d jobs; want 1", len(got.jobs))
	}
	return got.jobs[0]
}

func TestJSONNumbersOfBothGenerations(t *testing.T) {
	tests := []struct {
		count string
		want  []scheduler.TRES
	}{
		{`8`, []scheduler.TRES{{Name: "cpu", Count: 8}}},
		{`{"set": true, "infinite": false, "number": 8}`, []scheduler.TRES{{Name: "cpu", Count: 8}}},
		{`{"number": 8}`, []scheduler.TRES{{Name: "cpu", Count: 8}}},
		{`{"set": false, "infinite": false, "number": 0}`, nil},
		{`{"set": true, "infinite": true, "number": 0}`, nil},
		{`null`, nil},
		{`-2`, nil},
		{`18446744073709551614`, nil},
	}
	for _, tt := range tests {
		job := changed(t, "tres", `{"allocated": [{"type": "cpu", "name": "", "id": 1, "count": `+tt.count+`}]}`)
		if diff := cmp.Diff(tt.want, job.TRES); diff != "" && len(tt.want)+len(job.TRES) > 0 {
			t.Errorf("%s (-want +got):\n%s", tt.count, diff)
		}
	}
}

func TestJSONTRES(t *testing.T) {
	job := changed(t, "tres", `{"requested": [{"type": "mem", "count": 256512}], "allocated": [
		{"type": "mem", "name": null, "count": 256512}, {"type": "energy", "name": null, "count": null}, {"type": "gres", "name": "gpu", "count": 2},
		{"type": "gres", "name": "gpu:a100", "count": 2}, {"type": "bb", "name": "datawarp", "count": 1024}]}`)
	want := []scheduler.TRES{{Name: "mem", Count: 256512 << 20}, {Name: "gres/gpu", Count: 2}, {Name: "gres/gpu:a100", Count: 2}, {Name: "bb/datawarp", Count: 1 << 30}}
	if diff := cmp.Diff(want, job.TRES); diff != "" || job.ReqMem != "250.50G" {
		t.Errorf("ReqMem %q (-want +got):\n%s", job.ReqMem, diff)
	}
	if job.Nodes != 1 {
		t.Errorf("%d nodes; want those of allocation_nodes, 1", job.Nodes)
	}
}

func TestJSONState(t *testing.T) {
	for printed, want := range map[string]string{
		`"CANCELLED"`: "CANCELLED", `["TIMEOUT"]`: "TIMEOUT", `["PENDING", "REQUEUED"]`: "REQUEUED", `"CANCELLED by 1003"`: "CANCELLED",
	} {
		if got := changed(t, "state", `{"current": `+printed+`, "reason": "None"}`).State; got != want {
			t.Errorf("%s: got %q, want %q", printed, got, want)
		}
	}
}

func TestJSONIdentities(t *testing.T) {
	tests := []struct{ member, value, display, parent string }{
		{"array", `{"job_id": 3, "task_id": 7}`, "3_7", "3"},
		{"array", `{"job_id": 3, "task_id": 0}`, "3_0", "3"},
		{"array", `{"job_id": 3, "task_id": {"set": true, "infinite": false, "number": 0}, "task": ""}`, "3_0", "3"},
		{"array", `{"job_id": 12, "task_id": 9}`, "12_9", ""},
		{"array", `{"job_id": 12, "task_id": null, "task": "1-300%1"}`, "12_[1-300%1]", ""},
		{"array", `{"job_id": 12, "task_id": {"set": false, "infinite": false, "number": 0}, "task": "1-300%1"}`, "12_[1-300%1]", ""},
		{"array", `{"job_id": 0, "task_id": 4294967294, "task": null}`, "12", ""},
		{"array", `{"job_id": 12, "task_id": 4294967294, "task": "1-2"}`, "12_[1-2]", ""},
		{"array", `null`, "12", ""},
		{"het", `{"job_id": 11, "job_offset": 1}`, "11+1", "11"},
		{"het", `{"job_id": 12, "job_offset": {"set": true, "infinite": false, "number": 0}}`, "12+0", ""},
		{"het", `{"job_id": {"set": true, "infinite": false, "number": 11}, "job_offset": {"set": true, "infinite": false, "number": 2}}`, "11+2", "11"},
		{"het", `{"job_id": 0, "job_offset": {"set": false, "infinite": false, "number": 0}}`, "12", ""},
		{"het", `{"job_id": 0, "job_offset": 4294967294}`, "12", ""},
	}
	for _, tt := range tests {
		if job := changed(t, tt.member, tt.value); job.ID != "12" || job.DisplayID != tt.display || job.ParentID != tt.parent {
			t.Errorf("%s %s: got %q, %q, parent %q; want 12, %q, %q", tt.member, tt.value, job.ID, job.DisplayID, job.ParentID, tt.display, tt.parent)
		}
	}
}

func TestJSONUserOfTheAssociation(t *testing.T) {
	for _, user := range []string{`""`, `null`, ""} {
		if job := changed(t, "user", user); job.User != "carol" {
			t.Errorf("user %s: got %q; want carol, of the association", user, job.User)
		}
	}
}

func TestJSONUnfinished(t *testing.T) {
	job := changed(t, "time", `{"elapsed": 0, "submission": 1795346887, "start": 0, "end": {"set": false, "infinite": false, "number": 0}}`)
	if job.Finished() || !job.Start.IsZero() || job.Submit.IsZero() {
		t.Errorf("got %+v; want a submit time alone", job)
	}
}

func TestJSONNames(t *testing.T) {
	for value, want := range map[string]string{`"new\nline|\"q\" \u0001"`: "new\nline|\"q\" \x01", "\"lat\xe9in\"": "lat\uFFFDin", `null`: "",
		`"` + strings.Repeat("é", 3000) + `"`: strings.Repeat("é", 2048)} {
		if got := changed(t, "name", value).Name; got != want {
			t.Errorf("%.40s: got %.40q, want %.40q", value, got, want)
		}
	}
}

// TestJSONBadJobStopsOnlyItself: a shape that was not expected is reported with the job's number, id and field.
func TestJSONBadJobStopsOnlyItself(t *testing.T) {
	tests := []struct{ member, value, want string }{
		{"job_id", `"x"`, "dump: job 2: job_id: not a number"},
		{"job_id", ``, "dump: job 2: job_id: missing"},
		{"job_id", `0`, "dump: job 2: job 0: job_id: missing"},
		{"state", `{"current": {"a": [1, 2]}}`, "dump: job 2: job 12: state.current: not text"},
		{"state", `"COMPLETED"`, "dump: job 2: job 12: state: not an object"},
		{"state", ``, "dump: job 2: job 12: state.current: missing"},
		{"time", `[]`, "dump: job 2: job 12: time: not an object"},
		{"time", ``, "dump: job 2: job 12: time: missing"},
		{"time", `{"submission": 1}`, "dump: job 2: job 12: time.elapsed: missing"},
		{"time", `{"elapsed": 1.5}`, "dump: job 2: job 12: time.elapsed: 1.5 is not a whole number"},
		{"time", `{"elapsed": 1, "end": 999999999999}`, "dump: job 2: job 12: time.end: 999999999999 is no time"},
		{"time", `{"elapsed": {"set": "yes", "number": 1}}`, "dump: job 2: job 12: time.elapsed: not true or false"},
		{"tres", `{"allocated": "cpu=8"}`, "dump: job 2: job 12: tres.allocated: not a list"},
		{"tres", `{"allocated": [{"count": 8}]}`, "dump: job 2: job 12: tres.allocated: an entry has no type"},
		{"tres", `{"allocated": [{"type": "mem", "count": 9223372036854775807}]}`, "dump: job 2: job 12: tres.allocated: 9223372036854775807 MiB is out of range"},
		{"name", `7`, "dump: job 2: job 12: name: not text"},
	}
	for _, tt := range tests {
		t.Run(tt.member+"="+tt.value, func(t *testing.T) {
			bad := changedJSON(map[string]string{tt.member: tt.value}, "")
			got := readText(jobsJSON(jobJSON(""), bad, jobJSON("")), slurm.Options{})
			if got.err != nil || len(got.jobs) != 2 || len(got.bad) != 1 || got.stats != (scheduler.Stats{Rows: 3, Bad: 1}) {
				t.Fatalf("%d jobs, bad %v, error %v, %+v; want two jobs around one bad", len(got.jobs), got.bad, got.err, got.stats)
			}
			if got.bad[0].Error() != tt.want {
				t.Errorf("got  %v\nwant %s", got.bad[0], tt.want)
			}
		})
	}
	if got := readText(jobsJSON(`7`, jobJSON("")), slurm.Options{}); len(got.jobs) != 1 || len(got.bad) != 1 || got.bad[0].Error() != "dump: job 1: not an object" {
		t.Errorf("a job that is a number: %d jobs, bad %v", len(got.jobs), got.bad)
	}
}

func TestJSONUnknownMembersAndStepsArePassedOver(t *testing.T) {
	job := jobJSON(`"steps": [{"time": {"elapsed": "x"}, "tres": {"allocated": [{"type": "cpu", "count": 99}]}}], "new_in_26.05": [{"a": {"b": []}}]`)
	got := mustRead(t, jobsJSON(job), slurm.Options{})
	if len(got.jobs) != 1 || got.jobs[0].CPUs != 8 {
		t.Errorf("got %+v; want one job of 8 CPUs", got.jobs)
	}
}

func TestJSONFinalErrors(t *testing.T) {
	whole := jobsJSON(jobJSON(""), jobJSON(""))
	second := strings.LastIndex(whole, `"time"`)
	tests := []struct {
		what, text string
		jobs       int
		want       string
	}{
		{"cut off", whole[:second+20], 1, fmt.Sprintf("dump: job 2: the JSON ends at byte %d, within a value: it was cut off; export it again: ", second+len(`"time": {"elapsed"`))},
		{"cut off after a job", whole[:strings.Index(whole, ",\n")], 1, "dump: job 1: the JSON ends at byte "},
		{"broken", strings.Replace(whole, `"user": "alice"}]`, `"user": alice}]`, 1), 1, fmt.Sprintf("dump: job 2: broken JSON at byte %d; export it again: ", strings.LastIndex(whole, `"alice"`))},
		{"broken between jobs", strings.Replace(whole, "},\n", "}\n", 1), 1, "dump: job 1: broken JSON at byte "},
		{"followed by something else", whole + "warning: slow\n", 2, "dump: job 2: broken JSON at byte "},
		{"followed by another value", whole + "[]", 2, "dump: job 2: this JSON is no object"},
		{"a name twice", jobsJSON(jobJSON(`"user": "bob"`)), 0, "dump: job 1: broken JSON at byte "},
		{"no jobs", `{"meta": {}}`, 0, "dump: this JSON has no list of jobs; it is not what sacct --json prints"},
		{"jobs of another kind", `{"jobs": {}}`, 0, "dump: this JSON has no list of jobs"},
		{"sacct's own errors", strings.Replace(whole, `"errors": []`, `"errors": [{"error_number": 1, "description": "slurmdbd is down"}, {}]`, 1), 2,
			"dump: sacct reported an error, so that jobs may be missing: slurmdbd is down"},
		{"sacct's own error without words", `{"jobs": [], "errors": [{"error_number": 1}]}`, 0, "dump: sacct reported an error, so that jobs may be missing: no description"},
		{"a value without end", `{"jobs": [{"name": "` + strings.Repeat("x", 20<<20), 0, "dump: job 1: "},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			got := readText(tt.text, slurm.Options{})
			if got.err == nil || !strings.HasPrefix(got.err.Error(), tt.want) || len(got.jobs) != tt.jobs || len(got.bad) > 0 {
				t.Errorf("%d jobs (want %d), bad %v, error\n%v\nwant\n%s", len(got.jobs), tt.jobs, got.bad, got.err, tt.want)
			}
		})
	}
}

func TestJSONEmptyAndRepeated(t *testing.T) {
	if got := mustRead(t, jobsJSON(), slurm.Options{}); len(got.jobs) != 0 {
		t.Errorf("%d jobs; want none", len(got.jobs))
	}
	got := mustRead(t, "\ufeff\n"+jobsJSON(jobJSON(""))+jobsJSON(jobJSON("")), slurm.Options{})
	if len(got.jobs) != 2 || got.jobs[1].Place.Record != 2 {
		t.Errorf("got %+v; want two jobs of two outputs", got.jobs)
	}
}

// TestJSONLongValueIsRefusedEarly: a string without end must not be gathered without end.
func TestJSONLongValueIsRefusedEarly(t *testing.T) {
	input := &counter{r: &endless{head: []byte(`{"jobs": [{"name": "`), rows: []byte(strings.Repeat("x", 1000))}}
	got := readAll(slurm.NewReader(input, "dump", slurm.Options{}))
	if got.err == nil || !strings.Contains(got.err.Error(), "a single value is longer than 16777216 bytes") || input.n > 20<<20 {
		t.Errorf("after %d bytes: %v", input.n, got.err)
	}
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
