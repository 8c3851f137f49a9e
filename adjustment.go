package amieusage

import (
	"slices"
	"strings"
	"time"
)

// An AdjustmentType says what an adjustment does to an allocation. It is read
// in any letter case and written in lower case.
type AdjustmentType string

// The adjustment types of the API.
const (
	Credit        AdjustmentType = "credit"
	Refund        AdjustmentType = "refund"
	StorageCredit AdjustmentType = "storage-credit"
	Debit         AdjustmentType = "debit"
	Reservation   AdjustmentType = "reservation"
	StorageDebit  AdjustmentType = "storage-debit"
)

// AdjustmentTypes lists all adjustment types.
var AdjustmentTypes = []AdjustmentType{Credit, Refund, StorageCredit, Debit, Reservation, StorageDebit}

// GivesBack reports whether an adjustment of the type gives units back to the
// allocation; the others deduct them.
func (t AdjustmentType) GivesBack() bool {
	return t == Credit || t == Refund || t == StorageCredit
}

func (t AdjustmentType) lower() AdjustmentType { return AdjustmentType(strings.ToLower(string(t))) }

func (t AdjustmentType) valid() bool { return slices.Contains(AdjustmentTypes, t.lower()) }

// An AdjustmentRecord corrects what an allocation was charged
// (POST {base}/usage/). The fields from AdjustmentType to Charge are required.
type AdjustmentRecord struct {
	// AdjustmentType says what the adjustment does.
	AdjustmentType AdjustmentType
	// Username is the local name of the user, as in AMIE.
	Username string
	// LocalProjectID is the site's project id, as the site gave it to AMIE.
	LocalProjectID string
	// LocalRecordID is the site's id of the adjustment, unique for the
	// resource; with Resource it is the record's identity.
	LocalRecordID string
	// Resource is the resource's name as in AMIE.
	Resource string
	// StartTime is the time that the adjustment applies to: a refund bears the
	// job's SubmitTime.
	StartTime time.Time
	// Charge is the amount of allocation units to give back or to deduct; not
	// negative.
	Charge Charge
	// Comment explains the reason.
	Comment string
	// LocalReference is the site's own key; failed records bear it.
	LocalReference string

	Extra Extra // unknown fields of the record
}

var adjustmentSchema = newSchema(
	fieldSpec{name: "AdjustmentType", required: true, value: func(r Record) any { return &r.(*AdjustmentRecord).AdjustmentType }},
	fieldSpec{name: "Username", required: true, value: func(r Record) any { return &r.(*AdjustmentRecord).Username }},
	fieldSpec{name: "LocalProjectID", required: true, value: func(r Record) any { return &r.(*AdjustmentRecord).LocalProjectID }},
	fieldSpec{name: "LocalRecordID", required: true, value: func(r Record) any { return &r.(*AdjustmentRecord).LocalRecordID }},
	fieldSpec{name: "Resource", required: true, value: func(r Record) any { return &r.(*AdjustmentRecord).Resource }},
	fieldSpec{name: "StartTime", required: true, value: func(r Record) any { return &r.(*AdjustmentRecord).StartTime }},
	fieldSpec{name: "Charge", required: true, value: func(r Record) any { return &r.(*AdjustmentRecord).Charge }},
	fieldSpec{name: "Comment", maxBytes: maxLongTextBytes, value: func(r Record) any { return &r.(*AdjustmentRecord).Comment }},
	fieldSpec{name: "LocalReference", value: func(r Record) any { return &r.(*AdjustmentRecord).LocalReference }},
)

// UsageType returns [Adjustment].
func (r *AdjustmentRecord) UsageType() UsageType { return Adjustment }

// Common returns the fields that every kind of record has.
func (r *AdjustmentRecord) Common() Common {
	return Common{r.Username, r.LocalProjectID, r.LocalRecordID, r.Resource, r.Charge, r.LocalReference}
}

// Identity returns the resource and the LocalRecordID.
func (r *AdjustmentRecord) Identity() Identity {
	return Identity{r.Resource, Adjustment, r.LocalRecordID, time.Time{}}
}

// AllocationTime returns the StartTime.
func (r *AdjustmentRecord) AllocationTime() time.Time { return r.StartTime }

// UsageTime returns the StartTime.
func (r *AdjustmentRecord) UsageTime() time.Time { return r.StartTime }

// Validate returns a [*ValidationError] that names every bad field, or nil.
func (r *AdjustmentRecord) Validate() error { return validateRecord(r, nil) }

// AppendJSON appends the record's JSON to dst.
func (r *AdjustmentRecord) AppendJSON(dst []byte) []byte { return appendRecord(dst, r, false) }

// MarshalJSON returns the record as it goes over the wire.
func (r AdjustmentRecord) MarshalJSON() ([]byte, error) { return r.AppendJSON(nil), nil }

// UnmarshalJSON reads a record; the error is a [*ValidationError] where single
// fields cannot be read, and all others are set all the same.
func (r *AdjustmentRecord) UnmarshalJSON(data []byte) error {
	*r = AdjustmentRecord{}
	return decodeRecord(r, data)
}

// String returns the record in one readable line.
func (r *AdjustmentRecord) String() string { return recordLine(r, r.StartTime) }

func (r *AdjustmentRecord) schema() *recordSchema    { return adjustmentSchema }
func (r *AdjustmentRecord) extras() (*Extra, *Extra) { return &r.Extra, nil }
