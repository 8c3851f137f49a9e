package slurm

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/amieusage/amieusage/internal/scheduler"
)

// rowReader makes jobs of the rows of text. The job it returns is overwritten by the next.
type rowReader struct {
	head   *header
	times  timeParser
	now    time.Time
	fields []string
	last   scheduler.Job
}

// split cuts a row into fields. A surplus of delimiters belongs to the only column of free text; false where it cannot be
// told which column that is.
func (r *rowReader) split(text string) bool {
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, "\uFFFD")
	}
	h := r.head
	width := len(r.fields)
	left := width - 1 // fields that end in a delimiter, counted from the left
	if h.free >= 0 {
		left = h.free
	}
	for i := range left {
		end := strings.Index(text, h.sep)
		if end < 0 {
			return false
		}
		r.fields[i], text = text[:end], text[end+len(h.sep):]
	}
	for i := width - 1; i > left; i-- {
		start := strings.LastIndex(text, h.sep)
		if start < 0 {
			return false
		}
		r.fields[i], text = text[start+len(h.sep):], text[:start]
	}
	r.fields[left] = text
	return h.free >= 0 || !strings.Contains(text, h.sep)
}

// field returns the row's field of a column, "" where the column is absent.
func (r *rowReader) field(c column) string {
	if i := r.head.at[c]; i >= 0 {
		return r.fields[i]
	}
	return ""
}

// isStep tells whether the row is a step of a job: 1.batch, 1.extern, 104+0.0. The tasks of a pending array are shortened
// with dots of their own: 2217_[1,3,...].
func (r *rowReader) isStep() bool {
	id := r.field(colJobIDRaw)
	if id == "" {
		id, _, _ = strings.Cut(r.field(colJobID), "[")
	}
	return strings.IndexByte(id, '.') >= 0
}

// job makes a job of the fields. On an error it returns the column to blame, and the job as far as it was read.
func (r *rowReader) job() (*scheduler.Job, column, *fieldError) {
	j := &r.last
	*j = scheduler.Job{TRES: j.TRES[:0], Lacks: r.head.lacks}
	j.ID, j.DisplayID = r.field(colJobIDRaw), r.field(colJobID)
	if j.ID == "" {
		j.ID = j.DisplayID
	}
	if j.DisplayID == "" {
		j.DisplayID = j.ID
	}
	if !isJobID(j.ID) {
		col := colJobIDRaw
		if r.head.at[col] < 0 {
			col = colJobID
		}
		return j, col, &fieldError{problem: strconv.Quote(shorten(j.ID)) + " is no job id", remedy: delimiterRemedy}
	}
	if end := strings.IndexAny(j.DisplayID, "_+"); end > 0 && j.DisplayID[:end] != j.ID {
		j.ParentID = j.DisplayID[:end]
	}
	j.Cluster = r.field(colCluster)
	j.User = r.field(colUser)
	j.Account = r.field(colAccount)
	j.Partition = r.field(colPartition)
	j.QOS = r.field(colQOS)
	j.UID, j.Reservation, j.NodeList, j.DBIndex = r.field(colUID), r.field(colReservation), r.field(colNodeList), r.field(colDBIndex)
	j.ReqMem = r.field(colReqMem)
	j.Name = jobName(r.field(colJobName))
	j.State = state(r.field(colState))
	var err *fieldError
	if j.Submit, err = r.times.parse(r.field(colSubmit)); err != nil {
		return j, colSubmit, err
	}
	if j.Start, err = r.times.parse(r.field(colStart)); err != nil {
		return j, colStart, err
	}
	if j.End, err = r.times.parse(r.field(colEnd)); err != nil {
		return j, colEnd, err
	}
	if col, err := r.elapsed(j); err != nil {
		return j, col, err
	}
	if part, err := settle(j, r.now); err != nil {
		col := partColumns[part]
		if r.head.at[col] < 0 {
			col = colElapsed
		}
		return j, col, err
	}
	if j.TRES, err = appendTRES(j.TRES, r.field(colAllocTRES)); err != nil {
		return j, colAllocTRES, err
	}
	col, err := r.counts(j)
	return j, col, err
}

func (r *rowReader) elapsed(j *scheduler.Job) (column, *fieldError) {
	col, read := colElapsedRaw, digits
	if r.head.at[colElapsedRaw] < 0 {
		col, read = colElapsed, duration
	}
	text := r.field(col)
	var ok bool
	if j.ElapsedSeconds, ok = read(text); !ok {
		return col, &fieldError{problem: strconv.Quote(shorten(text)) + " is no run time"}
	}
	return col, nil
}

// counts sets nodes and CPUs from what was allocated, and from their own columns where AllocTRES does not say. Those
// columns hold what was asked for as long as nothing is allocated, and are believed only of a job that ran, or where there
// is no AllocTRES at all; then they become its TRES.
func (r *rowReader) counts(j *scheduler.Job) (column, *fieldError) {
	believe := r.head.at[colAllocTRES] < 0 || j.ElapsedSeconds > 0
	bare := len(j.TRES) == 0
	for _, want := range [...]struct {
		count   *int64
		tres    string
		columns [2]column
	}{
		{&j.CPUs, "cpu", [2]column{colAllocCPUS, colNCPUS}},
		{&j.Nodes, "node", [2]column{colAllocNodes, colNNodes}},
	} {
		tres, known := j.TRESCount(want.tres)
		count := tres.Count
		if !known && believe {
			col := want.columns[0]
			if r.head.at[col] < 0 {
				col = want.columns[1]
			}
			if text := r.field(col); text != "" {
				var nanos int32
				if count, nanos, known = parseCount(text, false); !known || nanos != 0 {
					return col, &fieldError{problem: strconv.Quote(shorten(text)) + " is no count"}
				}
				if bare {
					j.TRES = append(j.TRES, scheduler.TRES{Name: want.tres, Count: count})
				}
			}
		}
		*want.count = count
	}
	return 0, nil
}

// isJobID tells whether s is an id as sacct prints them: 12, 3_7, 3_[1-300%1], 104+1, 12.batch.
func isJobID(s string) bool {
	rest := strings.TrimLeft(s, "0123456789")
	return len(rest) < len(s) && (rest == "" || strings.IndexByte("_+.[", rest[0]) >= 0)
}

// state returns the first word: CANCELLED of "CANCELLED by 1003".
func state(s string) string {
	s, _, _ = strings.Cut(s, " ")
	return strings.ToUpper(s)
}

// jobName cuts a name to maxName bytes, between characters, and takes off the line breaks at its end.
func jobName(s string) string {
	if len(s) > maxName {
		s = s[:maxName]
		for s != "" {
			if r, size := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || size != 1 {
				break
			}
			s = s[:len(s)-1]
		}
	}
	return strings.TrimRight(s, "\r\n")
}

// shorten keeps what an error shows of a value readable.
func shorten(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}
