// Package schedulertest is what every reader of a scheduler's accounting must pass.
package schedulertest

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage/internal/scheduler"
)

// A Suite is a text of accounting, and how it is read.
type Suite struct {
	// Open returns a reader of a text; growing says that its end may still be written.
	Open func(in io.Reader, growing bool) scheduler.Reader
	// Text is whole: each of its rows is a job that can be read.
	Text []byte
	// Rows is how many rows of usage it has.
	Rows int64
	// Header is how many bytes of it stand in front of the first row: text without them is another kind of text.
	Header int
	// Shuffled is the same text with its columns, keys or attributes in another order; nil: it has only one.
	Shuffled []byte
	// CannotGrow says that the source is never a file that is being written.
	CannotGrow bool
	// NameIsLast says that a row ends in the job's name, of which it cannot be told whether it is whole. Nothing is charged by it.
	NameIsLast bool
	// CutIsFinal says that a text that is cut off ends in a final error.
	CutIsFinal bool
}

// read returns the jobs, the bad rows and the final error of a text. Places are left out.
func read(open func() scheduler.Reader) (jobs []scheduler.Job, bad []*scheduler.RowError, stats scheduler.Stats, final error) {
	reader := open()
	for job, err := range reader.Jobs(context.Background()) {
		if row, ok := errors.AsType[*scheduler.RowError](err); ok {
			bad = append(bad, row)
			continue
		}
		if err != nil {
			return jobs, bad, reader.Stats(), err
		}
		kept := *job.Clone()
		kept.Place = scheduler.Place{}
		slices.SortFunc(kept.TRES, func(a, b scheduler.TRES) int { return strings.Compare(a.Name, b.Name) })
		jobs = append(jobs, kept)
	}
	return jobs, bad, reader.Stats(), nil
}

// Run runs the suite.
func Run(t *testing.T, s Suite) {
	of := func(text []byte, growing bool) func() scheduler.Reader {
		return func() scheduler.Reader { return s.Open(bytes.NewReader(text), growing) }
	}
	whole, bad, stats, err := read(of(s.Text, false))
	if err != nil || len(bad) > 0 {
		t.Fatalf("the text cannot be read: %v, %v", bad, err)
	}
	same := func(t *testing.T, what string, open func() scheduler.Reader) {
		t.Helper()
		jobs, bad, _, err := read(open)
		if err != nil || len(bad) > 0 {
			t.Errorf("%s: %v, %v", what, bad, err)
		}
		if diff := cmp.Diff(whole, jobs); diff != "" {
			t.Errorf("%s (-whole +got):\n%s", what, diff)
		}
	}
	t.Run("each row counts", func(t *testing.T) {
		if stats.Rows != s.Rows || stats.Bad != 0 || int64(len(whole))+stats.Steps != s.Rows {
			t.Errorf("%+v and %d jobs, of %d rows", stats, len(whole), s.Rows)
		}
		for _, job := range whole {
			if job.ID == "" || job.DisplayID == "" || job.User == "" || job.Submit.IsZero() || job.Submit.Location() != time.UTC {
				t.Errorf("a job lacks what each has: %+v", job)
			}
		}
	})
	t.Run("identities are apart", func(t *testing.T) {
		type identity struct {
			id, run string
			submit  int64
		}
		met := map[identity]scheduler.Job{}
		for _, job := range whole {
			id := identity{job.ID, job.Run, job.Submit.UnixNano()}
			if other, ok := met[id]; ok && job.NoUsage == "" && other.NoUsage == "" && !cmp.Equal(other, job) {
				t.Errorf("two rows have the identity %+v:\n%+v\n%+v", id, other, job)
			}
			if job.NoUsage == "" {
				met[id] = job
			}
		}
	})
	t.Run("twice", func(t *testing.T) { same(t, "read again", of(s.Text, false)) })
	t.Run("order of columns", func(t *testing.T) {
		if s.Shuffled != nil {
			same(t, "in another order", of(s.Shuffled, false))
		}
	})
	t.Run("line ends", func(t *testing.T) {
		same(t, "with CR LF", of(bytes.ReplaceAll(s.Text, []byte("\n"), []byte("\r\n")), false))
	})
	t.Run("compressed", func(t *testing.T) {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		if _, err := w.Write(s.Text); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		same(t, "by gzip", of(b.Bytes(), false))
		if _, _, _, err := read(of(b.Bytes()[:b.Len()-9], false)); err == nil {
			t.Error("a gzip that is cut off is taken for whole")
		}
	})
	t.Run("cut at any byte", func(t *testing.T) {
		for end := s.Header; end < len(bytes.TrimSpace(s.Text)); end++ {
			cut(t, &s, whole, of(s.Text[:end], false), s.Text[:end])
		}
	})
	t.Run("grows at any byte", func(t *testing.T) {
		if s.CannotGrow {
			return
		}
		for end := range s.Text {
			jobs, bad, _, err := read(of(s.Text[:end], true))
			if err != nil || len(bad) > 0 || len(jobs) > len(whole) {
				t.Fatalf("of %d bytes: %v, %v", end, bad, err)
			}
			if diff := cmp.Diff(whole[:len(jobs)], jobs, equateEmpty); diff != "" {
				t.Fatalf("of %d bytes (-whole +got):\n%s", end, diff)
			}
		}
	})
	t.Run("it ends when it is told to", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		for _, err := range of(s.Text, false)().Jobs(ctx) {
			if _, row := errors.AsType[*scheduler.RowError](err); err != nil && !row && !errors.Is(err, context.Canceled) {
				t.Errorf("ended by %v", err)
			}
		}
		for range of(s.Text, false)().Jobs(context.Background()) {
			break
		}
	})
	t.Run("what is none", func(t *testing.T) {
		for _, text := range []string{"", "\n", "\x00", "job ended well\n", "<xml/>\n", "\xff\xfe\xfd\n"} {
			jobs, _, _, err := read(of([]byte(text), false))
			if len(jobs) > 0 || err == nil {
				t.Errorf("of %q: %d jobs, %v", text, len(jobs), err)
			}
		}
	})
}

var equateEmpty = cmp.FilterValues(func(a, b []scheduler.Job) bool { return len(a) == 0 && len(b) == 0 }, cmp.Ignore())

// cut checks that a text that is cut off gives the jobs of its whole rows, and no other: a row that has lost its end is
// named, or cannot be told from a whole one only where it says the same.
func cut(t *testing.T, s *Suite, whole []scheduler.Job, open func() scheduler.Reader, text []byte) {
	t.Helper()
	jobs, bad, _, err := read(open)
	if len(bad) > 1 {
		t.Fatalf("of %d bytes: %d bad rows, of which one at most was cut", len(text), len(bad))
	}
	if s.CutIsFinal && err == nil {
		t.Fatalf("of %d bytes: no error", len(text))
	}
	if len(jobs) > len(whole) {
		t.Fatalf("of %d bytes: %d jobs", len(text), len(jobs))
	}
	if last := len(jobs) - 1; s.NameIsLast && last >= 0 {
		jobs[last].Name = whole[last].Name
	}
	if diff := cmp.Diff(whole[:len(jobs)], jobs, equateEmpty); diff != "" {
		t.Fatalf("of %d bytes, …%q (-whole +got):\n%s", len(text), text[max(0, len(text)-60):], diff)
	}
}
