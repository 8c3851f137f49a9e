//go:build bench

package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	benchResults = flag.String("bench-results", "", "what the benchmarks have printed, run after run")
	benchDoc     = flag.String("bench-doc", "", "the document whose tables are written anew")
)

// TestBenchTables writes the tables of the document from what the benchmarks
// have printed; all else in it, which is written by hand, stays.
func TestBenchTables(t *testing.T) {
	r := readResults(t, *benchResults)
	doc, err := os.ReadFile(*benchDoc)
	if err != nil {
		t.Fatal(err)
	}
	text := string(doc)
	for name, table := range map[string]string{
		"machine": machine(), "aims": r.aims(), "memory": r.memory(), "replicas": r.replicas(), "growth": r.growth(), "questions": r.questions(),
	} {
		begin, end := "<!-- "+name+" -->\n", "<!-- end -->"
		before, rest, ok := strings.Cut(text, begin)
		_, after, ended := strings.Cut(rest, end)
		if !ok || !ended {
			t.Fatalf("%s has no place for the table %s", *benchDoc, name)
		}
		text = before + begin + table + end + after
	}
	if err := os.WriteFile(*benchDoc, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func machine() string {
	model := "unknown"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if m := regexp.MustCompile(`model name\s*: (.*)`).FindSubmatch(info); m != nil {
			model = string(m[1])
		}
	}
	return fmt.Sprintf("Machine: %d cores, %s, %s, %s.\n", runtime.NumCPU(), model, runtime.Version(), time.Now().UTC().Format(time.DateOnly))
}

// results are the metrics of each benchmark, run after run.
type results map[string][]map[string]float64

func readResults(t *testing.T, name string) results {
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := results{}
	// Equal names within one run are numbered, and all end with the cores.
	suffix := regexp.MustCompile(`(#\d+)?(-` + strconv.Itoa(runtime.GOMAXPROCS(0)) + `)?$`)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		metrics := map[string]float64{}
		for i := 2; i+1 < len(fields); i += 2 {
			if metrics[fields[i+1]], err = strconv.ParseFloat(fields[i], 64); err != nil {
				t.Fatal(lines.Text(), err)
			}
		}
		key := suffix.ReplaceAllString(strings.TrimPrefix(fields[0], "Benchmark"), "")
		r[key] = append(r[key], metrics)
	}
	return r
}

// of returns a metric of all runs of a benchmark.
func (r results) of(name, unit string) (all []float64) {
	for _, run := range r[name] {
		if v, ok := run[unit]; ok {
			all = append(all, v)
		}
	}
	return all
}

func median(all []float64) float64 {
	if len(all) == 0 {
		return 0
	}
	all = slices.Sorted(slices.Values(all))
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
}

// cell returns a median with its least and greatest, or a dash.
func cell(all []float64, format string) string {
	switch len(all) {
	case 0:
		return "–"
	case 1:
		return fmt.Sprintf(format, all[0])
	}
	return fmt.Sprintf(format+" ("+format+"–"+format+")", median(all), slices.Min(all), slices.Max(all))
}

// perThing returns a metric of an iteration for each of its things.
func (r results) perThing(name, unit, format string) string {
	var all []float64
	for _, run := range r[name] {
		if n := run["things/op"]; n > 0 {
			all = append(all, run[unit]/n)
		}
	}
	if len(all) == 0 {
		return "–"
	}
	return fmt.Sprintf(format, median(all))
}

// ratio returns the median of the ratios of a benchmark and its baseline in the
// same run.
func (r results) ratio(name, baseline string) string {
	ours, theirs := r.of(name, "/s"), r.of(baseline, "/s")
	var all []float64
	for i := range min(len(ours), len(theirs)) {
		all = append(all, ours[i]/theirs[i])
	}
	return cell(all, "%.2f")
}

