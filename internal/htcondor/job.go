package htcondor

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/textfile"
)

// The attributes that are read.
const (
	attrGlobalJobID = iota
	attrClusterID
	attrProcID
	attrOwner
	attrUser
	attrQDate
	attrJobStartDate
	attrJobCurrentStartDate
	attrCompletionDate
	attrEnteredCurrentStatus
	attrJobStatus
	attrRemoteWallClockTime
	attrCumulativeSuspensionTime
	attrNumJobStarts
	attrRequestCpus
	attrCpusProvisioned
	attrRequestGpus
	attrGpusProvisioned
	attrRequestMemory
	attrMemoryProvisioned
	attrAccountingGroup
	attrAcctGroup
	attrAcctGroupUser
	attrJobUniverse
	attrExitCode
	attrExitBySignal
	attrLastRemoteHost
	attrMaxHosts
	attrBatchName
	attrProject // the site says which
	attributes
)

// names are the attributes' names. HTCondor does not tell letter case apart.
var names = [attrProject]string{
	"GlobalJobId", "ClusterId", "ProcId", "Owner", "User", "QDate", "JobStartDate", "JobCurrentStartDate", "CompletionDate",
	"EnteredCurrentStatus", "JobStatus", "RemoteWallClockTime", "CumulativeSuspensionTime", "NumJobStarts", "RequestCpus",
	"CpusProvisioned", "RequestGpus", "GpusProvisioned", "RequestMemory", "MemoryProvisioned", "AccountingGroup", "AcctGroup",
	"AcctGroupUser", "JobUniverse", "ExitCode", "ExitBySignal", "LastRemoteHost", "MaxHosts", "JobBatchName",
}

// byLength finds a name among those that are as long.
var byLength = func() (table [32][]int) {
	for i, name := range names {
		table[len(name)] = append(table[len(name)], i)
	}
	return table
}()

type kind byte

const (
	kindAbsent kind = iota
	kindNumber
	kindString
	kindExpression
)

// An attribute is a value as the history has it. A number is what begins as one: it may be an expression all the same.
type attribute struct {
	kind       kind
	start, end int // in the ad's text
	text       string
}

// An ad is what is read of a job.
type ad struct {
	project string // the name of the attribute of that
	count   int    // how many attributes there were
	bytes   []byte // of all values that are kept
	values  [attributes]attribute
}

func (a *ad) reset() { a.count, a.bytes, a.values = 0, a.bytes[:0], [attributes]attribute{} }

// keep takes a value.
func (a *ad) keep(slot *attribute, kind kind, value []byte) {
	slot.kind, slot.start = kind, len(a.bytes)
	a.bytes = append(a.bytes, value...)
	slot.end = len(a.bytes)
}

// settle gives the values their texts, which are one string.
func (a *ad) settle() {
	all := string(a.bytes)
	for i := range a.values {
		if v := &a.values[i]; v.kind != kindAbsent {
			v.text = all[v.start:v.end]
		}
	}
}

// slot returns where an attribute's value goes; nil: nowhere.
func (a *ad) slot(name []byte) *attribute {
	if equalFold(name, a.project) {
		return &a.values[attrProject]
	}
	if len(name) < len(byLength) {
		for _, i := range byLength[len(name)] {
			// As it is written by HTCondor, or else in other letters.
			if string(name) == names[i] || name[0]|0x20 == names[i][0]|0x20 && equalFold(name, names[i]) {
				return &a.values[i]
			}
		}
	}
	return nil
}

// equalFold compares ASCII.
func equalFold(a []byte, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if x, y := a[i], b[i]; x != y && (x|0x20 != y|0x20 || x|0x20 < 'a' || x|0x20 > 'z') {
			return false
		}
	}
	return true
}

// setText takes a value as a ClassAd has it; nil: it is not kept.
func (a *ad) setText(slot *attribute, value []byte) {
	if slot == nil {
		return
	}
	if value = bytes.TrimSpace(value); len(value) == 0 {
		return
	}
	switch c := value[0]; {
	case c == '"' && len(value) > 1 && value[len(value)-1] == '"':
		value = value[1 : len(value)-1]
		if bytes.IndexByte(value, '\\') >= 0 {
			value = []byte(unescape(string(value)))
		}
		a.keep(slot, kindString, value)
	case c == '-' || c == '+' || c == '.' || c >= '0' && c <= '9':
		a.keep(slot, kindNumber, value)
	case equalFold(value, "undefined"):
		*slot = attribute{}
	case equalFold(value, "true"), equalFold(value, "false"):
		a.keep(slot, kindString, bytes.ToLower(value))
	default:
		a.keep(slot, kindExpression, value)
	}
}

