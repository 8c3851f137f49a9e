// Package htcondor reads HTCondor's job history: what condor_history prints as JSON or as ClassAds, and the history files
// themselves. Every job becomes one job, or a *scheduler.RowError.
package htcondor

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

// Options say what the history itself does not.
type Options struct {
	// Cluster is the name of the pool; "": the jobs have none.
	Cluster string
	// Project names the attribute that holds a job's project; "" is ProjectName.
	Project string
	// Growing says that the history's last job may still be written.
	Growing bool
	// MayBeEmpty takes a history without any job, not even an empty list, for what it is: so condor_history prints none.
	MayBeEmpty bool
	// Clock tells what time it is: no job ends more than a day later. Nil: time.Now.
	Clock func() time.Time
}

// Reader is a scheduler.Source on one history, JSON or ClassAds, found out by its first character; compressed or not. Memory
// does not grow with its length.
type Reader struct {
	in    *bufio.Reader
	name  string
	opts  Options
	stats scheduler.Stats
	ad    ad
	maker maker
}

var _ scheduler.Reader = (*Reader)(nil)

// NewReader returns a Reader of r; name is what errors call it, "-" for standard input.
func NewReader(r io.Reader, name string, opts Options) *Reader {
	clock := opts.Clock
	if clock == nil {
		clock = time.Now
	}
	if opts.Project == "" {
		opts.Project = defaultProject
	}
	read := &Reader{in: bufio.NewReaderSize(r, textfile.BufferSize), name: name, opts: opts}
	read.maker = maker{opts: &read.opts, now: clock()}
	read.ad.project = opts.Project
	return read
}

// Stats returns what has been read so far: the jobs.
func (r *Reader) Stats() scheduler.Stats { return r.stats }

// errStopped ends a run whose consumer wants no more.
var errStopped = errors.New("the consumer wants no more")

// Jobs yields the jobs, as scheduler.Source describes. It reads the history to its end, so only the first iteration yields
// anything.
//
// Final errors: the input is empty, or begins as no history does; it is compressed and cut off; the JSON is broken or cut off;
// reading failed; ctx ended.
func (r *Reader) Jobs(ctx context.Context) iter.Seq2[*scheduler.Job, error] {
	return func(yield func(*scheduler.Job, error) bool) {
		in, done, err := textfile.Plain(r.in)
		defer done()
		if err == nil {
			var first byte
			switch first, err = firstByte(in); {
			case err == io.EOF && (r.opts.MayBeEmpty || r.opts.Growing):
				return
			case err == io.EOF:
				err = errors.New("empty: there is no job in it")
			case err != nil:
			case first == '[' || first == '{':
				err = r.json(ctx, in, yield)
			case first == '<':
				err = errors.New("this is XML: export it with condor_history -json")
			default:
				err = r.classAds(ctx, &textfile.Lines{In: in}, yield)
			}
		}
		if err != nil && err != errStopped {
			yield(nil, fmt.Errorf("%s: %w", scheduler.Place{File: r.name}, err))
		}
	}
}

// firstByte returns the first character that is no white space, and leaves it where it is.
func firstByte(in *bufio.Reader) (byte, error) {
	for {
		c, err := in.ReadByte()
		if err != nil {
			return 0, err
		}
		if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			return c, in.UnreadByte()
		}
	}
}

// flush yields the job of the attributes that were read, if there are any.
func (r *Reader) flush(place scheduler.Place, cut string, yield func(*scheduler.Job, error) bool) error {
	if r.ad.count == 0 {
		return nil
	}
	r.stats.Rows++
	r.ad.settle()
	job, field, problem := r.maker.job(&r.ad)
	if cut != "" {
		field, problem = "", &fieldError{cut, "copy it again"}
	}
	r.ad.reset()
	if problem != nil {
		r.stats.Bad++
		if !yield(nil, &scheduler.RowError{Place: place, JobID: job.DisplayID, Field: field, Problem: problem.problem, Remedy: problem.remedy, Ended: job.End}) {
			return errStopped
		}
		return nil
	}
	job.Place = place
	if !yield(job, nil) {
		return errStopped
	}
	return nil
}

