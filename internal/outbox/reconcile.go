package outbox

import (
	"context"
	"iter"
	"strconv"

	"github.com/amieusage/amieusage"
)

// A Source is where a record is looked for.
type Source int

// The sources, in the order in which they are compared.
const (
	FromAccounting Source = iota + 1 // what the scheduler's accounting gives by the site's rules
	FromOutbox
	FromLoaded // the service's ledger
	FromFailed // the service's open failed records
)

// A Side is what one source says about a record. Charge is in millionths.
type Side struct {
	Identity amieusage.Identity
	Source   Source
	// Always keeps the side; otherwise it is kept only where another side of the
	// same record is.
	Always bool
	// InPeriod says that the record belongs to the period that is compared.
	InPeriod  bool
	Charge    int64
	GivesBack bool             // the charge is given back
	Digest    amieusage.Digest // of accounting and outbox
	State     State            // of the outbox
	Entry     ID               // of the outbox
	Reason    string           // of outbox and failed records
	Number    int64            // the FailedRecordID of a failed record
	Place     string           // where the accounting was read
	// Superseded says that the outbox charges the job by another record.
	Superseded bool
}

// A Comparison keeps the sides of any number of records, in bounded memory. It
// is for one goroutine at a time.
type Comparison interface {
	// Add adds sides; a later one of the same record and source stands.
	Add(ctx context.Context, sides []Side) error
	// Unloaded returns the identities of at most so many records that the
	// service should have loaded and of which there is no loaded side.
	Unloaded(ctx context.Context, limit int) ([]amieusage.Identity, error)
	// All returns the records with all their sides, in order of LocalRecordIDs. It
	// ends after the first error.
	All(ctx context.Context) iter.Seq2[Compared, error]
}

// Compared is what the sources say about one record; nil where they do not
// have it.
type Compared struct {
	Identity                           amieusage.Identity
	Accounting, Outbox, Loaded, Failed *Side
}

// Set sets a side.
func (c *Compared) Set(s *Side) {
	switch s.Source {
	case FromAccounting:
		c.Accounting = s
	case FromOutbox:
		c.Outbox = s
	case FromLoaded:
		c.Loaded = s
	case FromFailed:
		c.Failed = s
	}
}

// InPeriod reports whether the record belongs to the period: by accounting and
// outbox where they have it, and otherwise by the service.
func (c *Compared) InPeriod() bool {
	in := func(a, b *Side) bool { return a != nil && a.InPeriod || b != nil && b.InPeriod }
	if c.Accounting != nil || c.Outbox != nil {
		return in(c.Accounting, c.Outbox)
	}
	return in(c.Loaded, c.Failed)
}

// A DifferenceKind says in what the sources differ about a record. Where the
// outbox has not loaded it, it is the entry's state.
type DifferenceKind string

// The kinds beside the states.
const (
	Missing   DifferenceKind = "missing"   // the accounting or the outbox has it, another one does not
	Extra     DifferenceKind = "extra"     // the accounting does not have it
	Different DifferenceKind = "different" // charge or content differ
)

// A Difference is in what the sources differ about a record.
type Difference struct {
	Kind   DifferenceKind
	Text   string
	Remedy string
}

// Reconciling says what is compared.
type Reconciling struct {
	// Reports says which resources' compute records the accounting has; only
	// these can be missing from it.
	Reports func(resource string) bool
	// Listed says that the service lists what it has loaded.
	Listed bool
	// Within is how far apart, in millionths, the service's charges may be from the
	// site's, where it rounds what it lists.
	Within int64
	// Incomplete says that the accounting cannot be all there is: then nothing is
	// to be given back for what it lacks.
	Incomplete bool
}

// LacksJob reports whether the accounting lacks a job of the period that the
// outbox has, and has whether it has one.
func (r *Reconciling) LacksJob(c *Compared) (lacks, has bool) {
	if c.Outbox == nil || !c.Outbox.InPeriod || c.Outbox.Superseded || c.Identity.UsageType != amieusage.Compute || !r.Reports(c.Identity.Resource) {
		return false, false
	}
	return c.Accounting == nil, c.Accounting != nil
}