// unescape reads a string between quotes.
func unescape(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
			switch s[i] {
			case 'n':
				b.WriteByte('\n')
				continue
			case 't':
				b.WriteByte('\t')
				continue
			case 'r':
				b.WriteByte('\r')
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// A maker makes jobs of ads. What it returns is valid until the next one.
type maker struct {
	opts *Options
	now  time.Time
	last scheduler.Job
}

// defaultProject is the attribute that holds a job's project unless the site names another.
const defaultProject = "ProjectName"

const correctRemedy = "report the job with amieusage send, or drop it: amieusage records drop"

// The states and universes of a job that count.
const (
	statusRemoved   = 3
	statusCompleted = 4

	universeScheduler = 7
	universeParallel  = 11
	universeLocal     = 12
)

var universes = map[int64]string{1: "standard", 5: "vanilla", 7: "scheduler", 9: "grid", 10: "java", 11: "parallel", 12: "local", 13: "vm"}

// job makes a job of an ad. It bears its id even where there is a problem, as far as that can be read.
func (m *maker) job(a *ad) (*scheduler.Job, string, *fieldError) {
	m.last = scheduler.Job{TRES: m.last.TRES[:0], Unknown: m.last.Unknown[:0], Cluster: m.opts.Cluster,
		Lacks: scheduler.FactUID | scheduler.FactQOS | scheduler.FactDBIndex | scheduler.FactReservation}
	j := &m.last
	cluster, hasCluster, problem := whole(a, attrClusterID)
	proc, hasProc, problem2 := whole(a, attrProcID)
	if problem != nil || problem2 != nil || !hasCluster || !hasProc {
		return j, "ClusterId", &fieldError{"there is no ClusterId and ProcId that are numbers", "export it again with them"}
	}
	j.DisplayID = strconv.FormatInt(cluster, 10) + "." + strconv.FormatInt(proc, 10)
	if j.ID = text(a, attrGlobalJobID); j.ID == "" {
		return j, "GlobalJobId", &fieldError{"it is missing, and jobs of several schedds cannot be told apart without", "export it again with GlobalJobId"}
	}
	if j.User = text(a, attrOwner); j.User == "" {
		j.User, _, _ = strings.Cut(text(a, attrUser), "@")
	}
	j.Name = text(a, attrBatchName)
	m.groups(a)
	universe, hasUniverse, problem := whole(a, attrJobUniverse)
	if problem != nil {
		return j, names[attrJobUniverse], problem
	}
	if !hasUniverse {
		universe = 5
	}
	if j.Partition = universes[universe]; j.Partition == "" {
		j.Partition = "universe" + strconv.FormatInt(universe, 10)
	}
	if universe == universeScheduler || universe == universeLocal {
		j.NoUsage = "ran on the access point (" + j.Partition + " universe)"
	}
	if host := text(a, attrLastRemoteHost); host != "" {
		j.NodeList = host[strings.LastIndexByte(host, '@')+1:]
	}
	if field, problem := m.times(a); problem != nil {
		return j, field, problem
	}
	if !j.Finished() || j.NoUsage != "" {
		return j, "", nil
	}
	field, problem := m.allocated(a, universe)
	return j, field, problem
}

// groups reads whose the job is: AcctGroup, or AccountingGroup without the user at its end.
func (m *maker) groups(a *ad) {
	j := &m.last
	account := text(a, attrAcctGroup)
	if account == "" {
		account = text(a, attrAccountingGroup)
		user := text(a, attrAcctGroupUser)
		if user == "" {
			user = j.User
		}
		if user != "" {
			account = strings.TrimSuffix(account, "."+user)
		}
		if account == user {
			account = ""
		}
	}
	j.Account = account
	j.Group, _, _ = strings.Cut(account, ".")
	j.Project = text(a, attrProject)
	if !equalFold([]byte(a.project), defaultProject) {
		j.By = "project " + a.project
	}
}

const (
	dayAhead = 24 * time.Hour
	// skew is how much longer than from its start to its end a job may have run: machines measure it, and clocks are set.
	skew = 60 // s
)

// times reads the job's times, how long it ran, and how it ended.
func (m *maker) times(a *ad) (string, *fieldError) {
	j := &m.last
	status, _, problem := whole(a, attrJobStatus)
	if problem != nil {
		return names[attrJobStatus], problem
	}
	var first, last, completed, entered time.Time
	for _, t := range [...]struct {
		attr int
		to   *time.Time
	}{{attrQDate, &j.Submit}, {attrJobStartDate, &first}, {attrJobCurrentStartDate, &last}, {attrCompletionDate, &completed}, {attrEnteredCurrentStatus, &entered}} {
		n, _, problem := whole(a, t.attr)
		if problem != nil {
			return names[t.attr], problem
		}
		if n > maxEpoch {
			return names[t.attr], &fieldError{strconv.FormatInt(n, 10) + " is no time in seconds since 1970", correctRemedy}
		}
		if n > 0 {
			*t.to = time.Unix(n, 0).UTC()
		}
	}
	if j.Submit.IsZero() {
		return names[attrQDate], &fieldError{"the job's submit time is missing", "export it again with QDate"}
	}
	if j.Start = first; first.IsZero() {
		j.Start = last
	}
	switch status {
	case statusCompleted, 0:
		j.State, j.End = "COMPLETED", completed
		exit, _, _ := whole(a, attrExitCode)
		if exit != 0 || text(a, attrExitBySignal) == "true" {
			j.State = "FAILED"
		}
		if completed.IsZero() {
			j.End = entered
		}
	case statusRemoved:
		j.State, j.End = "CANCELLED", entered
		if entered.IsZero() {
			j.End = completed
		}
	default: // it is in the queue
		j.State = "RUNNING"
		return "", nil
	}
	if j.End.IsZero() {
		return names[attrCompletionDate], &fieldError{"the job's end is missing: there is neither a CompletionDate nor an EnteredCurrentStatus", "export it again with both"}
	}
	return m.elapsed(a, status, last)
}

// maxEpoch is the last second of the year 9999.
const maxEpoch = 253402300799

// elapsed reads how long the job held its slot, in all of its runs, without the time that it was suspended.
func (m *maker) elapsed(a *ad, status int64, last time.Time) (string, *fieldError) {
	j := &m.last
	clock, hasClock, problem := seconds(a, attrRemoteWallClockTime)
	if problem != nil {
		return names[attrRemoteWallClockTime], problem
	}
	suspended, _, problem := seconds(a, attrCumulativeSuspensionTime)
	if problem != nil {
		return names[attrCumulativeSuspensionTime], problem
	}
	starts, _, problem := whole(a, attrNumJobStarts)
	if problem != nil {
		return names[attrNumJobStarts], problem
	}
	switch {
	case j.Start.IsZero() && clock == 0:
		return "", nil // it never ran
	case j.Start.IsZero():
		return names[attrJobStartDate], &fieldError{fmt.Sprintf("the job ran for %d s, and has no start", clock), "export it again with JobStartDate"}
	case j.End.Sub(m.now) > dayAhead:
		return names[attrCompletionDate], &fieldError{"the job ends at " + instant(j.End) + ", which has not come yet", correctRemedy}
	case j.End.Before(j.Start):
		return names[attrCompletionDate], &fieldError{"the job ended at " + instant(j.End) + ", before it started at " + instant(j.Start), correctRemedy}
	}
	if clock == 0 && j.NoUsage == "" {
		if last.IsZero() {
			last = j.Start
		}
		span := int64(j.End.Sub(last) / time.Second)
		switch {
		case status == statusRemoved && hasClock, span <= 0:
			return "", nil // it was removed before it ran, or ran for no second
		case status == statusRemoved:
			return names[attrRemoteWallClockTime], &fieldError{"it is missing, and nothing says how long the job ran before it was removed", "export it again with RemoteWallClockTime"}
		case starts > 1:
			return names[attrRemoteWallClockTime], &fieldError{fmt.Sprintf("it is missing or 0, and nothing says how long the first of %d runs took", starts), "export it again with RemoteWallClockTime"}
		}
		clock = span
		j.Warning = "it has no RemoteWallClockTime: it counts from its start to its end"
	}
	if ran := int64(j.End.Sub(j.Start) / time.Second); clock > ran+skew {
		return names[attrRemoteWallClockTime], &fieldError{fmt.Sprintf("the job ran for %d s, and there are %d s from its start to its end", clock, ran), correctRemedy}
	}
	if suspended > clock {
		return names[attrCumulativeSuspensionTime], &fieldError{fmt.Sprintf("the job was suspended for %d s, and ran for %d s", suspended, clock), correctRemedy}
	}
	j.ElapsedSeconds = clock - suspended
	return "", nil
}

// allocated says what was given to the job, or else what it has asked for.
func (m *maker) allocated(a *ad, universe int64) (string, *fieldError) {
	j := &m.last
	if j.Start.IsZero() {
		return "", nil // it never ran, and so it has nothing
	}
	nodes := int64(1)
	if universe == universeParallel {
		n, ok, problem := whole(a, attrMaxHosts)
		if problem != nil || !ok || n < 1 {
			return names[attrMaxHosts], &fieldError{"the job is of the parallel universe, and nothing says how many machines it had", "export it again with MaxHosts"}
		}
		nodes = n
	}
	amount := func(given, asked int) (int64, bool, string, *fieldError) {
		n, ok, problem := whole(a, given)
		if ok && problem == nil {
			return n, true, "", nil
		}
		n, ok, problem = whole(a, asked)
		return n, ok, names[asked], problem
	}
	cpus, ok, field, problem := amount(attrCpusProvisioned, attrRequestCpus)
	switch {
	case problem != nil:
		return field, problem
	case !ok:
		return names[attrRequestCpus], &fieldError{"the job ran, and nothing says how many CPUs it had", "export it again with CpusProvisioned and RequestCpus"}
	}
	j.CPUs, j.Nodes = cpus*nodes, nodes
	j.TRES = append(j.TRES, scheduler.TRES{Name: "cpu", Count: j.CPUs}, scheduler.TRES{Name: "node", Count: nodes})
	if mem, ok, _, problem := amount(attrMemoryProvisioned, attrRequestMemory); problem != nil {
		j.Unknown = append(j.Unknown, "mem")
	} else if ok {
		j.ReqMem = strconv.FormatInt(mem, 10) + "M"
		j.TRES = append(j.TRES, scheduler.TRES{Name: "mem", Count: mem * nodes << 20})
	}
	if gpus, ok, _, problem := amount(attrGpusProvisioned, attrRequestGpus); problem != nil {
		j.Unknown = append(j.Unknown, "gres/gpu")
	} else if ok {
		j.TRES = append(j.TRES, scheduler.TRES{Name: "gres/gpu", Count: gpus * nodes})
	}
	return "", nil
}

// text returns an attribute that is a string, of valid UTF-8.
func text(a *ad, attr int) string {
	if v := &a.values[attr]; v.kind == kindString {
		if !utf8.ValidString(v.text) {
			return strings.ToValidUTF8(v.text, "\uFFFD")
		}
		return v.text
	}
	return ""
}

// whole returns an attribute that is a whole number, not negative and of no more than 2³¹ for what is not a time.
func whole(a *ad, attr int) (n int64, ok bool, problem *fieldError) {
	v := &a.values[attr]
	if v.kind == kindAbsent {
		return 0, false, nil
	}
	if v.kind == kindNumber {
		if n, ok := textfile.Digits(v.text); ok && n <= maxEpoch {
			return n, true, nil
		}
		f, err := strconv.ParseFloat(v.text, 64)
		if err == nil && f >= 0 && f <= maxEpoch && f == math.Trunc(f) {
			return int64(f), true, nil
		}
	}
	return 0, false, notNumber(v)
}

// seconds returns an attribute that is a time span, rounded to the second.
func seconds(a *ad, attr int) (n int64, ok bool, problem *fieldError) {
	v := &a.values[attr]
	if v.kind == kindAbsent {
		return 0, false, nil
	}
	if v.kind == kindNumber {
		f, err := strconv.ParseFloat(v.text, 64)
		if err == nil && f >= 0 && f <= maxEpoch {
			return int64(math.RoundToEven(f)), true, nil
		}
	}
	return 0, false, notNumber(v)
}

func notNumber(v *attribute) *fieldError {
	if v.kind != kindString {
		return &fieldError{"it is an expression, " + textfile.Clip(v.text, 80) + ", and no number", correctRemedy}
	}
	return &fieldError{strconv.Quote(textfile.Clip(v.text, 80)) + " is no number", correctRemedy}
}

func instant(t time.Time) string { return t.Format(time.RFC3339) }