// classAds reads Name = value lines. A blank line parts jobs in what condor_history -long prints, and a line of stars stands
// behind each in a history file.
func (r *Reader) classAds(ctx context.Context, lines *textfile.Lines, yield func(*scheduler.Job, error) bool) error {
	start, banners := 0, false
	cut, last, lasts := "", []byte(nil), map[string]bool{} // the name of an attribute, and those that jobs have ended with
	place := func() scheduler.Place { return scheduler.Place{File: r.name, Line: start} }
	for {
		line, ended, long, err := lines.Next()
		if lines.Number%64 == 0 || err != nil { // to ask takes as long as to read a line
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		if err == io.EOF {
			if r.opts.Growing {
				return nil // the line of stars is written last
			}
			// Nothing stands behind the job. It may be whole all the same, where it is the only one, or ends as others do.
			if cut == "" && (banners || len(lasts) > 0 && !lasts[string(last)]) {
				cut = "the history ends within the job"
			}
			return r.flush(place(), cut, yield)
		}
		if err != nil {
			return err
		}
		if !ended && !long && r.opts.Growing {
			return nil // it will be read when it is whole
		}
		for len(line) > 0 && (line[len(line)-1] == ' ' || line[len(line)-1] == '\t' || line[len(line)-1] == '\r') {
			line = line[:len(line)-1]
		}
		if len(line) == 0 || bytes.HasPrefix(line, []byte("***")) {
			banners = banners || len(line) > 0
			if r.ad.count > 0 && len(lasts) < maxLasts && !lasts[string(last)] {
				lasts[string(last)] = true
			}
			if err := r.flush(place(), cut, yield); err != nil {
				return err
			}
			cut = ""
			continue
		}
		if r.ad.count == 0 {
			start = lines.Number
		}
		eq := bytes.IndexByte(line, '=')
		ok := eq > 0
		var name, value []byte
		if ok {
			name, value = line[:eq], line[eq+1:]
			if eq > 1 && name[eq-1] == ' ' { // as they are written
				name = name[:eq-1]
			}
			if len(value) > 0 && value[0] == ' ' {
				value = value[1:]
			}
		}
		if ok && (name[0] <= ' ' || name[len(name)-1] <= ' ') { // in another way
			name = bytes.TrimSpace(name)
		}
		slot := r.ad.slot(name)
		isAttribute := ok && (slot != nil || isName(name))
		switch {
		case !isAttribute && r.stats.Rows == 0 && r.ad.count == 0:
			return fmt.Errorf("line %d, %q, is no attribute of a ClassAd, such as ClusterId = 4711", lines.Number, textfile.Clip(string(line), 80))
		case long:
			r.ad.count++ // an attribute that nobody asks for: scripts and environments may be as long
			if slot != nil {
				cut = fmt.Sprintf("the attribute %s is longer than %d bytes", textfile.Clip(string(name), 80), textfile.MaxLine)
			}
		case !isAttribute:
			r.ad.count++
			cut = "line " + fmt.Sprint(lines.Number) + " is no attribute of a ClassAd: " + textfile.Clip(string(line), 80)
		case !ended:
			r.ad.count++
			cut = "the history ends within the job"
		default:
			r.ad.count++
			r.ad.setText(slot, value)
			last = append(last[:0], name...)
		}
	}
}

// maxLasts bounds how many names are kept that jobs end with: a program prints attributes in one order.
const maxLasts = 64

// isName tells the name of an attribute.
func isName(name []byte) bool {
	for i, c := range name {
		if !(c == '_' || c == '.' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || i > 0 && c >= '0' && c <= '9') {
			return false
		}
	}
	return len(name) > 0
}

// IsHistory tells whether a text begins as ClassAds do, or as a list of them in JSON.
func IsHistory(head []byte) bool {
	head = bytes.TrimLeft(head, " \t\r\n")
	if len(head) == 0 {
		return false
	}
	if head[0] == '[' {
		return true
	}
	line, _, _ := bytes.Cut(head, []byte("\n"))
	name, _, ok := bytes.Cut(line, []byte(" = "))
	return ok && isName(name)
}

// fieldError is what is wrong with one value.
type fieldError struct{ problem, remedy string }