// incompleteRemedy is the only one for what an incomplete accounting lacks.
const incompleteRemedy = "the accounting looks incomplete: give nothing back; see that it shows all jobs (amieusage doctor), and compare again"

// Difference returns in what the sources differ about a record of the period,
// or nil. Of several differences it is the first that is to be mended.
func (r *Reconciling) Difference(c *Compared) *Difference {
	if !c.InPeriod() {
		return nil
	}
	a, o := c.Accounting, c.Outbox
	accountable := c.Identity.UsageType == amieusage.Compute && r.Reports(c.Identity.Resource)
	switch {
	case o == nil && a != nil:
		text := "not in the outbox"
		if r.Listed && c.Loaded == nil {
			text += ", nor loaded by the service"
		}
		return &Difference{Missing, text, "amieusage report, with --since or --from-file, reports it; what is loaded already counts once"}
	case o == nil && !accountable:
		return nil // from elsewhere
	case o == nil:
		text := "only the service has it"
		if c.Loaded == nil {
			text += ", as a failed record: " + c.Failed.Reason
			return &Difference{Extra, text, "amieusage failed clear " + strconv.FormatInt(c.Failed.Number, 10)}
		}
		remedy := "find out who sent it; amieusage adjust credit gives the charge back"
		if r.Incomplete {
			remedy = incompleteRemedy
		}
		return &Difference{Extra, text, remedy}
	case o.State == Dropped && o.Charge == 0 || o.State == Dropped && c.Loaded == nil:
		return nil // so it was decided
	case a == nil && accountable && o.InPeriod && !o.Superseded:
		remedy := "if it is wrong, amieusage refund " + c.Identity.LocalRecordID + " gives the charge back"
		if r.Incomplete {
			remedy = incompleteRemedy
		}
		return &Difference{Extra, "not in the accounting", remedy}
	case a != nil && a.Digest != o.Digest:
		text := "the accounting has another content"
		if a.Charge != o.Charge {
			text = "the accounting has another charge"
		}
		return &Difference{Different, text, "amieusage report, with --since or --from-file, sends it as a correction"}
	case o.State == Accepted && c.Failed == nil && (c.Loaded == nil || distance(c.Loaded.Charge, o.Charge) <= r.Within):
		return nil
	case o.State != Loaded && o.State != Accepted:
		return unfinished(o, c.Failed)
	case c.Failed != nil:
		return &Difference{DifferenceKind(Failed), "the service could not load it: " + c.Failed.Reason,
			"amieusage confirm takes it in; then amieusage failed list"}
	case r.Listed && c.Loaded == nil:
		return &Difference{Missing, "the outbox says that it is loaded, and the service does not have it", retry(o)}
	case r.Listed && distance(c.Loaded.Charge, o.Charge) > r.Within:
		return &Difference{Different, "the service has another charge",
			retry(o) + "; where that changes nothing, its operator runs amieusage admin verify"}
	}
	return nil
}

// unfinished is the difference of an entry that is not loaded.
func unfinished(o, failed *Side) *Difference {
	d := &Difference{Kind: DifferenceKind(o.State), Text: o.Reason}
	switch o.State {
	case Pending:
		d.Text, d.Remedy = "not sent yet", "amieusage report sends it"
	case Queued:
		d.Text, d.Remedy = "accepted, and not confirmed as loaded", "amieusage confirm"
		if failed != nil {
			d.Text = "the service could not load it: " + failed.Reason
		}
	case Failed:
		d.Remedy = "correct what the reason says, then " + retry(o)
	case Rejected:
		d.Remedy = "correct what the reason says, then " + retry(o)
	case Held:
		d.Remedy = "amieusage records release '#" + strconv.FormatInt(int64(o.Entry), 10) + "', then amieusage report"
	case Waiting:
		d.Text, d.Remedy = "waits for the job's record on another resource to be at 0", "amieusage report"
	}
	return d
}

func retry(o *Side) string {
	return "amieusage records resend '#" + strconv.FormatInt(int64(o.Entry), 10) + "', then amieusage report"
}
