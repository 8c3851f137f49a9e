// Package gridengine reads the accounting file of Grid Engine: SGE, Son of Grid Engine, Open Cluster Scheduler, Univa and
// Altair. Every line but comments becomes a job, or a *scheduler.RowError.
package gridengine

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/textfile"
)

// Options say what the file itself does not.
type Options struct {
	// Cluster is the name of the cell's cluster; "": the jobs have none.
	Cluster string
	// GPU names the complex that is a GPU, as users ask for it (-l gpu=1); "": there is none.
	GPU string
	// GPUPerJob says that the complex is asked for once for a job (consumable JOB), not for each slot (consumable YES).
	GPUPerJob bool
	// Growing says that the file's last line may still be written: without a line feed it is no line yet.
	Growing bool
	// Clock tells what time it is: no job ends more than a day later. Nil: time.Now.
	Clock func() time.Time
}

// Reader is a scheduler.Source on one accounting file, compressed or not. Memory does not grow with its length.
type Reader struct {
	in    *bufio.Reader
	name  string
	opts  Options
	now   time.Time
	stats scheduler.Stats
	line  lineParser
}

var _ scheduler.Reader = (*Reader)(nil)

// NewReader returns a Reader of r; name is what errors call it, "-" for standard input.
func NewReader(r io.Reader, name string, opts Options) *Reader {
	clock := opts.Clock
	if clock == nil {
		clock = time.Now
	}
	return &Reader{in: bufio.NewReaderSize(r, textfile.BufferSize), name: name, opts: opts, now: clock()}
}

// Stats returns what has been read so far: the lines that are no comments.
func (r *Reader) Stats() scheduler.Stats { return r.stats }

// errStopped ends a run whose consumer wants no more.
var errStopped = errors.New("the consumer wants no more")

// Jobs yields the jobs, as scheduler.Source describes. It reads the file to its end, so only the first iteration yields
// anything.
//
// Final errors: the input is empty, or begins as no accounting file does; it is compressed and cut off; reading failed; ctx
// ended.
func (r *Reader) Jobs(ctx context.Context) iter.Seq2[*scheduler.Job, error] {
	return func(yield func(*scheduler.Job, error) bool) {
		in, done, err := textfile.Plain(r.in)
		defer done()
		if err != nil {
			yield(nil, fmt.Errorf("%s: %w", scheduler.Place{File: r.name}, err))
			return
		}
		if err := r.run(ctx, &textfile.Lines{In: in}, yield); err != nil && err != errStopped {
			yield(nil, err)
		}
	}
}

func (r *Reader) run(ctx context.Context, lines *textfile.Lines, yield func(*scheduler.Job, error) bool) error {
	comments := false
	for {
		line, ended, long, err := lines.Next()
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%s: %w", r.place(lines.Number), err)
		}
		if err == io.EOF {
			if r.stats.Rows == 0 && !comments && !r.opts.Growing {
				return fmt.Errorf("%s: empty: there is no line of an accounting file in it", scheduler.Place{File: r.name})
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", r.place(lines.Number+1), err)
		}
		if !ended && !long && r.opts.Growing {
			return nil // it will be read when it is whole
		}
		line = bytes.TrimSuffix(line, []byte("\r"))
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		if line[0] == '#' {
			comments = true
			continue
		}
		if r.stats.Rows == 0 && !comments && bytes.Count(line, []byte(":")) < leastFields-1 {
			return fmt.Errorf("%s: %q is no line of Grid Engine's accounting file, which has %d fields or more, parted by colons",
				r.place(lines.Number), textfile.Clip(string(line), 80), leastFields)
		}
		r.stats.Rows++
		job, field, problem := r.line.parse(string(line), &r.opts, r.now)
		switch {
		case long:
			field, problem = "", &fieldError{fmt.Sprintf("the line is longer than %d bytes", textfile.MaxLine), ""}
		case !ended && problem == nil && !r.line.hasTail:
			field, problem = "", &fieldError{"the file ends within the line", "copy it again"}
		}
		if problem != nil {
			r.stats.Bad++
			if !yield(nil, &scheduler.RowError{Place: r.place(lines.Number), JobID: job.DisplayID, Field: field, Problem: problem.problem, Remedy: problem.remedy, Ended: job.End}) {
				return errStopped
			}
			continue
		}
		job.Place = r.place(lines.Number)
		if !yield(job, nil) {
			return errStopped
		}
	}
}

func (r *Reader) place(line int) scheduler.Place { return scheduler.Place{File: r.name, Line: line} }

// IsFile tells whether a text begins as an accounting file of Grid Engine does.
func IsFile(head []byte) bool {
	for line := range bytes.Lines(head) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			return bytes.Count(line, []byte(":")) >= leastFields-1
		}
	}
	return false
}

// fieldError is what is wrong with one value.
type fieldError struct{ problem, remedy string }
