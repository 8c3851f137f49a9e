package slurm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/textfile"
)

const delimiterRemedy = `export with JobName as the last field and --delimiter=$'\x1f'`

// textReader reads what sacct prints under --parsable and --parsable2: a header, and a row a line.
//
// Users choose the names of jobs, which may hold the delimiter and line breaks. Where one column alone is free text, a
// surplus of delimiters is its own. A line with fewer delimiters than a row has continues the row before it, if that row
// still wants fields or ends in free text; but a line that begins as a row does, with a job's id in its place, is a row
// cut short, and reported.
type textReader struct {
	r     *Reader
	lines textfile.Lines
	head  *header
	crlf  bool
	sep   []byte
	row   rowReader
	cur   current
}

// current is the row that the next line may still belong to.
type current struct {
	open    bool
	line    int    // number of its first line
	text    string // its first line
	more    []byte // its other lines, each with the line feed before it
	seps    int    // delimiters in all its lines
	problem string // why it cannot be read
}

func newTextReader(r *Reader) *textReader {
	return &textReader{r: r, lines: textfile.Lines{In: r.in}}
}

// run yields every job, and returns what ended it before the end of the text.
func (t *textReader) run(ctx context.Context, yield func(*scheduler.Job, error) bool) error {
	if err := t.readHeader(); err != nil {
		return err
	}
	headerLine := []byte(t.head.line)
	for {
		line, ended, long, err := t.lines.Next()
		if err := ctx.Err(); err != nil { // the text may have ended for that very reason
			return fmt.Errorf("%s: %w", t.place(t.lines.Number), err)
		}
		if err == io.EOF {
			return t.flush(yield)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", t.place(t.lines.Number+1), err)
		}
		if t.crlf {
			line = bytes.TrimSuffix(line, []byte("\r"))
		}
		seps := bytes.Count(line, t.sep)
		if seps == 0 && !t.head.freeText && bytes.HasPrefix(line, []byte("sacct: ")) && isError(string(line)) {
			err := t.flush(yield)
			if err == nil {
				err = &scheduler.IncompleteError{Problem: fmt.Sprintf("%s: sacct said %q", t.place(t.lines.Number), clip(string(line), 200)),
					Remedy: "there may be more jobs than this has: export it again"}
			}
			return err
		}
		if !long && t.continues(line, seps, ended) {
			t.extend(line, seps)
			continue
		}
		if err := t.flush(yield); err != nil {
			return err
		}
		if len(line) == 0 || bytes.Equal(line, headerLine) { // a blank line, the header of another dump
			continue
		}
		t.begin(line, seps, ended, long)
	}
}

// aboveHeader is how many lines may stand above the header: what a login or a wrapper prints.
const aboveHeader = 50

// readHeader reads the header. What stands above it is told; where it is an error of sacct, there may be more jobs than the
// text has.
func (t *textReader) readHeader() error {
	var above []string
	for {
		line, _, long, err := t.lines.Next()
		if err == io.EOF && len(above) > 0 {
			return t.noHeader(above)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", t.place(t.lines.Number+1), err)
		}
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		if long {
			return fmt.Errorf("%s: the first line is longer than %d bytes; export again with: %s", t.place(t.lines.Number), maxLine, DumpCommand)
		}
		text, crlf := strings.CutSuffix(string(line), "\r")
		head, err := parseHeader(text, t.r.opts.Delimiter)
		switch {
		case err == nil:
			t.use(head, crlf)
			return t.heard(above)
		case len(t.r.opts.Columns) > 0 && !isError(text):
			if head, err = headerOf(t.r.opts.Columns, text, t.r.opts.Delimiter); err != nil {
				return fmt.Errorf("%s: %w", t.place(t.lines.Number), err)
			}
			t.use(head, crlf)
			t.begin(bytes.TrimSuffix(line, []byte("\r")), bytes.Count(line, t.sep), true, false)
			return t.heard(above)
		case !errors.Is(err, errNoHeader):
			return fmt.Errorf("%s: %w; export again with: %s", t.place(t.lines.Number), err, DumpCommand)
		}
		if above = append(above, text); len(above) == aboveHeader {
			return t.noHeader(above)
		}
	}
}

// use makes head the header.
func (t *textReader) use(head *header, crlf bool) {
	t.head, t.crlf, t.sep = head, crlf, []byte(head.sep)
	t.row = rowReader{head: head, times: timeParser{zone: t.r.opts.Zone}, now: t.r.opts.now(), fields: make([]string, head.width)}
}

// noHeader says what a text without a header begins with.
func (t *textReader) noHeader(above []string) error {
	said := above[0]
	for _, line := range above {
		if isError(line) {
			return fmt.Errorf("%s: sacct said %q; export again with: %s", t.place(1), line, DumpCommand)
		}
	}
	return fmt.Errorf("%s: %w, but %q; name the columns of a dump without one (--columns), or export again with: %s",
		t.place(1), errNoHeader, clip(said, 200), DumpCommand)
}

