package amieusage

import (
	"encoding/json"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// A FailedRecord is a record that the service refused, at once
// (POST {base}/usage/) or when it was loaded (GET {base}/usage/failed).
type FailedRecord struct {
	UsageType UsageType
	// Error is the service's reason.
	Error string
	// FailedRecordID is the number by which the failed record is cleared; 0
	// where it was refused at once, before it was queued.
	FailedRecordID int64
	// Record is the record as far as it can be read; nil where its usage type
	// is unknown.
	Record Record
	// Problem lists what in the record cannot be read, or is nil.
	Problem error
	// Raw is the JSON that the record came as. Where Record is nil or Problem
	// is set, encoding gives it back as it is.
	Raw json.RawMessage
}

// MarshalJSON writes the record's own fields, then UsageType, Error and
// FailedRecordID.
func (f FailedRecord) MarshalJSON() ([]byte, error) { return f.AppendJSON(nil), nil }

// AppendJSON appends what [FailedRecord.MarshalJSON] returns to dst.
func (f FailedRecord) AppendJSON(dst []byte) []byte {
	if f.Record != nil && f.Problem == nil {
		dst = f.Record.AppendJSON(dst)
		dst = dst[:len(dst)-1]
	} else {
		dst = appendRawMembers(append(dst, '{'), f.Raw, f.UsageType)
	}
	if f.UsageType != "" {
		dst = appendString(appendName(dst, "UsageType"), string(f.UsageType))
	}
	dst = appendString(appendName(dst, "Error"), f.Error)
	if f.FailedRecordID != 0 {
		dst = strconv.AppendInt(appendName(dst, "FailedRecordID"), f.FailedRecordID, 10)
	}
	return append(dst, '}')
}

// appendRawMembers writes the members of a record that cannot be read, each
// name once, with valid UTF-8, and with Attributes where the reference client
// relies on them. What is no object at all is given back as the member Value.
func appendRawMembers(dst []byte, raw []byte, t UsageType) []byte {
	d := newReader(raw, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	defer d.release()
	if d.dec.PeekKind() != '{' {
		if value := repairedValue(raw); value != nil {
			dst = append(appendName(dst, "Value"), value...)
		}
		return dst
	}
	seen := map[string]bool{}
	_ = d.members(func(name string) error {
		value, err := d.dec.ReadValue()
		if err != nil || seen[name] || reservedField(name) {
			return err
		}
		seen[name] = true
		if repaired := repairedValue(value); repaired != nil {
			if dst[len(dst)-1] != '{' {
				dst = append(dst, ',')
			}
			dst = append(append(appendString(dst, name), ':'), repaired...)
		}
		return nil
	})
	if t == Compute && !seen["Attributes"] {
		dst = append(appendName(dst, "Attributes"), "{}"...)
	}
	return dst
}

// repairedValue returns strict JSON of a loosely read value, or nil. Names that
// stand twice in it cannot be helped, and are left as they are.
func repairedValue(value []byte) []byte {
	out, err := jsontext.AppendFormat(nil, value, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		return nil
	}
	return out
}

// UnmarshalJSON reads a failed record of any usage type. A record with fields
// that cannot be read is no error: Problem names them and Raw holds them, so
// that one bad record never hides the others of a list.
func (f *FailedRecord) UnmarshalJSON(data []byte) error {
	var head struct {
		UsageType      string
		Error          json.RawMessage
		FailedRecordID Count
	}
	*f = FailedRecord{Raw: append(json.RawMessage(nil), data...)}
	if err := json.Unmarshal(data, &head); err != nil {
		f.Problem = &ValidationError{[]FieldError{{"", "cannot be read: " + err.Error()}}}
		return nil
	}
	if text, err := scalarText(head.Error); err == nil {
		f.Error = text
	} else {
		f.Error = string(head.Error)
	}
	f.FailedRecordID, _ = head.FailedRecordID.Get()
	t, err := ParseUsageType(head.UsageType)
	if err != nil {
		t = guessUsageType(data)
	}
	if t == "" {
		f.UsageType = UsageType(head.UsageType)
		f.Problem = err
		return nil
	}
	f.UsageType = t
	f.Record = NewRecord(t)
	f.Problem = decodeRecord(f.Record, data)
	return nil
}

// guessUsageType tells the kind of a record without a UsageType by the field
// that only this kind has, or returns "".
func guessUsageType(data []byte) UsageType {
	var m map[string]json.RawMessage
	if json.Unmarshal(data, &m) != nil {
		return ""
	}
	for _, kind := range []struct {
		field string
		t     UsageType
	}{{"AdjustmentType", Adjustment}, {"CollectionTime", Storage}, {"SubmitTime", Compute}} {
		if _, ok := m[kind.field]; ok {
			return kind.t
		}
	}
	return ""
}

// String returns the failed record in one readable line.
func (f FailedRecord) String() string {
	s := "failed"
	if f.FailedRecordID != 0 {
		s += " " + strconv.FormatInt(f.FailedRecordID, 10)
	}
	s += ": " + f.Error
	if f.Record != nil {
		return s + ": " + f.Record.String()
	}
	return s + ": " + quoteShort(string(f.Raw))
}

// appendFailedLists writes a list of failed records under both names that
// clients read: the live service's and the reference client's.
func appendFailedLists(dst []byte, failed []FailedRecord) []byte {
	dst = append(appendName(dst, "FailedRecords"), '[')
	start := len(dst)
	for i, f := range failed {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = f.AppendJSON(dst)
	}
	list := dst[start:len(dst):len(dst)]
	dst = append(dst, ']')
	dst = append(appendName(dst, "ValidationFailedRecords"), '[')
	dst = append(dst, list...)
	return append(dst, ']')
}

// failedLists holds both names of the list; a client reads either.
type failedLists struct {
	FailedRecords           []FailedRecord
	ValidationFailedRecords []FailedRecord
}

// records returns the one list: the two names hold the same records, never
// two halves.
func (l failedLists) records() []FailedRecord {
	if len(l.FailedRecords) > 0 {
		return l.FailedRecords
	}
	return l.ValidationFailedRecords
}

// FailedRecords is the answer to GET {base}/usage/failed.
type FailedRecords []FailedRecord

// MarshalJSON writes the list under both names that clients read.
func (l FailedRecords) MarshalJSON() ([]byte, error) {
	return append(appendFailedLists([]byte{'{'}, l), '}'), nil
}

// UnmarshalJSON reads the list under either name.
func (l *FailedRecords) UnmarshalJSON(data []byte) error {
	var lists failedLists
	if err := json.Unmarshal(data, &lists); err != nil {
		return err
	}
	*l = lists.records()
	return nil
}
