package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// A soakSample is the value of each of soakLines at a time; NaN where there is
// none, such as while the service is down.
type soakSample struct {
	at      time.Duration
	values  []float64
	records float64 // in the ledger
}

// A soakState is what a sample is taken from.
type soakState struct {
	rss, peak        float64 // MiB, of serve
	files, threads   float64
	report           soakRun            // the last
	bytes            map[string]float64 // by file
	records, entries float64            // in the ledger, in the outbox
	queued, open     float64            // of each that are not loaded
	rate             float64            // new records a second since the last sample
	p50, p99         float64            // ms, of the direct client since the last sample
}

// rateSamples is over how many samples the rate is taken: runs of report, of
// which each brings a jump, come less often than samples.
const rateSamples = 8

// sample takes a sample at each interval, and writes it to raw at once.
func (s *soak) sample(ctx context.Context, raw io.Writer) (samples []soakSample, err error) {
	w := csv.NewWriter(raw)
	header := []string{"minutes"}
	for _, l := range soakLines {
		header = append(header, l.name+" ["+l.unit+"]")
	}
	var told time.Duration
	if err := w.Write(header); err != nil {
		return nil, err
	}
	err = ticks(ctx, s.interval, func() error {
		at := time.Since(s.start)
		now := s.state()
		now.rate = math.NaN()
		if n := len(samples) - rateSamples; n >= 0 {
			now.rate = (now.records - samples[n].records) / (at - samples[n].at).Seconds()
		}
		sample := soakSample{at: at, records: now.records}
		row := []string{strconv.FormatFloat(at.Minutes(), 'f', 3, 64)}
		for _, l := range soakLines {
			v := l.measure(&now)
			sample.values = append(sample.values, v)
			row = append(row, strconv.FormatFloat(v, 'g', 6, 64))
		}
		samples = append(samples, sample)
		if at-told >= time.Minute {
			told = at
			s.log("%s: %.0f records, serve %.0f MiB, %.0f files; p50 %.1f ms, p99 %.1f ms; %.0f queued, %.0f open in the outbox; report %.1f s, %.0f MiB",
				at.Round(time.Second), now.records, now.rss, now.files, now.p50, now.p99, now.queued, now.open, now.report.seconds, now.report.mib)
		}
		if err := w.Write(row); err != nil {
			return err
		}
		w.Flush()
		return w.Error()
	})
	return samples, err
}

func (s *soak) state() soakState {
	now := soakState{bytes: map[string]float64{}}
	process := filepath.Join("/proc", strconv.Itoa(s.service.process().Process.Pid))
	status := processStatus(process)
	now.rss, now.peak, now.threads = status["VmRSS"]/1024, status["VmHWM"]/1024, status["Threads"]
	now.files = math.NaN()
	if open, err := os.ReadDir(filepath.Join(process, "fd")); err == nil && len(open) > 0 {
		now.files = float64(len(open))
	}
	for _, name := range []string{"ledger.db", "outbox.db"} {
		// With what is still in the log only.
		now.bytes[name] = s.number(name, `SELECT page_count * page_size FROM pragma_page_count, pragma_page_size`)
		if info, err := os.Stat(filepath.Join(s.folder, name+"-wal")); err == nil {
			now.bytes[name+"-wal"] = float64(info.Size())
		}
	}
	now.records = s.number("ledger.db", `SELECT max(record_id) FROM records`)
	now.queued = s.number("ledger.db", `SELECT queued FROM sites`)
	now.entries = s.number("outbox.db", `SELECT max(entry_id) FROM entries`)
	now.open = s.number("outbox.db", openEntries)
	s.mu.Lock()
	answers := s.answers
	s.answers, now.report = nil, s.lastRun
	s.mu.Unlock()
	slices.Sort(answers)
	now.p50, now.p99 = percentile(answers, 50), percentile(answers, 99)
	return now
}

const openEntries = `SELECT coalesce(sum(entries), 0) FROM counts WHERE state IN ('pending', 'queued')`

// number asks a file of the soak for a number: NaN where it is not there, or
// somebody holds it.
func (s *soak) number(file, query string) float64 {
	n, err := s.ask(file, query)
	if err != nil {
		return math.NaN()
	}
	return n
}

// ask opens the file for this one question, so that the processes find it as
// they would without: the last that closes a file moves its log into it.
func (s *soak) ask(file, query string) (n float64, err error) {
	conn, err := sqlite.OpenConn(filepath.Join(s.folder, file), sqlite.OpenReadOnly)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	conn.SetBusyTimeout(time.Second)
	err = sqlitex.ExecuteTransient(conn, query, &sqlitex.ExecOptions{
		ResultFunc: func(stmt *sqlite.Stmt) error {
			n = stmt.ColumnFloat(0)
			return nil
		},
	})
	return n, err
}

// outboxOpen is how many entries of the outbox are pending or queued.
func (s *soak) outboxOpen() (int64, error) {
	n, err := s.ask("outbox.db", openEntries)
	return int64(n), err
}

func (s *soak) outboxEntries(t *testing.T) int64 {
	t.Helper()
	n, err := s.ask("outbox.db", `SELECT sum(entries) FROM counts`)
	if err != nil {
		t.Fatal(err)
	}
	return int64(n)
}

// percentile returns a percentile of sorted durations in milliseconds.
func percentile(sorted []time.Duration, p int) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	return sorted[(len(sorted)-1)*p/100].Seconds() * 1000
}

// processStatus reads the numbers of a process's status; one that is gone has
// NaN for each.
func processStatus(process string) map[string]float64 {
	status := map[string]float64{"VmRSS": math.NaN(), "VmHWM": math.NaN(), "Threads": math.NaN()}
	data, _ := os.ReadFile(filepath.Join(process, "status"))
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		var n float64
		if _, err := fmt.Sscan(value, &n); err == nil {
			status[name] = n
		}
	}
	return status
}

// peakMemory returns the peak memory in MiB of a process, as it was last seen
// before the process was gone. (The usage that a parent is told of may be the
// parent's own: it outlives fork and exec.)
func peakMemory(pid int, gone <-chan struct{}) (mib float64) {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-gone:
			return mib
		case <-ticker.C:
			if kib := processStatus(filepath.Join("/proc", strconv.Itoa(pid)))["VmHWM"]; kib > mib*1024 {
				mib = kib / 1024
			}
		}
	}
}
