package counted_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/apd/v3"

	"github.com/amieusage/amieusage/internal/counted"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/schedulertest"
)

func clock() time.Time { return time.Date(2026, 10, 20, 0, 0, 0, 0, time.UTC) }

func options() counted.Options {
	return counted.Options{Project: "project", User: "user", Day: "day", Partition: "class", TRES: map[string]string{"cpu": "cpu", "mem": "mem"}, Clock: clock}
}

const table = "day,project,user,class,cpu,mem\n2026-10-01,p1,alice,a,1.5,2\n2026-10-01,p1,bob,a,0,0\n2026-10-02,p1,alice,a,1e1,0.25\n2026-10-02,p1,alice,b,7,0\n"

func TestSuite(t *testing.T) {
	schedulertest.Run(t, schedulertest.Suite{
		Open:   func(in io.Reader, _ bool) scheduler.Reader { return counted.NewReader(in, "table", options()) },
		Text:   []byte(table),
		Rows:   4,
		Header: strings.IndexByte(table, '\n') + 1,
		Shuffled: []byte("mem,class,day,user,project,cpu\n2,a,2026-10-01,alice,p1,1.5\n0,a,2026-10-01,bob,p1,0\n0.25,a,2026-10-02,alice,p1,1e1\n" +
			"0,b,2026-10-02,alice,p1,7\n"),
		CannotGrow: true,
	})
}

func read(t *testing.T, text string, opts counted.Options) (jobs []scheduler.Job, bad []string, days counted.Days) {
	t.Helper()
	reader := counted.NewReader(strings.NewReader(text), "table", opts)
	for job, err := range reader.Jobs(context.Background()) {
		if row, ok := errors.AsType[*scheduler.RowError](err); ok {
			bad = append(bad, row.Error())
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		jobs = append(jobs, *job.Clone())
	}
	if n := reader.Stats(); n.Bad != int64(len(bad)) {
		t.Errorf("%+v, and %d bad rows", n, len(bad))
	}
	return jobs, bad, reader.Days()
}

func TestJobs(t *testing.T) {
	jobs, bad, days := read(t, table, options())
	if len(bad) > 0 || len(jobs) != 4 {
		t.Fatalf("%v, %v", jobs, bad)
	}
	j := jobs[0]
	if j.ID != "p1/alice/a/2026-10-01" || !j.Submit.Equal(time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)) || j.End.Sub(j.Start) != 24*time.Hour || j.ElapsedSeconds != 3600 {
		t.Errorf("%+v", j)
	}
	cpu, _ := j.TRESCount("cpu")
	mem, _ := j.TRESCount("mem")
	if cpu.Count != 1 || cpu.Nanos != 500_000_000 || mem.Count != 2<<30 {
		t.Errorf("%v, %v", cpu, mem)
	}
	if days.First.Day() != 1 || days.Last.Day() != 2 {
		t.Errorf("%+v", days)
	}
}

func TestWeights(t *testing.T) {
	opts := counted.Options{Project: "p", User: "u", Day: "d", Part: "i", State: "s", TRES: map[string]string{"cpu": "h"}, Clock: clock,
		Weights: map[string]*apd.Decimal{"active": apd.New(1, 0), "stopped": apd.New(5, -1), "shelved": apd.New(0, 0)}}
	row := func(user, instance, state, hours string) string {
		return `{"p":"p1","u":"` + user + `","d":"2026-10-01","i":"` + instance + `","s":"` + state + `","h":` + hours + "}\n"
	}
	jobs, bad, _ := read(t, row("alice", "a", "active", "8")+row("alice", "a", "stopped", "3")+row("alice", "b", "shelved", "100")+
		row("bob", "c", "active", "1")+row("bob", "c", "active", "1")+row("eve", "d", "paused", "1")+row("eve", "d", "active", "1"), opts)
	if len(jobs) != 1 || jobs[0].TRES[0].String() != "cpu=9.5" {
		t.Errorf("%+v", jobs)
	}
	// Neither bob's, of which a row stands there twice, nor eve's, of which one cannot be weighed, is charged by half.
	if len(bad) != 2 || !strings.Contains(bad[0], "p1/bob/2026-10-01") || !strings.Contains(bad[1], "p1/eve/2026-10-01") {
		t.Errorf("%q", bad)
	}
}

func TestBadRows(t *testing.T) {
	for text, want := range map[string]string{
		"2026-10-01,p1,alice,a,many,0\n":    `"many" is no number of hours`,
		"2026-10-01,p1,alice,a,-1,0\n":      `"-1" is no number of hours`,
		"2026-10-01,p1,alice,a,NaN,0\n":     `"NaN" is no number of hours`,
		"2026-10-01,p1,alice,a,1e900,0\n":   `is no number of hours`,
		"2026-10-01,p1,alice,a,,0\n":        "cpu: it is missing",
		"2026-10-01,,alice,a,1,0\n":         "project: it is missing",
		"2026-13-01,p1,alice,a,1,0\n":       `"2026-13-01" is no day`,
		"2026-10-21,p1,alice,a,1,0\n":       "has not come yet",
		"2026-10-01,p1,alice,a,1e17,1e16\n": "more than can be",
	} {
		jobs, bad, _ := read(t, "day,project,user,class,cpu,mem\n"+text, options())
		if len(jobs) != 0 || len(bad) != 1 || !strings.Contains(bad[0], want) {
			t.Errorf("%q: %v, %q", text, jobs, bad)
		}
	}
}

func FuzzTable(f *testing.F) {
	f.Add([]byte(table))
	f.Add([]byte(`{"project":"p","user":"u","day":"2026-10-01","class":"c","cpu":1.5,"mem":"2"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		for job, err := range counted.NewReader(bytes.NewReader(text), "table", options()).Jobs(context.Background()) {
			if err != nil {
				continue
			}
			for _, tres := range job.TRES {
				if tres.Count < 0 || tres.Nanos < 0 {
					t.Errorf("%+v", job)
				}
			}
		}
	})
}
