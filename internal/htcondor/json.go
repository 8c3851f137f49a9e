package htcondor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/textfile"
)

// maxJob bounds what one job may take, in bytes: its script, its arguments and its environment are in it.
const maxJob = 32 << 20

var errLongJob = fmt.Errorf("a single job is longer than %d bytes", maxJob)

// A jobLimiter reads for the decoder, which holds everything from the end of the last token on.
type jobLimiter struct {
	in   io.Reader
	dec  *jsontext.Decoder
	read int64
}

func (l *jobLimiter) Read(p []byte) (int, error) {
	if l.read-l.dec.InputOffset() > maxJob {
		return 0, errLongJob
	}
	n, err := l.in.Read(p[:min(len(p), textfile.BufferSize)])
	l.read += int64(n)
	return n, err
}

// json reads a list of jobs, several lists in a row, or objects in a row.
func (r *Reader) json(ctx context.Context, in *bufio.Reader, yield func(*scheduler.Job, error) bool) error {
	limiter := &jobLimiter{in: in}
	d := jsontext.NewDecoder(limiter, jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true))
	limiter.dec = d
	err := r.documents(ctx, d, yield)
	var syntax *jsontext.SyntacticError
	switch {
	case err == nil, err == errStopped, ctx.Err() != nil:
		return err
	case errors.Is(err, io.ErrUnexpectedEOF), err == io.EOF:
		return errors.New("the JSON ends within a value: it was cut off; export it again")
	case errors.As(err, &syntax):
		return fmt.Errorf("broken JSON at byte %d; export it again: %w", syntax.ByteOffset, err)
	}
	return err
}

func (r *Reader) documents(ctx context.Context, d *jsontext.Decoder, yield func(*scheduler.Job, error) bool) error {
	for number := 1; ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		switch kind := d.PeekKind(); kind {
		case '[', ']':
			if _, err := d.ReadToken(); err != nil {
				return err
			}
		case '{':
			if err := r.object(d); err != nil {
				return err
			}
			if err := r.flush(scheduler.Place{File: r.name, Record: number}, "", yield); err != nil {
				return err
			}
			number++
		case 0:
			if _, err := d.ReadToken(); err != io.EOF || d.StackDepth() > 0 {
				return err
			}
			return nil
		default:
			return errors.New("this JSON is no list of jobs, as condor_history -json prints it")
		}
	}
}

// object reads the attributes of a job.
func (r *Reader) object(d *jsontext.Decoder) error {
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	r.ad.count++ // an empty one is a job that lacks everything
	for d.PeekKind() != '}' {
		name, err := d.ReadValue()
		if err != nil {
			return err
		}
		slot := r.ad.slot(name[1 : len(name)-1]) // the names that count need no escapes
		if slot == nil {
			if err := d.SkipValue(); err != nil {
				return err
			}
			continue
		}
		kind := d.PeekKind()
		value, err := d.ReadValue()
		if err != nil {
			return err
		}
		switch kind {
		case '0':
			r.ad.keep(slot, kindNumber, value)
		case '"':
			text, err := jsontext.AppendUnquote(nil, value)
			if err != nil {
				return err
			}
			if isExpression(string(text)) {
				r.ad.keep(slot, kindExpression, text)
			} else {
				r.ad.keep(slot, kindString, text)
			}
		case 'n':
			*slot = attribute{}
		case 't', 'f':
			r.ad.keep(slot, kindString, value)
		default:
			r.ad.keep(slot, kindExpression, value)
		}
	}
	_, err := d.ReadToken()
	return err
}

// isExpression tells an expression, as condor_history -json prints it.
func isExpression(s string) bool {
	const open, end = "/Expr(", ")/"
	return len(s) >= len(open)+len(end) && s[:len(open)] == open && s[len(s)-len(end):] == end
}
