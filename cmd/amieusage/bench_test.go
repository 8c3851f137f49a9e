package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/slurm"
)

// These benchmarks are what make bench runs, over and over, and makes its tables
// of: each does the same work as amieusage does it and by plain baselines, and
// reports a rate of things a second and the things of an iteration.

// dumpOf writes a dump of n jobs.
func dumpOf(w io.Writer, n int) {
	out := bufio.NewWriter(w)
	defer out.Flush()
	fmt.Fprintln(out, "Cluster|JobIDRaw|JobID|User|Account|Partition|QOS|State|Submit|Start|End|ElapsedRaw|NNodes|NCPUS|ReqMem|AllocTRES|JobName")
	for i := range n {
		submit, elapsed := 1770000000+10*i, i%7200+1
		fmt.Fprintf(out, "hpc|%d|%d|user%d|p.abc%06d.000|cpu|normal|COMPLETED|%d|%d|%d|%d|2|8|800M|billing=8,cpu=8,mem=800M,node=2|mpi_run %d\n",
			i+1000, i+1000, i%300, i%100, submit, submit+5, submit+5+elapsed, elapsed, i)
	}
}

// recordsOf returns n compute records, one every ten seconds; different n0 give
// different identities.
func recordsOf(n0, n int) []amieusage.Record {
	records := make([]amieusage.Record, n)
	start := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	for i := range records {
		at := start.Add(time.Duration(n0+i) * 10 * time.Second)
		charge, err := amieusage.ParseCharge(fmt.Sprintf("%d.%06d", i%100, i))
		if err != nil {
			panic(err)
		}
		records[i] = &amieusage.ComputeRecord{
			Username:       fmt.Sprintf("user%d", i%300),
			LocalProjectID: fmt.Sprintf("p.abc%06d.000", i%100),
			LocalRecordID:  fmt.Sprint(n0 + i),
			Resource:       "bridges2-rm.psc.access-ci.org",
			SubmitTime:     at,
			StartTime:      at.Add(time.Minute),
			EndTime:        at.Add(time.Hour),
			Charge:         charge,
			NodeCount:      amieusage.CountOf(2),
			CpuCoreCount:   amieusage.CountOf(256),
			JobName:        "mpi_run",
			Queue:          "RM",
		}
	}
	return records
}

// perSecond reports the rate of n things in each iteration.
func perSecond(b *testing.B, n int) {
	b.ReportAllocs()
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "/s")
	b.ReportMetric(float64(n), "things/op")
}

func BenchmarkParse(b *testing.B) {
	const jobs = 20_000
	var dump bytes.Buffer
	dumpOf(&dump, jobs)
	b.Run("amieusage", func(b *testing.B) {
		for b.Loop() {
			n := 0
			for _, err := range slurm.NewReader(bytes.NewReader(dump.Bytes()), "dump", slurm.Options{}).Jobs(b.Context()) {
				if err != nil {
					b.Fatal(err)
				}
				n++
			}
			if n != jobs {
				b.Fatalf("%d jobs", n)
			}
		}
		perSecond(b, jobs)
	})
	b.Run("encoding-csv", func(b *testing.B) {
		for b.Loop() {
			r := csv.NewReader(bytes.NewReader(dump.Bytes()))
			r.Comma, r.ReuseRecord = '|', true
			for {
				if _, err := r.Read(); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					b.Fatal(err)
				}
			}
		}
		perSecond(b, jobs)
	})
	b.Run("python", func(b *testing.B) { python(b, dump.Bytes(), "parse") })
}

// plainRecord is a record as a program without this module would write it.
type plainRecord struct {
	Username, LocalProjectID, LocalRecordID, Resource string
	SubmitTime, StartTime, EndTime                    time.Time
	Charge                                            string
	Attributes                                        struct {
		NodeCount, CpuCoreCount int64
		JobName, Queue          string
	}
}

