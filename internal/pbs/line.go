package pbs

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/textfile"
)

// A lineParser makes jobs of lines. What it returns is valid until the next line.
type lineParser struct {
	job      scheduler.Job
	values   values
	hosts    hostSet
	nodeList []byte
	given    allocation
}

// values are what a line says, as text. An empty value is one that is not there.
type values struct {
	user, group, account, project, name              string
	queue, ctime, start, end                         string
	execHost, execVnode                              string
	reservation, reservationID                       string
	place, walltime, ncpus, ngpus, mem, nodes, procs string // Resource_List, but for walltime
	nodect, exitStatus, runCount                     string
}

// What a line needs to say that bears this key, in front of the job's name and behind it. Whoever submits a job chooses its
// name, which may hold keys and values of its own: those in front of it are read up to the name, and those behind it from the
// last queue on.
const (
	nameKey  = "jobname="
	queueKey = " queue="
)

// parse reads a line of type E or R. The job bears its id even where there is a problem, as far as that can be read.
func (p *lineParser) parse(line, kind string, opts *Options, now time.Time) (*scheduler.Job, string, *fieldError) {
	p.job = scheduler.Job{TRES: p.job.TRES[:0], Lacks: scheduler.FactUID | scheduler.FactQOS | scheduler.FactDBIndex}
	p.values = values{}
	stamp, rest, _ := strings.Cut(line, ";")
	_, rest, _ = strings.Cut(rest, ";")
	id, rest, ok := strings.Cut(rest, ";")
	j := &p.job
	if id == "" || !ok {
		return j, "", &fieldError{"the line has no job's id, or nothing behind it", "copy the log again"}
	}
	if !utf8.ValidString(line) {
		id, rest = strings.ToValidUTF8(id, "\uFFFD"), strings.ToValidUTF8(rest, "\uFFFD")
	}
	j.ID = id
	j.DisplayID, j.Cluster, _ = strings.Cut(id, ".")
	if open := strings.IndexByte(j.DisplayID, '['); open > 0 {
		if strings.HasSuffix(j.DisplayID, "[]") {
			j.NoUsage = "parent of a job array"
		} else {
			j.ParentID = j.DisplayID[:open] + "[]" + id[len(j.DisplayID):]
		}
	}
	if problem := p.values.read(rest); problem != nil {
		return j, "", problem
	}
	v := &p.values
	j.User, j.Group, j.Account, j.Project, j.Name = v.user, v.group, v.account, v.project, v.name
	j.Partition, j.ReqMem = v.queue, v.mem
	if j.Project == noProject {
		j.Project = ""
	}
	if j.Reservation = v.reservation; j.Reservation == "" {
		j.Reservation = v.reservationID
	}
	if field, problem := p.times(stamp, kind, opts, now); problem != nil {
		return j, field, problem
	}
	j.State = stateOf(v.exitStatus)
	if kind == "R" {
		j.State, j.Run = "REQUEUED", v.runCount
		if j.Run == "" {
			j.Run = "at-" + strconv.FormatInt(j.Start.Unix(), 10)
		}
	}
	if j.Start.IsZero() {
		return j, "", nil // it never ran, and so it has nothing
	}
	field, problem := p.allocated(opts)
	return j, field, problem
}

// noProject is what PBS calls the project of who asks for none.
const noProject = "_pbs_project_default"

// read reads key=value key=value ….
func (v *values) read(rest string) *fieldError {
	head, tail, name := rest, "", strings.Index(rest, nameKey)
	for name > 0 && rest[name-1] != ' ' {
		next := strings.Index(rest[name+1:], nameKey)
		if next < 0 {
			name = -1
			break
		}
		name += 1 + next
	}
	if name >= 0 {
		head = rest[:name]
		body := rest[name+len(nameKey):]
		queue := strings.Index(body, queueKey)
		if queue >= 0 && strings.Contains(body[queue+1:], queueKey) {
			queue = strings.LastIndex(body, queueKey)
		}
		if queue < 0 {
			return &fieldError{"there is no queue behind the job's name", "copy the log again"}
		}
		v.name, tail = body[:queue], body[queue+1:]
		if strings.Contains(v.name, " "+nameKey) {
			return &fieldError{"there are two job's names, and it cannot be told which of them holds the other", "report the job with amieusage send"}
		}
	}
	if problem := v.pairs(head); problem != nil {
		return problem
	}
	return v.pairs(tail)
}

