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

	schema() recordSchema
	extras() (record, attributes *Extra)
}

// Common holds the fields that every kind of record has.
type Common struct {
	Username       string
	LocalProjectID string
	LocalRecordID  string
	Resource       string
	Charge         Charge
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
// order in which they came, so that nothing a site sends is lost.
type Extra []ExtraField

// An ExtraField is one unknown field and its JSON value.
type ExtraField struct {
	Name  string
	Value json.RawMessage
}

// NewRecord returns an empty record of the kind, or nil for an unknown one.
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

// A Digest identifies the content of a record.
type Digest [sha256.Size]byte

// ContentDigest returns the digest of what the record says, whatever the
// spelling: equal instants in different zones, and charges with different
// trailing zeros, are equal content. UsageType, Error and FailedRecordID,
// which a repaired failed record may still bear, are no content.
func ContentDigest(r Record) Digest {
	return sha256.Sum256(appendRecord(make([]byte, 0, 512), r, true))
}

// A fieldKind says what the value of a field is.
type fieldKind uint8

const (
	textField fieldKind = iota
	timeField
	chargeField
	countField
	typeField // adjustment type: text in lower case, one of a list
	parentField
)

// A fieldSpec is one row of a record's schema, from which encoding, decoding
// and validation all work.
type fieldSpec struct {
	name      string
	kind      fieldKind
	required  bool
	attribute bool // lies inside Attributes
	maxBytes  int
	// value returns the pointer to the field in a record of the schema's kind.
	value func(r Record) any
}

// path is the field's name as errors give it.
func (f *fieldSpec) path() string {
	if f.attribute {
		return "Attributes." + f.name
	}
	return f.name
}

// A recordSchema lists the fields of a kind of record in the order in which
// they are written. Attributes come in one run.
type recordSchema struct {
	fields        []fieldSpec
	byName        map[string]*fieldSpec
	attributes    map[string]*fieldSpec
	hasAttributes bool
}

func newSchema(fields ...fieldSpec) recordSchema {
	s := recordSchema{
		fields:     fields,
		byName:     make(map[string]*fieldSpec),
		attributes: make(map[string]*fieldSpec),
	}
	for i := range fields {
		f := &fields[i]
		if f.maxBytes == 0 {
			f.maxBytes = maxTextBytes
		}
		if f.attribute {
			s.attributes[f.name] = f
			s.hasAttributes = true
		} else {
			s.byName[f.name] = f
		}
	}
	return s
}

// Sane lengths of text fields, in bytes.
const (
	maxTextBytes     = 1024
	maxLongTextBytes = 4096
)

// reservedFields may stand beside a record's own fields, in a failed record
// that is sent back after repair. They are not part of the record.
func reservedField(name string) bool {
	return name == "UsageType" || name == "Error" || name == "FailedRecordID"
}
