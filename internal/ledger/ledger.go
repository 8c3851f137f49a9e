// Package ledger holds the rules of the service: which records are accepted,
// how they are loaded, what fails and why, what a correction does, and how
// usage adds up. It owns [Store], which says what it needs of a database.
//
// A send is accepted as one batch in one durable commit. Loading takes batches
// in order of acceptance and turns their records into ledger entries and
// failed records, in one transaction that also moves the daily roll-ups and
// the balances. At every instant, for each site: accepted = loaded + failed +
// queued.
package ledger

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/amieusage/amieusage"
)

// A SiteID numbers a site. Every row of a store belongs to one.
type SiteID int64

// A Policy says what the service knows about projects and users.
type Policy string

const (
	// Strict loads only what the registry knows: the project, the user on the
	// project, and an allocation on the resource at the record's time.
	Strict Policy = "strict"
	// Open registers the resources, projects and users that it meets.
	Open Policy = "open"
)

// A Caller is who makes a request: a site, by one of its keys.
type Caller struct {
	Site  SiteID
	Name  string
	KeyID int64
	// Policy is the ledger's, or "" where none was chosen.
	Policy Policy
}

// A Batch is the accepted records of one send, in order of acceptance.
type Batch struct {
	ID         int64 // 0 until it is stored; rises in order of acceptance
	Site       SiteID
	KeyID      int64 // who sent it
	UsageType  amieusage.UsageType
	AcceptedAt time.Time
	Records    [][]byte // each record's JSON as it was sent
	// Undoes are the revisions that the records are to replace, of a batch that undoes what a
	// key has sent. Such a batch is accepted only while each is the newest one.
	Undoes []UndoneRevision
}

// An UndoneRevision is a revision that is to be replaced by what was before.
type UndoneRevision struct {
	Identity amieusage.Identity
	Revision int
	KeyID    int64
}

// A Verdict is what loading decides about one record of a batch.
type Verdict struct {
	Record    amieusage.Record
	Digest    amieusage.Digest
	Charge    int64 // millionths, not negative
	GivesBack bool  // the charge is given back to the allocation
	// Failure is why the record cannot be loaded whatever the registry says,
	// or "".
	Failure Failure
}

// A Judge decides about the records of a batch, in two steps, so that the
// first can be taken ahead of the transaction that loads.
type Judge interface {
	// Read reads the records of a batch, in order. It may be called
	// concurrently.
	Read(batch *Batch) []Verdict
	// Check returns why the registry refuses a record, or "". It must not keep
	// the registry.
	Check(registry *Registry, record amieusage.Record) Failure
}

// A LoadReport says what one transaction of loading did.
type LoadReport struct {
	Batches   int // taken out of the queue, with the damaged ones
	Loaded    int // records that are now in the ledger, changed or not
	Unchanged int // of these, records whose content was there already
	Corrected int // of these, records whose content has replaced another
	Failed    int
	// Damaged are the batches whose records cannot be read back from the
	// store. They stay queued, and are not tried again.
	Damaged []int64
	// Busy: nothing was loaded, because another replica is loading what is
	// queued: try again shortly.
	Busy bool
}

// Counts are the numbers of records of a site by where they are. Accepted is
// the sum of the other three.
type Counts struct {
	Accepted, Loaded, Failed, Queued int64
}

// A FailedQuery selects a page of open failed records, in order of failing.
type FailedQuery struct {
	After int64 // leaves out this FailedRecordID and those before it
	Limit int
}

// A LoadedPage is one page of loaded records.
type LoadedPage struct {
	Records []amieusage.LoadedRecord
	Next    string // the cursor of the next page; "" behind the last

	bytes int // of the records' names, as JSON
}

