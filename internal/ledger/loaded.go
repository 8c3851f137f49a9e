package ledger

import (
	"strconv"
	"strings"

	"github.com/amieusage/amieusage"
)

// A Place is where a record stands in the order of loading. Its text is the
// cursor that goes on behind it.
type Place struct{ LoadedAt, Record int64 }

// String returns the cursor.
func (p Place) String() string {
	return strconv.FormatInt(p.LoadedAt, 36) + "." + strconv.FormatInt(p.Record, 36)
}

// StartOf returns the place behind which a page of loaded records begins. A
// cursor that is none is amieusage.CodeInvalid.
func StartOf(q amieusage.LoadedQuery) (Place, error) {
	start := Place{Nanos(q.MinLoadedTime), 0}
	if q.Cursor == "" {
		return start, nil
	}
	loadedAt, record, ok := strings.Cut(q.Cursor, ".")
	var p Place
	var err1, err2 error
	p.LoadedAt, err1 = strconv.ParseInt(loadedAt, 36, 64)
	p.Record, err2 = strconv.ParseInt(record, 36, 64)
	if !ok || err1 != nil || err2 != nil {
		return p, &amieusage.Error{
			Code:    amieusage.CodeInvalid,
			Message: "parameter Cursor is not one that this service gave",
			Hint:    "take it from the Link header of the page before",
		}
	}
	if p.LoadedAt < start.LoadedAt {
		return start, nil
	}
	return p, nil
}

// A StoredRecord is a loaded record as it is read from a store.
type StoredRecord struct {
	Record, UsageType  int64
	LocalRecordID      string
	Resource           string
	KeyTime, UsageTime int64
	LoadedAt, Charge   int64
}

// Add adds a record to the page, which ends before the record that is one too
// many. What comes behind that changes nothing.
func (p *LoadedPage) Add(r *StoredRecord, limit int) {
	if p.Next != "" {
		return
	}
	if len(p.Records) > 0 && (len(p.Records) == limit || p.bytes >= MaxPageBytes) {
		last := &p.Records[len(p.Records)-1]
		p.Next = Place{Nanos(last.LoadedTime), last.AccountingDbRecordID}.String()
		return
	}
	loaded := amieusage.LoadedRecord{
		AccountingDbRecordID: r.Record,
		UsageType:            UsageTypeOf(r.UsageType),
		LocalRecordID:        r.LocalRecordID,
		Resource:             r.Resource,
		SubmitTime:           TimeOf(r.KeyTime),
		LoadedTime:           TimeOf(r.LoadedAt),
		Charge:               amieusage.ChargeOfMillionths(r.Charge),
	}
	if loaded.UsageType == amieusage.Adjustment {
		loaded.SubmitTime = TimeOf(r.UsageTime)
	}
	p.Records = append(p.Records, loaded)
	p.bytes += jsonBytes(loaded.LocalRecordID) + jsonBytes(loaded.Resource)
}

// jsonBytes returns how long a text is as JSON, at the most.
func jsonBytes(s string) int {
	n := len(s)
	for i := range len(s) {
		if s[i] < ' ' {
			n += len(`\u0000`) - 1
		} else if s[i] == '"' || s[i] == '\\' {
			n++
		}
	}
	return n
}
