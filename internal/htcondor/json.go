package htcondor

import (
	"bufio"
	"bytes"
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

// object reads the attributes of a job. The decoder has seen that it is JSON: what is left is to find its members.
func (r *Reader) object(d *jsontext.Decoder) error {
	text, err := d.ReadValue()
	if err != nil {
		return err
	}
	r.ad.count++ // an empty one is a job that lacks everything
	for i := 1; ; {
		for text[i] != '"' {
			if text[i] == '}' {
				return nil
			}
			i++ // white space, or a comma
		}
		end := i + stringEnd(text[i:])
		slot := r.ad.slot(text[i+1 : end-1]) // the names that count need no escapes
		for i = end; text[i] == ':' || text[i] == ' ' || text[i] == '\t' || text[i] == '\r' || text[i] == '\n'; i++ {
		}
		end = i + valueEnd(text[i:])
		if slot != nil {
			if err := r.member(slot, text[i:end]); err != nil {
				return err
			}
		}
		i = end
	}
}

// stringEnd returns where a string ends that text begins with.
func stringEnd(text []byte) int {
	for i := 1; ; {
		i += bytes.IndexByte(text[i:], '"')
		escapes := 0
		for text[i-1-escapes] == '\\' {
			escapes++
		}
		if i++; escapes%2 == 0 {
			return i
		}
	}
}

// valueEnd returns where a value ends that text begins with.
func valueEnd(text []byte) int {
	depth := 0
	for i := 0; ; {
		switch text[i] {
		case '"':
			i += stringEnd(text[i:])
			if depth == 0 {
				return i
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i // that of what the value is in
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return i
			}
		}
		i++
	}
}

// member takes the value of an attribute.
func (r *Reader) member(slot *attribute, value []byte) error {
	switch value[0] {
	case '"':
		text := value[1 : len(value)-1]
		if bytes.IndexByte(text, '\\') >= 0 {
			var err error
			if text, err = jsontext.AppendUnquote(nil, value); err != nil {
				return err
			}
		}
		if isExpression(text) {
			r.ad.keep(slot, kindExpression, text)
		} else {
			r.ad.keep(slot, kindString, text)
		}
	case 'n':
		*slot = attribute{}
	case 't', 'f':
		r.ad.keep(slot, kindString, value)
	case '{', '[':
		r.ad.keep(slot, kindExpression, value)
	default:
		r.ad.keep(slot, kindNumber, value)
	}
	return nil
}

// isExpression tells an expression, as condor_history -json prints it.
func isExpression(s []byte) bool {
	return bytes.HasPrefix(s, []byte("/Expr(")) && bytes.HasSuffix(s, []byte(")/"))
}