// heard tells what stands above the header.
func (t *textReader) heard(above []string) error {
	for i, line := range above {
		if isError(line) {
			return fmt.Errorf("%s: above the header, sacct said %q: there may be more jobs than this has; export again with: %s",
				t.place(i+1), clip(line, 200), DumpCommand)
		}
		if t.r.opts.Warn != nil {
			t.r.opts.Warn(fmt.Sprintf("%s: above the header: %q", t.place(i+1), clip(line, 200)))
		}
	}
	return nil
}

// isError tells an error of Slurm's programs from other text.
func isError(line string) bool {
	return strings.Contains(line, ": error: ") || strings.Contains(line, ": fatal: ")
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}

// continues tells whether the line is more of the current row.
func (t *textReader) continues(line []byte, seps int, ended bool) bool {
	c, h := &t.cur, t.head
	if c.open && c.problem == "" && h.free == 0 && c.seps == 0 {
		return true // the name comes first, and its last line looks like a row of its own
	}
	if !c.open || seps >= h.complete() {
		return false
	}
	if c.problem != "" {
		return seps == 0
	}
	if c.seps < h.complete() {
		return true
	}
	return h.lastFree && ended && (seps == 0 || h.free >= 0 && t.displayID(string(line)) == "")
}

// extend adds a line to the current row. Of a name, no more is kept than is used; a row that still wants fields is kept up
// to maxLine.
func (t *textReader) extend(line []byte, seps int) {
	c := &t.cur
	wanting := c.seps < t.head.complete()
	c.seps += seps
	switch {
	case c.problem != "":
	case wanting && len(c.text)+len(c.more)+len(line) >= maxLine:
		c.problem = fmt.Sprintf("the row is longer than %d bytes", maxLine)
	case wanting || len(c.more) < maxName:
		c.more = append(append(c.more, '\n'), line...)
	}
}

// begin makes the line the current row.
func (t *textReader) begin(line []byte, seps int, ended, long bool) {
	c, h := &t.cur, t.head
	c.open, c.line, c.seps, c.more, c.problem = true, t.lines.Number, seps, c.more[:0], ""
	switch {
	case !ended && !long && !h.trailing && !h.lastFree:
		// The last field may have lost its end, and the job its charge.
		c.problem = "the text ends within the row"
		t.r.cut = true
	case long:
		c.problem = fmt.Sprintf("the row is longer than %d bytes", maxLine)
	case seps >= h.complete(), h.free >= 0 && !h.lastFree && seps >= h.free && ended:
		c.text = string(line)
		return
	case !ended:
		c.problem = "the text ends within the row"
		t.r.cut = true
	default:
		c.problem = fmt.Sprintf("the row has %d fields and the header %d", seps+1, h.width)
	}
	c.text = string(line[:min(len(line), maxName)])
}

// flush yields the current row, if there is one.
func (t *textReader) flush(yield func(*scheduler.Job, error) bool) error {
	c, h := &t.cur, t.head
	if !c.open {
		return nil
	}
	c.open = false
	t.r.stats.Rows++
	place := t.place(c.line)
	if c.problem == "" && c.seps < h.complete() {
		c.problem = fmt.Sprintf("the row has %d fields and the header %d", c.seps+1, h.width)
	}
	if c.problem != "" {
		return t.bad(yield, &scheduler.RowError{Place: place, JobID: t.displayID(c.text), Problem: c.problem, Remedy: "export it again"})
	}
	text := c.text
	if len(c.more) > 0 {
		text += string(c.more)
	}
	if h.trailing {
		text = strings.TrimSuffix(text, h.sep)
	}
	if !t.row.split(text) {
		return t.bad(yield, &scheduler.RowError{Place: place, JobID: t.displayID(text),
			Problem: "the row has more fields than the header, and it cannot be told which of them holds the delimiter", Remedy: delimiterRemedy})
	}
	if t.row.isStep() {
		t.r.stats.Steps++
		return nil
	}
	job, col, ferr := t.row.job()
	switch {
	case ferr == nil:
		job.Place = place
		if !yield(job, nil) {
			return errStopped
		}
		return nil
	case ferr.final:
		return fmt.Errorf("%s: job %s: %s: %w", place, job.DisplayID, col, ferr)
	}
	return t.bad(yield, &scheduler.RowError{Place: place, JobID: job.DisplayID, Field: col.String(), Problem: ferr.problem, Remedy: ferr.remedy})
}

func (t *textReader) bad(yield func(*scheduler.Job, error) bool, err *scheduler.RowError) error {
	t.r.stats.Bad++
	if !yield(nil, err) {
		return errStopped
	}
	return nil
}

// displayID returns the job's id that stands where a row has it, or "": the line may be half a row, or none.
func (t *textReader) displayID(text string) string {
	for range t.head.id {
		_, text, _ = strings.Cut(text, t.head.sep)
	}
	id, _, _ := strings.Cut(text, t.head.sep)
	if !isJobID(id) {
		return ""
	}
	return id
}

func (t *textReader) place(line int) scheduler.Place {
	return scheduler.Place{File: t.r.name, Line: line}
}
