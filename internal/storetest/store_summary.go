package storetest

import (
	"context"
	"fmt"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// usageOfMonths sends usage of several kinds that lies around the ends of days
// and months.
func (m *storeModel) usageOfMonths(s *modelSite) (edges []time.Time) {
	m.t.Helper()
	var jobs, storage, adjustments []amieusage.Record
	for i, at := range []time.Time{
		time.Date(2026, 7, 31, 23, 59, 59, 999_999_000, time.UTC),
		time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC),
		time.Date(2026, 8, 15, 12, 0, 0, 0, time.UTC),
		time.Date(2026, 8, 15, 17, 30, 0, 0, time.UTC),
		time.Date(2026, 8, 31, 23, 59, 59, 999_999_000, time.UTC),
		time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC),
		time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC),
		time.Date(2026, 10, 2, 3, 0, 0, 0, time.UTC),
	} {
		id := fmt.Sprint(i)
		project, user, resource := alpha, "alice", bulk
		if i%2 == 1 {
			project, user = beta, "bob"
		} else if i%3 == 1 {
			resource = gpus
		}
		c := job(id, fmt.Sprintf("%d.25", i), onResource(resource), func(r *amieusage.ComputeRecord) {
			r.LocalProjectID, r.Username, r.EndTime = project, user, at
			r.SubmitTime, r.StartTime = at.Add(-time.Hour), at.Add(-time.Minute)
		})
		jobs = append(jobs, c)
		storage = append(storage, &amieusage.StorageRecord{Username: user, LocalProjectID: project, LocalRecordID: id, Resource: bulk,
			CollectionTime: at, Charge: chargeOf("0.5")})
		a := adjustment(amieusage.AdjustmentTypes[i%6], id, "0.000001")
		a.Username, a.LocalProjectID, a.StartTime = user, project, at
		adjustments = append(adjustments, a)
		edges = append(edges, at)
	}
	m.send(s, jobs...)
	m.send(s, storage...)
	m.send(s, adjustments...)
	m.load()
	if open := s.openFailed(); len(open) > 0 {
		m.t.Errorf("%d records failed, the first: %s", len(open), open[0].failure)
	}
	return edges
}

// testSummary groups by every combination of keys, and asks for every period
// between the times of usage, the midnights before and the instants after
// them.
func testSummary(m *storeModel) {
	s := m.site("PSC")
	edges := m.usageOfMonths(s)
	for set := 1; set < 1<<len(amieusage.GroupKeys); set++ {
		var keys []amieusage.GroupKey
		for i, k := range amieusage.GroupKeys {
			if set>>i&1 == 1 {
				keys = append(keys, k)
			}
		}
		m.checkSummary(s, amieusage.SummaryQuery{GroupBy: keys})
		m.checkSummary(s, amieusage.SummaryQuery{GroupBy: keys, From: edges[1].Add(1), To: edges[6].Add(time.Hour)})
	}
	times := []time.Time{{}}
	for i, at := range edges {
		times = append(times, at)
		if i%3 == 2 {
			times = append(times, at.Truncate(24*time.Hour), at.Add(1))
		}
	}
	for _, from := range times {
		for _, to := range times {
			if to.IsZero() || !to.Before(from) {
				m.checkSummary(s, amieusage.SummaryQuery{GroupBy: []amieusage.GroupKey{amieusage.ByUser}, From: from, To: to})
			}
		}
	}
	m.checkSummary(s, amieusage.SummaryQuery{GroupBy: []amieusage.GroupKey{amieusage.ByMonth, amieusage.ByProject}})
	got, err := m.service.Summary(context.Background(), s.who, amieusage.SummaryQuery{})
	m.noError(err)
	m.equal("keys of no grouping", []amieusage.GroupKey{amieusage.ByResource}, got.GroupBy)
}

// testSummaryBalances spells out what a project's row says.
func testSummaryBalances(m *storeModel) {
	s := m.site("PSC")
	byProject := amieusage.SummaryQuery{GroupBy: []amieusage.GroupKey{amieusage.ByProject}}
	rows := func(q amieusage.SummaryQuery) []amieusage.SummaryRow {
		m.t.Helper()
		m.checkSummary(s, q)
		got, err := m.service.Summary(context.Background(), s.who, q)
		m.noError(err)
		return got.Rows
	}
	unused := amieusage.SummaryRow{LocalProjectID: beta, Deducted: chargeOf("0"), GivenBack: chargeOf("0"), Charge: chargeOf("0"),
		Balance: &amieusage.Balance{Allocated: chargeOf("5"), Used: chargeOf("0"), GivenBack: chargeOf("0"), Remaining: chargeOf("5")}}
	m.send(s, job("1", "10.5"), job("2", "2000"), job("3", "1", onResource(gpus)))
	m.send(s, adjustment(amieusage.Refund, "r", "0.5"))
	m.load()
	m.equal("rows", []amieusage.SummaryRow{{
		LocalProjectID: alpha, RecordCount: 4, Deducted: chargeOf("2011.5"), GivenBack: chargeOf("0.5"), Charge: chargeOf("2011"),
		Balance: &amieusage.Balance{Allocated: chargeOf("1010"), Used: chargeOf("2011.5"), GivenBack: chargeOf("0.5"), Remaining: chargeOf("-1001")},
	}, unused}, rows(byProject))
	m.equal("rows by resource", 3, len(rows(amieusage.SummaryQuery{GroupBy: []amieusage.GroupKey{amieusage.ByResource, amieusage.ByProject}})))
	m.checkSummary(s, amieusage.SummaryQuery{GroupBy: []amieusage.GroupKey{amieusage.ByResource, amieusage.ByProject, amieusage.ByUser}})
	// A second allocation on the same resource adds to the first.
	m.importSpec(&ledger.RegistrySpec{Sites: []ledger.SiteSpec{{Name: "PSC", Projects: []ledger.ProjectSpec{
		{ID: beta, Allocations: []ledger.AllocationSpec{allocation(bulk, 5, 1, 6), allocation(bulk, 7, 6, 12)}},
	}}}})
	unused.Balance.Allocated, unused.Balance.Remaining = chargeOf("12"), chargeOf("12")
	m.equal("unused", unused, rows(byProject)[1])
	// In a time without usage, balances are what they are.
	q := byProject
	q.From = time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	early := rows(q)
	m.equal("rows", 2, len(early))
	m.equal("records", int64(0), early[0].RecordCount)
	m.equal("used", chargeOf("2011.5"), early[0].Balance.Used)
}

func testSummaryRows(m *storeModel) {
	s := m.site("PSC")
	for i := range 5 {
		m.send(s, job(fmt.Sprint(i), "1", func(r *amieusage.ComputeRecord) { r.EndTime = r.EndTime.AddDate(0, 0, i) }))
	}
	m.load()
	q := amieusage.SummaryQuery{GroupBy: []amieusage.GroupKey{amieusage.ByDay}}
	_, err := m.store.Summary(context.Background(), s.who.Site, q, 4)
	m.hasCode(err, amieusage.CodeTooLarge)
	_, err = m.store.Summary(context.Background(), s.who.Site, q, 5)
	m.noError(err)
}
