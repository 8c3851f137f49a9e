package gridengine

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/textfile"
)

// The fields of a line, by place, as accounting(5) has them.
const (
	fieldQueue      = 0
	fieldHost       = 1
	fieldGroup      = 2
	fieldOwner      = 3
	fieldName       = 4
	fieldNumber     = 5
	fieldAccount    = 6
	fieldSubmission = 8
	fieldStart      = 9
	fieldEnd        = 10
	fieldFailed     = 11
	fieldExit       = 12
	fieldWallclock  = 13
	fieldProject    = 31
	fieldPE         = 33
	fieldSlots      = 34
	fieldTask       = 35
	fieldCategory   = 39

	// leastFields are those up to the category, the iow, the pe_taskid and the maxvmem: all that the oldest have.
	leastFields = 43
)

// defaultAccount is the account of who states none.
const defaultAccount = "sge"

// maxFields bounds how many fields are looked at: a category may hold colons.
const maxFields = 400

// A lineParser makes jobs of lines. What it returns is valid until the next line.
type lineParser struct {
	job     scheduler.Job
	fields  []string
	hasTail bool // the line has all that is needed, and more behind it
}

const correctRemedy = "correct it in the accounting file"

// parse reads a line. The job bears its id even where there is a problem, as far as that can be read.
func (p *lineParser) parse(line string, opts *Options, now time.Time) (*scheduler.Job, string, *fieldError) {
	if !utf8.ValidString(line) {
		line = strings.ToValidUTF8(line, "\uFFFD")
	}
	p.job = scheduler.Job{TRES: p.job.TRES[:0], Cluster: opts.Cluster,
		Lacks: scheduler.FactUID | scheduler.FactQOS | scheduler.FactDBIndex | scheduler.FactReqMem | scheduler.FactReservation}
	j := &p.job
	p.split(line)
	// A job's name should hold no colon, and where it does, what is behind it has moved.
	shift := p.shift()
	at := func(field int) string {
		if field > fieldName {
			field += shift
		}
		if field >= len(p.fields) {
			return ""
		}
		return p.fields[field]
	}
	if shift < 0 {
		if len(p.fields) > fieldNumber {
			j.DisplayID = number(p.fields[fieldNumber])
		}
		return j, "", &fieldError{fmt.Sprintf("the line has %d fields, and no job's number, times and slots in their places, or in two places", len(p.fields)), "copy it again, or correct it in the accounting file"}
	}
	j.ID = at(fieldNumber)
	j.DisplayID = j.ID
	if task := at(fieldTask); task != "0" {
		j.ParentID, j.ID = j.ID, j.ID+"."+task
		j.DisplayID = j.ID
	}
	j.User, j.Group, j.Account, j.Project = at(fieldOwner), at(fieldGroup), none(at(fieldAccount)), none(at(fieldProject))
	if j.Account == defaultAccount {
		j.Account = ""
	}
	j.Partition = at(fieldQueue)
	j.Name = strings.Join(p.fields[fieldName:fieldNumber+shift], ":")
	failed, _ := strconv.Atoi(at(fieldFailed))
	exit, _ := strconv.Atoi(at(fieldExit))
	j.State = stateOf(failed, exit)

	category, taskID, ok := p.tail(fieldCategory + shift)
	if p.hasTail = ok; !ok {
		return j, "", &fieldError{"the line ends before its pe_taskid", "copy it again"}
	}
	if taskID != "NONE" {
		j.NoUsage = "task of a parallel job, whose own line counts"
	}
	millis := false
	if field, problem := p.times(at, &millis); problem != nil {
		return j, field, problem
	}
	if j.Start.IsZero() || j.NoUsage != "" {
		if j.NoUsage == "" {
			j.NoUsage = "never started"
		}
		return j, "", nil
	}
	if field, problem := p.elapsed(at(fieldWallclock), failed, millis, now); problem != nil {
		return j, field, problem
	}
	if isRescheduled(failed) {
		j.Run = "at-" + strconv.FormatInt(j.Start.Unix(), 10)
	}
	slots, ok := textfile.Digits(at(fieldSlots))
	if !ok || slots > math.MaxInt32 {
		return j, "slots", &fieldError{strconv.Quote(textfile.Clip(at(fieldSlots), 80)) + " is no number", correctRemedy}
	}
	slots = max(slots, 1)
	j.CPUs = slots
	j.TRES = append(j.TRES, scheduler.TRES{Name: "cpu", Count: slots})
	j.Nodes, j.NodeList = 1, at(fieldHost)
	if none(at(fieldPE)) != "" {
		// The line names the host of the first task alone.
		j.Nodes, j.Unknown = 0, []string{"node"}
	} else {
		j.TRES = append(j.TRES, scheduler.TRES{Name: "node", Count: 1})
	}
	return j, "category", p.gpus(category, slots, opts)
}

