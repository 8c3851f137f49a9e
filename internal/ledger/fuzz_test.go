package ledger

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
)

// slowPlace reads a cursor.
func slowPlace(cursor string) (p Place, ok bool) {
	first, second, ok := strings.Cut(cursor, ".")
	for text, to := range map[string]*int64{first + ".": &p.LoadedAt, second: &p.Record} {
		n, isNumber := new(big.Int).SetString(strings.TrimSuffix(text, "."), 36)
		ok = ok && isNumber && n.IsInt64()
		if ok {
			*to = n.Int64()
		}
	}
	return p, ok && strings.Count(cursor, ".") == 1
}

// A cursor is refused, or names a place that its text names again, which is
// never before what the query asks for.
func FuzzCursor(f *testing.F) {
	for _, p := range []Place{{}, {1, 2}, {1759406400123456789, 42}, {-1, -1}, {1<<63 - 1, 1<<63 - 1}, {-1 << 63, -1 << 63}} {
		f.Add(p.String(), int64(1759406400123456789))
	}
	for _, cursor := range []string{"", ".", "a", "a.", ".a", "a.b.c", "A.Z", "+a.1", "a .1", "1y2p0ij32e8e8.0", "1_0.1", "é.1"} {
		f.Add(cursor, int64(0))
	}
	f.Fuzz(func(t *testing.T, cursor string, since int64) {
		q := amieusage.LoadedQuery{Cursor: cursor, MinLoadedTime: TimeOf(since)}
		start, err := StartOf(q)
		want, ok := slowPlace(cursor)
		if cursor == "" {
			want, ok = Place{Nanos(q.MinLoadedTime), 0}, true
		}
		if e, ours := errors.AsType[*amieusage.Error](err); (err == nil) != ok || err != nil && (!ours || e.Code != amieusage.CodeInvalid) {
			t.Fatalf("%q: %v; the reference can read it: %t", cursor, err, ok)
		}
		if err != nil {
			return
		}
		if least := Nanos(q.MinLoadedTime); want.LoadedAt < least {
			want = Place{least, 0}
		}
		if start != want {
			t.Fatalf("%q is %v, and not %v", cursor, start, want)
		}
		if again, err := StartOf(amieusage.LoadedQuery{Cursor: start.String(), MinLoadedTime: q.MinLoadedTime}); err != nil || again != start {
			t.Fatalf("%v became %v, %v", start, again, err)
		}
	})
}

// What is packed is unpacked; what is unpacked of any bytes is the same when it
// is packed again.
func FuzzUnpack(f *testing.F) {
	packer, err := NewPacker()
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = packer.Close() })
	for _, records := range [][]string{nil, {""}, {"{}", "[]"}, {strings.Repeat("x", 300), "y"}} {
		var raw [][]byte
		for _, r := range records {
			raw = append(raw, []byte(r))
		}
		packed, err := packer.Pack(raw)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed, int64(len(records)))
		f.Add(packed[:len(packed)/2], int64(len(records)))
		f.Add(packed, int64(1))
	}
	f.Fuzz(func(t *testing.T, data []byte, count int64) {
		mustUnpack := func(records [][]byte) {
			packed, err := packer.Pack(records)
			if err != nil {
				t.Fatal(err)
			}
			again, err := packer.Unpack(packed, int64(len(records)))
			if err != nil || cmp.Diff(records, again, cmp.Transformer("text", func(b []byte) string { return string(b) })) != "" {
				t.Fatalf("%q became %q, %v", records, again, err)
			}
			if _, err := packer.Unpack(packed, int64(len(records))+1); !errors.Is(err, errBatchDamaged) {
				t.Fatalf("a record is missing, and the error is %v", err)
			}
		}
		mustUnpack(bytes.SplitAfter(data, []byte{0}))
		// The bytes as a batch, and as what is in one.
		for _, packed := range [][]byte{data, packer.compress.EncodeAll(data, nil)} {
			records, err := packer.Unpack(packed, count)
			switch {
			case err == nil && int64(len(records)) != count:
				t.Fatalf("%d records, and not %d", len(records), count)
			case err == nil && count > 0:
				mustUnpack(records)
			case err != nil && !errors.Is(err, errBatchDamaged):
				t.Fatal(err)
			}
		}
	})
}

