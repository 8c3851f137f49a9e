package outbox_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/siterules"
)

var sameJobs = cmp.Options{cmpopts.EquateComparable(amieusage.Charge{}), cmpopts.EquateEmpty(), cmpopts.IgnoreFields(siterules.Made{}, "Rate", "Rule")}

func drawJob(t *rapid.T) *outbox.Job {
	text := func(name string) string { return rapid.StringN(0, 8, 12).Draw(t, name) }
	at := func(name string) time.Time {
		if rapid.IntRange(0, 9).Draw(t, name+" is set") == 0 {
			return time.Time{}
		}
		return time.Unix(rapid.Int64Range(-1e9, 4e9).Draw(t, name), rapid.SampledFrom([]int64{0, 0, 1, 999_999_999}).Draw(t, "ns")).UTC()
	}
	j := &outbox.Job{
		Facts: scheduler.Job{
			Cluster: text("cluster"), ID: text("id"), DisplayID: text("display"), User: text("user"), UID: text("uid"), Account: text("account"),
			Partition: text("partition"), QOS: text("qos"), Name: text("name"), ReqMem: text("mem"), State: text("state"), NodeList: text("nodes"),
			Submit: at("submit"), Start: at("start"), End: at("end"), ElapsedSeconds: rapid.Int64().Draw(t, "elapsed"), Nodes: rapid.Int64().Draw(t, "nodes"),
			CPUs: rapid.Int64().Draw(t, "cpus"), Lacks: scheduler.Facts(rapid.Uint16Range(0, 2047).Draw(t, "lacks")),
		},
		Made: siterules.Made{Resource: text("resource"), Project: text("project"), User: text("name"), RecordID: text("record"),
			Charge: amieusage.ChargeOfMillionths(rapid.Int64Range(0, 1e12).Draw(t, "charge")), Untracked: rapid.Bool().Draw(t, "untracked")},
	}
	for range rapid.IntRange(0, 4).Draw(t, "TRES") {
		j.Facts.TRES = append(j.Facts.TRES, scheduler.TRES{Name: text("TRES"), Count: rapid.Int64().Draw(t, "count"), Nanos: rapid.Int32Range(0, 999_999_999).Draw(t, "nanos")})
	}
	return j
}

func TestJobIsReadBack(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		j := drawJob(rt)
		back, err := outbox.ParseJob(outbox.AppendJob(nil, j))
		if err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(j, back, sameJobs); diff != "" {
			rt.Fatalf("(-written +read):\n%s", diff)
		}
	})
}

// Damaged bytes are an error; what can be read is written the same again.
func FuzzParseJob(f *testing.F) {
	f.Add(outbox.AppendJob(nil, &outbox.Job{}))
	f.Add(outbox.AppendJob(nil, &outbox.Job{Facts: scheduler.Job{ID: "1", Submit: time.Unix(1, 0), End: time.Unix(5, 1), TRES: []scheduler.TRES{{Name: "cpu", Count: 8}}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		j, err := outbox.ParseJob(b)
		if err != nil {
			return
		}
		again, err := outbox.ParseJob(outbox.AppendJob(nil, j))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(j, again, sameJobs); diff != "" {
			t.Fatal(diff)
		}
	})
}