func BenchmarkEncode(b *testing.B) {
	const n = 1000
	message, err := amieusage.NewMessage(recordsOf(0, n)...)
	if err != nil {
		b.Fatal(err)
	}
	data, err := message.MarshalJSON()
	if err != nil {
		b.Fatal(err)
	}
	var plain struct {
		UsageType string
		Records   []plainRecord
	}
	if err := json.Unmarshal(data, &plain); err != nil {
		b.Fatal(err)
	}
	b.Run("amieusage", func(b *testing.B) {
		for b.Loop() {
			if _, err := message.MarshalJSON(); err != nil {
				b.Fatal(err)
			}
		}
		perSecond(b, n)
	})
	b.Run("encoding-json", func(b *testing.B) {
		for b.Loop() {
			if _, err := json.Marshal(&plain); err != nil {
				b.Fatal(err)
			}
		}
		perSecond(b, n)
	})
	b.Run("python", func(b *testing.B) {
		var dump bytes.Buffer
		dumpOf(&dump, 20*n)
		python(b, dump.Bytes(), "encode")
	})
}

func BenchmarkDecode(b *testing.B) {
	const n = 1000
	message, err := amieusage.NewMessage(recordsOf(0, n)...)
	if err != nil {
		b.Fatal(err)
	}
	data, err := message.MarshalJSON()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("amieusage-and-validate", func(b *testing.B) {
		for b.Loop() {
			t, items, err := amieusage.DecodeMessage(data)
			if err != nil {
				b.Fatal(err)
			}
			for _, raw := range items {
				if _, err := amieusage.CheckRecord(t, raw); err != nil {
					b.Fatal(err)
				}
			}
		}
		perSecond(b, n)
	})
	b.Run("encoding-json", func(b *testing.B) {
		for b.Loop() {
			var plain struct {
				UsageType string
				Records   []plainRecord
			}
			if err := json.Unmarshal(data, &plain); err != nil {
				b.Fatal(err)
			}
		}
		perSecond(b, n)
	})
}

