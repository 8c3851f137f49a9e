package slurm_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/slurm"
)

// compress returns the text compressed by the writer that open makes.
func compress(t *testing.T, text string, open func(io.Writer) (io.WriteCloser, error)) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := open(&b)
	if err == nil {
		_, err = io.WriteString(w, text)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestCompressed(t *testing.T) {
	text := dump(line(), line("JobID", "13", "JobIDRaw", "13"))
	for what, open := range map[string]func(io.Writer) (io.WriteCloser, error){
		"gzip": func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
		"zstd": func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
		"xz":   func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) },
	} {
		t.Run(what, func(t *testing.T) {
			data := compress(t, text, open)
			got := readAll(slurm.NewReader(bytes.NewReader(data), "dump", slurm.Options{}))
			if got.err != nil {
				t.Fatal(got.err)
			}
			jobsEqual(t, mustRead(t, text, slurm.Options{}).jobs, got.jobs)
			// One after the other, as two that were appended.
			twice := readAll(slurm.NewReader(bytes.NewReader(append(bytes.Clone(data), data...)), "dump", slurm.Options{}))
			if twice.err != nil || len(twice.jobs) != 4 {
				t.Errorf("two in one: %d jobs, error %v", len(twice.jobs), twice.err)
			}
			// Cut off anywhere, it is an error.
			for n := 6; n < len(data); n++ {
				if cut := readAll(slurm.NewReader(bytes.NewReader(data[:n]), "dump", slurm.Options{})); cut.err == nil {
					t.Errorf("cut off after %d of %d bytes: no error, %d jobs", n, len(data), len(cut.jobs))
				}
			}
		})
	}
}

func TestColumnsOfDumpsWithoutHeader(t *testing.T) {
	names := strings.Split(columns, "|")
	rows := line() + "\n" + line("JobID", "13", "JobIDRaw", "13") + "\n"
	want := mustRead(t, columns+"\n"+rows, slurm.Options{}).jobs
	for what, text := range map[string]string{
		"as it is":           rows,
		"a header":           columns + "\n" + rows,
		"another delimiter":  strings.ReplaceAll(rows, "|", "\x1f"),
		"a trailing one":     strings.ReplaceAll(rows, "\n", "|\n"),
		"carriage returns":   strings.ReplaceAll(rows, "\n", "\r\n"),
		"no end of the line": strings.TrimSuffix(rows, "\n") + "\n",
	} {
		t.Run(what, func(t *testing.T) {
			jobsEqual(t, want, mustRead(t, text, slurm.Options{Columns: names}).jobs)
		})
	}
}

func TestWordsAboveTheHeader(t *testing.T) {
	var heard []string
	opts := slurm.Options{Warn: func(text string) { heard = append(heard, text) }}
	got := mustRead(t, "Welcome\n\n"+dump(line()), opts)
	if diff := cmp.Diff([]string{`dump:1: above the header: "Welcome"`}, heard); diff != "" || len(got.jobs) != 1 {
		t.Errorf("%d jobs; heard (-want +got):\n%s", len(got.jobs), diff)
	}
}

func TestErrorOfSacctBetweenRows(t *testing.T) {
	text := strings.ReplaceAll(dump(line()), "|JobName", "")
	text = strings.ReplaceAll(text, "|run", "") + "sacct: error: slurmdbd went away\n"
	got := readText(text, slurm.Options{})
	if incomplete, ok := errors.AsType[*scheduler.IncompleteError](got.err); !ok || len(got.jobs) != 1 {
		t.Errorf("%d jobs, error %v, want one and that there may be more", len(got.jobs), incomplete)
	}
}
