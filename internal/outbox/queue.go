package outbox

import (
	"context"
	"iter"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/storage"
)

// A Queue stores entries. Every method that changes something is one
// transaction: it is on stable storage when the method returns nil, and
// nothing has happened when it returns an error. Errors that a person can act
// on are of type [*amieusage.Error].
//
// A queue may be read by any number of programs, but only one at a time may
// work on it.
type Queue interface {
	// Enqueue stores the items in their order, and in the same transaction
	// moves the cursor; nil moves none. A record of a new identity becomes a
	// pending entry; equal content of a known one changes nothing, whatever
	// its state; changed content is a new revision, pending. The outcomes are
	// in the order of the items. A record that is not valid is an error with
	// CodeInvalid for all.
	Enqueue(ctx context.Context, items []Item, cursor *Cursor) ([]Outcome, error)

	// Preview returns what Enqueue would return for the items, and changes
	// nothing; the IDs of new entries are not kept.
	Preview(ctx context.Context, items []Item) ([]Outcome, error)

	// Known returns all entries of compute records with each LocalRecordID, on any
	// resource and of any submit time, and those of jobs that bear any of its names
	// under another LocalRecordID.
	Known(ctx context.Context, jobs []Names) ([][]Entry, error)

	// Apply stores what was decided, and in the same transaction moves the cursor;
	// nil moves none. It returns the entries' IDs. CodeConflict: an entry is not
	// as it was when that was decided, and nothing was stored.
	Apply(ctx context.Context, writes []Write, cursor *Cursor) ([]ID, error)

	// Leave returns a page of pending entries in order of their IDs, and stores in
	// the same transaction that they may leave from now on. What the service had
	// before is held instead, as [AtService].
	Leave(ctx context.Context, after ID) ([]Entry, error)

	// Note keeps rows of the accounting that could not be used, and what was left
	// out.
	Note(ctx context.Context, bad []BadRow, skips []Skipped) error

	// ReadWell forgets the bad rows of jobs that were read since.
	ReadWell(ctx context.Context, jobIDs []string) error

	// Notes returns what was decided about the records with a LocalRecordID, in
	// order.
	Notes(ctx context.Context, recordID string) ([]Note, error)

	// Revisions returns the contents that an entry had before, in order: entries
	// as they were, apart from what only the present one has.
	Revisions(ctx context.Context, id ID) ([]Entry, error)

	// Refund stores refunds of jobs, each in the place of the one that the job had,
	// and who decided so.
	Refund(ctx context.Context, refunds []Refund, note Note) error

	// Refunds returns all refunds, in order of their jobs.
	Refunds(ctx context.Context) ([]Refund, error)

	// Met reports whether the outbox knows what the service had before, and
	// whether that was taken as reported.
	Met(ctx context.Context) (met, adopted bool, err error)

	// Meet stores what the service lists as loaded; all says that this ends the
	// list, and that later entries are held against it.
	Meet(ctx context.Context, records []amieusage.LoadedRecord, all bool) error

	// Adopted stores that what the service had before is taken as reported.
	Adopted(ctx context.Context) error

	// Found returns a page of the entries behind one that never left, and that the
	// service had before.
	Found(ctx context.Context, after ID) ([]Found, error)

	// RequestBytes returns the size of a send that the service was found to want in
	// an earlier run; 0: none. SetRequestBytes stores it.
	RequestBytes(ctx context.Context) (int, error)
	SetRequestBytes(ctx context.Context, n int) error

	// Home returns the name of the cluster whose jobs need no clusters: in site.yaml;
	// where it has none yet, that is the one that is given, and "" asks only.
	Home(ctx context.Context, cluster string) (string, error)

	// KnowsJobs reports whether there is any job of the accounting.
	KnowsJobs(ctx context.Context) (bool, error)

	// EndedJobs yields the entries of jobs that ended in [from, to), but for those
	// that were accepted as missing. It ends after the first error.
	EndedJobs(ctx context.Context, from, to time.Time) iter.Seq2[Entry, error]

	// AcceptMissing stores that the accounting will not show the jobs of these
	// entries any more.
	AcceptMissing(ctx context.Context, ids []ID) error

	// SetReading stores what a file system held, in the place of what was stored for
	// the same tick; its records are not stored yet. ReadingDone stores that they are.
	SetReading(ctx context.Context, r *storage.Reading) error
	ReadingDone(ctx context.Context, r *storage.Reading) error

	// Readings returns the newest readings of a file system up to a tick, the newest
	// first, and those before them that are not done.
	Readings(ctx context.Context, fileSystem string, upTo time.Time) ([]StoredReading, error)

	// Cursor returns the source's cursor; its time is zero where there is
	// none yet.
	Cursor(ctx context.Context, source string) (Cursor, error)

	// Sent stores the answers to a send and returns how many entries they
	// moved: those that are still pending at the revision that was sent.
	// CodeNotFound names an entry that does not exist.
	Sent(ctx context.Context, deliveries []Delivery) (int, error)

	// Loaded takes in loaded records as the service lists them, by
	// [Progress.Confirm], and returns how many entries became loaded. Records
	// without an entry are left out. One without a usage type is that of the entry
	// with what it has.
	Loaded(ctx context.Context, records []amieusage.LoadedRecord, within int64) (int, error)

	// Failed takes in failed records as the service lists them, by
	// [Progress.Fail], and returns how many entries failed by them. Records
	// without an entry are left out.
	Failed(ctx context.Context, records []amieusage.FailedRecord) (int, error)

	// Retry makes entries pending and returns how many were not. What was decided
	// stands: entries that are held, dropped or waiting stay as they are.
	// CodeNotFound names an entry that does not exist.
	Retry(ctx context.Context, which Selection) (int, error)

	// Get returns one entry. CodeNotFound: there is none of this ID.
	Get(ctx context.Context, id ID) (Entry, error)

	// List returns a page of entries in order of their IDs.
	List(ctx context.Context, f Filter) ([]Entry, error)

	// Sample returns at most n of the entries in the state, drawn at random, in
	// order of their IDs.
	Sample(ctx context.Context, state State, n int) ([]Entry, error)

	// Counts returns how many entries there are, by resource and state, in
	// that order; what has none is left out.
	Counts(ctx context.Context) ([]Count, error)

	// Unconfirmed returns what queued entries there are to confirm, in order
	// of resources; a resource without any is left out.
	Unconfirmed(ctx context.Context) ([]Unconfirmed, error)
}

