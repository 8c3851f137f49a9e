// Package counted reads usage that was counted elsewhere: by a query of Prometheus, by OpenStack, by a pool. A row is what a
// project's user has used of a resource on a day, in hours of each TRES. It becomes a job of that day, so that the site's rules
// charge it as any other.
package counted

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cockroachdb/apd/v3"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/textfile"
)

// Options say what the columns are, or in JSON the members.
type Options struct {
	Project, User, Day string            // their names; all are needed
	Partition          string            // by which the resource is found; "": there is none
	Part               string            // tells rows of one project, user, resource and day apart that are added up; "": there is one
	State              string            // by which hours are weighed; "": they are not
	TRES               map[string]string // columns of hours by TRES: cpu: cpu_hours; mem in GiB
	Weights            map[string]*apd.Decimal
	Zone               *time.Location   // of days
	Clock              func() time.Time // nil: time.Now
}

// Reader is a scheduler.Source on rows of CSV or JSON lines, compressed or not.
type Reader struct {
	in    io.Reader
	name  string
	opts  Options
	stats scheduler.Stats
	days  Days
}

var _ scheduler.Reader = (*Reader)(nil)

// Days are the days that a text tells of: all from First to Last. Zero: none.
type Days struct{ First, Last time.Time }

// NewReader returns a Reader of r; name is what errors call it, "-" for standard input.
func NewReader(r io.Reader, name string, opts Options) *Reader {
	if opts.Clock == nil {
		opts.Clock = time.Now
	}
	if opts.Zone == nil {
		opts.Zone = time.UTC
	}
	return &Reader{in: r, name: name, opts: opts}
}

// Stats returns what has been read so far: the rows.
func (r *Reader) Stats() scheduler.Stats { return r.stats }

// Days returns the days that were read, once all was.
func (r *Reader) Days() Days { return r.days }

// Source is the Source of the jobs.
const Source = "counted"

// elapsed is the run time of each job: an hour, so that its TRES are hours.
const elapsed = 3600

// maxDecimals is how many digits behind the point the hours of a TRES have.
const maxDecimals = 9

// exact adds and multiplies hours.
var exact = apd.Context{Precision: 60, MaxExponent: apd.MaxExponent, MinExponent: apd.MinExponent, Rounding: apd.RoundHalfEven}

// key tells rows apart that are added up to a job, and part those of one job.
type (
	key  struct{ project, user, partition, day string }
	part struct {
		key
		part, state string
	}
)

// sum is what the rows of a key come to.
type sum struct {
	place scheduler.Place
	start time.Time
	tres  map[string]*apd.Decimal
	bad   *scheduler.RowError // a row of it cannot be read: the sum would be too small
}

// Jobs yields the jobs, in the order of their days. It reads r to its end, so only the first iteration yields anything. A row
// that cannot be read keeps the others of its project, user and day from being charged without it.
//
// Final errors: the input is empty, lacks a column, is broken or cut off; reading failed; ctx ended.
func (r *Reader) Jobs(ctx context.Context) iter.Seq2[*scheduler.Job, error] {
	return func(yield func(*scheduler.Job, error) bool) {
		in, done, err := textfile.Plain(bufio.NewReaderSize(r.in, textfile.BufferSize))
		defer done()
		sums := map[key]*sum{}
		var loose []*scheduler.RowError // rows of which not even the key can be read
		if err == nil {
			loose, err = r.sums(ctx, in, sums)
		}
		if err != nil {
			yield(nil, fmt.Errorf("%s: %w", scheduler.Place{File: r.name}, err))
			return
		}
		for _, row := range loose {
			if !yield(nil, row) {
				return
			}
		}
		keys := slices.SortedFunc(maps.Keys(sums), func(a, b key) int {
			return strings.Compare(a.day+"\x00"+a.project+"\x00"+a.user+"\x00"+a.partition, b.day+"\x00"+b.project+"\x00"+b.user+"\x00"+b.partition)
		})
		for _, k := range keys {
			s := sums[k]
			if s.bad != nil {
				r.stats.Bad++
				if !yield(nil, s.bad) {
					return
				}
				continue
			}
			job, err := r.job(k, s)
			if err != nil {
				r.stats.Bad++
			}
			if !yield(job, err) {
				return
			}
		}
	}
}

// ID returns the id of a day's use: made of project, user, partition and day, so that sending it again overwrites.
func (k key) ID() string {
	id := url.PathEscape(k.project) + "/" + url.PathEscape(k.user)
	if k.partition != "" {
		id += "/" + url.PathEscape(k.partition)
	}
	return id + "/" + k.day
}

