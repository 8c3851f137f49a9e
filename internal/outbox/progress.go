package outbox

import (
	"time"

	"github.com/amieusage/amieusage"
)

// Progress is how far an entry has come, with all that its rules go by. Each
// method is one step: it changes the progress and reports true, or leaves it
// as it is and reports false.
type Progress struct {
	State State
	// Reason is the service's reason for Rejected and Failed, and for Pending where
	// it fails at this record alone; "" otherwise.
	Reason string
	// Revision counts the contents that the identity has had here, from 1.
	Revision int64
	Digest   amieusage.Digest
	// Charge is the record's charge in millionths, as the ledger keeps it.
	Charge int64
	// Attempts counts the answered sends of this revision.
	Attempts int64
	// FailedRecordID is the service's number of the newest failure that was
	// taken in. It outlives a retry, so that the failure of before is not
	// taken for a new one.
	FailedRecordID int64
	// EnqueuedAt is when this revision was enqueued, SentAt when its newest
	// send was answered; both by the site's clock.
	EnqueuedAt, SentAt time.Time
	// LoadedAt is when the service loaded the newest record that was taken for
	// this entry, by the service's clock; zero: there was none.
	LoadedAt time.Time
	// LoadedDigest and LoadedCharge are of the content that was confirmed by
	// the record loaded at LoadedAt.
	LoadedDigest amieusage.Digest
	LoadedCharge int64
}

// Revise takes in the content of a newly read record of the same identity:
// nothing happens where it is equal; otherwise it is a new revision, pending.
func (p *Progress) Revise(read Progress) bool {
	if read.Digest == p.Digest {
		return false
	}
	p.State, p.Reason = Pending, ""
	p.Revision++
	p.Digest, p.Charge = read.Digest, read.Charge
	p.Attempts = 0
	p.EnqueuedAt, p.SentAt = read.EnqueuedAt, time.Time{}
	return true
}

// Sent takes in the service's answer to a send. It concerns only the revision
// that was sent, while it is pending.
func (p *Progress) Sent(d Delivery, now time.Time) bool {
	if p.State != Pending || p.Revision != d.Revision {
		return false
	}
	switch {
	case d.Fails:
		p.Reason = d.Reason
	case d.Rejected:
		p.State, p.Reason = Rejected, d.Reason
	default:
		p.State, p.Reason = Queued, ""
	}
	p.Attempts++
	p.SentAt = now
	return true
}

// Confirm takes in a loaded record of the same identity: a queued entry, or
// the first revision of a failed one, is loaded when the charge is equal to
// the millionth and the loaded record cannot be that of a former content.
//
// The service's clock is never compared with the site's, and a record that is
// sent again unchanged keeps its LoadedTime. So whatever was loaded confirms
// the first content of an identity, and a content that was confirmed before. A
// content that follows a confirmed one of the same charge must be loaded after
// it.
//
// A former content of the same charge that was sent but not yet confirmed
// cannot be told from the present one. It may confirm a queued entry too
// early, which [Progress.Fail] overrules where it was wrong; a failed entry it
// would falsely clear for good, so later revisions of failed entries wait for
// a retry.
//
// Services that round what they list show another charge, which is at most within
// apart, in millionths; 0: the charges are equal.
func (p *Progress) Confirm(r amieusage.LoadedRecord, within int64) bool {
	charge, err := r.Charge.Millionths()
	if err != nil || distance(charge, p.Charge) > within {
		return false
	}
	after := p.LoadedAt.IsZero() || r.LoadedTime.After(p.LoadedAt)
	switch p.State {
	case Queued, Accepted:
		if !after && p.LoadedDigest != p.Digest && distance(p.LoadedCharge, p.Charge) <= within {
			return false
		}
	case Failed:
		if !after || p.Revision > 1 {
			return false
		}
	default:
		return false
	}
	p.State, p.Reason = Loaded, ""
	p.LoadedAt, p.LoadedDigest, p.LoadedCharge = r.LoadedTime, p.Digest, p.Charge
	return true
}

// distance returns how far two charges are apart. Neither is negative.
func distance(a, b int64) int64 { return max(a-b, b-a) }

// Fail takes in a failed record of the same identity: where its content is
// equal and its FailedRecordID is new, a queued, accepted, loaded or failed entry
// is failed. A pending or rejected one only remembers it: it is to be sent again
// whatever became of the sends before.
//
// A failure overrules a confirmation. So of one look at the service, the
// loaded records are read and taken in first, and the failed records then.
func (p *Progress) Fail(f amieusage.FailedRecord) bool {
	if f.Record == nil || f.Problem != nil || f.FailedRecordID <= p.FailedRecordID ||
		amieusage.ContentDigest(f.Record) != p.Digest {
		return false
	}
	p.FailedRecordID = f.FailedRecordID
	if p.State == Loaded && p.Revision > 1 && p.LoadedDigest == p.Digest {
		// What confirmed it was a former content, which may come again: that is then
		// not loaded any later.
		p.LoadedAt, p.LoadedDigest, p.LoadedCharge = time.Time{}, amieusage.Digest{}, 0
	}
	switch p.State {
	case Queued, Loaded, Failed, Accepted:
		p.State, p.Reason = Failed, f.Error
	}
	return true
}

// Retry makes the entry pending, whatever its state. A queued one then forgets
// the former content that was loaded: where the service holds the present one
// with no later LoadedTime, it would be held back for ever.
func (p *Progress) Retry() bool {
	switch p.State {
	case Pending, Held, Dropped, Waiting:
		return false
	}
	if p.State == Queued && p.LoadedDigest != p.Digest {
		p.LoadedAt, p.LoadedDigest, p.LoadedCharge = time.Time{}, amieusage.Digest{}, 0
	}
	p.State, p.Reason = Pending, ""
	return true
}
