package ledger

import (
	"slices"
	"time"

	"github.com/cockroachdb/apd/v3"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/decimal"
)

// UsagePeriods cut a period of usage into what comes from each roll-up.
type UsagePeriods struct {
	Months  Period    // whole months, by their first days
	Days    [2]Period // whole days beside them
	Records [2]Period // in nanoseconds: what is left at both ends, from the records
}

// UsagePeriodsOf cuts [from, to), where a zero to sets no end. With byDay,
// nothing comes from whole months.
func UsagePeriodsOf(from, to time.Time, byDay bool) (p UsagePeriods) {
	start, end := Nanos(from), EndNanos(to)
	firstDay, lastDay := (start+Day-1)/Day, end/Day
	if firstDay > lastDay {
		// Within one day: all of it from the records.
		p.Records[0] = Period{start, end}
		return p
	}
	firstMonth, lastMonth := FirstOfMonth(firstDay), FirstOfMonth(lastDay)
	if firstMonth < firstDay {
		firstMonth = FirstOfMonth(firstMonth + 31)
	}
	if byDay || firstMonth >= lastMonth {
		firstMonth, lastMonth = lastDay, lastDay
	}
	return UsagePeriods{
		Months:  Period{firstMonth, lastMonth},
		Days:    [2]Period{{firstDay, firstMonth}, {lastMonth, lastDay}},
		Records: [2]Period{{start, firstDay * Day}, {lastDay * Day, end}},
	}
}

// A StoredUsage is one group of a summary as it is read from a store: the
// group's values in order of the keys, days as numbers of days, a month as
// that of its first day, a usage type as its number.
type StoredUsage struct {
	Names []string // of resource, project and user; "" at the place of another key
	Codes []int64  // of day, month and usage type; 0 at the place of another key
	Usage
}

// SummaryRow returns a group as the API shows it.
func SummaryRow(keys []amieusage.GroupKey, u *StoredUsage) (r amieusage.SummaryRow) {
	for i, k := range keys {
		switch k {
		case amieusage.ByResource:
			r.Resource = u.Names[i]
		case amieusage.ByProject:
			r.LocalProjectID = u.Names[i]
		case amieusage.ByUser:
			r.Username = u.Names[i]
		case amieusage.ByDay:
			r.Day = TimeOf(u.Codes[i] * Day).Format("2006-01-02")
		case amieusage.ByMonth:
			r.Month = TimeOf(u.Codes[i] * Day).Format("2006-01")
		case amieusage.ByUsageType:
			r.UsageType = UsageTypeOf(u.Codes[i])
		}
	}
	r.RecordCount = u.Records
	r.Deducted = amieusage.ChargeOfMillionths(u.Deducted)
	r.GivenBack = amieusage.ChargeOfMillionths(u.GivenBack)
	r.Charge = amieusage.ChargeOfMillionths(u.Deducted - u.GivenBack)
	return r
}

// SummaryBytes returns how much the names of a row take.
func SummaryBytes(r *amieusage.SummaryRow) int {
	return jsonBytes(r.Resource) + jsonBytes(r.LocalProjectID) + jsonBytes(r.Username)
}

// A StoredBalance is where a project stands, on one resource or ("") on all.
type StoredBalance struct {
	Project, Resource          string
	Allocated, Used, GivenBack int64
	Granted                    bool // it has an allocation
}

// HasBalances reports whether the rows of a summary have balances: those by
// project, or by project and resource.
func HasBalances(keys []amieusage.GroupKey) (has, byResource bool) {
	byResource = slices.Contains(keys, amieusage.ByResource)
	n := 1
	if byResource {
		n = 2
	}
	return slices.Contains(keys, amieusage.ByProject) && len(keys) == n, byResource
}

// AddBalances gives each row of a summary the balance of its project, or of
// its project on its resource, and adds a row for each that has an allocation
// but no usage in the time asked for.
func AddBalances(summary *amieusage.Summary, balances []StoredBalance) {
	type key struct{ project, resource string }
	rows := map[key]int{}
	for i, r := range summary.Rows {
		rows[key{r.LocalProjectID, r.Resource}] = i
	}
	for _, b := range balances {
		i, ok := rows[key{b.Project, b.Resource}]
		if !ok {
			if !b.Granted {
				continue
			}
			none := amieusage.ChargeOfMillionths(0)
			i = len(summary.Rows)
			summary.Rows = append(summary.Rows, amieusage.SummaryRow{
				LocalProjectID: b.Project, Resource: b.Resource, Deducted: none, GivenBack: none, Charge: none,
			})
		}
		summary.Rows[i].Balance = &amieusage.Balance{
			Allocated: amieusage.ChargeOfMillionths(b.Allocated),
			Used:      amieusage.ChargeOfMillionths(b.Used),
			GivenBack: amieusage.ChargeOfMillionths(b.GivenBack),
			Remaining: remaining(b.Allocated, b.Used, b.GivenBack),
		}
	}
	slices.SortFunc(summary.Rows, func(a, b amieusage.SummaryRow) int {
		return slices.Compare(a.Group(summary.GroupBy), b.Group(summary.GroupBy))
	})
}

// remaining returns allocated − used + givenBack, which may be beyond an
// int64.
func remaining(allocated, used, givenBack int64) amieusage.Charge {
	var sum apd.BigInt
	sum.Sub(apd.NewBigInt(allocated), apd.NewBigInt(used))
	sum.Add(&sum, apd.NewBigInt(givenBack))
	d := apd.NewWithBigInt(&sum, -6)
	d.Reduce(d)
	return decimal.Charge(d)
}

// ErrManyRows is what a summary is refused with that has more in it than may
// be shown.
var ErrManyRows = &amieusage.Error{
	Code:    amieusage.CodeTooLarge,
	Message: "the summary has too many rows, or names that are too long",
	Hint:    "group by less, or ask for a shorter time",
}
