package amieusage

import "time"

// A ComputeRecord reports the use of compute time, usually by one job
// (POST {base}/usage/). The fields from Username to NodeCount are required.
type ComputeRecord struct {
	// Username is the local name of the user who ran the job, as in AMIE.
	Username string
	// LocalProjectID is the site's project id, as the site gave it to AMIE.
	LocalProjectID string
	// LocalRecordID is the site's id of the job; with SubmitTime and Resource
	// it is the record's identity.
	LocalRecordID string
	// Resource is the resource's name as in AMIE.
	Resource string
	// SubmitTime is when the job was submitted; it decides which allocation
	// pays.
	SubmitTime time.Time
	// StartTime is when the job began to run; not before SubmitTime.
	StartTime time.Time
	// EndTime is when the job ended; not before StartTime. It decides in which
	// day and month the usage is counted.
	EndTime time.Time
	// Charge is the amount of allocation units to deduct; not negative.
	Charge Charge
	// NodeCount is the number of nodes used. On the wire it lies inside
	// Attributes, as CpuCoreCount, JobName, Memory and Queue do.
	NodeCount Count
	// CpuCoreCount is the number of CPU cores used.
	CpuCoreCount Count
	// JobName is the name that the user gave the job.
	JobName string
	// Memory is carried as it is: the API states no unit.
	Memory string
	// Queue is the queue or partition that the job ran in.
	Queue string
	// ParentRecordID is the LocalRecordID of the job that this one is part of.
	ParentRecordID string
	// LocalReference is the site's own key; failed records bear it.
	LocalReference string

	Extra           Extra // unknown fields of the record
	ExtraAttributes Extra // unknown fields of its Attributes
}

var computeSchema = newSchema(
	fieldSpec{name: "Username", required: true, value: func(r Record) any { return &r.(*ComputeRecord).Username }},
	fieldSpec{name: "LocalProjectID", required: true, value: func(r Record) any { return &r.(*ComputeRecord).LocalProjectID }},
	fieldSpec{name: "LocalRecordID", required: true, value: func(r Record) any { return &r.(*ComputeRecord).LocalRecordID }},
	fieldSpec{name: "Resource", required: true, value: func(r Record) any { return &r.(*ComputeRecord).Resource }},
	fieldSpec{name: "SubmitTime", required: true, value: func(r Record) any { return &r.(*ComputeRecord).SubmitTime }},
	fieldSpec{name: "StartTime", required: true, value: func(r Record) any { return &r.(*ComputeRecord).StartTime }},
	fieldSpec{name: "EndTime", required: true, value: func(r Record) any { return &r.(*ComputeRecord).EndTime }},
	fieldSpec{name: "Charge", required: true, value: func(r Record) any { return &r.(*ComputeRecord).Charge }},
	fieldSpec{name: "NodeCount", required: true, attribute: true, value: func(r Record) any { return &r.(*ComputeRecord).NodeCount }},
	fieldSpec{name: "CpuCoreCount", attribute: true, value: func(r Record) any { return &r.(*ComputeRecord).CpuCoreCount }},
	fieldSpec{name: "JobName", attribute: true, maxBytes: maxLongTextBytes, value: func(r Record) any { return &r.(*ComputeRecord).JobName }},
	fieldSpec{name: "Memory", attribute: true, value: func(r Record) any { return &r.(*ComputeRecord).Memory }},
	fieldSpec{name: "Queue", attribute: true, value: func(r Record) any { return &r.(*ComputeRecord).Queue }},
	fieldSpec{name: "ParentRecordID", listed: true, value: func(r Record) any { return &r.(*ComputeRecord).ParentRecordID }},
	fieldSpec{name: "LocalReference", value: func(r Record) any { return &r.(*ComputeRecord).LocalReference }},
)

// UsageType returns [Compute].
func (r *ComputeRecord) UsageType() UsageType { return Compute }

// Common returns the fields that every kind of record has.
func (r *ComputeRecord) Common() Common {
	return Common{r.Username, r.LocalProjectID, r.LocalRecordID, r.Resource, r.Charge, r.LocalReference}
}

// Identity returns the resource, the LocalRecordID and the SubmitTime.
func (r *ComputeRecord) Identity() Identity {
	return Identity{r.Resource, Compute, r.LocalRecordID, keyTime(r.SubmitTime)}
}

// AllocationTime returns the SubmitTime.
func (r *ComputeRecord) AllocationTime() time.Time { return r.SubmitTime }

// UsageTime returns the EndTime.
func (r *ComputeRecord) UsageTime() time.Time { return r.EndTime }

// Validate returns a [*ValidationError] that names every bad field, or nil.
func (r *ComputeRecord) Validate() error { return validateRecord(r, nil) }

// AppendJSON appends the record's JSON to dst.
func (r *ComputeRecord) AppendJSON(dst []byte) []byte { return appendRecord(dst, r, false) }

// MarshalJSON returns the record as it goes over the wire.
func (r ComputeRecord) MarshalJSON() ([]byte, error) { return r.AppendJSON(nil), nil }

// UnmarshalJSON reads a record; the error is a [*ValidationError] where single
// fields cannot be read, and all others are set all the same.
func (r *ComputeRecord) UnmarshalJSON(data []byte) error {
	*r = ComputeRecord{}
	return decodeRecord(r, data)
}

// String returns the record in one readable line.
func (r *ComputeRecord) String() string { return recordLine(r, r.SubmitTime) }

func (r *ComputeRecord) schema() *recordSchema    { return computeSchema }
func (r *ComputeRecord) extras() (*Extra, *Extra) { return &r.Extra, &r.ExtraAttributes }