// split cuts the line at its colons.
func (p *lineParser) split(line string) {
	p.fields = p.fields[:0]
	for len(p.fields) < maxFields {
		at := strings.IndexByte(line, ':')
		if at < 0 {
			break
		}
		p.fields = append(p.fields, line[:at])
		line = line[at+1:]
	}
	p.fields = append(p.fields, line)
}

// shift returns how many colons the job's name holds; -1: nowhere behind it stands what belongs there, or in several places.
func (p *lineParser) shift() int {
	found := -1
	for shift := 0; fieldTask+shift < len(p.fields); shift++ {
		if !p.fits(shift) {
			continue
		}
		if found >= 0 {
			return -1
		}
		found = shift
		if len(p.fields) <= leastFields+2 {
			break // there are no more fields than there should be
		}
	}
	return found
}

// fits tells whether the fields behind the name, so far behind, are what they should be.
func (p *lineParser) fits(shift int) bool {
	for _, field := range [...]int{fieldNumber, fieldSubmission, fieldStart, fieldEnd, fieldFailed, fieldExit, fieldSlots, fieldTask} {
		n, ok := textfile.Digits(p.fields[field+shift])
		if !ok || field == fieldSubmission && n < firstTime || (field == fieldStart || field == fieldEnd) && n > 0 && n < firstTime {
			return false
		}
	}
	return isNumber(p.fields[fieldWallclock+shift])
}

// tail returns the category, which may hold colons, and the pe_taskid, which has the iow in front of it and the maxvmem behind
// it.
func (p *lineParser) tail(from int) (category, taskID string, ok bool) {
	for i := from + 2; i+1 < len(p.fields); i++ {
		id := p.fields[i]
		if id != "NONE" && !isTaskID(id) {
			continue
		}
		if isNumber(p.fields[i-1]) && isNumber(p.fields[i+1]) {
			return strings.Join(p.fields[from:i-1], ":"), id, true
		}
	}
	return "", "", false
}

// isTaskID tells 1.node17 from other text.
func isTaskID(s string) bool {
	n, host, ok := strings.Cut(s, ".")
	_, isNumber := textfile.Digits(n)
	return ok && isNumber && host != "" && (host[0] < '0' || host[0] > '9' || strings.Count(host, ".") > 0)
}

func isNumber(s string) bool {
	_, err := strconv.ParseFloat(s, 64)
	return err == nil
}

const (
	// millisFrom tells milliseconds since 1970 from seconds: as seconds it is far off, and as milliseconds in 1973.
	millisFrom = 100_000_000_000
	// firstTime is in 1973: what is less is no time of a job.
	firstTime = 100_000_000
	dayAhead  = 24 * time.Hour
	// skew is how much longer than from its start to its end a job may have run: hosts measure it, and clocks are set.
	skew = 60 // s
)

// times reads the job's times, in seconds or in milliseconds.
func (p *lineParser) times(at func(int) string, millis *bool) (string, *fieldError) {
	j := &p.job
	for _, t := range [...]struct {
		name  string
		field int
		to    *time.Time
	}{{"submission_time", fieldSubmission, &j.Submit}, {"start_time", fieldStart, &j.Start}, {"end_time", fieldEnd, &j.End}} {
		n, _ := textfile.Digits(at(t.field))
		switch {
		case n == 0:
		case n >= millisFrom*1000:
			return t.name, &fieldError{strconv.FormatInt(n, 10) + " is no time", correctRemedy}
		case n >= millisFrom:
			*millis = true
			*t.to = time.UnixMilli(n).UTC()
		default:
			*t.to = time.Unix(n, 0).UTC()
		}
	}
	if !j.Start.IsZero() && j.End.IsZero() {
		return "end_time", &fieldError{"the job's end is missing", correctRemedy}
	}
	return "", nil
}

