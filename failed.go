package amieusage

import (
	"encoding/json"
	"strconv"
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
	// Record is the record as far as it can be read; nil where it is no JSON
	// object or its usage type is unknown.
	Record Record
	// Problem says why Record does not hold all that came, or is nil.
	Problem error
	// Raw is the JSON that the record came as. Where Record is nil or Problem
	// is set, encoding gives it back as it came, as far as that is JSON that
	// every reader can read: each name once, in valid UTF-8, nested at most 100
	// levels deep.
	Raw json.RawMessage
}

// MarshalJSON writes the record's own fields, then UsageType, Error and
// FailedRecordID. It is valid JSON whatever Raw holds.
func (f FailedRecord) MarshalJSON() ([]byte, error) { return f.AppendJSON(nil), nil }

// AppendJSON appends what [FailedRecord.MarshalJSON] returns to dst.
func (f FailedRecord) AppendJSON(dst []byte) []byte {
	if f.Record != nil && f.Problem == nil {
		dst = f.Record.AppendJSON(dst)
		dst = dst[:len(dst)-1]
	} else {
		dst = appendRaw(append(dst, '{'), f.Raw, f.UsageType)
	}
	if t := f.usageType(); t != "" {
		dst = appendString(appendName(dst, "UsageType"), string(t))
	}
	dst = appendString(appendName(dst, "Error"), f.Error)
	if f.FailedRecordID != 0 {
		dst = strconv.AppendInt(appendName(dst, "FailedRecordID"), f.FailedRecordID, 10)
	}
	return append(dst, '}')
}

func (f FailedRecord) usageType() UsageType {
	if f.UsageType == "" && f.Record != nil {
		return f.Record.UsageType()
	}
	return f.UsageType
}

// UnmarshalJSON reads a failed record of any usage type. A record with fields
// that cannot be read is no error: Problem names them and Raw holds them, so
// that one bad record never hides the others of a list.
func (f *FailedRecord) UnmarshalJSON(data []byte) error {
	*f = FailedRecord{Raw: append(json.RawMessage(nil), data...)}
	var usageType string
	usageType, f.Problem = f.readHead()
	if f.Problem != nil {
		return nil
	}
	if f.UsageType == "" {
		_, f.Problem = ParseUsageType(usageType)
		f.UsageType = UsageType(usageType)
		return nil
	}
	f.Record = NewRecord(f.UsageType)
	f.Problem = decodeRecord(f.Record, f.Raw)
	return nil
}

// readHead reads what Raw bears beside the record's own fields. It returns the
// usage type as it stands there; where that is none of the known ones, the
// field that only one kind of record has tells the kind.
func (f *FailedRecord) readHead() (usageType string, err error) {
	d := newReader(f.Raw, loose...)
	defer d.release()
	if d.dec.PeekKind() != '{' {
		return "", &ValidationError{[]FieldError{{"", "is not a JSON object"}}}
	}
	var guess UsageType
	err = d.members(func(name string) error {
		s, err := d.value()
		if err != nil {
			return err
		}
		text, ok := d.text(s)
		switch name {
		case "UsageType":
			usageType = text
		case "Error":
			if !ok && d.kind(s) != 'n' {
				text = d.string(s)
			}
			f.Error = text
		case "FailedRecordID":
			id, _ := ParseCount(text)
			f.FailedRecordID, _ = id.Get()
		case "AdjustmentType":
			guess = Adjustment
		case "CollectionTime":
			guess = Storage
		case "SubmitTime":
			guess = Compute
		}
		return nil
	})
	if err == nil {
		err = d.atEnd()
	}
	if t, unknown := ParseUsageType(usageType); unknown == nil {
		guess = t
	}
	f.UsageType = guess
	if err != nil {
		return usageType, malformed(err)
	}
	return usageType, nil
}

// String returns the failed record in one readable line.
func (f FailedRecord) String() string {
	s := "failed"
	if f.FailedRecordID != 0 {
		s += " " + strconv.FormatInt(f.FailedRecordID, 10)
	}
	s += ": " + inLine(f.Error)
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
	for _, f := range failed {
		dst = f.AppendJSON(appendComma(dst))
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
