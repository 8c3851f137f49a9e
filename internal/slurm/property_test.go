package slurm_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/slurm"
)

// drawJob makes a job as Slurm could hold it, whose name has anything in it that does not forge a row: no line of it but
// the first has a number where a job's id stands.
func drawJob(t *rapid.T, delimiter string) *scheduler.Job {
	word := rapid.StringMatching(`[a-z][a-z0-9._-]{0,12}`)
	name := rapid.Map(rapid.SliceOfN(rapid.SampledFrom([]string{delimiter, "\n", "\"", "`", "'", ",", "\t", "\r\n\r", "é", "名", "x", " y ", "\x01", "="}), 0, 12),
		func(parts []string) string { return strings.TrimRight(strings.Join(parts, ""), "\r\n") })
	instant := func(name string) time.Time {
		sec := rapid.Int64Range(0, 4_000_000_000).Draw(t, name)
		if sec == 0 {
			return time.Time{}
		}
		return time.Unix(sec, 0).UTC()
	}
	id := rapid.Int64Range(1, 1<<32).Draw(t, "id")
	j := &scheduler.Job{
		Cluster: word.Draw(t, "cluster"), ID: fmt.Sprint(id), DisplayID: fmt.Sprint(id), User: word.Draw(t, "user"), Account: word.Draw(t, "account"),
		Partition: word.Draw(t, "partition"), QOS: word.Draw(t, "qos"), Name: name.Draw(t, "name"), ReqMem: "4G",
		State:  rapid.SampledFrom([]string{"COMPLETED", "CANCELLED", "RUNNING", "NODE_FAIL"}).Draw(t, "state"),
		Submit: instant("submit"), Start: instant("start"), End: instant("end"),
		Lacks: scheduler.FactUID | scheduler.FactReservation | scheduler.FactNodeList | scheduler.FactDBIndex | scheduler.FactGroup | scheduler.FactProject,
		Nodes: rapid.Int64Range(0, 1<<20).Draw(t, "nodes"), CPUs: rapid.Int64Range(0, 1<<30).Draw(t, "cpus"),
	}
	if j.Finished() {
		j.Submit = time.Unix(rapid.Int64Range(1, 1_000_000_000).Draw(t, "submit"), 0).UTC()
		j.Start = j.Submit.Add(time.Duration(rapid.Int64Range(0, 1e8).Draw(t, "waited")) * time.Second)
		ran := rapid.Int64Range(0, 1e8).Draw(t, "ran")
		j.End = j.Start.Add(time.Duration(ran) * time.Second)
		j.ElapsedSeconds = rapid.Int64Range(0, ran).Draw(t, "elapsed")
	}
	if rapid.Bool().Draw(t, "task of an array") {
		j.ParentID = fmt.Sprint(id + 1)
		j.DisplayID = j.ParentID + "_7"
	}
	j.TRES = []scheduler.TRES{{Name: "cpu", Count: j.CPUs}, {Name: "mem", Count: rapid.Int64Range(0, 1<<30).Draw(t, "mem") << 20}, {Name: "node", Count: j.Nodes}}
	return j
}

// writeJob writes the job as sacct does.
func writeJob(j *scheduler.Job, header []string, delimiter string) string {
	at := func(t time.Time) string {
		if t.IsZero() {
			return "Unknown"
		}
		return fmt.Sprint(t.Unix())
	}
	values := map[string]string{
		"Cluster": j.Cluster, "JobIDRaw": j.ID, "JobID": j.DisplayID, "User": j.User, "Account": j.Account, "Partition": j.Partition, "QOS": j.QOS,
		"State": j.State, "Submit": at(j.Submit), "Start": at(j.Start), "End": at(j.End), "ElapsedRaw": fmt.Sprint(j.ElapsedSeconds), "ReqMem": j.ReqMem,
		"AllocTRES": fmt.Sprintf("cpu=%d,mem=%dM,node=%d", j.TRES[0].Count, j.TRES[1].Count>>20, j.TRES[2].Count), "JobName": j.Name,
		"NNodes": fmt.Sprint(j.Nodes), "NCPUS": fmt.Sprint(j.CPUs),
	}
	var fields []string
	for _, name := range header {
		fields = append(fields, values[name])
	}
	return strings.Join(fields, delimiter)
}

func TestWrittenJobsAreReadBack(t *testing.T) {
	names := strings.Split(columns, "|")
	rapid.Check(t, func(rt *rapid.T) {
		delimiter := rapid.SampledFrom([]string{"|", "\x1f", "^", "\t", "\x1fab12"}).Draw(rt, "delimiter")
		end := rapid.SampledFrom([]string{"", delimiter}).Draw(rt, "at the end of lines")
		header := append(rapid.Permutation(names[:len(names)-1]).Draw(rt, "columns"), "JobName")
		opts := slurm.Options{}
		if len(delimiter) > 1 {
			opts.Delimiter = delimiter
		}
		var text strings.Builder
		text.WriteString(strings.Join(header, delimiter) + end + "\n")
		var want []*scheduler.Job
		for range rapid.IntRange(0, 5).Draw(rt, "jobs") {
			j := drawJob(rt, delimiter)
			want = append(want, j)
			text.WriteString(writeJob(j, header, delimiter) + end + "\n")
		}
		got := readText(text.String(), opts)
		if got.err != nil || len(got.bad) > 0 || len(got.jobs) != len(want) {
			rt.Fatalf("%d jobs, bad %v, error %v; want %d jobs of\n%q", len(got.jobs), got.bad, got.err, len(want), text.String())
		}
		for i := range want {
			got.jobs[i].Place = scheduler.Place{}
			if fmt.Sprintf("%+v", want[i]) != fmt.Sprintf("%+v", got.jobs[i]) {
				rt.Fatalf("wrote %+v\nread  %+v", want[i], got.jobs[i])
			}
		}
	})
}