// elapsed reads how long the job ran: its ru_wallclock, or from its start to its end where that is 0 though the job ran.
func (p *lineParser) elapsed(text string, failed int, millis bool, now time.Time) (string, *fieldError) {
	j := &p.job
	span := j.End.Sub(j.Start)
	switch {
	case span < 0:
		return "end_time", &fieldError{"the job ended at " + instant(j.End) + ", before it started at " + instant(j.Start), correctRemedy}
	case j.End.Sub(now) > dayAhead:
		return "end_time", &fieldError{"the job ends at " + instant(j.End) + ", which has not come yet", correctRemedy}
	case j.Submit.After(j.End):
		return "submission_time", &fieldError{"the job was submitted at " + instant(j.Submit) + ", after it ended at " + instant(j.End), correctRemedy}
	}
	ran := int64(span.Round(time.Second) / time.Second)
	clock, _ := strconv.ParseFloat(text, 64) // it was one, or this would be no line
	if !(clock >= 0 && clock < 1<<53) {
		return "ru_wallclock", &fieldError{strconv.Quote(textfile.Clip(text, 80)) + " is no time", correctRemedy}
	}
	elapsed := int64(math.RoundToEven(clock))
	if millis && elapsed > ran+skew && math.Abs(clock/1000-float64(ran)) <= skew {
		elapsed = int64(math.RoundToEven(clock / 1000))
	}
	switch {
	case elapsed > ran+skew:
		return "ru_wallclock", &fieldError{fmt.Sprintf("the job ran for %d s, and there are %d s from its start to its end", elapsed, ran), correctRemedy}
	case elapsed == 0 && ran > 0 && neverRan(failed):
		j.NoUsage = "failed before it ran"
	case elapsed == 0 && ran > 0:
		elapsed = ran
		j.Warning = "its ru_wallclock is 0: it counts from its start to its end"
	}
	j.ElapsedSeconds = elapsed
	return "", nil
}

// gpus adds the GPUs that the job has asked for.
func (p *lineParser) gpus(category string, slots int64, opts *Options) *fieldError {
	if opts.GPU == "" {
		return nil
	}
	j := &p.job
	count, found := int64(0), false
	hard := true
	words := strings.Fields(category)
	for i, word := range words {
		switch {
		case word == "-soft":
			hard = false
		case word == "-hard":
			hard = true
		}
		if word != "-l" || !hard || i+1 == len(words) {
			continue
		}
		for resource := range strings.SplitSeq(words[i+1], ",") {
			name, value, ok := strings.Cut(resource, "=")
			if !ok || name != opts.GPU {
				continue
			}
			n, err := strconv.ParseFloat(value, 64)
			if err != nil || n < 0 || n > math.MaxInt32 || n != math.Trunc(n) {
				return &fieldError{"the category asks for " + strconv.Quote(textfile.Clip(resource, 80)) + ", which is no number of GPUs", correctRemedy}
			}
			count, found = count+int64(n), true
		}
	}
	if found {
		j.By = "gpu " + opts.GPU + " per job"
		if !opts.GPUPerJob {
			j.By = "gpu " + opts.GPU + " per slot"
			count *= slots
		}
		j.TRES = append(j.TRES, scheduler.TRES{Name: "gres/gpu", Count: count})
	}
	return nil
}

// neverRan tells the codes of a job that failed before its script began.
func neverRan(failed int) bool {
	switch {
	case failed >= 1 && failed <= 11, failed >= 21 && failed <= 23, failed >= 26 && failed <= 29, failed >= 31 && failed <= 36, failed == 38:
		return true
	}
	return false
}

// isRescheduled tells the codes of a run that is followed by another one of the same job.
func isRescheduled(failed int) bool { return failed == 24 || failed == 25 || failed == 30 }

func stateOf(failed, exit int) string {
	switch {
	case isRescheduled(failed):
		return "REQUEUED"
	case failed != 0 && failed != 37 && failed != 100: // these ran, and were killed
		return "FAILED"
	case failed == 37:
		return "TIMEOUT"
	case exit == 128+9 || exit == 128+15:
		return "CANCELLED"
	case exit != 0 || failed == 100:
		return "FAILED"
	}
	return "COMPLETED"
}

func none(s string) string {
	if s == "NONE" || s == "none" {
		return ""
	}
	return s
}

// number returns s where it is a job's number.
func number(s string) string {
	if _, ok := textfile.Digits(s); !ok {
		return ""
	}
	return s
}

func instant(t time.Time) string { return t.Format(time.RFC3339) }
