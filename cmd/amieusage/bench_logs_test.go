package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/amieusage/amieusage/internal/gridengine"
	"github.com/amieusage/amieusage/internal/htcondor"
	"github.com/amieusage/amieusage/internal/pbs"
	"github.com/amieusage/amieusage/internal/scheduler"
)

// BenchmarkParseLogs reads other schedulers' accounting, beside what cuts the same
// text at its delimiters, and no more.
func BenchmarkParseLogs(b *testing.B) {
	clock := func() time.Time { return time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC) }
	for _, log := range []struct {
		name, fixture string
		rows          int // of the fixture
		times         int
		open          func(in io.Reader) scheduler.Reader
		cut           string
		baseline      func(text []byte) int
	}{
		{"pbs", "pbs/testdata/log", 6, 4000, func(in io.Reader) scheduler.Reader { return pbs.NewReader(in, "log", pbs.Options{Clock: clock}) },
			"strings-fields", func(text []byte) (n int) {
				for line := range strings.Lines(string(text)) {
					if len(strings.Fields(line)) > 10 {
						n++
					}
				}
				return n
			}},
		{"gridengine", "gridengine/testdata/accounting", 7, 4000, func(in io.Reader) scheduler.Reader {
			return gridengine.NewReader(in, "log", gridengine.Options{Clock: clock})
		},
			"strings-split", func(text []byte) (n int) {
				for line := range strings.Lines(string(text)) {
					if len(strings.Split(line, ":")) > 10 {
						n++
					}
				}
				return n
			}},
		{"htcondor-classads", "htcondor/testdata/history", 8, 2000, func(in io.Reader) scheduler.Reader {
			return htcondor.NewReader(in, "log", htcondor.Options{Clock: clock})
		},
			"strings-cut", func(text []byte) (n int) {
				ad := map[string]string{}
				for line := range strings.Lines(string(text)) {
					if strings.HasPrefix(line, "***") {
						n++
						clear(ad)
						continue
					}
					name, value, _ := strings.Cut(line, " = ")
					ad[name] = value
				}
				return n
			}},
		{"htcondor-json", "htcondor/testdata/history.json", 8, 2000, func(in io.Reader) scheduler.Reader {
			return htcondor.NewReader(in, "log", htcondor.Options{Clock: clock})
		},
			"encoding-json", func(text []byte) (n int) {
				for d := json.NewDecoder(bytes.NewReader(text)); ; {
					var ads []map[string]any
					if d.Decode(&ads) != nil {
						return n
					}
					n += len(ads)
				}
			}},
	} {
		fixture, err := os.ReadFile("../../internal/" + log.fixture)
		if err != nil {
			b.Fatal(err)
		}
		text, rows := bytes.Repeat(fixture, log.times), log.rows*log.times
		b.Run(log.name, func(b *testing.B) {
			for b.Loop() {
				reader := log.open(bytes.NewReader(text))
				for _, err := range reader.Jobs(b.Context()) {
					if err != nil {
						b.Fatal(err)
					}
				}
				if n := reader.Stats().Rows; n != int64(rows) {
					b.Fatalf("%d rows", n)
				}
			}
			perSecond(b, rows)
		})
		b.Run(log.name+"-"+log.cut, func(b *testing.B) {
			for b.Loop() {
				if n := log.baseline(text); n != rows {
					b.Fatalf("%d rows", n)
				}
			}
			perSecond(b, rows)
		})
	}
}
