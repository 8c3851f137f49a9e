package agent_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/amieusage/amieusage/internal/slurm"
)

// dump returns the text of sacct for n jobs.
func dump(n int) []byte {
	var b bytes.Buffer
	b.WriteString("Cluster|JobIDRaw|JobID|User|Account|Partition|QOS|State|Submit|Start|End|ElapsedRaw|NNodes|NCPUS|ReqMem|AllocTRES|JobName\n")
	for i := range n {
		submit := 1_790_000_000 + i
		fmt.Fprintf(&b, "testc|%d|%d|alice|p.abc123456.000|RM|normal|COMPLETED|%d|%d|%d|3600|1|8|800M|billing=8,cpu=8,mem=800M,node=1|relax %d\n",
			1000+i, 1000+i, submit, submit+60, submit+3660, i)
	}
	return b.Bytes()
}

// BenchmarkCollect collects 200,000 jobs from a dump into a new outbox.
func BenchmarkCollect(b *testing.B) {
	const jobs = 200_000
	text := dump(jobs)
	for b.Loop() {
		b.StopTimer()
		s := newSite(b)
		b.StartTimer()
		if err := s.agent.Collect(context.Background(), slurm.NewReader(bytes.NewReader(text), "dump", slurm.Options{}), nil, nil); err != nil {
			b.Fatal(err)
		}
		if s.agent.Summary.New != jobs {
			b.Fatalf("%+v", s.agent.Summary)
		}
	}
	b.ReportMetric(jobs*float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
}
