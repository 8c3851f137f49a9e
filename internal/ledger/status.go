package ledger

import (
	"slices"
	"strings"
	"time"

	"github.com/amieusage/amieusage"
)

// A Period is [From, To) in whatever its roll-up counts.
type Period struct{ From, To int64 }

// LoadPeriods cut a period of loading, in nanoseconds, into whole hours and
// what is left at both ends, which comes from the sums of each transaction.
type LoadPeriods struct {
	All   Period
	Hours Period
}

// LoadPeriodsOf cuts [from, to), where a zero to sets no end.
func LoadPeriodsOf(from, to time.Time) LoadPeriods {
	all := Period{Nanos(from), EndNanos(to)}
	hours := Period{(all.From + Hour - 1) / Hour * Hour, all.To / Hour * Hour}
	if hours.From > hours.To {
		hours = Period{all.To, all.To}
	}
	return LoadPeriods{all, hours}
}

// A StatusBuilder puts a status together.
type StatusBuilder struct {
	status amieusage.Status
	places map[string]int
	bytes  int // of the failed records
}

func (b *StatusBuilder) resource(name string) *amieusage.ResourceStatus {
	i, ok := b.places[name]
	if !ok {
		if b.places == nil {
			b.places = map[string]int{}
		}
		i = len(b.status)
		b.places[name] = i
		b.status = append(b.status, amieusage.ResourceStatus{Resource: name, TotalCharge: amieusage.ChargeOfMillionths(0)})
	}
	return &b.status[i]
}

// Loaded sets how many records of a resource were loaded, and their charge.
func (b *StatusBuilder) Loaded(resource string, records, charge int64) {
	r := b.resource(resource)
	r.LoadedRecordCount = records
	r.TotalCharge = amieusage.ChargeOfMillionths(charge)
}

// A FailedGroup is the failed records of a resource that failed for the same
// reason.
type FailedGroup struct {
	Resource string
	ID       int64 // of the resource
	Failure  string
	Count    int64
}

// Share returns how many bytes of the failed records of one group a status may
// give, where groups are left. The largest come last, and have what the others
// leave.
func (b *StatusBuilder) Share(groups int) int { return (MaxPageBytes - b.bytes) / groups }

// Failed adds records of a resource that failed for the same reason, of which
// some are given.
func (b *StatusBuilder) Failed(resource, failure string, count int64, records []amieusage.FailedRecord) {
	r := b.resource(resource)
	r.FailedJobCount += count
	for _, f := range records {
		b.bytes += len(f.Raw)
	}
	r.Errors = append(r.Errors, amieusage.FailureGroup{Error: failure, Records: records})
}

// Status returns what was put together, in order of the resources' names and
// of the reasons' texts.
func (b *StatusBuilder) Status() amieusage.Status {
	status := b.status
	if status == nil {
		status = amieusage.Status{}
	}
	slices.SortFunc(status, func(a, b amieusage.ResourceStatus) int { return strings.Compare(a.Resource, b.Resource) })
	for i := range status {
		slices.SortFunc(status[i].Errors, func(a, b amieusage.FailureGroup) int { return strings.Compare(a.Error, b.Error) })
	}
	return status
}
