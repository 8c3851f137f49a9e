package slurm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/textfile"
)

// maxToken bounds what one JSON string or number may take, in bytes, give or take a buffer.
const maxToken = 16 << 20

var errLongToken = fmt.Errorf("a single value is longer than %d bytes", maxToken)

// jsonReader reads what sacct --json prints, token by token: an object whose "jobs" is a list of jobs. Numbers may be plain
// (until Slurm 22.05) or objects that say whether they are set (from 23.02 on).
//
// A value of a shape that was not expected makes that one job unreadable; text that is not JSON ends everything.
type jsonReader struct {
	r       *Reader
	dec     *jsontext.Decoder
	found   bool   // a list of jobs was there
	failure string // the first of sacct's own errors
	raw     jsonJob
	last    scheduler.Job
	now     time.Time
}

func newJSONReader(r *Reader) *jsonReader {
	d := &jsonReader{r: r, now: r.opts.now()}
	d.dec = jsontext.NewDecoder(&tokenLimiter{d: d}, jsontext.AllowInvalidUTF8(true))
	return d
}

// tokenLimiter reads for the decoder, which holds everything from the end of the last token on.
type tokenLimiter struct {
	d    *jsonReader
	read int64
}

func (l *tokenLimiter) Read(p []byte) (int, error) {
	if l.read-l.d.dec.InputOffset() > maxToken {
		return 0, errLongToken
	}
	n, err := l.d.r.in.Read(p[:min(len(p), textfile.BufferSize)])
	l.read += int64(n)
	return n, err
}

// run yields every job, and returns what ended it before the end of the input. Several outputs in a row are read as one.
func (d *jsonReader) run(ctx context.Context, yield func(*scheduler.Job, error) bool) error {
	for {
		err := d.document(ctx, yield)
		var syntax *jsontext.SyntacticError
		switch {
		case err == nil:
		case err == io.EOF:
			return d.verdict()
		case err == errStopped:
			return err
		case ctx.Err() != nil:
			return fmt.Errorf("%s: %w", d.place(), ctx.Err())
		case errors.Is(err, io.ErrUnexpectedEOF):
			return fmt.Errorf("%s: the JSON ends at byte %d, within a value: it was cut off; export it again: %w", d.place(), d.dec.InputOffset(), err)
		case errors.As(err, &syntax):
			return fmt.Errorf("%s: broken JSON at byte %d; export it again: %w", d.place(), syntax.ByteOffset, err)
		default:
			return fmt.Errorf("%s: %w", d.place(), err)
		}
	}
}

// verdict is the final error of an input that was read to its end, nil if all is well.
func (d *jsonReader) verdict() error {
	file := scheduler.Place{File: d.r.name}
	switch {
	case d.failure != "":
		return fmt.Errorf("%s: sacct reported an error, so that jobs may be missing: %s", file, d.failure)
	case !d.found:
		return fmt.Errorf("%s: this JSON has no list of jobs; it is not what sacct --json prints", file)
	}
	return nil
}

// document reads one output of sacct; io.EOF when there is none.
func (d *jsonReader) document(ctx context.Context, yield func(*scheduler.Job, error) bool) error {
	switch d.dec.PeekKind() {
	case '{':
	case 0: // broken, or the end
		_, err := d.dec.ReadToken()
		return err
	default:
		return errors.New("this JSON is no object; it is not what sacct --json prints")
	}
	return d.object("", func(name string) error {
		switch name {
		case "jobs":
			d.found = d.found || d.dec.PeekKind() == '['
			return d.list("", func() error {
				if err := ctx.Err(); err != nil {
					return err
				}
				return d.job(yield)
			})
		case "errors":
			return d.list("", d.sacctError)
		}
		return d.dec.SkipValue()
	})
}

// sacctError reads an entry of the output's "errors".
func (d *jsonReader) sacctError() error {
	text := "no description"
	err := d.object("", func(name string) error {
		if name != "description" && name != "error" {
			return d.dec.SkipValue()
		}
		s, err := d.text("")
		if s != "" {
			text = s
		}
		return err
	})
	if d.failure == "" {
		d.failure = text
	}
	return err
}

// job reads one job and yields it.
func (d *jsonReader) job(yield func(*scheduler.Job, error) bool) error {
	d.r.stats.Rows++
	d.raw = jsonJob{tres: d.raw.tres[:0], lacks: allOptional}
	if err := d.readJob(); err != nil {
		return err
	}
	d.raw.fill(&d.last)
	d.last.Place = d.place()
	if part, err := settle(&d.last, d.now); err != nil {
		d.raw.blame(partMembers[part], err.Error())
	}
	if d.raw.problem == "" {
		if !yield(&d.last, nil) {
			return errStopped
		}
		return nil
	}
	d.r.stats.Bad++
	bad := &scheduler.RowError{Place: d.last.Place, JobID: d.last.DisplayID, Field: d.raw.field, Problem: d.raw.problem}
	if !yield(nil, bad) {
		return errStopped
	}
	return nil
}