func (r results) aims() string {
	var b strings.Builder
	b.WriteString("| what | a second | aim | baseline | a second | ratio | bytes each | allocations each |\n|---|---|---|---|---|---|---|---|\n")
	for _, row := range []struct {
		what, name, aim string
		baselines       []string
	}{
		{"parse sacct's text", "Parse/amieusage", "1,000,000", []string{"Parse/encoding-csv", "Parse/python"}},
		{"parse PBS's log", "ParseLogs/pbs", "500,000", []string{"ParseLogs/pbs-strings-fields"}},
		{"parse Grid Engine's accounting", "ParseLogs/gridengine", "500,000", []string{"ParseLogs/gridengine-strings-split"}},
		{"parse HTCondor's ClassAds", "ParseLogs/htcondor-classads", "500,000", []string{"ParseLogs/htcondor-classads-strings-cut"}},
		{"parse HTCondor's JSON", "ParseLogs/htcondor-json", "500,000", []string{"ParseLogs/htcondor-json-encoding-json"}},
		{"encode and split messages", "Encode/amieusage", "1,000,000", []string{"Encode/encoding-json", "Encode/python"}},
		{"decode and validate messages", "Decode/amieusage-and-validate", "none", []string{"Decode/encoding-json"}},
		{"accept, SQLite", "Replicas/accept/sqlite", "150,000", []string{"Replicas/rows/plain-insert"}},
		{"accept, PostgreSQL", "Replicas/accept/postgres-1", "100,000", []string{"Replicas/rows/plain-copy"}},
		{"load, SQLite", "Replicas/load/sqlite", "80,000", []string{"Replicas/rows/plain-insert"}},
		{"load, PostgreSQL", "Replicas/load/postgres-1", "50,000", []string{"Replicas/rows/plain-copy"}},
		{"load corrections, SQLite", "Replicas/correct/sqlite", "80,000", []string{"Replicas/rows/plain-insert"}},
		{"load corrections, PostgreSQL", "Replicas/correct/postgres-1", "50,000", []string{"Replicas/rows/plain-copy"}},
		{"1,000,000 jobs from end to end", "EndToEnd/jobs-1000000", "25,000: 40 s", []string{"EndToEnd/plain-insert", "EndToEnd/python"}},
	} {
		for i, baseline := range row.baselines {
			_, short, _ := strings.Cut(baseline, "/")
			short = strings.TrimPrefix(short, "rows/")
			if i == 0 {
				each, count := r.perThing(row.name, "B/op", "%.0f"), r.perThing(row.name, "allocs/op", "%.2f")
				if strings.HasPrefix(row.name, "EndToEnd") {
					each, count = "–", "–" // of other processes
				}
				fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", row.what, cell(r.of(row.name, "/s"), "%.0f"), row.aim,
					short, cell(r.of(baseline, "/s"), "%.0f"), r.ratio(row.name, baseline), each, count)
			} else {
				fmt.Fprintf(&b, "| | | | %s | %s | %s | | |\n", short, cell(r.of(baseline, "/s"), "%.0f"), r.ratio(row.name, baseline))
			}
		}
	}
	return b.String()
}

func (r results) memory() string {
	var b strings.Builder
	b.WriteString("| jobs | runs | report, MiB | serve, MiB | seconds |\n|---|---|---|---|---|\n")
	for _, name := range []string{"EndToEnd/jobs-1000", "EndToEnd/jobs-1000000", "Many/jobs-10000000"} {
		var seconds []float64
		for _, run := range r[name] {
			seconds = append(seconds, run["things/op"]/run["/s"])
		}
		_, jobs, _ := strings.Cut(name, "/jobs-")
		fmt.Fprintf(&b, "| %s | %d | %s | %s | %s |\n", jobs, len(seconds),
			cell(r.of(name, "report-MiB"), "%.0f"), cell(r.of(name, "serve-MiB"), "%.0f"), cell(seconds, "%.1f"))
	}
	return b.String()
}

func (r results) replicas() string {
	var b strings.Builder
	b.WriteString("| work | on | records a second | ratio to the floor | cores, program | cores, PostgreSQL | computing | commits | locks | program |\n" +
		"|---|---|---|---|---|---|---|---|---|---|\n")
	for _, on := range []string{"sqlite", "postgres-1", "postgres-2", "postgres-4"} {
		floor := "Replicas/rows/plain-copy"
		if on == "sqlite" {
			floor = "Replicas/rows/plain-insert"
		}
		for _, work := range []string{"accept", "load", "correct"} {
			name := "Replicas/" + work + "/" + on
			if r[name] == nil {
				continue // of a short run
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s", work, on, cell(r.of(name, "/s"), "%.0f"), r.ratio(name, floor))
			for _, unit := range []string{"own-cores", "db-cores"} {
				fmt.Fprintf(&b, " | %.2f", median(r.of(name, unit)))
			}
			for _, unit := range []string{"computing-%", "commits-%", "locks-%", "client-%"} {
				if on == "sqlite" {
					b.WriteString(" | –")
				} else {
					fmt.Fprintf(&b, " | %.0f %%", median(r.of(name, unit)))
				}
			}
			b.WriteString(" |\n")
		}
	}
	return b.String()
}

func (r results) growth() string {
	var b strings.Builder
	b.WriteString("| work | on | empty | 1,000,000 | 10,000,000 | largest to empty |\n|---|---|---|---|---|---|\n")
	for _, work := range []string{"accept", "load"} {
		for _, on := range []string{"sqlite", "postgres"} {
			name := "Growth/" + work + "/" + on + "/"
			largest := name + "10000000"
			if r[largest] == nil {
				largest = name + "1000000"
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %.2f |\n", work, on, cell(r.of(name+"0", "/s"), "%.0f"),
				cell(r.of(name+"1000000", "/s"), "%.0f"), cell(r.of(name+"10000000", "/s"), "%.0f"),
				median(r.of(largest, "/s"))/median(r.of(name+"0", "/s")))
		}
	}
	return b.String()
}

func (r results) questions() string {
	var b strings.Builder
	b.WriteString("| asked | on | records | p50, ms | p99, ms |\n|---|---|---|---|---|\n")
	for _, on := range []string{"sqlite/1000000", "sqlite/10000000", "postgres/1000000", "postgres/10000000"} {
		engine, records, _ := strings.Cut(on, "/")
		for _, question := range []string{"status", "summary", "summary-partial-days", "loaded-page"} {
			name := "Growth/" + question + "/" + on
			if r[name] != nil {
				fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", question, engine, records, cell(r.of(name, "p50-ms"), "%.2f"), cell(r.of(name, "p99-ms"), "%.2f"))
			}
		}
	}
	return b.String()
}