// Store keeps the ledger. All its methods are safe for concurrent use, and
// each is atomic. Errors are *amieusage.Error where a caller can act on them.
type Store interface {
	// Authority returns what a site's requests are checked against: all its
	// keys and resources. An unknown site is amieusage.CodeNotFound.
	Authority(ctx context.Context, siteName string) (*Authority, error)

	// Accept stores the batch, and returns when it is on stable storage. It is
	// refused with amieusage.CodeTooManyRequests, and nothing is stored, where
	// the site has maxQueued or more records queued; and, with the context's
	// error, where nobody waits for it any more when it is about to be committed
	// (see [Awaited]). A batch of a key that was revoked by now is refused with [ErrRevoked]: its
	// body may have come slowly. A batch of which one of b.Undoes is no longer the newest revision is
	// amieusage.CodeConflict; one that is accepted leaves an event.
	Accept(ctx context.Context, batch *Batch, maxQueued int64) error
	// Load loads the oldest queued batches of one site, of about maxRecords
	// records, in one transaction: judge decides, Load applies, and registers
	// the names that it meets in what judge lets pass. Sites that have
	// something queued take turns, so that none waits for the end of another's
	// queue. However many replicas load, of two contents of one identity the
	// one accepted last stands. A record that would take the site's total
	// beyond what can be held exactly fails with [TotalTooLarge]. A zero report
	// means that nothing is queued.
	Load(ctx context.Context, now time.Time, maxRecords int, judge Judge) (LoadReport, error)
	// Counts returns where the site's records are.
	Counts(ctx context.Context, site SiteID) (Counts, error)
	// Sites returns how each site that is served stands, in the order of their
	// names. It reads counts and roll-ups, and no rows of large tables.
	Sites(ctx context.Context) ([]SiteState, error)

	// Status sums up what was loaded and what failed in [q.From, q.To), by
	// time of loading; a zero q.To sets no end. Resources come in order of
	// their names, reasons in order of their texts; of each reason at most
	// maxRecords failed records are given, and of all together those that fit
	// in about [MaxPageBytes]: each reason has its part.
	Status(ctx context.Context, site SiteID, q amieusage.StatusQuery, maxRecords int) (amieusage.Status, error)
	// Failed returns a page of open failed records. It ends with the record
	// that brings it to [MaxPageBytes], too.
	Failed(ctx context.Context, site SiteID, q FailedQuery) ([]amieusage.FailedRecord, error)
	// Clear clears failed records, all or none: ids that are not the site's are
	// a *UnknownFailedError. Clearing again what was cleared or superseded is
	// no error.
	Clear(ctx context.Context, site SiteID, ids []int64, now time.Time) error
	// Loaded returns a page of loaded records, each in its newest revision, in
	// order of loading. It ends at [MaxPageBytes], too.
	Loaded(ctx context.Context, site SiteID, q amieusage.LoadedQuery) (LoadedPage, error)
	// Revisions returns all that is kept of one loaded record, oldest first.
	// Those that a correction had replaced when they were archived are not.
	Revisions(ctx context.Context, site SiteID, id amieusage.Identity) ([]Revision, error)
	// Summary sums up usage by time of usage, in order of q.GroupBy; more than
	// maxRows groups, or names beyond [MaxSummaryBytes], are
	// amieusage.CodeTooLarge. Grouped by project, or by
	// project and resource, each row has its balance, and there is a row for
	// what has an allocation without usage, too.
	Summary(ctx context.Context, site SiteID, q amieusage.SummaryQuery, maxRows int) (*amieusage.Summary, error)

	// Import brings the registry in line with what the spec names, and
	// returns what it changed, in the order of the spec. What the spec does not
	// name stays as it is. A spec that [RegistrySpec.Check] refuses, or that
	// names an allocation on what is no resource of the site, is
	// amieusage.CodeInvalid, and changes nothing.
	Import(ctx context.Context, spec *RegistrySpec) ([]Change, error)
	// Export states the registries of all sites that are served, in the order of
	// their names: to import that changes nothing.
	Export(ctx context.Context) (*RegistrySpec, error)
	// CreateKey stores a key's hash. An unknown site is
	// amieusage.CodeNotFound.
	CreateKey(ctx context.Context, siteName string, hash KeyHash, label string, now time.Time) (Key, error)
	// Keys lists the keys of a site, or of all sites where siteName is "".
	Keys(ctx context.Context, siteName string) ([]Key, error)
	// Policy returns the ledger's policy, or "" where none was chosen yet.
	Policy(ctx context.Context) (Policy, error)
	// SetPolicy changes the ledger's policy, or, with first, sets it only where none was chosen
	// yet. It returns the one that the ledger had.
	SetPolicy(ctx context.Context, policy Policy, first bool) (before Policy, err error)
	// Events returns what was done, in order of time, to the ledger or to what the query
	// selects of it. Imports, keys, clearing, archiving, copying, restoring and the
	// policy leave an event each, in the transaction that does it, which names the context's
	// [Actor].
	Events(ctx context.Context, q HistoryQuery) ([]Event, error)
	// History returns the revisions and the failed records that a query selects, in order of
	// acceptance. It may read a site's whole tables.
	History(ctx context.Context, q HistoryQuery) ([]HistoryRow, error)
	// RevokeKey ends a key. An unknown key is amieusage.CodeNotFound; revoking
	// it again is no error.
	RevokeKey(ctx context.Context, siteName string, keyID int64, now time.Time) error
}