// Names are what a job is known by. ID and DisplayID may be empty.
type Names struct {
	RecordID  string // the LocalRecordID that its record has, or would have
	ID        string
	DisplayID string
}

// A Cursor is a place in a source of accounting: all before it is enqueued.
type Cursor struct {
	Source string
	At     time.Time
}

// A Change is what enqueueing a record has done.
type Change string

// The changes.
const (
	Added     Change = "new"       // first record of its identity
	Revised   Change = "changed"   // new revision
	Unchanged Change = "unchanged" // content known already
)

// A BadRow is a row of the accounting that could not be used.
type BadRow struct {
	JobID     string // as users know it; "" where it could not be read
	Reason    string
	Place     string
	FirstSeen time.Time
	LastSeen  time.Time
}

// Skipped counts jobs that the last reading left out.
type Skipped struct {
	Account, Partition, Reason string
	Jobs                       int64
	Seconds                    int64 // of run time
}

// An Outcome is what became of one item.
type Outcome struct {
	ID     ID
	Change Change
	// Repeated says that an item before it in the same call has the same
	// identity; the last one counts.
	Repeated bool
}

// A Delivery is the service's answer for one entry that was sent.
type Delivery struct {
	ID       ID
	Revision int64
	// Rejected says that the service refused the record, for Reason.
	Rejected bool
	// Fails says that the service fails at this record alone, for Reason: it stays
	// pending.
	Fails  bool
	Reason string
}

// A Selection names entries: those of the IDs and those in one of the states.
type Selection struct {
	IDs    []ID
	States []State
}

// A Filter selects entries and a page of them.
type Filter struct {
	// States selects the entries in one of them; none: all.
	States []State
	// LocalRecordID selects the records of this id; "": all.
	LocalRecordID string
	// After leaves out the entries up to this ID.
	After ID
	// Limit is the length of the page; 0: [DefaultPage].
	Limit int
}

// A StoredReading is a reading, and whether its records are stored.
type StoredReading struct {
	storage.Reading
	Done bool
}

// DefaultPage is the length of a page of entries unless told otherwise.
const DefaultPage = 1000

// A Count says how many entries of a resource are in a state.
type Count struct {
	Resource string
	State    State
	Entries  int64
}

// Unconfirmed says what entries of a resource are queued.
type Unconfirmed struct {
	Resource string
	Entries  int64
	// FirstSentAt is the earliest of their SentAt, by the site's clock.
	FirstSentAt time.Time
}

// All returns the entries that the filter selects, page by page of its limit,
// in constant memory. It ends after the first error.
func All(ctx context.Context, q Queue, f Filter) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for {
			page, err := q.List(ctx, f)
			if err != nil {
				yield(Entry{}, err)
				return
			}
			for _, e := range page {
				if !yield(e, nil) {
					return
				}
				f.After = e.ID
			}
			if len(page) == 0 {
				return
			}
		}
	}
}
