// Package scheduler is the vocabulary in which any batch scheduler's accounting is reported: a Job is one allocation, a
// Source yields jobs, a RowError is one row that could not be read.
package scheduler

import (
	"context"
	"fmt"
	"iter"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Job is one allocation, finished or not, as a scheduler's accounting reports it. A job that was requeued is several
// allocations with one ID, told apart by Submit.
type Job struct {
	Place     Place  // where it was read
	Source    string // the accounting that was asked for it; "": it was read from a file
	Cluster   string // "" where the accounting does not say
	ID        string // unique for an allocation within its cluster and submit time (Slurm: JobIDRaw)
	DisplayID string // as users know it: 42, 3_7 (task of an array), 104+1 (component of a heterogeneous job)
	ParentID  string // leading ID of the array or heterogeneous job; "" for a plain job and for the leader itself
	User      string
	UID       string // number of the user at the site; "" where the accounting does not say
	Account   string
	Group     string // the user's primary group, and the project that was asked for, where the scheduler knows them apart
	Project   string // from the account (PBS)
	Partition string
	QOS       string
	Name      string // valid UTF-8, any other character; may hold line breaks
	Run       string // tells the runs of a job apart that was requeued and kept its submit time; "" for the last, and where Submit does
	ReqMem    string // memory asked for, as the scheduler prints it
	State     string // one upper-case word: COMPLETED, CANCELLED

	Reservation string
	NodeList    string // the nodes, as the scheduler prints them: n[1-4,7]
	DBIndex     string // number of the allocation in the accounting's database (Slurm: DBIndex, job_db_inx)

	Submit, Start, End time.Time // UTC; zero: unknown, or has not happened

	ElapsedSeconds int64 // run time that is charged: End − Start without the time suspended
	Nodes          int64 // nodes allocated; 0: the accounting does not say
	CPUs           int64 // CPUs allocated
	TRES           []TRES

	// Lacks names the facts that the source cannot give, such as a column that a dump does not have. Such a fact is unknown,
	// not empty: what is known of the job from elsewhere stays.
	Lacks Facts
	// By is the settings of site.yaml by which the source has counted what was allocated; "": by none. What is read by other
	// settings is no change of the accounting.
	By string
	// NoUsage is why the row is no usage of its own, though it bears a job's id: an array's parent, a task that is counted with
	// its job. "" for almost all.
	NoUsage string
	// Unknown names TRES that were or may have been allocated, and of which the accounting gives no number.
	Unknown []string
	// Warning is what a person should look at, though the job counts; "" for almost all.
	Warning string
}

// Facts is a set of facts of a job.
type Facts uint16

// The facts that a source may lack.
const (
	FactCluster Facts = 1 << iota
	FactUID
	FactQOS
	FactName
	FactReqMem
	FactReservation
	FactNodeList
	FactDBIndex
	FactTRES // all of TRES but what Nodes and CPUs say: a source that lacks it may still give cpu and node
	FactGroup
	FactProject
)

// Has tells whether all of the other facts are in the set.
func (f Facts) Has(other Facts) bool { return f&other == other }

// TRES is the count of one trackable resource that was allocated: Count + Nanos ÷ 10⁹.
type TRES struct {
	Name  string // as the scheduler prints it: cpu, mem, node, billing, gres/gpu, gres/gpu:a100
	Count int64  // bytes for mem and burst buffers (bb/…), a plain number for everything else; not negative
	Nanos int32  // the fraction of a count that is not whole (billing=8.5), in billionths: 0 to 999,999,999
}

// Finished tells whether the allocation has ended. The state decides before the time: accounting that is cut to a window
// gives running jobs the window's end.
func (j *Job) Finished() bool {
	switch j.State {
	case "PENDING", "CONFIGURING", "RUNNING", "SUSPENDED":
		return false
	}
	return !j.End.IsZero()
}

// TRESCount returns how much of a resource was allocated, and whether the accounting names it: the result bears the name
// that was asked for. Letter case does not matter. A resource reported only by type (gres/gpu:a100, gres/gpu:h100) is
// answered as their sum when asked for without a type (gres/gpu); where the total is reported too, it is the answer, for
// it holds the typed ones already.
func (j *Job) TRESCount(name string) (TRES, bool) {
	sum := TRES{Name: name}
	var typed bool
	for _, t := range j.TRES {
		if len(t.Name) < len(name) || !strings.EqualFold(t.Name[:len(name)], name) {
			continue
		}
		if len(t.Name) == len(name) {
			return TRES{Name: name, Count: t.Count, Nanos: t.Nanos}, true
		}
		if t.Name[len(name)] == ':' {
			typed = true
			sum = sum.plus(t)
		}
	}
	return sum, typed
}

// String returns gres/gpu=2 or billing=8.5.
func (t TRES) String() string {
	s := t.Name + "=" + strconv.FormatInt(t.Count, 10)
	if t.Nanos != 0 {
		s += "." + strings.TrimRight(fmt.Sprintf("%09d", t.Nanos), "0")
	}
	return s
}

// plus adds a count; a sum beyond the range stays at its end.
func (t TRES) plus(other TRES) TRES {
	const nanosOfOne = 1_000_000_000
	nanos := t.Nanos + other.Nanos // below 2 × 10⁹, which an int32 holds
	carry := int64(nanos / nanosOfOne)
	if other.Count > math.MaxInt64-t.Count-carry {
		return TRES{Name: t.Name, Count: math.MaxInt64}
	}
	return TRES{Name: t.Name, Count: t.Count + other.Count + carry, Nanos: nanos % nanosOfOne}
}

// Clone returns a copy that outlives the iteration that yielded j.
func (j *Job) Clone() *Job {
	c := *j
	c.TRES, c.Unknown = slices.Clone(j.TRES), slices.Clone(j.Unknown)
	return &c
}

// Source yields jobs in the order of the accounting. The *Job is valid until the next one is asked for; Clone keeps it.
// An error of type *RowError concerns one row, and the iteration goes on; any other error is the last thing yielded, and
// what was yielded before it may not be all there is.
type Source interface {
	Jobs(ctx context.Context) iter.Seq2[*Job, error]
}

// Stats counts what was read. Jobs yielded = Rows − Steps − Bad, but for a row that a final error ended.
type Stats struct {
	Rows  int64 // rows of text, or jobs in JSON
	Steps int64 // rows that were steps of a job, and passed over; the steps inside JSON are not counted
	Bad   int64 // rows that could not be read, each yielded as a *RowError
}

// A Reader is a Source that counts what it has read.
type Reader interface {
	Source
	Stats() Stats
}

// A SourceFunc is a Source that is a function.
type SourceFunc func(ctx context.Context) iter.Seq2[*Job, error]

// Jobs calls f.
func (f SourceFunc) Jobs(ctx context.Context) iter.Seq2[*Job, error] { return f(ctx) }

// Accounting is a scheduler's accounting that can be asked: sacct, a folder of logs. What it yields is as Source says.
type Accounting interface {
	// Ended yields the jobs that ended in [from, to), and may yield others beside them, unfinished ones too. A final
	// error of type *IncompleteError says that what was yielded is good and that there may be more.
	Ended(ctx context.Context, from, to time.Time) iter.Seq2[*Job, error]

	// ByID yields the jobs with these IDs on a cluster ("" where the accounting names none) that the accounting still
	// has, whenever they ended.
	ByID(ctx context.Context, cluster string, ids []string) iter.Seq2[*Job, error]
}

// An IncompleteError says that accounting was read which cannot be all there is.
type IncompleteError struct {
	Problem string // what was seen
	Remedy  string // what helps; may be empty
	Err     error  // the cause, if another error is
}

// Error returns problem, cause and remedy on one line.
func (e *IncompleteError) Error() string {
	s := e.Problem
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Remedy != "" {
		s += "; " + e.Remedy
	}
	return s
}

// Unwrap returns the cause.
func (e *IncompleteError) Unwrap() error { return e.Err }
