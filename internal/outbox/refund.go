package outbox

import (
	"strconv"

	"github.com/cockroachdb/apd/v3"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/decimal"
)

// A Refund gives a job's charge back, or a part of it. It follows the job: its
// record is made anew when the job's charge is corrected, or moves.
type Refund struct {
	// Job is the entry of the job.
	Job ID `json:"job"`
	// Percent is the part of the charge that is given back, as a decimal number
	// up to 100; "": an amount is.
	Percent string `json:"percent,omitempty"`
	// CapSeconds bounds the run time that is given back; 0: all of it.
	CapSeconds int64 `json:"cap_seconds,omitempty"`
	// Amount is given back where Percent is empty, and never more than the charge.
	Amount amieusage.Charge `json:"amount,omitzero"`
	// Comment explains the reason.
	Comment string `json:"comment,omitempty"`
	// Undone says that nothing is given back any more.
	Undone bool `json:"undone,omitempty"`
}

// refunds holds every product of a charge, a percentage and a time exactly.
var refunds = apd.Context{Precision: 100, MaxExponent: apd.MaxExponent, MinExponent: apd.MinExponent, Rounding: apd.RoundHalfEven}

// Charge returns what is given back of a job.
func (r *Refund) Charge(job *Entry) amieusage.Charge {
	charge := job.Record.Common().Charge
	if r.Undone {
		return amieusage.ChargeOfMillionths(0)
	}
	if r.Percent == "" {
		if r.Amount.Cmp(charge) > 0 {
			return charge
		}
		return r.Amount
	}
	back := decimal.Of(charge)
	percent, _, err := apd.NewFromString(r.Percent)
	if err != nil {
		return amieusage.ChargeOfMillionths(0)
	}
	refunds.Mul(back, back, percent)
	refunds.Quo(back, back, apd.New(100, 0))
	if job.Job != nil && r.CapSeconds > 0 && job.Job.Facts.ElapsedSeconds > r.CapSeconds {
		refunds.Mul(back, back, apd.New(r.CapSeconds, 0))
		refunds.Quo(back, back, apd.New(job.Job.Facts.ElapsedSeconds, 0))
	}
	refunds.Quantize(back, back, -6)
	back.Reduce(back)
	return decimal.Charge(back)
}

// Record returns the adjustment that gives back what the refund says. Its id is
// made of the job's cluster, id and submit time: twice is once.
func (r *Refund) Record(job *Entry) *amieusage.AdjustmentRecord {
	c, identity := job.Record.Common(), job.Record.Identity()
	id := "refund-"
	if job.Job != nil && job.Job.Facts.Cluster != "" {
		id += job.Job.Facts.Cluster + "-"
	}
	return &amieusage.AdjustmentRecord{
		AdjustmentType: amieusage.Refund,
		Username:       c.Username,
		LocalProjectID: c.LocalProjectID,
		LocalRecordID:  id + c.LocalRecordID + "-" + strconv.FormatInt(identity.KeyTime.Unix(), 10),
		Resource:       c.Resource,
		StartTime:      identity.KeyTime,
		Charge:         r.Charge(job),
		Comment:        r.Comment,
		LocalReference: c.LocalRecordID,
	}
}