// place is that of the job being read.
func (d *jsonReader) place() scheduler.Place {
	return scheduler.Place{File: d.r.name, Record: int(d.r.stats.Rows)}
}

// wrong notes that the job cannot be read, and passes over the value to blame.
func (d *jsonReader) wrong(field, want string) error {
	d.raw.blame(field, "not "+want)
	return d.dec.SkipValue()
}

// object reads an object; member must consume the value of the member it is called with. null is an object without members.
func (d *jsonReader) object(field string, member func(name string) error) error {
	switch d.dec.PeekKind() {
	case 'n':
		return d.dec.SkipValue()
	case '{':
	default:
		return d.wrong(field, "an object")
	}
	if _, err := d.dec.ReadToken(); err != nil {
		return err
	}
	for d.dec.PeekKind() != '}' {
		name, err := d.dec.ReadToken()
		if err != nil {
			return err
		}
		if err := member(name.String()); err != nil {
			return err
		}
	}
	_, err := d.dec.ReadToken()
	return err
}

// list reads an array; element must consume each element. null is an empty list.
func (d *jsonReader) list(field string, element func() error) error {
	switch d.dec.PeekKind() {
	case 'n':
		return d.dec.SkipValue()
	case '[':
	default:
		return d.wrong(field, "a list")
	}
	if _, err := d.dec.ReadToken(); err != nil {
		return err
	}
	for d.dec.PeekKind() != ']' {
		if d.dec.PeekKind() == 0 { // broken: let the decoder say how
			_, err := d.dec.ReadToken()
			return err
		}
		if err := element(); err != nil {
			return err
		}
	}
	_, err := d.dec.ReadToken()
	return err
}

// text reads a string; null is "".
func (d *jsonReader) text(field string) (string, error) {
	switch d.dec.PeekKind() {
	case 'n':
		return "", d.dec.SkipValue()
	case '"':
		token, err := d.dec.ReadToken()
		if err != nil {
			return "", err
		}
		return token.String(), nil
	}
	return "", d.wrong(field, "text")
}

// number is a JSON number, or its absence, which has the value 0.
type number struct {
	value int64
	set   bool
}

func numberOf(value int64, set bool) number {
	if !set {
		return number{}
	}
	return number{value, true}
}

// count reads a number of something that may be divided: 8, 8.5.
func (d *jsonReader) count(field string) (n number, nanos int32, err error) {
	if d.dec.PeekKind() != '0' {
		n, err = d.number(field)
		return n, 0, err
	}
	token, err := d.dec.ReadToken()
	if err != nil {
		return n, 0, err
	}
	text := token.String()
	n, nanos, ok := numberOfText(text)
	if !ok {
		d.raw.blame(field, shorten(text)+" is not a number of at most 18 digits behind the point")
	}
	return n, nanos, nil
}

// numberOfText reads the text of a JSON number that is to be exact. Numbers below 0, and the largest of 64 bits, are no number.
func numberOfText(text string) (n number, nanos int32, ok bool) {
	if v, err := strconv.ParseInt(text, 10, 64); err == nil {
		return numberOf(v, v >= 0), 0, true
	}
	if _, err := strconv.ParseUint(text, 10, 64); err == nil {
		return n, 0, true
	}
	v, nanos, ok := parseCount(text, false)
	return numberOf(v, ok), nanos, ok
}

// number reads a whole number, plain or as {"set": true, "infinite": false, "number": 8}. null, what is not set and what is
// infinite are no number; so are the largest values of 64 bits, which say the same.
func (d *jsonReader) number(field string) (n number, err error) {
	switch d.dec.PeekKind() {
	case 'n':
		return n, d.dec.SkipValue()
	case '0':
		token, err := d.dec.ReadToken()
		if err != nil {
			return n, err
		}
		text := token.String()
		if v, err := strconv.ParseInt(text, 10, 64); err == nil {
			return numberOf(v, v >= 0), nil
		}
		if _, err := strconv.ParseUint(text, 10, 64); err == nil {
			return n, nil
		}
		d.raw.blame(field, shorten(text)+" is not a whole number")
		return n, nil
	case '{':
		set, infinite := true, false
		err := d.object(field, func(name string) (err error) {
			switch name {
			case "set":
				set, err = d.truth(field)
			case "infinite":
				infinite, err = d.truth(field)
			case "number":
				n, err = d.number(field)
			default:
				err = d.dec.SkipValue()
			}
			return err
		})
		return numberOf(n.value, n.set && set && !infinite), err
	}
	return n, d.wrong(field, "a number")
}

func (d *jsonReader) truth(field string) (bool, error) {
	if k := d.dec.PeekKind(); k != 't' && k != 'f' {
		return false, d.wrong(field, "true or false")
	}
	token, err := d.dec.ReadToken()
	return err == nil && token.Bool(), err
}
