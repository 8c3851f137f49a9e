package amieusage

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// A GroupKey is what the rows of a [Summary] are grouped by.
type GroupKey string

// The keys that a summary can be grouped by.
const (
	ByResource  GroupKey = "resource"
	ByProject   GroupKey = "project"
	ByUser      GroupKey = "user"
	ByDay       GroupKey = "day"
	ByMonth     GroupKey = "month"
	ByUsageType GroupKey = "usage-type"
)

// GroupKeys lists all keys, in the order of a row's columns.
var GroupKeys = []GroupKey{ByResource, ByProject, ByUser, ByDay, ByMonth, ByUsageType}

// A SummaryQuery asks for the usage in [From, To), by times of usage in UTC
// (see [Record]). Zero times set no limit.
type SummaryQuery struct {
	GroupBy  []GroupKey // empty: one row for each resource
	From, To time.Time
}

// Values returns the query as parameters of GET {base}/usage/summary.
func (q SummaryQuery) Values() url.Values {
	v := url.Values{}
	if len(q.GroupBy) > 0 {
		keys := make([]string, len(q.GroupBy))
		for i, k := range q.GroupBy {
			keys[i] = string(k)
		}
		v.Set("GroupBy", strings.Join(keys, ","))
	}
	setTime(v, "FromTime", q.From)
	setTime(v, "ToTime", q.To)
	return v
}

// ParseSummaryQuery reads the parameters of GET {base}/usage/summary. The
// error is a [*Error] with [CodeInvalid].
func ParseSummaryQuery(v url.Values) (q SummaryQuery, err error) {
	if q.GroupBy, err = ParseGroupKeys(v.Get("GroupBy")); err != nil {
		return q, err
	}
	if q.From, err = timeParameter(v, "FromTime"); err != nil {
		return q, err
	}
	if q.To, err = timeParameter(v, "ToTime"); err != nil {
		return q, err
	}
	return q, checkPeriod("FromTime", q.From, "ToTime", q.To)
}

// ParseGroupKeys reads keys that are joined by commas; "" is
// [ByResource]. The error is a [*Error] with [CodeInvalid].
func ParseGroupKeys(s string) ([]GroupKey, error) {
	if s == "" {
		return []GroupKey{ByResource}, nil
	}
	var keys []GroupKey
	for name := range strings.SplitSeq(s, ",") {
		k := GroupKey(strings.ToLower(strings.TrimSpace(name)))
		if !slices.Contains(GroupKeys, k) {
			return nil, &Error{
				Code:    CodeInvalid,
				Message: "cannot group by " + quoteShort(name),
				Hint:    "group by any of resource, project, user, day, month, usage-type, joined by commas",
			}
		}
		if !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

// A Summary is the service's answer to GET {base}/usage/summary, which is an
// extension of the published API.
type Summary struct {
	GroupBy []GroupKey
	Rows    []SummaryRow
}

// A SummaryRow is the usage of one group. Of the first six fields those are
// set that the summary is grouped by.
type SummaryRow struct {
	Resource       string    `json:",omitempty"`
	LocalProjectID string    `json:",omitempty"`
	Username       string    `json:",omitempty"`
	Day            string    `json:",omitempty"` // 2026-10-01, in UTC
	Month          string    `json:",omitempty"` // 2026-10, in UTC
	UsageType      UsageType `json:",omitempty"`
	RecordCount    int64
	// Deducted is what was charged, GivenBack what adjustments gave back, and
	// Charge the difference; all in allocation units, within the time asked for.
	Deducted  Charge
	GivenBack Charge
	Charge    Charge
	// Balance is there where a row is a project, or a project on a resource.
	Balance *Balance `json:",omitempty"`
}

// A Balance is where a project stands, in allocation units over all time: what all its allocations
// grant, what was used of it, given back, and remains. Remaining is Allocated −
// Used + GivenBack, and may be negative.
type Balance struct {
	Allocated Charge
	Used      Charge
	GivenBack Charge
	Remaining Charge
}

// MarshalJSON writes Rows as a list even where it is empty.
func (s Summary) MarshalJSON() ([]byte, error) {
	type plain Summary
	if s.Rows == nil {
		s.Rows = []SummaryRow{}
	}
	return json.Marshal(plain(s))
}

// Group returns the row's values of the keys.
func (r SummaryRow) Group(keys []GroupKey) []string {
	values := make([]string, len(keys))
	for i, k := range keys {
		switch k {
		case ByResource:
			values[i] = r.Resource
		case ByProject:
			values[i] = r.LocalProjectID
		case ByUser:
			values[i] = r.Username
		case ByDay:
			values[i] = r.Day
		case ByMonth:
			values[i] = r.Month
		case ByUsageType:
			values[i] = string(r.UsageType)
		}
	}
	return values
}

// String returns the row in one readable line.
func (r SummaryRow) String() string {
	group := slices.DeleteFunc(r.Group(GroupKeys), func(s string) bool { return s == "" })
	return fmt.Sprintf("%s: %d records, charge %s",
		inLine(strings.Join(group, " ")), r.RecordCount, inLine(r.Charge.String()))
}
