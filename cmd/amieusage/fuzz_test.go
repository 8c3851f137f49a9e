package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/scheduler"
)

// addScriptFiles makes seeds of the files that the scripts come with.
func addScriptFiles(f *testing.F, extension string) {
	f.Helper()
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	more, moreErr := filepath.Glob("testdata/script/*/*.txtar")
	if err = errors.Join(err, moreErr); err != nil {
		f.Fatal(err)
	}
	found := false
	for _, script := range append(scripts, more...) {
		archive, err := txtar.ParseFile(script)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			if filepath.Ext(file.Name) == extension {
				f.Add(file.Data)
				found = true
			}
		}
	}
	if !found {
		f.Fatal("no script has a file ", extension)
	}
}

// readAllRecords reads a file of records, which comes in pieces of so many bytes
// (0: at once).
func readAllRecords(t *testing.T, data []byte, inPieces bool) (items []outbox.Item, bad []string, final error) {
	var in io.Reader = bytes.NewReader(data)
	if inPieces {
		in = iotest.OneByteReader(in)
	}
	for item, err := range readRecords("records", in) {
		if final != nil {
			t.Fatalf("something came after the final error %v", final)
		}
		var row *scheduler.RowError
		switch {
		case errors.As(err, &row):
			bad = append(bad, err.Error())
		case err != nil:
			final = err
		default:
			if err := item.Record.Validate(); err != nil {
				t.Fatalf("%s: %v", item.Place, err)
			}
			items = append(items, item)
		}
	}
	return items, bad, final
}

// Each line of a file of records is a record, or the records of a message, or
// named in an error; records that are written again are read again.
func FuzzRecords(f *testing.F) {
	addScriptFiles(f, ".jsonl")
	data, err := os.ReadFile("../../testdata/wire/amieclient-0.6.1-requests.json")
	if err != nil {
		f.Fatal(err)
	}
	var requests []struct{ Body json.RawMessage }
	if err := json.Unmarshal(data, &requests); err != nil {
		f.Fatal(err)
	}
	for _, r := range requests {
		var line bytes.Buffer
		if json.Compact(&line, r.Body) == nil {
			f.Add(line.Bytes())
			f.Add(append(append(line.Bytes(), '\n'), "{}\n\n"...))
			f.Add([]byte(r.Body))
		}
	}
	for _, s := range []string{"", "\n\n", "{\n}\n{", "{}{}", "null", `{"Records":null}`, `{"Records":[],"UsageType":"Compute"}`, "{} x\n[1]\n\"\xff\"", "[\n1]", "7\r\n8"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		items, bad, final := readAllRecords(t, data, false)
		itemsInPieces, badInPieces, finalInPieces := readAllRecords(t, data, true)
		if len(itemsInPieces) != len(items) || !slices.Equal(bad, badInPieces) || (final == nil) != (finalInPieces == nil) {
			t.Fatalf("%d records, %q, %v; in pieces %d, %q, %v", len(items), bad, final, len(itemsInPieces), badInPieces, finalInPieces)
		}
		firstLine, _, _ := bytes.Cut(data, []byte("\n"))
		if final == nil && !isPartOfValue(append(firstLine, '\n')) && len(data) < maxRecordLine {
			if want := slowCountOfRecords(data); len(items)+len(bad) != want {
				t.Fatalf("%d records and %d errors, and not %d: %q", len(items), len(bad), want, bad)
			}
		}
		var written []byte
		for _, item := range items {
			m, err := amieusage.NewMessage(item.Record)
			if err != nil {
				t.Fatal(err)
			}
			line, err := m.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			written = append(append(written, line...), '\n')
		}
		again, bad, final := readAllRecords(t, written, false)
		if len(bad) > 0 || final != nil || len(again) != len(items) {
			t.Fatalf("%d records became %d: %q, %v", len(items), len(again), bad, final)
		}
		for i := range items {
			if amieusage.ContentDigest(items[i].Record) != amieusage.ContentDigest(again[i].Record) || items[i].Record.Identity() != again[i].Record.Identity() {
				t.Fatalf("%v became %v", items[i].Record, again[i].Record)
			}
		}
	})
}

// slowCountOfRecords counts what a file of lines holds.
func slowCountOfRecords(data []byte) (n int) {
	for line := range bytes.Lines(data) {
		var message struct{ Records json.RawMessage }
		var records []json.RawMessage
		switch {
		case len(bytes.TrimSpace(line)) == 0:
		case json.Unmarshal(line, &message) != nil, message.Records == nil:
			n++
		default:
			if _, _, err := amieusage.DecodeMessage(line); err != nil || json.Unmarshal(message.Records, &records) != nil {
				n++
			} else {
				n += len(records)
			}
		}
	}
	return n
}
