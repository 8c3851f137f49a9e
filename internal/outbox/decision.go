package outbox

import (
	"fmt"
	"time"

	"github.com/amieusage/amieusage"
)

// A Decision is what was decided about an entry. It stands until somebody takes
// it back.
type Decision string

// The decisions.
const (
	DecidedByLimit Decision = "limit"       // held, as it costs more than the limits allow
	NotTracked     Decision = "not tracked" // held, as nothing that its rate is for is tracked
	AtService      Decision = "at service"  // held, as the service had it before this outbox did
	DecidedHold    Decision = "hold"        // held until it is released
	DecidedDrop    Decision = "drop"        // never sent again
	DecidedSet     Decision = "set"         // its content was given by hand
	DecidedRelease Decision = "release"     // sent whatever it costs
)

// Decisions lists all decisions.
var Decisions = []Decision{"", DecidedByLimit, DecidedHold, DecidedDrop, DecidedSet, DecidedRelease, NotTracked, AtService}

// Binds reports whether neither accounting nor rules change what was decided.
func (d Decision) Binds() bool { return d == DecidedHold || d == DecidedDrop || d == DecidedSet }

// A Note says who decided what, and why. Notes are never changed, only followed
// by others.
type Note struct {
	Kind    string    `json:"decision"` // hold, drop, withdraw, release, resend, set, refund, undo refund, clear
	Value   string    `json:"value,omitempty"`
	Comment string    `json:"comment,omitempty"`
	Who     string    `json:"who"`
	At      time.Time `json:"at"`
}

// rewrite begins a write that leaves the entry's content as it is.
func rewrite(e Entry, note Note) Write {
	w := Write{ID: e.ID, Was: e.Version(), Entry: e, Note: &note}
	w.Entry.Reason = note.Comment
	return w
}

// Hold holds an entry: it is not sent, and what is at the service stays as it is,
// until it is released.
func Hold(e Entry, note Note) Write {
	note.Kind = "hold"
	w := rewrite(e, note)
	w.Entry.Decision = DecidedHold
	switch e.State {
	case Pending, Rejected, Failed, Waiting:
		w.Entry.State = Held
	}
	return w
}

// Drop never sends an entry again. What was loaded of it keeps its charge, or
// goes to 0 with withdraw.
func Drop(e Entry, withdraw bool, note Note) Write {
	note.Kind = "drop"
	if withdraw {
		note.Kind = "withdraw"
	}
	w := rewrite(e, note)
	if withdraw && e.MayBeCharged() {
		w = withCharge(e, amieusage.ChargeOfMillionths(0), note)
		w.Entry.Decision = DecidedDrop
		return w
	}
	w.Entry.Decision = DecidedDrop
	switch e.State {
	case Loaded, Queued, Accepted:
	default:
		w.Entry.State = Dropped
	}
	return w
}

// Release takes back what was decided, by a person or by a limit: what is held
// or dropped is sent, and accounting and rules count again.
func Release(e Entry, note Note) Write {
	note.Kind = "release"
	w := rewrite(e, note)
	w.Entry.Reason, w.Entry.Decision = "", DecidedRelease
	if e.State == Held || e.State == Dropped {
		w.Entry.State = Pending
		if e.WaitsFor != 0 {
			w.Entry.State = Waiting
		}
	}
	return w
}

// SetCharge gives an entry another charge, by hand.
func SetCharge(e Entry, charge amieusage.Charge, note Note) (Write, error) {
	note.Kind, note.Value = "set", charge.String()
	w := withCharge(e, charge, note)
	w.Entry.Decision = DecidedSet
	if err := w.Entry.Record.Validate(); err != nil {
		return w, fmt.Errorf("record %d cannot have this charge: %w", e.ID, err)
	}
	return w, nil
}

// withCharge is a new revision of an entry with another charge.
func withCharge(e Entry, charge amieusage.Charge, note Note) Write {
	w := rewrite(e, note)
	w.Content, w.Revise = true, true
	if e.Job != nil {
		job := *e.Job
		job.Made.Charge, job.Rate = charge, ""
		w.Entry.Job, w.Entry.Record = &job, job.Record()
	} else {
		w.Entry.Record = amieusage.WithCharge(e.Record, charge)
	}
	w.Entry.State, w.Entry.Reason = Pending, ""
	return w
}
