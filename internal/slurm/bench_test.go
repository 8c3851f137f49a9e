package slurm_test

import (
	"bytes"
	"context"
	"os"
	"testing"
	"time"

	"github.com/amieusage/amieusage/internal/slurm"
)

// repeated returns a fixture's rows over and over, below one header.
func repeated(b *testing.B, path string, lines int) []byte {
	b.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	header, rows, _ := bytes.Cut(data, []byte("\n"))
	times := lines/bytes.Count(rows, []byte("\n")) + 1
	return append(append(header, '\n'), bytes.Repeat(rows, times)...)
}

func benchmark(b *testing.B, data []byte, opts slurm.Options, unit string) {
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	var rows int64
	for b.Loop() {
		reader := slurm.NewReader(bytes.NewReader(data), "dump", opts)
		for _, err := range reader.Jobs(context.Background()) {
			if err != nil {
				b.Fatal(err)
			}
		}
		rows += reader.Stats().Rows
	}
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), unit)
}

func BenchmarkTextEpoch(b *testing.B) {
	benchmark(b, repeated(b, fixtures+"sacct-epoch.psv", 100_000), slurm.Options{}, "lines/s")
}

func BenchmarkTextNaive(b *testing.B) {
	benchmark(b, repeated(b, fixtures+"sacct-newyork-naive.psv", 100_000), slurm.Options{Zone: newYork(b)}, "lines/s")
}

func BenchmarkTextWithSteps(b *testing.B) {
	benchmark(b, repeated(b, fixtures+"sacct-with-steps.psv", 100_000), slurm.Options{Zone: time.UTC}, "lines/s")
}

// BenchmarkTextLongDelimiter reads what Sacct asks sacct for.
func BenchmarkTextLongDelimiter(b *testing.B) {
	const delimiter = "\x1f0f1e2d3c"
	data := bytes.ReplaceAll(repeated(b, fixtures+"sacct-epoch.psv", 100_000), []byte("|"), []byte(delimiter))
	benchmark(b, data, slurm.Options{Delimiter: delimiter}, "lines/s")
}

func BenchmarkJSON(b *testing.B) {
	data, err := os.ReadFile("testdata/sacct-24.05.json")
	if err != nil {
		b.Fatal(err)
	}
	benchmark(b, bytes.Repeat(data, 1000), slurm.Options{}, "jobs/s")
}
