package amieusage

import (
	"errors"
	"strconv"
)

// A Message carries records of one kind to the service
// (POST {base}/usage/).
type Message struct {
	UsageType UsageType
	Records   []Record
}

// NewMessage returns the message of the records, which must all be of one
// kind and at least one; see [SplitByType] for mixed ones.
func NewMessage(records ...Record) (*Message, error) {
	if len(records) == 0 {
		return nil, &Error{Code: CodeInvalid, Message: "a message needs at least one record to know its usage type"}
	}
	m := &Message{}
	for _, r := range records {
		if err := m.Append(r); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// isNil reports whether there is no record.
func isNil(r Record) bool {
	switch r := r.(type) {
	case nil:
		return true
	case *ComputeRecord:
		return r == nil
	case *StorageRecord:
		return r == nil
	case *AdjustmentRecord:
		return r == nil
	}
	return false
}

// Append adds a record. The error is a [*Error] with [CodeInvalid] where the
// record is nil, or of another kind than the message.
func (m *Message) Append(r Record) error {
	if isNil(r) {
		return &Error{Code: CodeInvalid, Message: "a record is nil"}
	}
	if m.UsageType == "" {
		m.UsageType = r.UsageType()
	}
	if r.UsageType() != m.UsageType {
		return &Error{
			Code:    CodeInvalid,
			Message: withArticle(r.UsageType()) + " record cannot go into " + withArticle(m.UsageType) + " message",
			Hint:    "send records of different kinds in different messages",
		}
	}
	m.Records = append(m.Records, r)
	return nil
}

// MarshalJSON returns the message as it goes over the wire.
func (m Message) MarshalJSON() ([]byte, error) {
	const usualRecord = 400 // bytes
	dst := AppendMessageStart(make([]byte, 0, 64+usualRecord*len(m.Records)), m.UsageType)
	for _, r := range m.Records {
		dst = r.AppendJSON(appendComma(dst))
	}
	return append(dst, MessageEnd...), nil
}

// AppendMessageStart appends what stands before a message's records, for those
// who write a message record by record; commas go between the records, and
// [MessageEnd] behind them.
func AppendMessageStart(dst []byte, t UsageType) []byte {
	dst = append(dst, `{"UsageType":`...)
	dst = appendString(dst, string(t))
	return append(dst, `,"Records":[`...)
}

// MessageEnd is what stands behind a message's records.
const MessageEnd = "]}"

// UnmarshalJSON reads a message. Where single records cannot be read the error
// names the first of them; [DecodeMessage] judges every record on its own.
func (m *Message) UnmarshalJSON(data []byte) error {
	t, items, err := DecodeMessage(data)
	if err != nil {
		return err
	}
	*m = Message{UsageType: t, Records: make([]Record, 0, len(items))}
	for i, raw := range items {
		r := NewRecord(t)
		if err := decodeRecord(r, raw); err != nil {
			return &Error{Code: CodeInvalid, Message: "record " + strconv.Itoa(i+1) + " of the message", Err: err}
		}
		m.Records = append(m.Records, r)
	}
	return nil
}

// String returns the message in one readable line.
func (m *Message) String() string {
	return string(m.UsageType) + " message of " + strconv.Itoa(len(m.Records)) + " records"
}

// DecodeMessage takes a message apart without judging its records: each is
// returned as the JSON that it came as, a piece of data, for [CheckRecord].
// The error is a [*Error] with [CodeInvalid] where the data is no message.
func DecodeMessage(data []byte) (UsageType, [][]byte, error) {
	d := newReader(data, loose...)
	defer d.release()
	if d.dec.PeekKind() != '{' {
		return "", nil, notMessage("the body is not a usage message")
	}
	var usageType string
	records := [][]byte{}
	seen := map[string]bool{}
	err := d.members(func(name string) error {
		if seen[name] && (name == "UsageType" || name == "Records") {
			return notMessage("the message has more than one " + name)
		}
		seen[name] = true
		switch name {
		case "UsageType":
			s, err := d.value()
			if err == nil {
				usageType, _ = d.text(s)
			}
			return err
		case "Records":
			if d.dec.PeekKind() != '[' {
				return notMessage("the message's Records is not a list")
			}
			return d.elements(func() error {
				s, err := d.value()
				if err == nil {
					records = append(records, data[s.start:s.end:s.end])
				}
				return err
			})
		}
		return d.dec.SkipValue()
	})
	if err == nil {
		err = d.atEnd()
	}
	switch _, ours := errors.AsType[*Error](err); {
	case ours:
		return "", nil, err
	case err != nil:
		return "", nil, notMessage("the body is not well-formed JSON: " + jsonProblem(err))
	case !seen["UsageType"]:
		return "", nil, notMessage("the message has no UsageType")
	case !seen["Records"]:
		return "", nil, notMessage("the message has no Records")
	}
	t, err := ParseUsageType(usageType)
	if err != nil {
		return "", nil, err
	}
	return t, records, nil
}

func notMessage(message string) error {
	return &Error{
		Code:    CodeInvalid,
		Message: message,
		Hint:    `a message is {"UsageType": "Compute"|"Storage"|"Adjustment", "Records": [...]}`,
	}
}

// Records returns a list of records of one kind, such as []*ComputeRecord, as a
// list of any: client.Send(ctx, amieusage.Records(jobs)...).
func Records[R Record](records []R) []Record {
	list := make([]Record, len(records))
	for i, r := range records {
		list[i] = r
	}
	return list
}

// SplitByType parts records by kind, and keeps their order within each. The
// kinds come in the order in which they first appear.
func SplitByType(records []Record) []*Message {
	var messages []*Message
	byType := map[UsageType]*Message{}
	for _, r := range records {
		m := byType[r.UsageType()]
		if m == nil {
			m = &Message{UsageType: r.UsageType()}
			byType[m.UsageType] = m
			messages = append(messages, m)
		}
		m.Records = append(m.Records, r)
	}
	return messages
}

// withArticle returns a usage type as it stands before a noun: a Compute, an
// Adjustment.
func withArticle(t UsageType) string {
	if t == Adjustment {
		return "an " + string(t)
	}
	return "a " + string(t)
}