// pairs reads pairs, of which no key that counts may come again with another value.
func (v *values) pairs(text string) *fieldError {
	for text != "" {
		var pair string
		if at := strings.IndexByte(text, ' '); at >= 0 {
			pair, text = text[:at], text[at+1:]
		} else {
			pair, text = text, ""
		}
		eq := strings.IndexByte(pair, '=')
		if eq <= 0 {
			continue // the rest of a value that holds spaces
		}
		key, value := pair[:eq], pair[eq+1:]
		if len(value) > 0 && value[0] == '"' {
			value, text = quoted(value, text)
		}
		to := v.of(key)
		if to == nil || value == "" {
			continue
		}
		if *to != "" && *to != value {
			return &fieldError{key + " is there twice, as " + strconv.Quote(textfile.Clip(*to, 80)) + " and as " + strconv.Quote(textfile.Clip(value, 80)),
				"report the job with amieusage send"}
		}
		*to = value
	}
	return nil
}

// quoted returns the value between double quotes, which may go on behind a space, and what is left behind it.
func quoted(value, text string) (string, string) {
	if len(value) > 1 && value[len(value)-1] == '"' {
		return value[1 : len(value)-1], text
	}
	end := strings.Index(text, `" `)
	if end >= 0 {
		return value[1:] + " " + text[:end], text[end+2:]
	}
	if strings.HasSuffix(text, `"`) {
		return value[1:] + " " + text[:len(text)-1], ""
	}
	return value, text // a quote that nothing closes is a character like any other
}

// of returns where the value of a key goes; nil: nowhere.
func (v *values) of(key string) *string {
	switch key {
	case "user":
		return &v.user
	case "group":
		return &v.group
	case "account":
		return &v.account
	case "project":
		return &v.project
	case "queue":
		return &v.queue
	case "ctime":
		return &v.ctime
	case "start":
		return &v.start
	case "end":
		return &v.end
	case "exec_host":
		return &v.execHost
	case "exec_vnode":
		return &v.execVnode
	case "resvname":
		return &v.reservation
	case "resvID":
		return &v.reservationID
	case "run_count":
		return &v.runCount
	case "Exit_status":
		return &v.exitStatus
	case "resources_used.walltime":
		return &v.walltime
	case "Resource_List.place":
		return &v.place
	case "Resource_List.ncpus":
		return &v.ncpus
	case "Resource_List.ngpus":
		return &v.ngpus
	case "Resource_List.mem":
		return &v.mem
	case "Resource_List.nodes":
		return &v.nodes
	case "Resource_List.nodect":
		return &v.nodect
	case "Resource_List.procs":
		return &v.procs
	}
	return nil
}

const (
	dayAhead = 24 * time.Hour
	// skew is how much longer than from its start to its end a job may have run: the server's clock tells these, and that of a
	// node the walltime.
	skew = 60 // s
)

