package storetest

import (
	"context"
	"slices"
	"time"

	"github.com/cockroachdb/apd/v3"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/decimal"
	"github.com/amieusage/amieusage/internal/ledger"
)

// within reports whether at lies in [from, to), where zero times set no limit.
func within(at, from, to time.Time) bool {
	return !at.Before(from) && (to.IsZero() || at.Before(to))
}

// total adds up charges exactly, whatever their size.
type total struct{ millionths apd.BigInt }

func (t *total) add(n int64, sign int) {
	if sign < 0 {
		t.millionths.Sub(&t.millionths, apd.NewBigInt(n))
		return
	}
	t.millionths.Add(&t.millionths, apd.NewBigInt(n))
}

func (t *total) charge() amieusage.Charge {
	d := apd.NewWithBigInt(&t.millionths, -6)
	d.Reduce(d)
	return decimal.Charge(d)
}

// checkStatus compares a status with one that is counted record by record.
func (m *storeModel) checkStatus(s *modelSite, q amieusage.StatusQuery) {
	m.t.Helper()
	if !q.To.IsZero() && q.To.Before(q.From) {
		q.From, q.To = q.To, q.From
	}
	got, err := m.api.Status(context.Background(), s.who, q)
	m.noError(err)
	from := q.From
	if from.IsZero() {
		end := q.To
		if end.IsZero() {
			end = m.now
		}
		from = end.AddDate(0, 0, -30)
	}
	want := amieusage.Status{}
	rows := map[string]*amieusage.ResourceStatus{}
	var names []string
	row := func(resource string) *amieusage.ResourceStatus {
		if rows[resource] == nil {
			rows[resource] = &amieusage.ResourceStatus{Resource: resource}
			names = append(names, resource)
		}
		return rows[resource]
	}
	charges := map[string]*total{}
	for _, e := range s.entries {
		r := e.newest()
		resource := r.Common().Resource
		if !within(r.loadedAt, from, q.To) {
			continue
		}
		row(resource).LoadedRecordCount++
		if charges[resource] == nil {
			charges[resource] = new(total)
		}
		sign := +1
		if givesBack(r.Record) {
			sign = -1
		}
		charges[resource].add(millionths(r.Record), sign)
	}
	reasons := map[string][]string{}
	for _, f := range s.openFailed() {
		if !within(f.at, from, q.To) {
			continue
		}
		status := row(f.record.Common().Resource)
		status.FailedJobCount++
		reason := string(f.failure)
		if !slices.Contains(reasons[status.Resource], reason) {
			reasons[status.Resource] = append(reasons[status.Resource], reason)
			status.Errors = append(status.Errors, amieusage.FailureGroup{Error: reason})
		}
		for i := range status.Errors {
			if status.Errors[i].Error == reason {
				status.Errors[i].Records = append(status.Errors[i].Records, f.answer())
			}
		}
	}
	slices.Sort(names)
	for _, name := range names {
		status := rows[name]
		status.TotalCharge = amieusage.ChargeOfMillionths(0)
		if charges[name] != nil {
			status.TotalCharge = charges[name].charge()
		}
		slices.SortFunc(status.Errors, func(a, b amieusage.FailureGroup) int { return compareText(a.Error, b.Error) })
		want = append(want, *status)
	}
	m.equal("status of "+s.name+" "+q.Values().Encode(), want, got, cmpopts.EquateEmpty())
}

func compareText(a, b string) int { return slices.Compare([]byte(a), []byte(b)) }

