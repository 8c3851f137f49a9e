package scheduler

import (
	"strconv"
	"strings"
	"time"
)

// Place says where a job was read.
type Place struct {
	File   string // name of the file or program; "-" is standard input
	Line   int    // line of the job's row, from 1, in text; 0 elsewhere
	Record int    // number of the job, from 1, in JSON; 0 elsewhere
}

// String returns "dump.psv:12", "dump.json: job 3", or the name alone.
func (p Place) String() string {
	name := p.File
	if name == "-" {
		name = "standard input"
	}
	switch {
	case p.Line > 0:
		return name + ":" + strconv.Itoa(p.Line)
	case p.Record > 0:
		return name + ": job " + strconv.Itoa(p.Record)
	}
	return name
}

// RowError is one row or job that could not be read.
type RowError struct {
	Place   Place
	JobID   string // as users know it; "" where it could not be read
	Field   string // as the source names it; "" where no single field is to blame
	Problem string // what is wrong
	Remedy  string // what helps; may be empty
	Err     error  // the cause, if another error is

	Ended time.Time // when the job ended, where that can be told
}

// Error returns place, job, field, problem, cause and remedy on one line.
func (e *RowError) Error() string {
	var b strings.Builder
	b.WriteString(e.Place.String())
	if e.JobID != "" {
		b.WriteString(": job " + e.JobID)
	}
	if e.Field != "" {
		b.WriteString(": " + e.Field)
	}
	b.WriteString(": " + e.Problem)
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	if e.Remedy != "" {
		b.WriteString("; " + e.Remedy)
	}
	return b.String()
}

// Unwrap returns the cause, nil where there is none.
func (e *RowError) Unwrap() error { return e.Err }
