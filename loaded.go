package amieusage

import (
	"bytes"
	"encoding/json"
	"math"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// A LoadedQuery selects loaded records and a page of them.
type LoadedQuery struct {
	// MinLoadedTime leaves out what was loaded before it; zero: nothing.
	MinLoadedTime time.Time
	// LocalRecordID selects the records of this id; "": all.
	LocalRecordID string
	// LocalProjectID and Username select the records of a project and of a user;
	// "": all. From and To select those of usage in [From, To), by their times of
	// usage (see [Record]); zero: no limit. A loaded record says nothing of these:
	// only the service can choose by them, and amieusage's own does.
	LocalProjectID, Username string
	From, To                 time.Time
	// PageSize is the length of a page, at most [MaxLoadedPage]; 0: the service's
	// choice.
	PageSize int
	// Offset is the number of records to leave out before the page.
	Offset int64
	// Cursor goes on behind a page that was read before: it stays right while
	// records are loaded and corrected, as an offset does not. It is given by
	// the service, in the Link header of a page, and means nothing by itself.
	Cursor string
}

// Values returns the query as parameters of GET {base}/usage/loaded.
func (q LoadedQuery) Values() url.Values {
	v := url.Values{}
	setTime(v, "MinLoadedTime", q.MinLoadedTime)
	if q.LocalRecordID != "" {
		v.Set("LocalRecordID", q.LocalRecordID)
	}
	if q.LocalProjectID != "" {
		v.Set("LocalProjectID", q.LocalProjectID)
	}
	if q.Username != "" {
		v.Set("Username", q.Username)
	}
	setTime(v, "FromTime", q.From)
	setTime(v, "ToTime", q.To)
	setNumber(v, "Limit", int64(q.PageSize))
	setNumber(v, "Offset", q.Offset)
	if q.Cursor != "" {
		v.Set("Cursor", q.Cursor)
	}
	return v
}

// OnlyServiceKnows reports whether the query selects by what a loaded record does
// not say: project, user or time of usage.
func (q LoadedQuery) OnlyServiceKnows() bool {
	return q.LocalProjectID != "" || q.Username != "" || !q.From.IsZero() || !q.To.IsZero()
}

// Selects reports whether the query is for the record, apart from pages. What a
// record does not say is not held against it.
func (q LoadedQuery) Selects(r LoadedRecord) bool {
	return (q.LocalRecordID == "" || r.LocalRecordID == q.LocalRecordID) &&
		(q.MinLoadedTime.IsZero() || r.LoadedTime.IsZero() || !r.LoadedTime.Before(q.MinLoadedTime))
}

// ParseLoadedQuery reads the parameters of GET {base}/usage/loaded. The error
// is a [*Error] with [CodeInvalid].
func ParseLoadedQuery(v url.Values) (LoadedQuery, error) {
	q := LoadedQuery{
		LocalRecordID: v.Get("LocalRecordID"), LocalProjectID: v.Get("LocalProjectID"), Username: v.Get("Username"),
		Cursor: v.Get("Cursor"),
	}
	var err error
	if q.From, err = timeParameter(v, "FromTime"); err != nil {
		return q, err
	}
	if q.To, err = timeParameter(v, "ToTime"); err != nil {
		return q, err
	}
	if err := checkPeriod("FromTime", q.From, "ToTime", q.To); err != nil {
		return q, err
	}
	if q.MinLoadedTime, err = timeParameter(v, "MinLoadedTime"); err != nil {
		return q, err
	}
	limit, err := numberParameter(v, "Limit", 1, MaxLoadedPage)
	if err != nil {
		return q, err
	}
	q.PageSize = int(limit)
	if q.Offset, err = numberParameter(v, "Offset", 0, math.MaxInt64); err != nil {
		return q, err
	}
	if q.Cursor != "" && q.Offset != 0 {
		return q, &Error{Code: CodeInvalid, Message: "parameters Cursor and Offset exclude each other"}
	}
	return q, nil
}

// A LoadedRecord is a record in the service's ledger, in its newest revision
// (GET {base}/usage/loaded).
type LoadedRecord struct {
	// AccountingDbRecordID is the service's number of the record; a correction
	// keeps it.
	AccountingDbRecordID int64
	// UsageType is empty where the service names none.
	UsageType     UsageType
	LocalRecordID string
	Resource      string
	// SubmitTime is the record's SubmitTime, CollectionTime or, for an
	// adjustment, StartTime.
	SubmitTime time.Time
	// LoadedTime is when the newest revision was loaded.
	LoadedTime time.Time
	// Charge is the record's charge in allocation units, as the ledger keeps it:
	// rounded to millionths.
	Charge Charge
}

// Identity returns the identity of the loaded record. A service that names no
// usage type means a compute record.
func (r LoadedRecord) Identity() Identity {
	id := Identity{r.Resource, r.UsageType, r.LocalRecordID, keyTime(r.SubmitTime)}
	switch r.UsageType {
	case "":
		id.UsageType = Compute
	case Adjustment:
		id.KeyTime = time.Time{}
	}
	return id
}

// MarshalJSON returns the loaded record as it goes over the wire.
func (r LoadedRecord) MarshalJSON() ([]byte, error) { return r.AppendJSON(nil), nil }

// AppendJSON appends what [LoadedRecord.MarshalJSON] returns to dst.
func (r LoadedRecord) AppendJSON(dst []byte) []byte {
	dst = strconv.AppendInt(appendName(append(dst, '{'), "AccountingDbRecordID"), r.AccountingDbRecordID, 10)
	if r.UsageType != "" {
		dst = appendString(appendName(dst, "UsageType"), string(r.UsageType))
	}
	dst = appendString(appendName(dst, "LocalRecordID"), r.LocalRecordID)
	dst = appendString(appendName(dst, "Resource"), r.Resource)
	dst = appendQuotedTime(appendName(dst, "SubmitTime"), r.SubmitTime)
	dst = appendQuotedTime(appendName(dst, "LoadedTime"), r.LoadedTime)
	return append(r.Charge.appendJSON(appendName(dst, "Charge")), '}')
}

// UnmarshalJSON reads numbers as numbers or text, and naive times as UTC.
func (r *LoadedRecord) UnmarshalJSON(data []byte) (err error) {
	d := newReader(data, loose...)
	defer d.release()
	if *r, err = d.loaded(); err == nil {
		err = d.atEnd()
	}
	return err
}

// LoadedRecords is the answer to GET {base}/usage/loaded.
type LoadedRecords []LoadedRecord

// MarshalJSON returns the list as it goes over the wire.
func (l LoadedRecords) MarshalJSON() ([]byte, error) {
	const usualRecord = 240 // bytes
	dst := append(make([]byte, 0, 2+usualRecord*len(l)), '[')
	for _, r := range l {
		dst = r.AppendJSON(appendComma(dst))
	}
	return append(dst, ']'), nil
}

// UnmarshalJSON reads the list; one record that cannot be read is an error for
// all. The list may stand in an object, as its only list, and that in another
// one: nobody has published what the live service answers.
func (l *LoadedRecords) UnmarshalJSON(data []byte) error {
	list, err := unwrapped(data, 2)
	if err != nil {
		return err
	}
	d := newReader(list, loose...)
	defer d.release()
	*l = nil
	if d.dec.PeekKind() != '[' {
		return malformedLoaded("", "is not a list of loaded records")
	}
	d.src = string(list)
	err = d.elements(func() error {
		r, err := d.loaded()
		*l = append(*l, r)
		return err
	})
	if err == nil {
		err = d.atEnd()
	}
	return err
}

// unwrapped returns the only list of objects in an object, or data where it is
// none.
func unwrapped(data []byte, depth int) ([]byte, error) {
	data = bytes.TrimSpace(data)
	if len(data) == 0 || data[0] != '{' || depth == 0 {
		return data, nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		return nil, malformedLoaded("", "is not JSON")
	}
	var lists, objects []json.RawMessage
	for _, m := range members {
		switch {
		case m[0] == '[':
			if rest := bytes.TrimSpace(m[1:]); rest[0] == '{' || rest[0] == ']' {
				lists = append(lists, m)
			}
		case m[0] == '{':
			objects = append(objects, m)
		}
	}
	isEmpty := func(m json.RawMessage) bool { return bytes.TrimSpace(m[1:])[0] == ']' }
	if len(lists) > 1 { // an empty one, such as of errors, is not meant beside another
		if lists = slices.DeleteFunc(lists, isEmpty); len(lists) == 0 {
			return []byte("[]"), nil
		}
	}
	switch {
	case len(lists) == 1:
		return lists[0], nil
	case len(lists) == 0 && len(objects) == 1:
		return unwrapped(objects[0], depth-1)
	}
	return nil, malformedLoaded("", "does not hold one list of loaded records")
}

// loaded reads one loaded record. Members of other names are passed over.
func (d *reader) loaded() (r LoadedRecord, err error) {
	if d.dec.PeekKind() != '{' {
		return r, malformedLoaded("", "is not a JSON object")
	}
	err = d.members(func(name string) error {
		s, err := d.value()
		if err != nil || d.kind(s) == 'n' {
			return err
		}
		text, ok := d.text(s)
		if ok && text == "" {
			return nil
		}
		switch name {
		case "AccountingDbRecordID":
			var n Count
			n, err = ParseCount(text)
			r.AccountingDbRecordID, _ = n.Get()
		case "LocalRecordID":
			r.LocalRecordID = text
		case "Charge":
			r.Charge, err = ParseCharge(text)
		case "UsageType":
			r.UsageType, err = ParseUsageType(text)
		case "Resource":
			r.Resource, ok = text, d.kind(s) == '"'
		case "SubmitTime":
			r.SubmitTime, err = ParseTime(text)
		case "LoadedTime":
			r.LoadedTime, err = ParseTime(text)
		default:
			return nil
		}
		switch {
		case err != nil:
			return malformedLoaded(name, err.Error())
		case !ok:
			return malformedLoaded(name, "cannot be "+quoteShort(d.string(s)))
		}
		return nil
	})
	return r, err
}

func malformedLoaded(field, problem string) error {
	return &ValidationError{[]FieldError{{field, problem}}}
}

// String returns the loaded record in one readable line.
func (r LoadedRecord) String() string {
	return strconv.FormatInt(r.AccountingDbRecordID, 10) + ": " + inLine(r.LocalRecordID) + " on " + inLine(r.Resource) +
		" submitted " + timeInLine(r.SubmitTime) + " loaded " + timeInLine(r.LoadedTime) +
		": charge " + inLine(r.Charge.String())
}
