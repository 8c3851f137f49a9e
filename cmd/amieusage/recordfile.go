package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/textfile"
)

// open opens a file for reading; - is standard input.
func (p *program) open(name string) (io.ReadCloser, error) {
	if name == "-" {
		return io.NopCloser(p.stdin), nil
	}
	return os.Open(name)
}

// checkFiles refuses files that do not exist, before the first of them is read.
func checkFiles(names []string) error {
	for _, name := range names {
		if name == "-" {
			continue
		}
		if _, err := os.Stat(name); err != nil {
			return &statusError{exitUsage, err}
		}
	}
	return nil
}

func newBufferedOutput(w io.Writer) *bufio.Writer { return bufio.NewWriterSize(w, 64<<10) }

// Limits of files of records.
const (
	maxRecordLine  = 1 << 20
	maxMessageFile = 64 << 20
)

// readRecords reads records as JSON, one a line, in constant memory; or
// messages, also over several lines; compressed or not. A record that cannot be used is a
// *scheduler.RowError; the others go on.
func readRecords(name string, r io.Reader) iter.Seq2[outbox.Item, error] {
	return func(yield func(outbox.Item, error) bool) {
		in, done, err := textfile.Plain(bufio.NewReaderSize(r, maxRecordLine))
		defer done()
		if err != nil {
			yield(outbox.Item{}, fmt.Errorf("%s: %w", name, err))
			return
		}
		in = bufio.NewReaderSize(in, maxRecordLine)
		for number := 1; ; number++ {
			line, err := in.ReadSlice('\n')
			if errors.Is(err, bufio.ErrBufferFull) || number == 1 && isPartOfValue(line) {
				if number > 1 {
					yield(outbox.Item{}, fmt.Errorf("%s:%d: the line is longer than %d bytes", name, number, maxRecordLine))
					return
				}
				readDocument(name, io.MultiReader(bytes.NewReader(bytes.Clone(line)), in), yield)
				return
			}
			if err != nil && !errors.Is(err, io.EOF) {
				yield(outbox.Item{}, fmt.Errorf("%s: %w", name, err))
				return
			}
			place := scheduler.Place{File: name, Line: number}
			if value := bytes.TrimSpace(line); len(value) > 0 && !yieldValue(place, bytes.Clone(value), yield) {
				return
			}
			if err != nil {
				return
			}
		}
	}
}

// isPartOfValue tells a JSON value that goes on behind the line.
func isPartOfValue(line []byte) bool {
	_, err := jsontext.NewDecoder(bytes.NewReader(line)).ReadValue()
	return errors.Is(err, io.ErrUnexpectedEOF)
}

// readDocument reads values that take several lines.
func readDocument(name string, r io.Reader, yield func(outbox.Item, error) bool) {
	limited := &io.LimitedReader{R: r, N: maxMessageFile}
	dec := jsontext.NewDecoder(limited, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	for n := 1; ; n++ {
		value, err := dec.ReadValue()
		switch {
		case errors.Is(err, io.EOF):
			return
		case err != nil && limited.N <= 0:
			yield(outbox.Item{}, fmt.Errorf("%s is longer than %d bytes: write records one a line", name, maxMessageFile))
			return
		case err != nil && !isSyntax(err):
			yield(outbox.Item{}, fmt.Errorf("%s: %w", name, cmp.Or(errors.Unwrap(err), err)))
			return
		case err != nil:
			yield(outbox.Item{}, fmt.Errorf("%s: is not JSON at byte %d: %w", name, dec.InputOffset(), err))
			return
		}
		place := scheduler.Place{File: name}
		if n > 1 {
			place.File += ": value " + strconv.Itoa(n)
		}
		if !yieldValue(place, value.Clone(), yield) {
			return
		}
	}
}

// isSyntax tells broken JSON from a file that cannot be read.
func isSyntax(err error) bool {
	_, ok := errors.AsType[*jsontext.SyntacticError](err)
	return ok
}

// yieldValue yields the record, or the records of the message.
func yieldValue(place scheduler.Place, value []byte, yield func(outbox.Item, error) bool) bool {
	var head struct{ Records json.RawMessage }
	if json.Unmarshal(value, &head) != nil || head.Records == nil {
		return yield(readRecord(place, value))
	}
	usageType, items, err := amieusage.DecodeMessage(value)
	if err != nil {
		return yield(outbox.Item{}, &scheduler.RowError{Place: place, Problem: "is not a usage message", Err: err})
	}
	for i, raw := range items {
		in := scheduler.Place{File: place.String() + ": record " + strconv.Itoa(i+1)}
		if !yield(checkedRecord(in, usageType, raw)) {
			return false
		}
	}
	return true
}

func readRecord(place scheduler.Place, raw []byte) (outbox.Item, error) {
	var f amieusage.FailedRecord
	if err := f.UnmarshalJSON(raw); err != nil || f.Record == nil {
		return outbox.Item{}, &scheduler.RowError{
			Place: place, Problem: "is not a usage record", Err: errors.Join(err, f.Problem),
			Remedy: `a record is a JSON object, with "UsageType": "Compute", "Storage" or "Adjustment"`,
		}
	}
	return checkedRecord(place, f.UsageType, raw)
}

func checkedRecord(place scheduler.Place, t amieusage.UsageType, raw []byte) (outbox.Item, error) {
	record, err := amieusage.CheckRecord(t, raw)
	if err != nil {
		return outbox.Item{}, &scheduler.RowError{
			Place: place, Problem: "the " + string(t) + " record " + record.Common().LocalRecordID + " is not valid", Err: err,
		}
	}
	return outbox.Item{Record: record, Place: place.String()}, nil
}
