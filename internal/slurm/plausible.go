package slurm

import (
	"strconv"
	"time"

	"github.com/amieusage/amieusage/internal/scheduler"
)

// notSet and the number above it are what Slurm's accounting holds where a number of 32 bits was never set.
const notSet = 4294967294

func isNotSet(n int64) bool { return n == notSet || n == notSet+1 }

// A part is the part of a job that a plausibility check blames.
type part int

const (
	partSubmit part = iota
	partStart
	partEnd
	partElapsed
	parts
)

// The parts' names, as text and JSON have them.
var (
	partColumns = [parts]column{colSubmit, colStart, colEnd, colElapsedRaw}
	partMembers = [parts]string{"time.submission", "time.start", "time.end", "time.elapsed"}
)

// dayAhead is how far behind now a job may end: clocks are apart, and zones are mistaken, but not by more.
const dayAhead = 24 * 60 * 60 // s

const correctRemedy = "correct it in the accounting"

// settle makes a job's times agree, or says which of them cannot be: a charge is never computed from times that
// contradict each other. A job that has not finished loses what was not set, and is not judged.
//
// A job that was resized while it ran (scontrol update numnodes=…) leaves a row for each size. All but the first bear the
// time of the resize as Submit, and the Start and elapsed time of the whole job: such a row counts from its Submit on, or the
// time before would be charged twice.
func settle(j *scheduler.Job, now time.Time) (part, *fieldError) {
	times := [...]*time.Time{partSubmit: &j.Submit, partStart: &j.Start, partEnd: &j.End}
	if !j.Finished() {
		for _, t := range times {
			if isNotSet(t.Unix()) {
				*t = time.Time{}
			}
		}
		if isNotSet(j.ElapsedSeconds) {
			j.ElapsedSeconds = 0
		}
		return 0, nil
	}
	submit, start, end, elapsed := j.Submit.Unix(), j.Start.Unix(), j.End.Unix(), j.ElapsedSeconds
	for i, n := range [parts]int64{submit, start, end, elapsed} {
		if isNotSet(n) {
			return part(i), &fieldError{problem: strconv.FormatInt(n, 10) + " means that it was never set", remedy: correctRemedy}
		}
	}
	ran := end - start
	switch {
	case elapsed == 0:
		return 0, nil
	case j.Start.IsZero():
		return partStart, &fieldError{problem: "the job ran for " + seconds(elapsed) + ", and has no start", remedy: correctRemedy}
	case ran < 0:
		return partEnd, &fieldError{problem: "the job ended at " + instant(j.End) + ", before it started at " + instant(j.Start), remedy: correctRemedy}
	case end-now.Unix() > dayAhead:
		return partEnd, &fieldError{problem: "the job ends at " + instant(j.End) + ", which has not come yet", remedy: correctRemedy}
	case submit > end:
		return partSubmit, &fieldError{problem: "the job was submitted at " + instant(j.Submit) + ", after it ended at " + instant(j.End), remedy: correctRemedy}
	case elapsed > ran:
		return partElapsed, &fieldError{
			problem: "the job ran for " + seconds(elapsed) + ", and there are " + seconds(ran) + " from its start to its end", remedy: correctRemedy,
		}
	}
	if submit > start {
		if elapsed < ran {
			j.Warning = "the job was resized and suspended: the accounting does not say when, and so all time from the resize to the end may count"
		}
		j.Start, j.ElapsedSeconds = j.Submit, min(elapsed, end-submit)
	}
	return 0, nil
}

func seconds(n int64) string { return strconv.FormatInt(n, 10) + " s" }

func instant(t time.Time) string { return t.Format(time.RFC3339) }
