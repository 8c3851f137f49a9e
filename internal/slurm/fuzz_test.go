package slurm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	_ "time/tzdata"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/amieusage/amieusage/internal/scheduler"
)

// The slow… functions read what this package reads, in the plainest way that there is.

var slowCountForm = regexp.MustCompile(`^([0-9]{1,19})(?:\.([0-9]{1,18}))?([KMGTPE]?)$`)

// slowCount reads a count, with a unit or without one, by rational arithmetic.
func slowCount(s string, mebibytes bool) (t scheduler.TRES, ok bool) {
	m := slowCountForm.FindStringSubmatch(s)
	if m == nil {
		return t, false
	}
	power := uint(strings.Index("_KMGTPE", m[3]))
	if m[3] == "" {
		power = 0
		if mebibytes {
			power = 2
		}
	}
	value, _ := new(big.Rat).SetString(m[1] + "." + m[2] + "0")
	value.Mul(value, new(big.Rat).SetInt(new(big.Int).Lsh(big.NewInt(1), 10*power)))
	digits := int64(1e9)
	if mebibytes {
		digits = 1
	}
	nanos := new(big.Int)
	count := rounded(value.Mul(value, big.NewRat(digits, 1)))
	count.DivMod(count, big.NewInt(digits), nanos)
	return scheduler.TRES{Count: count.Int64(), Nanos: int32(nanos.Int64())}, count.IsInt64()
}

func slowTRES(s string) (list []scheduler.TRES, ok bool) {
	if s == "" {
		return nil, true
	}
	for _, entry := range strings.Split(strings.TrimSuffix(s, ","), ",") {
		name, text, found := strings.Cut(entry, "=")
		if !found || name == "" {
			return nil, false
		}
		if text == "18446744073709551614" || text == "18446744073709551615" {
			continue
		}
		count, ok := slowCount(text, name == "mem" || strings.HasPrefix(name, "bb/"))
		if !ok {
			return nil, false
		}
		count.Name = name
		list = append(list, count)
	}
	return list, true
}

func FuzzTRES(f *testing.F) {
	for _, s := range []string{"", ",", "=1", "cpu=8", "billing=8,cpu=8,gres/gpu:a100=2,gres/gpu=2,mem=250.50G,node=1",
		"energy=18446744073709551614,cpu=1", "mem=100", "bb/cray=1.5T,", "cpu=1,,node=1", "mem=7.999999999999999999E", "mem=8E", "cpu=1.5", "cpu=1=2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want, ok := slowTRES(s)
		got, err := appendTRES(nil, s)
		if (err == nil) != ok {
			t.Fatalf("%q: error %v; the reference can read it: %t", s, err, ok)
		}
		if ok {
			mustBeSame(t, want, got)
		}
	})
}

var slowTimeForm = regexp.MustCompile(`^([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]([0-9]{2}:[0-9]{2}:[0-9]{2})(Z|[+-][0-9]{2}(?::?[0-5][0-9])?)?$`)

// slowTime reads a time; a naive one by looking for all instants that the zone shows as it.
func slowTime(s string, zone *time.Location) (t time.Time, ok bool) {
	switch s {
	case "", "0", "Unknown", "None", "N/A":
		return t, true
	}
	if sec, err := strconv.ParseUint(s, 10, 64); err == nil && len(s) <= 12 {
		return time.Unix(int64(sec), 0).UTC(), sec <= maxEpoch
	}
	m := slowTimeForm.FindStringSubmatch(s)
	if m == nil {
		return t, false
	}
	wall, err := time.Parse(time.DateTime, m[1]+" "+m[2])
	if err != nil {
		return t, false
	}
	if zone := m[3]; zone != "" {
		for _, layout := range []string{"Z07:00", "Z0700", "Z07"} {
			if at, err := time.Parse(layout, zone); err == nil {
				_, offset := at.Zone()
				return wall.Add(-time.Duration(offset) * time.Second), offset > -24*3600 && offset < 24*3600
			}
		}
		return t, false
	}
	found := map[time.Time]bool{}
	if zone != nil {
		for hours := -72; hours <= 72; hours++ {
			_, offset := wall.Add(time.Duration(hours) * time.Hour).In(zone).Zone()
			at := wall.Add(-time.Duration(offset) * time.Second)
			if at.In(zone).Format(time.DateTime) == wall.Format(time.DateTime) {
				found[at] = true
			}
		}
	}
	for at := range found {
		t = at
	}
	return t, len(found) == 1
}

func FuzzTime(f *testing.F) {
	zones := []*time.Location{nil}
	for _, name := range []string{"UTC", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca", "Asia/Kolkata"} {
		zone, err := time.LoadLocation(name)
		if err != nil {
			f.Fatal(err)
		}
		zones = append(zones, zone)
	}
	for i := range zones {
		for _, s := range []string{"", "Unknown", "1795346887", "253402300799", "2026-11-22T11:28:07", "2026-11-01T01:30:00", "2026-03-08T02:30:00",
			"2011-12-30T12:00:00", "2026-11-22 11:28:07-0500", "2026-11-22T11:28:07+05:30", "2026-11-22T11:28:07Z", "0000-02-29T00:00:00", "9999-12-31T23:59:59"} {
			f.Add(s, byte(i))
		}
	}
	f.Fuzz(func(t *testing.T, s string, zone byte) {
		p := timeParser{zone: zones[int(zone)%len(zones)]}
		want, ok := slowTime(s, p.zone)
		for _, when := range []string{"first", "again"} { // the second time from what is remembered
			got, err := p.parse(s)
			if (err == nil) != ok || ok && !got.Equal(want) {
				t.Fatalf("%q in %v, %s: got %v, error %v; want %v, %t", s, p.zone, when, got, err, want, ok)
			}
			if err != nil && err.final != (p.zone == nil && slowNaive(s)) {
				t.Fatalf("%q in %v: final: %t", s, p.zone, err.final)
			}
		}
		if back, err := p.parse(strconv.FormatInt(want.Unix(), 10)); ok && want.Unix() > 0 && want.Unix() <= maxEpoch && (err != nil || !back.Equal(want)) {
			t.Fatalf("%v, written as seconds: %v, %v", want, back, err)
		}
	})
}