// What is archived is read back by other means. A file that is there already
// gives way only where all its lines are among those that are written.
func FuzzArchive(f *testing.F) {
	batch := func(record string) *OldBatch {
		return NewOldBatches([]*Batch{{ID: 7, KeyID: 3, UsageType: amieusage.Compute, AcceptedAt: TimeOf(1759406400123456789), Records: [][]byte{[]byte(record), []byte("{}")}}})[0]
	}
	for _, record := range []string{`{"a": 1,"b":"<&>é"}`, `{"a":1,"a":"\ud800"}`, "\xff", "", "null", " [1, 2] ", "{} {}", "1e999"} {
		line, err := json.Marshal(newArchiveLine("PSC", batch(record), 0))
		if err != nil {
			f.Fatal(err)
		}
		f.Add("PSC", []byte(record), append(line, '\n'), true)
		f.Add("PSC", []byte(record), append(line, line...), true)
		f.Add("../É/"+strings.Repeat("x", 300), []byte(record), line[:len(line)/2], true)
		f.Add(".", []byte(record), []byte(nil), false)
	}
	folder := f.TempDir()
	f.Fuzz(func(t *testing.T, site string, record, old []byte, isThere bool) {
		name := archiveName(site, 7)
		if filepath.Base(name) != name || name[0] == '.' || len(name) > 255 || !utf8.ValidString(name) {
			t.Fatalf("%q is the name of a file", name)
		}
		b := batch(string(record))
		path := filepath.Join(folder, name)
		defer os.Remove(path)
		if isThere {
			var zipped bytes.Buffer
			w := gzip.NewWriter(&zipped)
			_, _ = w.Write(old)
			_ = w.Close()
			old = zipped.Bytes()
			if err := os.WriteFile(path, old, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		file, err := createArchive(folder, name)
		if err != nil {
			t.Fatal(err)
		}
		if err := file.add(site, b); err != nil {
			t.Fatal(err)
		}
		_, err = file.publish()
		if err := file.discard(); err != nil {
			t.Fatal(err)
		}
		left, readErr := os.ReadFile(path)
		if readErr != nil {
			t.Fatal(readErr)
		}
		if err != nil {
			if e, ok := errors.AsType[*amieusage.Error](err); !ok || e.Code != amieusage.CodeConflict || !isThere || !bytes.Equal(left, old) {
				t.Fatalf("%v; the file that was there is left as it was: %t", err, bytes.Equal(left, old))
			}
			return
		}
		mustHoldBatch(t, left, site, b)
		if was, _ := slowLines(old); isThere {
			for i, line := range was {
				if i > 1 || line.Site != site || line.Ordinal != i || line.Batch != 7 || !line.AcceptedAt.Equal(b.AcceptedAt) {
					t.Fatalf("line %d of the file that was there is lost: %+v", i+1, line)
				}
			}
		}
	})
}

// slowLines unzips and reads an archive.
func slowLines(zipped []byte) (lines []ArchiveLine, err error) {
	r, err := gzip.NewReader(bytes.NewReader(zipped))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(r)
	for line := range bytes.Lines(text) {
		var l ArchiveLine
		if err := json.Unmarshal(line, &l); err != nil {
			return lines, err
		}
		lines = append(lines, l)
	}
	return lines, err
}

// mustHoldBatch asserts that the archive has a line for each record, which
// holds it as it was sent.
func mustHoldBatch(t *testing.T, zipped []byte, site string, b *OldBatch) {
	lines, err := slowLines(zipped)
	if err != nil || len(lines) != len(b.Records) {
		t.Fatalf("%d lines, error %v", len(lines), err)
	}
	for i, line := range lines {
		var want bytes.Buffer
		if raw := b.Records[i]; !utf8.Valid(raw) || json.Compact(&want, raw) != nil {
			text, err := json.Marshal(string(raw))
			if err != nil {
				t.Fatal(err)
			}
			want = *bytes.NewBuffer(text)
		}
		if !bytes.Equal(line.Record, want.Bytes()) {
			t.Fatalf("%s was archived as %s", b.Records[i], line.Record)
		}
		if line.Site != strings.ToValidUTF8(site, "\uFFFD") && utf8.ValidString(site) || line.Batch != b.ID || line.Ordinal != i ||
			line.KeyID != b.KeyID || line.UsageType != b.UsageType || !line.AcceptedAt.Equal(b.AcceptedAt.Round(time.Nanosecond)) || line.Outcome != "unchanged" {
			t.Fatalf("line %d: %+v", i+1, line)
		}
	}
}