// plainInsert writes n rows in each iteration, with a prepared statement, so
// many a durable commit.
func plainInsert(b *testing.B, n, commit int) {
	b.Helper()
	conn, err := sqlite.OpenConn(filepath.Join(b.TempDir(), "plain.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	for _, pragma := range []string{"PRAGMA synchronous = FULL", "PRAGMA wal_autocheckpoint = 20000"} {
		if err := sqlitex.ExecuteTransient(conn, pragma, nil); err != nil {
			b.Fatal(err)
		}
	}
	err = sqlitex.ExecuteTransient(conn, `
		CREATE TABLE records (id INTEGER PRIMARY KEY, resource TEXT, record TEXT, submit INTEGER, start INTEGER, end INTEGER,
			project TEXT, user TEXT, charge INTEGER, nodes INTEGER, cores INTEGER, name TEXT, queue TEXT,
			UNIQUE (resource, record, submit))`, nil)
	if err != nil {
		b.Fatal(err)
	}
	stmt, err := conn.Prepare(`INSERT INTO records VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`)
	if err != nil {
		b.Fatal(err)
	}
	insert := func(place int) (err error) {
		end, err := sqlitex.ImmediateTransaction(conn)
		if err != nil {
			return err
		}
		defer end(&err)
		for i := range commit {
			at := int64(place + i)
			stmt.BindText(1, "bridges2-rm.psc.access-ci.org")
			stmt.BindText(2, fmt.Sprint(at))
			for column := 3; column <= 5; column++ {
				stmt.BindInt64(column, 1_790_000_000_000_000_000+at)
			}
			stmt.BindText(6, "p.abc123456.000")
			stmt.BindText(7, "alice")
			for column := 8; column <= 10; column++ {
				stmt.BindInt64(column, at)
			}
			stmt.BindText(11, "mpi_run")
			stmt.BindText(12, "RM")
			if _, err := stmt.Step(); err != nil {
				return err
			}
			if err := stmt.Reset(); err != nil {
				return err
			}
		}
		return nil
	}
	place := 0
	for b.Loop() {
		for done := 0; done < n; done += commit {
			if err := insert(place); err != nil {
				b.Fatal(err)
			}
			place += commit
		}
	}
	perSecond(b, n)
}

// BenchmarkEndToEnd reports jobs from a dump, by the real program: into the
// outbox, over HTTP, loaded and confirmed. Python converts and sends them, with
// no outbox, and asks for nothing.
func BenchmarkEndToEnd(b *testing.B) {
	program := benchProgram(b)
	for _, jobs := range []int{1_000, 1_000_000} {
		b.Run(fmt.Sprintf("jobs-%d", jobs), func(b *testing.B) { endToEnd(b, program, jobs) })
	}
	b.Run("plain-insert", func(b *testing.B) { plainInsert(b, 1_000_000, 1000) })
	b.Run("python", func(b *testing.B) {
		var dump bytes.Buffer
		dumpOf(&dump, 20_000)
		folder := b.TempDir()
		url, stop := startServer(b, program, folder)
		defer stop()
		key, err := os.ReadFile(filepath.Join(folder, "key"))
		if err != nil {
			b.Fatal(err)
		}
		python(b, dump.Bytes(), "send", url, strings.TrimSpace(string(key)))
	})
}

// BenchmarkMany reports ten million jobs, for the memory that it takes.
func BenchmarkMany(b *testing.B) {
	b.Run("jobs-10000000", func(b *testing.B) { endToEnd(b, benchProgram(b), 10_000_000) })
}

func benchProgram(b *testing.B) string {
	b.Helper()
	program, err := builtProgram()
	if err != nil {
		b.Fatal(err)
	}
	return program
}

func endToEnd(b *testing.B, program string, jobs int) {
	run := b.TempDir()
	dump, err := os.Create(filepath.Join(run, "dump.psv"))
	if err != nil {
		b.Fatal(err)
	}
	dumpOf(dump, jobs)
	if err := dump.Close(); err != nil {
		b.Fatal(err)
	}
	url, stop := startServer(b, program, run)
	config := fmt.Sprintf("site: PSC\napi_key_file: key\nusage_url: %s\nconfirm_wait: 10m\n"+
		"resources: [{resource: rm, charge: {per_hour: {cpu: 1}}}]\n", url)
	if err := os.WriteFile(filepath.Join(run, "site.yaml"), []byte(config), 0o600); err != nil {
		b.Fatal(err)
	}
	report := exec.Command(program, "report", "--config", filepath.Join(run, "site.yaml"), "--from-file", dump.Name(), "-o", "json")
	report.Stderr = os.Stderr
	var out bytes.Buffer
	report.Stdout = &out
	b.ResetTimer()
	if err := report.Start(); err != nil {
		b.Fatal(err)
	}
	peak := watchMemory(report.Process)
	err = report.Wait()
	b.StopTimer()
	b.ReportMetric(peak(), "report-MiB")
	var summary struct{ Loaded int }
	if err := errors.Join(err, json.Unmarshal(out.Bytes(), &summary)); err != nil || summary.Loaded != jobs {
		b.Fatal(err, out.String())
	}
	perSecond(b, jobs)
	b.ReportMetric(stop(), "serve-MiB")
}

// startServer starts the service with one site whose key is in the file key.
func startServer(b *testing.B, program, folder string) (url string, stop func() float64) {
	b.Helper()
	db := filepath.Join(folder, "ledger.db")
	for _, args := range [][]string{{"admin", "site", "add", "PSC", "--db", db}, {"admin", "key", "create", "--site", "PSC", "--db", db}} {
		out, err := exec.Command(program, args...).Output()
		if err == nil && args[1] == "key" {
			err = os.WriteFile(filepath.Join(folder, "key"), out, 0o600)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	server := exec.CommandContext(context.WithoutCancel(b.Context()), program, "serve", "--db", db, "--policy", "open", "--listen", "127.0.0.1:0")
	log, err := server.StderrPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := server.Start(); err != nil {
		b.Fatal(err)
	}
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		if _, rest, ok := strings.Cut(lines.Text(), "url="); ok {
			url, _, _ = strings.Cut(rest, " ")
			break
		}
	}
	if url == "" {
		b.Fatal("the service did not start")
	}
	go func() {
		for lines.Scan() {
		}
	}()
	peak := watchMemory(server.Process)
	return url, func() float64 {
		if err := errors.Join(server.Process.Signal(syscall.SIGTERM), server.Wait()); err != nil {
			b.Fatal(err)
		}
		return peak()
	}
}

// watchMemory returns what tells the peak memory of a process, in MiB, once it is
// gone.
func watchMemory(process *os.Process) func() float64 {
	gone, peak := make(chan struct{}), make(chan float64, 1)
	go func() { peak <- peakMemory(process.Pid, gone) }()
	return func() float64 {
		close(gone)
		return <-peak
	}
}