// slowNaive tells a time that bears no offset.
func slowNaive(s string) bool {
	_, inUTC := slowTime(s, time.UTC)
	m := slowTimeForm.FindStringSubmatch(s)
	return inUTC && m != nil && m[3] == ""
}

var slowElapsedForm = regexp.MustCompile(`^(?:([0-9]{1,19})-)?([0-9]{2}:[0-9]{2}:[0-9]{2})$`)

func FuzzElapsed(f *testing.F) {
	for _, s := range []string{"", "00:00:00", "23:59:59", "1-00:00:00", "365-10:00:01", "24:00:00", "-00:00:01", "00:00", "9223372036854775807-00:00:00", "2932896-00:00:00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var want int64
		m := slowElapsedForm.FindStringSubmatch(s)
		clock, err := time.Time{}, error(nil)
		if m != nil {
			clock, err = time.Parse(time.TimeOnly, m[2])
			days, _ := strconv.ParseInt("0"+m[1], 10, 64)
			if days > maxEpoch/86400 {
				err = strconv.ErrRange
			}
			want = days*86400 + int64(clock.Hour()*3600+clock.Minute()*60+clock.Second())
		}
		ok := m != nil && err == nil
		if got, read := duration(s); read != ok || ok && got != want {
			t.Fatalf("%q: got %d, %t; want %d, %t", s, got, read, want, ok)
		}
	})
}

// reading is all that a Reader yielded.
type reading struct {
	jobs  []*scheduler.Job
	bad   []*scheduler.RowError
	err   error
	stats scheduler.Stats
}

// read reads anything at all, which comes in pieces of so many bytes (0: at once). Each job has an id, nothing comes behind
// the final error, and every row is accounted for.
func read(t *testing.T, data []byte, piece int, opts Options) (r reading) {
	var in io.Reader = bytes.NewReader(data)
	switch {
	case piece == 1:
		in = iotest.OneByteReader(in)
	case piece > 1:
		in = pieces{in, piece}
	}
	// A small buffer costs little, and lines are longer than it.
	reader := &Reader{in: bufio.NewReaderSize(in, 1024), name: "fuzz", opts: opts}
	for job, err := range reader.Jobs(context.Background()) {
		var row *scheduler.RowError
		switch {
		case r.err != nil:
			t.Fatalf("something was yielded after the final error %v", r.err)
		case errors.As(err, &row):
			r.bad = append(r.bad, row)
			if row.Problem == "" || row.Place.File != "fuzz" {
				t.Fatalf("a row error without problem or place: %#v", row)
			}
		case err != nil:
			r.err = err
		default:
			r.jobs = append(r.jobs, job.Clone())
			if job.ID == "" || job.DisplayID == "" || len(job.Name) > maxName || job.ElapsedSeconds < 0 || job.Nodes < 0 || job.CPUs < 0 {
				t.Fatalf("got %+v", job)
			}
		}
	}
	r.stats = reader.Stats()
	accounted := int64(len(r.jobs)+len(r.bad)) + r.stats.Steps
	if r.stats.Bad != int64(len(r.bad)) || r.stats.Rows != accounted && r.err == nil || r.stats.Rows-accounted > 1 {
		t.Fatalf("%d jobs, %d bad, %+v", len(r.jobs), len(r.bad), r.stats)
	}
	return r
}

// mustReadTheSame reads the data at once and in pieces.
func mustReadTheSame(t *testing.T, data []byte, piece byte, opts Options) reading {
	t.Helper()
	whole, cut := read(t, data, 0, opts), read(t, data, 1+int(piece), opts)
	// How the JSON library words an error depends on what it has read so far.
	if (whole.err == nil) != (cut.err == nil) {
		t.Fatalf("read at once: %v; in pieces: %v", whole.err, cut.err)
	}
	mustBeSame(t, whole.jobs, cut.jobs)
	mustBeSame(t, whole.bad, cut.bad)
	mustBeSame(t, whole.stats, cut.stats)
	return whole
}

// pieces gives at most so many bytes at a time.
type pieces struct {
	r    io.Reader
	most int
}

func (p pieces) Read(b []byte) (int, error) { return p.r.Read(b[:min(len(b), p.most)]) }

func mustBeSame(t *testing.T, want, got any, opts ...cmp.Option) {
	t.Helper()
	if diff := cmp.Diff(want, got, append(opts, cmpopts.EquateEmpty())...); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
}

// fixtureFiles returns the files of what sacct printed.
func fixtureFiles(f *testing.F, patterns ...string) (files [][]byte) {
	f.Helper()
	for _, pattern := range patterns {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			f.Fatal("no files ", pattern, err)
		}
		for _, path := range paths {
			data, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			files = append(files, data)
		}
	}
	return files
}