// times reads the job's times, and how long it ran.
func (p *lineParser) times(stamp, kind string, opts *Options, now time.Time) (string, *fieldError) {
	j, v := &p.job, &p.values
	for _, t := range [...]struct {
		key, text string
		to        *time.Time
	}{{"ctime", v.ctime, &j.Submit}, {"start", v.start, &j.Start}, {"end", v.end, &j.End}} {
		if t.text == "" || t.text == "0" {
			continue
		}
		n, err := strconv.ParseInt(t.text, 10, 64)
		if err != nil || n < 0 || n > maxEpoch {
			return t.key, &fieldError{strconv.Quote(textfile.Clip(t.text, 80)) + " is no time in seconds since 1970", "correct it in the log"}
		}
		*t.to = time.Unix(n, 0).UTC()
	}
	if j.Submit.IsZero() {
		return "ctime", &fieldError{"the job's submit time is missing", "correct it in the log"}
	}
	if j.End.IsZero() {
		if kind == "E" && !j.Start.IsZero() {
			return "end", &fieldError{"the job's end is missing", "correct it in the log"}
		}
		if opts.Zone == nil {
			if j.Start.IsZero() {
				j.End = j.Submit // it never ran; nothing counts it
				return "", nil
			}
			return "end", &fieldError{"the run's end is missing, and the zone of the line's own time is not known", "state it in site.yaml: pbs: {time_zone: America/Denver}"}
		}
		at, err := time.ParseInLocation("01/02/2006 15:04:05", stamp, opts.Zone)
		if err != nil {
			return "end", &fieldError{"the run's end is missing, and " + strconv.Quote(textfile.Clip(stamp, 40)) + " is no time", "correct it in the log"}
		}
		j.End = at.UTC()
	}
	if j.Start.IsZero() || j.NoUsage != "" {
		return "", nil
	}
	ran := int64(j.End.Sub(j.Start) / time.Second)
	switch {
	case ran < 0:
		return "end", &fieldError{"the job ended at " + instant(j.End) + ", before it started at " + instant(j.Start), "correct it in the log"}
	case j.End.Sub(now) > dayAhead:
		return "end", &fieldError{"the job ends at " + instant(j.End) + ", which has not come yet", "correct it in the log"}
	case j.Submit.After(j.End):
		return "ctime", &fieldError{"the job was submitted at " + instant(j.Submit) + ", after it ended at " + instant(j.End), "correct it in the log"}
	}
	if v.walltime == "" {
		j.ElapsedSeconds = ran
		j.Warning = "the log has no walltime of it: it counts from its start to its end"
		return "", nil
	}
	elapsed, ok := walltime(v.walltime)
	if !ok {
		return "resources_used.walltime", &fieldError{strconv.Quote(textfile.Clip(v.walltime, 80)) + " is no time such as 26:10:00 or 94200", "correct it in the log"}
	}
	if elapsed > ran+skew {
		return "resources_used.walltime", &fieldError{fmt.Sprintf("the job ran for %d s, and there are %d s from its start to its end", elapsed, ran), "correct it in the log"}
	}
	j.ElapsedSeconds = elapsed
	return "", nil
}

// maxEpoch is the last second of the year 9999.
const maxEpoch = 253402300799

func instant(t time.Time) string { return t.Format(time.RFC3339) }

// walltime reads [[[days:]hours:]minutes:]seconds, of which a fraction of a second is left out.
func walltime(s string) (int64, bool) {
	s, fraction, point := strings.Cut(s, ".")
	if _, ok := textfile.Digits(fraction); point && !ok {
		return 0, false
	}
	var total int64
	for {
		part, rest, more := strings.Cut(s, ":")
		n, ok := textfile.Digits(part)
		if !ok || n > maxEpoch {
			return 0, false
		}
		total += n
		if !more {
			return total, total <= maxEpoch
		}
		switch strings.Count(rest, ":") {
		case 2:
			total *= 24 // days, of hours
		case 1, 0:
			total *= 60
		default:
			return 0, false
		}
		s = rest
	}
}

// stateOf names how a job ended, by its exit status.
func stateOf(exit string) string {
	n, err := strconv.Atoi(exit)
	switch {
	case err != nil:
		return "ENDED"
	case n == 0:
		return "COMPLETED"
	case n == 256+9 || n == 256+15: // SIGKILL, SIGTERM
		return "CANCELLED"
	default:
		return "FAILED"
	}
}
