package ledger

import (
	"time"

	"github.com/amieusage/amieusage"
)

// A SiteState is how a site stands.
type SiteState struct {
	Name string
	Counts
	LastAccepted time.Time // of its last send; zero: it has sent nothing yet
	OldestQueued time.Time // when the oldest batch was accepted that is not loaded; zero: none
	Charges      []ResourceCharge
}

// A ResourceCharge is what was used of a resource by all projects of its site, over
// all time.
type ResourceCharge struct {
	Resource        string
	Used, GivenBack amieusage.Charge
}

// Stats are what a [Service] has done since it began.
type Stats struct {
	Accepted, Refused                 int64 // records of sends
	New, Corrected, Unchanged, Failed int64 // records that were loaded, or could not be
}
