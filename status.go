package amieusage

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"time"
)

// A StatusQuery limits a [Status] to what was loaded in [From, To). Zero times
// leave the choice to the service: the last 30 days.
type StatusQuery struct {
	From, To time.Time
}

// Values returns the query as parameters of GET {base}/usage/status.
func (q StatusQuery) Values() url.Values {
	v := url.Values{}
	setTime(v, "FromTime", q.From)
	setTime(v, "ToTime", q.To)
	return v
}

// ParseStatusQuery reads the parameters of GET {base}/usage/status. The error
// is a [*Error] with [CodeInvalid].
func ParseStatusQuery(v url.Values) (q StatusQuery, err error) {
	if q.From, err = timeParameter(v, "FromTime"); err != nil {
		return q, err
	}
	if q.To, err = timeParameter(v, "ToTime"); err != nil {
		return q, err
	}
	return q, checkPeriod("FromTime", q.From, "ToTime", q.To)
}

// A Status is the service's answer to GET {base}/usage/status: a row for each
// resource.
type Status []ResourceStatus

// A ResourceStatus says what was loaded for one resource in the time asked
// for.
type ResourceStatus struct {
	Resource string
	// LoadedRecordCount is the number of records that were loaded.
	LoadedRecordCount int64
	// FailedJobCount is the number of records that failed and were neither
	// cleared nor superseded since.
	FailedJobCount int64
	// TotalCharge is the charge of the loaded records in allocation units, with
	// what adjustments give back taken off; it may be negative.
	TotalCharge Charge
	// Errors are the reasons of the failures.
	Errors []FailureGroup
}

// A FailureGroup groups the failed records that failed for the same reason.
type FailureGroup struct {
	// Error is the reason.
	Error   string
	Records []FailedRecord
}

// MarshalJSON writes the status as a JSON list.
func (s Status) MarshalJSON() ([]byte, error) {
	dst := []byte{'['}
	for _, r := range s {
		dst = r.appendJSON(appendComma(dst))
	}
	return append(dst, ']'), nil
}

// MarshalJSON writes Errors as a list even where it is empty.
func (r ResourceStatus) MarshalJSON() ([]byte, error) { return r.appendJSON(nil), nil }

func (r ResourceStatus) appendJSON(dst []byte) []byte {
	dst = appendString(appendName(append(dst, '{'), "Resource"), r.Resource)
	dst = strconv.AppendInt(appendName(dst, "LoadedRecordCount"), r.LoadedRecordCount, 10)
	dst = strconv.AppendInt(appendName(dst, "FailedJobCount"), r.FailedJobCount, 10)
	dst = r.TotalCharge.appendJSON(appendName(dst, "TotalCharge"))
	dst = append(appendName(dst, "Errors"), '[')
	for _, e := range r.Errors {
		dst = e.appendJSON(appendComma(dst))
	}
	return append(dst, ']', '}')
}

// MarshalJSON writes Records as a list even where it is empty.
func (e FailureGroup) MarshalJSON() ([]byte, error) { return e.appendJSON(nil), nil }

func (e FailureGroup) appendJSON(dst []byte) []byte {
	dst = appendString(appendName(append(dst, '{'), "Error"), e.Error)
	dst = append(appendName(dst, "Records"), '[')
	for _, f := range e.Records {
		dst = f.AppendJSON(appendComma(dst))
	}
	return append(dst, ']', '}')
}

// UnmarshalJSON reads counts as numbers or text.
func (r *ResourceStatus) UnmarshalJSON(data []byte) error {
	var body struct {
		Resource                          string
		LoadedRecordCount, FailedJobCount Count
		TotalCharge                       Charge
		Errors                            []FailureGroup
	}
	if err := json.Unmarshal(data, &body); err != nil {
		return err
	}
	*r = ResourceStatus{Resource: body.Resource, TotalCharge: body.TotalCharge, Errors: body.Errors}
	r.LoadedRecordCount, _ = body.LoadedRecordCount.Get()
	r.FailedJobCount, _ = body.FailedJobCount.Get()
	return nil
}

// String returns the row in one readable line.
func (r ResourceStatus) String() string {
	return fmt.Sprintf("%s: %d loaded, %d failed, total charge %s",
		inLine(r.Resource), r.LoadedRecordCount, r.FailedJobCount, inLine(r.TotalCharge.String()))
}
