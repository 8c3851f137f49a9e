// Package outbox is durable delivery at the site: it keeps every usage record
// from its first reading to the service's ledger, and decides in what state of
// delivery it is.
//
//	pending ──sent, accepted──▶ queued ──confirmed──▶ loaded
//	   │  ▲                        └──reported failed──▶ failed
//	   │  └── any state, content changed (new revision) or retry
//	   └──sent, listed as failed──▶ rejected
//
// Three more steps mend what was seen too early or settled elsewhere: the
// service may report a failure of an entry that is loaded already, a failed
// one may turn out loaded after a repair at the service, and a failed one may
// fail anew. A send whose outcome is unknown leaves the entry pending: sending
// again is always safe.
//
// [Progress] holds the rules; a [Queue] stores entries and applies them.
package outbox

import (
	"slices"
	"strings"

	"github.com/amieusage/amieusage"
)

// An ID is the number of an entry in its outbox: from 1 up, in the order in
// which the records were first enqueued. It is never given again.
type ID int64

// A State says how far an entry's newest revision has come.
type State string

// The states of an entry.
const (
	Pending  State = "pending"  // to be sent
	Queued   State = "queued"   // accepted by the service, not yet known to be loaded
	Loaded   State = "loaded"   // in the service's ledger
	Failed   State = "failed"   // accepted, but refused when the service loaded it
	Rejected State = "rejected" // refused at once when it was sent
	Held     State = "held"     // not sent until it is released
	Dropped  State = "dropped"  // not sent any more
	Waiting  State = "waiting"  // to be sent when another entry is confirmed
	Accepted State = "accepted" // accepted by a service that cannot say whether it is loaded
)

// States lists all states.
var States = []State{Pending, Queued, Loaded, Failed, Rejected, Held, Dropped, Waiting, Accepted}

// ParseState reads a state's name. The error is a [*amieusage.Error] with
// [amieusage.CodeInvalid].
func ParseState(s string) (State, error) {
	if state := State(s); slices.Contains(States, state) {
		return state, nil
	}
	names := make([]string, len(States))
	for i, state := range States {
		names[i] = string(state)
	}
	return "", &amieusage.Error{
		Code:    amieusage.CodeInvalid,
		Message: "there is no state of that name",
		Hint:    "the states are " + strings.Join(names, ", "),
	}
}
