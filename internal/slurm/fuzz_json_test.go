package slurm

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/amieusage/amieusage/internal/scheduler"
)

// slowJSON reads a job from what encoding/json makes of it. What is wrong anywhere in what it looks at is noted in bad.
type slowJSON struct{ bad bool }

func (d *slowJSON) object(v any) map[string]any {
	m, ok := v.(map[string]any)
	d.bad = d.bad || !ok && v != nil
	return m
}

func (d *slowJSON) list(v any) []any {
	l, ok := v.([]any)
	d.bad = d.bad || !ok && v != nil
	return l
}

func (d *slowJSON) text(v any) string {
	s, ok := v.(string)
	d.bad = d.bad || !ok && v != nil
	return s
}

// number returns -1 where the number is not set.
func (d *slowJSON) number(v any) int64 {
	switch v := v.(type) {
	case nil:
		return -1
	case json.Number:
		n, err := strconv.ParseInt(v.String(), 10, 64)
		if err == nil {
			return max(n, -1)
		}
		_, err = strconv.ParseUint(v.String(), 10, 64)
		d.bad = d.bad || err != nil
		return -1
	case map[string]any:
		n := d.number(v["number"])
		for name, unset := range map[string]bool{"set": false, "infinite": true} {
			if v, there := v[name]; there {
				is, ok := v.(bool)
				d.bad = d.bad || !ok
				if is == unset {
					n = -1
				}
			}
		}
		return n
	}
	d.bad = true
	return -1
}

func (d *slowJSON) number32(v any) int64 {
	if n := d.number(v); n < math.MaxUint32-1 {
		return n
	}
	return -1
}

func (d *slowJSON) time(v any) time.Time {
	n := d.number(v)
	d.bad = d.bad || n > maxEpoch
	if n <= 0 || d.bad {
		return time.Time{}
	}
	return time.Unix(n, 0).UTC()
}

func (d *slowJSON) tres(v any) (list []scheduler.TRES) {
	for _, entry := range d.list(v) {
		entry := d.object(entry)
		kind, name := d.text(entry["type"]), d.text(entry["name"])
		var count int64
		var nanos int32
		if number, plain := entry["count"].(json.Number); plain && strings.Contains(number.String(), ".") {
			exact, ok := slowCount(number.String(), false)
			d.bad = d.bad || !ok
			count, nanos = exact.Count, exact.Nanos
		} else if count = d.number(entry["count"]); count < 0 {
			continue
		}
		d.bad = d.bad || kind == ""
		if name != "" {
			kind += "/" + name
		}
		if kind == "mem" || strings.HasPrefix(kind, "bb/") {
			d.bad = d.bad || count > math.MaxInt64>>20
			count, nanos = count<<20+int64(nanos)<<20/1e9, 0
		}
		list = append(list, scheduler.TRES{Name: kind, Count: count, Nanos: nanos})
	}
	return list
}

func (d *slowJSON) job(v any) *scheduler.Job {
	j := d.object(v)
	id, array, het := d.number(j["job_id"]), d.object(j["array"]), d.object(j["het"])
	times, hasTime := j["time"]
	at, tres := d.object(times), d.object(j["tres"])
	word := ""
	if current := d.object(j["state"])["current"]; current != nil {
		words, several := current.([]any)
		if !several {
			words = []any{current}
		}
		for _, w := range words {
			word = d.text(w)
		}
	}
	word, _, _ = strings.Cut(word, " ")
	name := d.text(j["name"])
	if len(name) > maxName {
		name = strings.ToValidUTF8(name[:maxName], "")
	}
	job := &scheduler.Job{
		ID: strconv.FormatInt(id, 10), Cluster: d.text(j["cluster"]), User: d.text(j["user"]), Account: d.text(j["account"]),
		Partition: d.text(j["partition"]), QOS: d.text(j["qos"]), Name: strings.TrimRight(name, "\r\n"), State: strings.ToUpper(word),
		Submit: d.time(at["submission"]), Start: d.time(at["start"]), End: d.time(at["end"]), ElapsedSeconds: d.number(at["elapsed"]),
		TRES: d.tres(tres["allocated"]),
	}
	if user := d.text(d.object(j["association"])["user"]); job.User == "" {
		job.User = user
	}
	for _, asked := range d.tres(tres["requested"]) {
		if asked.Name == "mem" {
			job.ReqMem = formatMebibytes(asked.Count >> 20)
		}
	}
	job.DisplayID = job.ID
	arrayID, task, tasks := d.number(array["job_id"]), d.number32(array["task_id"]), d.text(array["task"])
	hetID, offset := d.number(het["job_id"]), d.number32(het["job_offset"])
	leader := int64(0)
	switch {
	case arrayID > 0 && task >= 0:
		leader = arrayID
		job.DisplayID = strconv.FormatInt(leader, 10) + "_" + strconv.FormatInt(task, 10)
	case arrayID > 0 && tasks != "":
		leader = arrayID
		job.DisplayID = strconv.FormatInt(leader, 10) + "_[" + tasks + "]"
	case hetID > 0 && offset >= 0:
		leader = hetID
		job.DisplayID = strconv.FormatInt(leader, 10) + "+" + strconv.FormatInt(offset, 10)
	}
	if leader != 0 && leader != id {
		job.ParentID = strconv.FormatInt(leader, 10)
	}
	nodes, known := job.TRESCount("node")
	if asked := d.number(j["allocation_nodes"]); !known && job.ElapsedSeconds > 0 {
		nodes.Count = max(asked, 0)
	}
	cpus, _ := job.TRESCount("cpu")
	job.Nodes, job.CPUs = nodes.Count, cpus.Count
	job.NodeList = d.text(j["nodes"])
	if name := d.object(j["reservation"])["name"]; name != nil {
		if _, old := name.(json.Number); !old {
			job.Reservation = d.text(name)
		}
	}
	d.bad = !slowSettle(job) || d.bad
	d.bad = d.bad || id <= 0 || !hasTime || job.ElapsedSeconds < 0 || job.State == ""
	return job
}

