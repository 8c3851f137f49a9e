// Package slurm is a scheduler.Source on Slurm's accounting. It reads what sacct prints, as text with a header or as JSON of
// any version, one job at a time however long it is, and runs sacct itself.
package slurm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/textfile"
)

// DumpCommand is a shell command whose output Reader reads without loss or doubt: times in seconds since the epoch, and no
// field that a user can write anything into. A job's name could forge a job, with line breaks and delimiters of its own, and
// so names are left out. Its window is to be filled in.
const DumpCommand = `SLURM_TIME_FORMAT=%s sacct --allclusters --allusers --allocations --duplicates --parsable2 ` +
	`--delimiter=$'\x1f' --starttime=2026-01-01 --endtime=now --format=` +
	`Cluster,DBIndex,JobIDRaw,JobID,User,UID,Account,Partition,QOS,Reservation,State,Submit,Start,End,ElapsedRaw,NNodes,NCPUS,ReqMem,AllocTRES,NodeList`

const (
	maxLine = textfile.MaxLine // bytes of a row of text; longer ones are reported and passed over
	maxName = 4096             // bytes kept of a job's name
)

// epochRemedy is what helps against every time that could not be read for certain.
const epochRemedy = "export with SLURM_TIME_FORMAT=%s"

// Options say what the text itself does not.
type Options struct {
	// Zone is the time zone of times that bear no offset. Nil: such times are refused.
	Zone *time.Location
	// Delimiter between the fields of text; "" takes it from the header.
	Delimiter string
	// Columns are the columns of a text without a header, in their order. A header that is there counts.
	Columns []string
	// Warn is told what stands above the header and is no row; nil: nobody.
	Warn func(text string)
	// Clock tells what time it is: no job ends more than a day later. Nil: time.Now.
	Clock func() time.Time
}

func (o *Options) now() time.Time {
	if o.Clock != nil {
		return o.Clock()
	}
	return time.Now()
}

// Reader is a scheduler.Source on the output of sacct, text or JSON, found out by its first character; compressed by gzip,
// zstd or xz, too, found out by its first bytes. Memory does not grow
// with the length of the input. Unfinished jobs are yielded with a zero End; steps are not yielded. Bytes that are no
// UTF-8 are replaced by U+FFFD.
type Reader struct {
	in    *bufio.Reader
	name  string
	opts  Options
	stats scheduler.Stats
	cut   bool // the text ended within a row
}

// NewReader returns a Reader of r; name is what errors call it, "-" for standard input.
func NewReader(r io.Reader, name string, opts Options) *Reader {
	return &Reader{in: bufio.NewReaderSize(r, textfile.BufferSize), name: name, opts: opts}
}

// Stats returns what has been read so far.
func (r *Reader) Stats() scheduler.Stats { return r.stats }

// Jobs yields the jobs, as scheduler.Source describes. It reads r to its end, so only the first iteration yields anything.
//
// Final errors: the input is empty, or is compressed and cut off, its header lacks a column that is needed, a time bears no offset and Options.Zone is
// nil, the JSON is broken or says that sacct failed, reading failed, or ctx ended.
func (r *Reader) Jobs(ctx context.Context) iter.Seq2[*scheduler.Job, error] {
	return func(yield func(*scheduler.Job, error) bool) {
		in, done, err := textfile.Plain(r.in)
		defer done()
		r.in = in
		var first byte
		if err == nil {
			first, err = r.firstByte()
		}
		switch {
		case err == io.EOF:
			err = fmt.Errorf("%s: empty, without even the header that sacct prints when it finds no job; export again with: %s",
				scheduler.Place{File: r.name}, DumpCommand)
		case err != nil:
			err = fmt.Errorf("%s: %w", scheduler.Place{File: r.name}, err)
		case first == '{':
			err = newJSONReader(r).run(ctx, yield)
		default:
			err = newTextReader(r).run(ctx, yield)
		}
		if err != nil && err != errStopped {
			yield(nil, err)
		}
	}
}

// errStopped ends a run whose consumer wants no more.
var errStopped = errors.New("the consumer wants no more")

// firstByte drops a byte order mark and returns the first character that is no white space, without consuming it.
func (r *Reader) firstByte() (byte, error) {
	if mark, _ := r.in.Peek(3); bytes.Equal(mark, []byte("\xef\xbb\xbf")) {
		_, _ = r.in.Discard(3)
	}
	for n := 1; ; n++ {
		ahead, err := r.in.Peek(n)
		if err == bufio.ErrBufferFull {
			return ' ', nil
		}
		if err != nil {
			return 0, err
		}
		if c := ahead[n-1]; !strings.ContainsRune(" \t\r\n", rune(c)) {
			return c, nil
		}
	}
}

// fieldError is what is wrong with one value.
type fieldError struct {
	problem, remedy string
	final           bool // no row can be read until this is mended
}

func (e *fieldError) Error() string {
	if e.remedy == "" {
		return e.problem
	}
	return e.problem + "; " + e.remedy
}
