package amieusage

import (
	"crypto/sha256"
	"encoding/json"
	"time"
)

// A Record is one usage record: a [*ComputeRecord], a [*StorageRecord] or an
// [*AdjustmentRecord]. Nothing else implements it.
type Record interface {
	json.Marshaler
	json.Unmarshaler

	// UsageType returns the kind of usage that the record reports.
	UsageType() UsageType
	// Common returns the fields that every kind of record has.
	Common() Common
	// Identity returns what makes this record the same record when it is sent
	// again.
	Identity() Identity
	// AllocationTime is the time that decides which allocation pays: the
	// SubmitTime, the CollectionTime, or an adjustment's StartTime. A refund
	// bears the job's SubmitTime, so that it reaches the allocation that paid.
	AllocationTime() time.Time
	// UsageTime is the time at which the usage is counted: the EndTime, the
	// CollectionTime, or an adjustment's StartTime.
	UsageTime() time.Time
	// Validate returns a [*ValidationError] that names every bad field at
	// once, or nil.
	Validate() error
	// AppendJSON appends the record's JSON to dst. Equal records give equal
	// bytes.
	AppendJSON(dst []byte) []byte
	// String returns a readable form in one line.
	String() string

	schema() *recordSchema
	// extras returns the unknown fields; attributes is nil where the kind has
	// no Attributes.
	extras() (record, attributes *Extra)
}

// Common holds the fields that every kind of record has.
type Common struct {
	Username       string
	LocalProjectID string
	LocalRecordID  string
	Resource       string
	Charge         Charge // never negative; the kind of record says which way it goes
	LocalReference string
}

// An Identity is what makes two records the same one to a site: sending a
// record of a known identity overwrites it. Identities are comparable and can
// be the keys of a map.
type Identity struct {
	Resource      string
	UsageType     UsageType
	LocalRecordID string
	// KeyTime is the SubmitTime or the CollectionTime in UTC; zero for
	// adjustments, whose LocalRecordID is unique for the resource.
	KeyTime time.Time
}

// Extra holds the fields of a record that this package does not know, in the
// order in which they came, so that nothing a site sends is lost. Their values
// are nested at most 100 levels deep.
type Extra []ExtraField

// UnknownFields returns the names of a record's fields that this package does
// not know, those of its Attributes as "Attributes.NAME".
func UnknownFields(r Record) []string {
	var names []string
	record, attributes := r.extras()
	for _, f := range *record {
		names = append(names, f.Name)
	}
	if attributes != nil {
		for _, f := range *attributes {
			names = append(names, "Attributes."+f.Name)
		}
	}
	return names
}

// An ExtraField is one unknown field.
type ExtraField struct {
	Name  string
	Value json.RawMessage // as it came, without white space
}

// NewRecord returns an empty record of the kind, which must be one of the
// constants, or nil for any other.
func NewRecord(t UsageType) Record {
	switch t {
	case Compute:
		return new(ComputeRecord)
	case Storage:
		return new(StorageRecord)
	case Adjustment:
		return new(AdjustmentRecord)
	}
	return nil
}

// A Digest identifies the content of a record: SHA-256 of its canonical form.
type Digest [sha256.Size]byte

// ContentDigest returns the digest of what the record says, whatever the
// spelling: equal instants in different zones, charges with different trailing
// zeros, and unknown fields in a different order are equal content. UsageType,
// Error and FailedRecordID, which a repaired failed record may still bear, are
// no content.
func ContentDigest(r Record) Digest {
	content := append(make([]byte, 0, 1024), r.UsageType()...)
	return sha256.Sum256(appendRecord(content, r, true))
}

// A fieldSpec is one row of a record's schema, from which encoding, decoding
// and validation all work.
type fieldSpec struct {
	name      string
	required  bool
	attribute bool // lies inside Attributes
	listed    bool // may come as a list of one element
	maxBytes  int  // of a text; 0 means maxTextBytes
	// value returns the pointer to the field in a record of the schema's kind.
	value func(r Record) any

	path  string // the name as errors give it
	token string // the name as it is written: quoted, with its colon
}

// A recordSchema lists the fields of a kind of record in the order in which
// they are written. Attributes come in one run.
type recordSchema struct {
	fields        []fieldSpec
	hasAttributes bool
}

func newSchema(fields ...fieldSpec) *recordSchema {
	s := &recordSchema{fields: fields}
	for i := range fields {
		f := &fields[i]
		if f.maxBytes == 0 {
			f.maxBytes = maxTextBytes
		}
		f.path, f.token = f.name, `"`+f.name+`":`
		if f.attribute {
			f.path = "Attributes." + f.name
			s.hasAttributes = true
		}
	}
	return s
}

// index returns the place of a field, or -1. It looks from the place from on:
// members mostly come in the order of the schema.
func (s *recordSchema) index(name string, attribute bool, from int) int {
	for range s.fields {
		if from >= len(s.fields) {
			from = 0
		}
		if f := &s.fields[from]; f.name == name && f.attribute == attribute {
			return from
		}
		from++
	}
	return -1
}

// taken reports whether the name means something to this package, so that no
// unknown field can bear it.
func (s *recordSchema) taken(name string, attribute bool) bool {
	if !attribute && (reservedField(name) || s.hasAttributes && name == "Attributes") {
		return true
	}
	return s.index(name, attribute, 0) >= 0
}

// reservedField names what may stand beside a record's own fields, in a failed
// record that is sent back after repair. It is not part of the record.
func reservedField(name string) bool {
	return name == "UsageType" || name == "Error" || name == "FailedRecordID"
}

// WithCharge returns a copy of the record with another charge.
func WithCharge(r Record, charge Charge) Record {
	switch r := r.(type) {
	case *ComputeRecord:
		c := *r
		c.Charge = charge
		return &c
	case *StorageRecord:
		c := *r
		c.Charge = charge
		return &c
	case *AdjustmentRecord:
		c := *r
		c.Charge = charge
		return &c
	}
	return r
}