func (r *Reader) job(k key, s *sum) (*scheduler.Job, error) {
	j := &scheduler.Job{
		Place: s.place, Source: Source, ID: k.ID(), DisplayID: k.ID(), User: k.user, Account: k.project, Project: k.project, Partition: k.partition, State: "COMPLETED",
		Submit: s.start.UTC(), Start: s.start.UTC(), End: s.start.AddDate(0, 0, 1).UTC(), ElapsedSeconds: elapsed, Nodes: 1, CPUs: 1,
		Lacks: scheduler.FactUID | scheduler.FactQOS | scheduler.FactName | scheduler.FactReqMem | scheduler.FactReservation | scheduler.FactNodeList | scheduler.FactDBIndex | scheduler.FactGroup,
	}
	for _, name := range slices.Sorted(maps.Keys(s.tres)) {
		j.By += name + "=" + r.opts.TRES[name] + " "
		t, err := tresOf(name, s.tres[name])
		if err != nil {
			return nil, &scheduler.RowError{Place: s.place, JobID: k.ID(), Field: r.opts.TRES[name], Problem: err.Error(), Remedy: "correct it in the table"}
		}
		j.TRES = append(j.TRES, t)
		if name == "cpu" && t.Count > 0 {
			j.CPUs = (t.Count + 23) / 24 // of a day's hours
		}
	}
	for _, state := range slices.Sorted(maps.Keys(r.opts.Weights)) {
		j.By += state + "×" + r.opts.Weights[state].String() + " "
	}
	return j, nil
}

// tresOf returns hours as a count: of memory, hours of a GiB.
func tresOf(name string, hours *apd.Decimal) (scheduler.TRES, error) {
	var d apd.Decimal
	d.Set(hours)
	if name == "mem" {
		_, _ = exact.Mul(&d, &d, apd.New(1<<30, 0))
	}
	if _, err := exact.Quantize(&d, &d, -maxDecimals); err != nil {
		return scheduler.TRES{}, errors.New("it is more than can be")
	}
	var whole, fraction apd.Decimal
	d.Modf(&whole, &fraction)
	n, err := whole.Int64()
	if err != nil || n > math.MaxInt64/2 {
		return scheduler.TRES{}, errors.New("it is more than can be")
	}
	_, _ = exact.Mul(&fraction, &fraction, apd.New(1, maxDecimals))
	nanos, err := fraction.Int64()
	if err != nil {
		return scheduler.TRES{}, errors.New("it is more than can be")
	}
	return scheduler.TRES{Name: name, Count: n, Nanos: int32(nanos)}, nil
}

// sums reads the rows.
func (r *Reader) sums(ctx context.Context, in *bufio.Reader, sums map[key]*sum) (loose []*scheduler.RowError, err error) {
	met := map[part]bool{}
	take := func(place scheduler.Place, get func(name string) (string, bool)) {
		r.stats.Rows++
		if row := r.row(place, get, sums, met); row != nil {
			r.stats.Bad++
			loose = append(loose, row)
		}
	}
	head, _ := in.Peek(textfile.BufferSize)
	head = bytes.TrimLeft(head, " \t\r\n")
	switch {
	case len(head) == 0:
		return nil, errors.New("empty: there is no row in it")
	case head[0] == '{':
		err = r.jsonLines(ctx, in, take)
	case head[0] == '[':
		return nil, errors.New("this is a list of JSON: write one object a line (jq -c '.[]')")
	default:
		err = r.csv(ctx, in, take)
	}
	return loose, err
}

func (r *Reader) jsonLines(ctx context.Context, in *bufio.Reader, take func(scheduler.Place, func(string) (string, bool))) error {
	lines := textfile.Lines{In: in}
	for {
		line, ended, long, err := lines.Next()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case long:
			return fmt.Errorf("line %d is longer than %d bytes", lines.Number, textfile.MaxLine)
		case len(bytes.TrimSpace(line)) == 0:
			continue
		}
		var members map[string]jsontext.Value
		if err := json.Unmarshal(line, &members); err != nil {
			if !ended {
				return fmt.Errorf("line %d is cut off: write the file again", lines.Number)
			}
			return fmt.Errorf("line %d is no object of JSON: %w", lines.Number, err)
		}
		take(scheduler.Place{File: r.name, Line: lines.Number}, func(name string) (string, bool) {
			value, ok := members[name]
			if !ok || value.Kind() == 'n' {
				return "", false
			}
			if value.Kind() == '"' {
				text, err := jsontext.AppendUnquote(nil, value)
				return string(text), err == nil
			}
			return string(value), value.Kind() == '0'
		})
	}
}

