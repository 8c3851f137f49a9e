package outbox

import (
	"errors"
	"strconv"
	"time"

	"github.com/amieusage/amieusage"
)

// An Item is a record to be delivered.
type Item struct {
	Record amieusage.Record
	// Place says where the record comes from, for people: "dump.psv:12".
	Place string
}

// An Entry is a record in the outbox and its delivery.
type Entry struct {
	ID     ID
	Record amieusage.Record
	// Job is what the record follows from, where it is one of the accounting;
	// nil otherwise.
	Job *Job
	// Place says where the newest revision was read.
	Place string
	// Decision is what a person, or a limit, has decided; "": nothing.
	Decision Decision
	// Superseded says that the job is charged by another entry. What this one
	// charges is 0, or never was anything.
	Superseded bool
	// WaitsFor is the entry that must be confirmed first, while the state is
	// Waiting; 0: none.
	WaitsFor ID
	// Left says that the present revision may have left for the service.
	Left bool
	Progress
}

// NewEntries returns the entries that the items make when they are new: all
// pending, without an ID. The error is a [*amieusage.Error] with
// [amieusage.CodeInvalid] that names the first item whose record is not valid;
// who enqueues has validated before.
func NewEntries(items []Item, now time.Time) ([]Entry, error) {
	entries := make([]Entry, len(items))
	for i, item := range items {
		charge, err := checkRecord(item.Record)
		if err != nil {
			return nil, &amieusage.Error{
				Code:    amieusage.CodeInvalid,
				Message: "record " + strconv.Itoa(i+1) + " of " + strconv.Itoa(len(items)) + " (" + item.Place + ") cannot be enqueued",
				Err:     err,
			}
		}
		entries[i] = Entry{Record: item.Record, Place: item.Place, Progress: Progress{
			State:      Pending,
			Revision:   1,
			Digest:     amieusage.ContentDigest(item.Record),
			Charge:     charge,
			EnqueuedAt: now,
		}}
	}
	return entries, nil
}

// checkRecord validates the record and returns its charge in millionths.
func checkRecord(r amieusage.Record) (int64, error) {
	if r == nil {
		return 0, errNoRecord
	}
	if err := r.Validate(); err != nil {
		return 0, err
	}
	return r.Common().Charge.Millionths()
}

var errNoRecord = errors.New("there is no record")
