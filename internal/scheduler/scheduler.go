// Package scheduler is the vocabulary in which any batch scheduler's accounting is reported: a Job is one allocation, a
// Source yields jobs, a RowError is one row that could not be read.
package scheduler

import (
	"context"
	"iter"
	"math"
	"slices"
	"strings"
	"time"
)

// Job is one allocation, finished or not, as a scheduler's accounting reports it. A job that was requeued is several
// allocations with one ID, told apart by Submit.
type Job struct {
	Place     Place  // where it was read
	Cluster   string // "" where the accounting does not say
	ID        string // unique for an allocation within its cluster and submit time (Slurm: JobIDRaw)
	DisplayID string // as users know it: 42, 3_7 (task of an array), 104+1 (component of a heterogeneous job)
	ParentID  string // leading ID of the array or heterogeneous job; "" for a plain job and for the leader itself
	User      string
	Account   string
	Partition string
	QOS       string
	Name      string // valid UTF-8, any other character; may hold line breaks
	ReqMem    string // memory asked for, as the scheduler prints it
	State     string // one upper-case word: COMPLETED, CANCELLED

	Submit, Start, End time.Time // UTC; zero: unknown, or has not happened

	ElapsedSeconds int64 // run time that is charged: End − Start without the time suspended
	Nodes          int64 // nodes allocated
	CPUs           int64 // CPUs allocated
	TRES           []TRES
}

// TRES is the count of one trackable resource that was allocated.
type TRES struct {
	Name  string // as the scheduler prints it: cpu, mem, node, billing, gres/gpu, gres/gpu:a100
	Count int64  // bytes for mem and burst buffers (bb/…), a plain number for everything else
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

// TRESCount returns how much of a resource was allocated, and whether the accounting names it. A resource reported only
// by type (gres/gpu:a100, gres/gpu:h100) is answered as their sum when asked for without a type (gres/gpu); where the
// total is reported too, it is the answer, for it holds the typed ones already.
func (j *Job) TRESCount(name string) (int64, bool) {
	var sum int64
	var typed bool
	for _, t := range j.TRES {
		if t.Name == name {
			return t.Count, true
		}
		if len(t.Name) > len(name) && t.Name[len(name)] == ':' && strings.HasPrefix(t.Name, name) {
			typed = true
			if t.Count > math.MaxInt64-sum {
				sum = math.MaxInt64
			} else {
				sum += t.Count
			}
		}
	}
	return sum, typed
}

// Clone returns a copy that outlives the iteration that yielded j.
func (j *Job) Clone() *Job {
	c := *j
	c.TRES = slices.Clone(j.TRES)
	return &c
}

// Source yields jobs in the order of the accounting. The *Job is valid until the next one is asked for; Clone keeps it.
// An error of type *RowError concerns one row, and the iteration goes on; any other error is the last thing yielded, and
// what was yielded before it may not be all there is.
type Source interface {
	Jobs(ctx context.Context) iter.Seq2[*Job, error]
}