// checkSummary compares a summary with one that is counted record by record.
func (m *storeModel) checkSummary(s *modelSite, q amieusage.SummaryQuery) {
	m.t.Helper()
	if !q.To.IsZero() && q.To.Before(q.From) {
		q.From, q.To = q.To, q.From
	}
	got, err := m.api.Summary(context.Background(), s.who, q)
	m.noError(err)
	type sums struct {
		row                         amieusage.SummaryRow
		deducted, givenBack, charge total
	}
	groups := map[amieusage.SummaryRow]*sums{}
	group := func(row amieusage.SummaryRow) *sums {
		if groups[row] == nil {
			groups[row] = &sums{row: row}
		}
		return groups[row]
	}
	for _, e := range s.entries {
		r := e.newest()
		if !within(r.UsageTime(), q.From, q.To) {
			continue
		}
		g := group(groupOf(r.Record, q.GroupBy))
		g.row.RecordCount++
		if n := millionths(r.Record); givesBack(r.Record) {
			g.givenBack.add(n, +1)
			g.charge.add(n, -1)
		} else {
			g.deducted.add(n, +1)
			g.charge.add(n, +1)
		}
	}
	byResource := slices.Contains(q.GroupBy, amieusage.ByResource)
	balances := slices.Contains(q.GroupBy, amieusage.ByProject) && (len(q.GroupBy) == 1 || len(q.GroupBy) == 2 && byResource)
	if balances {
		for _, p := range s.projects {
			for _, a := range p.Allocations {
				row := amieusage.SummaryRow{LocalProjectID: p.ID}
				if byResource {
					row.Resource = a.Resource
				}
				group(row)
			}
		}
	}
	want := &amieusage.Summary{GroupBy: q.GroupBy}
	for _, g := range groups {
		g.row.Deducted, g.row.GivenBack, g.row.Charge = g.deducted.charge(), g.givenBack.charge(), g.charge.charge()
		if balances {
			g.row.Balance = s.balance(g.row.LocalProjectID, g.row.Resource)
		}
		want.Rows = append(want.Rows, g.row)
	}
	slices.SortFunc(want.Rows, func(a, b amieusage.SummaryRow) int {
		return slices.Compare(sortable(a, q.GroupBy), sortable(b, q.GroupBy))
	})
	m.equal("summary of "+s.name+" "+q.Values().Encode(), want, got, cmpopts.EquateEmpty())
}

// sortable is a row's group, with usage types in the order of the API.
func sortable(r amieusage.SummaryRow, keys []amieusage.GroupKey) []string {
	group := r.Group(keys)
	if i := slices.Index(keys, amieusage.ByUsageType); i >= 0 {
		group[i] = map[amieusage.UsageType]string{amieusage.Compute: "1", amieusage.Storage: "2", amieusage.Adjustment: "3"}[r.UsageType]
	}
	return group
}

func groupOf(r amieusage.Record, keys []amieusage.GroupKey) (row amieusage.SummaryRow) {
	c := r.Common()
	at := r.UsageTime().UTC()
	for _, k := range keys {
		switch k {
		case amieusage.ByResource:
			row.Resource = c.Resource
		case amieusage.ByProject:
			row.LocalProjectID = c.LocalProjectID
		case amieusage.ByUser:
			row.Username = c.Username
		case amieusage.ByDay:
			row.Day = at.Format("2006-01-02")
		case amieusage.ByMonth:
			row.Month = at.Format("2006-01")
		case amieusage.ByUsageType:
			row.UsageType = r.UsageType()
		}
	}
	return row
}

// balance is where a project stands, on one resource or ("") on all.
func (s *modelSite) balance(project, resource string) *amieusage.Balance {
	var allocated, used, givenBack, remaining total
	if p := s.projects[project]; p != nil {
		for _, a := range p.Allocations {
			if resource == "" || a.Resource == resource {
				allocated.add(a.Amount, +1)
				remaining.add(a.Amount, +1)
			}
		}
	}
	for _, e := range s.entries {
		r := e.newest()
		c := r.Common()
		if c.LocalProjectID != project || resource != "" && c.Resource != resource {
			continue
		}
		if n := millionths(r.Record); givesBack(r.Record) {
			givenBack.add(n, +1)
			remaining.add(n, +1)
		} else {
			used.add(n, +1)
			remaining.add(n, -1)
		}
	}
	return &amieusage.Balance{Allocated: allocated.charge(), Used: used.charge(), GivenBack: givenBack.charge(), Remaining: remaining.charge()}
}

// allocation is an allocation from the first of one month of 2026 to that of
// another.
func allocation(resource string, units int64, from, to time.Month) ledger.AllocationSpec {
	return ledger.AllocationSpec{Resource: resource, Amount: units * 1_000_000,
		Start: time.Date(2026, from, 1, 0, 0, 0, 0, time.UTC), End: time.Date(2026, to, 1, 0, 0, 0, 0, time.UTC)}
}