// slowOutputs reads outputs of sacct. broken tells that they are not JSON as it should be, and unusable that their jobs may
// not be all there are.
func slowOutputs(data []byte) (want reading, broken, unusable bool) {
	strict := jsontext.NewDecoder(bytes.NewReader(data), jsontext.AllowInvalidUTF8(true))
	found, failed := false, false
	for {
		value, err := strict.ReadValue()
		if errors.Is(err, io.EOF) && len(value) == 0 {
			return want, false, failed || !found
		}
		if err != nil || value.Kind() != '{' {
			return want, true, true
		}
		plain := json.NewDecoder(bytes.NewReader(value))
		plain.UseNumber()
		var output map[string]any
		if err := plain.Decode(&output); err != nil {
			return want, true, true
		}
		jobs, ok := output["jobs"].([]any)
		found = found || ok
		errs, _ := output["errors"].([]any)
		failed = failed || len(errs) > 0
		for _, v := range jobs {
			var d slowJSON
			job := d.job(v)
			want.stats.Rows++
			job.Place = scheduler.Place{File: "fuzz", Record: int(want.stats.Rows)}
			if d.bad {
				want.stats.Bad++
				want.bad = append(want.bad, &scheduler.RowError{Place: job.Place})
			} else {
				want.jobs = append(want.jobs, job)
			}
		}
	}
}

func FuzzJSON(f *testing.F) {
	// The fixtures' jobs are long, and one of them at a time is more for the fuzzer to work on.
	for _, file := range fixtureFiles(f, "../../testdata/slurm/*.json", "testdata/*.json") {
		var output struct{ Jobs []map[string]json.RawMessage }
		if err := json.Unmarshal(file, &output); err != nil {
			f.Fatal(err)
		}
		for _, job := range output.Jobs {
			delete(job, "steps")
			data, err := json.Marshal(map[string]any{"jobs": []any{job}})
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data, byte(9))
		}
	}
	const job = `{"job_id": 12, "state": {"current": "COMPLETED"}, "time": {"elapsed": 10, "submission": 1795346887, "start": 1795346888, "end": 1795346898}, ` +
		`"tres": {"allocated": [{"type": "cpu", "name": null, "count": 8}], "requested": [{"type": "mem", "count": 800}]}, "user": "", "association": {"user": "carol"}`
	for _, s := range []string{
		`{"jobs": [` + job + `}, ` + job + `, "time": []}]}`,
		`{"jobs": [` + job + `, "array": {"job_id": 3, "task_id": {"set": true, "infinite": false, "number": 7}}}]} {"jobs": null, "errors": [{"error": "x"}]}`,
		`{"jobs": [` + job + `, "array": {"job_id": {"set": false, "number": 3}, "task_id": 7}, "allocation_nodes": -2}]}`,
		`{"jobs": [` + job + `, "array": {"job_id": 3, "task": "1-300%1"}}, ` + job + `, "het": {"job_id": 12, "job_offset": 0}}]}`,
		`{"jobs": [{"job_id": 1, "state": {"current": ["PENDING", "REQUEUED"]}, "time": {"elapsed": 1}}, null, 7], "errors": [{"description": "x"}]}`,
		`{"jobs": [` + job + `, "name": "` + strings.Repeat("é", 3000) + `"}]`,
	} {
		f.Add([]byte(s), byte(0))
	}
	f.Fuzz(func(t *testing.T, data []byte, piece byte) {
		data = append([]byte("{"), bytes.TrimPrefix(data, []byte("{"))...)
		got := mustReadTheSame(t, data, piece, Options{})
		want, broken, unusable := slowOutputs(data)
		if (got.err != nil) != unusable {
			t.Fatalf("error %v; the reference cannot use it: %t", got.err, unusable)
		}
		if broken {
			return
		}
		mustBeSame(t, want.stats, got.stats)
		mustBeSame(t, want.jobs, got.jobs, cmpopts.EquateComparable(time.Time{}), ignoreWarnings, cmpopts.IgnoreFields(scheduler.Job{}, "Lacks"))
		mustBeSame(t, want.bad, got.bad, cmpopts.IgnoreFields(scheduler.RowError{}, "JobID", "Field", "Problem", "Remedy", "Err"))
	})
}