// A Revision is one content of a loaded record, as it was first accepted.
type Revision struct {
	Number     int // from 1
	Charge     amieusage.Charge
	AcceptedAt time.Time
	LoadedAt   time.Time
	KeyID      int64  // the key it was sent with
	Record     []byte // its JSON as it was sent; nil where it is in an archive
	Archive    string // the name of the archive that holds it, or ""
}

// Config is what a [Service] is made of.
type Config struct {
	Store Store
	// Policy is what holds where the ledger has none yet; Strict where empty.
	Policy Policy
	Clock  func() time.Time
	Logger *slog.Logger
	// MaxQueued is the number of queued records from which on a site is asked
	// to wait; 0: [DefaultMaxQueued].
	MaxQueued int64
	// RefuseAhead has compute and storage records refused whose times are more
	// than a day ahead of Clock.
	RefuseAhead bool
	// IdlePoll is how often an idle Run looks for what was accepted without its
	// being told; 0: [DefaultIdlePoll].
	IdlePoll time.Duration
}

// DefaultMaxQueued is the number of queued records of a site from which on
// further sends are refused until loading has caught up.
const DefaultMaxQueued = 5_000_000

// DefaultIdlePoll is how often an idle service looks for batches that another
// program has accepted, where nobody tells it of them.
const DefaultIdlePoll = 2 * time.Second

// Limits on the sizes of messages and answers.
const (
	// maxMessageRecords is more than the valid records that fit in one request;
	// each refused one takes some thousand bytes until it is answered.
	maxMessageRecords = 10_000
	// MaxPageBytes is about how many bytes of records, as JSON, one answer has.
	// An answer that is being made takes several times that.
	MaxPageBytes = 4 << 20
	// MaxSummaryBytes is how much the names in a summary take, as JSON.
	MaxSummaryBytes = 16 << 20

	maxFailedPage    = 25_000
	maxStatusRecords = 1_000
	maxSummaryRows   = 100_000
	statusDays       = 30
)

// A Service is the ledger as the API offers it.
type Service struct {
	store     Store
	policy    Policy
	clock     func() time.Time
	log       *slog.Logger
	maxQueued int64
	noAhead   bool
	seen      atomic.Int64 // the latest time of the clock
	idlePoll  time.Duration
	wake      chan struct{}
	stats     struct{ accepted, refused, new, corrected, unchanged, failed atomic.Int64 }
}

// Stats returns what the service has done since it began.
func (s *Service) Stats() Stats {
	return Stats{
		Accepted: s.stats.accepted.Load(), Refused: s.stats.refused.Load(),
		New: s.stats.new.Load(), Corrected: s.stats.corrected.Load(), Unchanged: s.stats.unchanged.Load(), Failed: s.stats.failed.Load(),
	}
}

// New returns the service of a store. Its Run loads what Accept accepts.
func New(c Config) *Service {
	s := &Service{
		store:     c.Store,
		policy:    c.Policy,
		clock:     c.Clock,
		log:       c.Logger,
		maxQueued: c.MaxQueued,
		noAhead:   c.RefuseAhead,
		idlePoll:  c.IdlePoll,
		wake:      make(chan struct{}, 1),
	}
	if s.policy == "" {
		s.policy = Strict
	}
	if s.maxQueued == 0 {
		s.maxQueued = DefaultMaxQueued
	}
	if s.idlePoll == 0 {
		s.idlePoll = DefaultIdlePoll
	}
	return s
}

// Counts returns where the site's records are.
func (s *Service) Counts(ctx context.Context, who Caller) (Counts, error) {
	return s.store.Counts(ctx, who.Site)
}
