// Package pbs reads the accounting logs of OpenPBS, PBS Professional and Torque: one file or the server's folder.
//
// A log has a line for each event of a job. Two of them tell of usage: E, a job has ended, and R, a run of it has ended that
// will be followed by another. Every such line becomes a job, or a *scheduler.RowError; all other lines are passed over.
package pbs

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

// Options say what the log itself does not.
type Options struct {
	// Zone is the time zone of the server, in which lines are dated; nil: it is not known. The times of a job are seconds since
	// 1970, and need none, but where a requeued run has no end.
	Zone *time.Location
	// Exclusive charges whole nodes to jobs that have them for themselves (place=…excl…).
	Exclusive bool
	// Whole says what a whole node has; the first whose Nodes fit counts. Without one, an exclusive job has what it was given.
	Whole []Whole
	// Growing says that the log's last line may still be written: without a line feed it is no line yet.
	Growing bool
	// Clock tells what time it is: no job ends more than a day later. Nil: time.Now.
	Clock func() time.Time
}

// A Whole is what the nodes have whose names fit one of the patterns.
type Whole struct {
	Nodes []string // patterns of their names
	TRES  []scheduler.TRES
}

// Reader is a scheduler.Source on one accounting log, compressed or not. Memory does not grow with the length of the log.
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

// Stats returns what has been read so far: the lines of type E and R.
func (r *Reader) Stats() scheduler.Stats { return r.stats }

// errStopped ends a run whose consumer wants no more.
var errStopped = errors.New("the consumer wants no more")

// Jobs yields the jobs, as scheduler.Source describes. It reads the log to its end, so only the first iteration yields
// anything.
//
// Final errors: the input is empty, or begins as no accounting log does; it is compressed and cut off; reading failed; ctx
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
	logLines := 0
	for {
		line, ended, long, err := lines.Next()
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%s: %w", r.place(lines.Number), err)
		}
		if err == io.EOF {
			if logLines == 0 && !r.opts.Growing {
				return fmt.Errorf("%s: empty: there is no line of an accounting log in it", scheduler.Place{File: r.name})
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
		kind, known := kindOf(line)
		if !known {
			if logLines == 0 {
				return fmt.Errorf("%s: %q is no line of a PBS accounting log, such as 01/31/2026 23:59:59;E;4711.server;user=…",
					r.place(lines.Number), textfile.Clip(string(line), 80))
			}
			if err := r.bad(yield, &scheduler.RowError{Place: r.place(lines.Number), Problem: "this is no line of a PBS accounting log: " + textfile.Clip(string(line), 80),
				Remedy: "copy the log again"}); err != nil {
				return err
			}
			continue
		}
		logLines++
		if kind != "E" && kind != "R" {
			continue
		}
		if err := r.usage(yield, kind, lines.Number, line, ended, long); err != nil {
			return err
		}
	}
}

// usage yields the job of a line of type E or R.
func (r *Reader) usage(yield func(*scheduler.Job, error) bool, kind string, number int, line []byte, ended, long bool) error {
	place := r.place(number)
	job, field, problem := r.line.parse(string(line), kind, &r.opts, r.now)
	switch {
	case long:
		field, problem = "", &fieldError{fmt.Sprintf("the line is longer than %d bytes", textfile.MaxLine), ""}
	case !ended:
		field, problem = "", &fieldError{"the log ends within the line", "read it again when the server has written it"}
	}
	if problem != nil {
		return r.bad(yield, &scheduler.RowError{Place: place, JobID: job.DisplayID, Field: field, Problem: problem.problem, Remedy: problem.remedy})
	}
	r.stats.Rows++
	job.Place = place
	if !yield(job, nil) {
		return errStopped
	}
	return nil
}

func (r *Reader) bad(yield func(*scheduler.Job, error) bool, err *scheduler.RowError) error {
	r.stats.Rows++
	r.stats.Bad++
	if !yield(nil, err) {
		return errStopped
	}
	return nil
}

func (r *Reader) place(line int) scheduler.Place { return scheduler.Place{File: r.name, Line: line} }

// kindOf returns the type of a line, MM/DD/YYYY hh:mm:ss;TYPE;…, and whether it is one of a log.
func kindOf(line []byte) (kind string, ok bool) {
	const stamp = len("01/31/2026 23:59:59;")
	if len(line) <= stamp || line[2] != '/' || line[5] != '/' || line[10] != ' ' || line[13] != ':' || line[16] != ':' || line[stamp-1] != ';' {
		return "", false
	}
	end := bytes.IndexByte(line[stamp:], ';')
	if end < 0 {
		end = len(line) - stamp
	}
	switch kind := line[stamp : stamp+end]; {
	case len(kind) == 1 && kind[0] == 'E':
		return "E", true
	case len(kind) == 1 && kind[0] == 'R':
		return "R", true
	default:
		return "", true
	}
}

// IsLog tells whether a text begins as an accounting log of PBS does.
func IsLog(head []byte) bool {
	_, ok := kindOf(bytes.TrimLeft(head, "\r\n"))
	return ok
}

// fieldError is what is wrong with one value.
type fieldError struct{ problem, remedy string }