func (r *Reader) csv(ctx context.Context, in *bufio.Reader, take func(scheduler.Place, func(string) (string, bool))) error {
	last := &lastByte{in: in}
	rows := csv.NewReader(last)
	rows.ReuseRecord = true
	header, err := rows.Read()
	if err != nil {
		return fmt.Errorf("the header cannot be read: %w", err)
	}
	at := map[string]int{}
	for i, name := range header {
		at[strings.TrimSpace(strings.TrimPrefix(name, "\ufeff"))] = i
	}
	for _, name := range r.columns() {
		if _, ok := at[name]; !ok {
			return fmt.Errorf("the header has no column %q (counted: columns: in site.yaml)", name)
		}
	}
	for {
		fields, err := rows.Read()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == io.EOF && last.byte != '\n':
			return errors.New("the last line has no end: it was cut off; write the file again")
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("this is no CSV, or cut off: %w", err)
		}
		line, _ := rows.FieldPos(0)
		take(scheduler.Place{File: r.name, Line: line}, func(name string) (string, bool) {
			text := strings.TrimSpace(fields[at[name]])
			return text, text != ""
		})
	}
}

type lastByte struct {
	in   io.Reader
	byte byte
}

func (l *lastByte) Read(p []byte) (int, error) {
	n, err := l.in.Read(p)
	if n > 0 {
		l.byte = p[n-1]
	}
	return n, err
}

// columns are all that a row must have.
func (r *Reader) columns() []string {
	o := &r.opts
	names := []string{o.Project, o.User, o.Day}
	for _, name := range []string{o.Partition, o.Part, o.State} {
		if name != "" {
			names = append(names, name)
		}
	}
	return append(names, slices.Sorted(maps.Values(o.TRES))...)
}

// row adds a row to its sum. The error is that of a row without a sum.
func (r *Reader) row(place scheduler.Place, get func(name string) (string, bool), sums map[key]*sum, met map[part]bool) *scheduler.RowError {
	o := &r.opts
	var k part
	bad := func(field, problem string) *scheduler.RowError {
		row := &scheduler.RowError{Place: place, Field: field, Problem: problem, Remedy: "correct it in the table"}
		if k.day != "" {
			row.JobID = k.ID()
		}
		return row
	}
	for _, f := range []struct {
		name   string
		to     *string
		needed bool
	}{{o.Project, &k.project, true}, {o.User, &k.user, true}, {o.Partition, &k.partition, false}, {o.Part, &k.part, false}, {o.State, &k.state, false}} {
		text, ok := "", false
		if f.name != "" {
			text, ok = get(f.name)
		}
		if !ok && f.needed {
			return bad(f.name, "it is missing")
		}
		*f.to = text
	}
	day, _ := get(o.Day)
	start, err := time.ParseInLocation(time.DateOnly, day, o.Zone)
	if err != nil {
		return bad(o.Day, strconv.Quote(textfile.Clip(day, 80))+" is no day such as 2026-10-01")
	}
	if start.After(o.Clock()) {
		return bad(o.Day, day+" has not come yet")
	}
	k.day = day
	if r.days.First.IsZero() || start.Before(r.days.First) {
		r.days.First = start
	}
	if start.After(r.days.Last) {
		r.days.Last = start
	}
	s := sums[k.key]
	if s == nil {
		s = &sum{place: place, start: start, tres: map[string]*apd.Decimal{}}
		sums[k.key] = s
	}
	spoil := func(field, problem string) *scheduler.RowError {
		row := bad(field, problem)
		if s.bad == nil {
			s.bad = row
		}
		return nil
	}
	if met[k] {
		return spoil("", "there are two rows of it: they are not added up, or a table that was written twice would count twice; name what tells them apart (counted: columns: part)")
	}
	met[k] = true
	weight := apd.New(1, 0)
	if o.State != "" {
		var known bool
		if weight, known = o.Weights[k.state]; !known {
			return spoil(o.State, "nothing says how state "+strconv.Quote(textfile.Clip(k.state, 80))+" is weighed (counted: weights: in site.yaml)")
		}
	}
	for name, column := range o.TRES {
		text, ok := get(column)
		if !ok {
			return spoil(column, "it is missing")
		}
		hours, _, err := apd.NewFromString(text)
		if err != nil || hours.Form != apd.Finite || hours.Negative && !hours.IsZero() || hours.NumDigits() > 40 || hours.Exponent > 18 || hours.Exponent < -40 {
			return spoil(column, strconv.Quote(textfile.Clip(text, 80))+" is no number of hours")
		}
		_, _ = exact.Mul(hours, hours, weight)
		if s.tres[name] == nil {
			s.tres[name] = new(apd.Decimal)
		}
		_, _ = exact.Add(s.tres[name], s.tres[name], hours)
	}
	return nil
}
