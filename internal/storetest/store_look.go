package storetest

import (
	"context"
	"slices"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// check compares all that can be seen of all sites, and verifies the store.
func (m *storeModel) check() {
	m.t.Helper()
	m.compare()
	m.verify()
}

// compare compares all that can be seen of all sites.
func (m *storeModel) compare() {
	m.t.Helper()
	for _, s := range m.sites {
		for _, look := range m.looks(s) {
			look()
		}
	}
}

// looks are the ways to look at a site, each of which compares what is seen.
func (m *storeModel) looks(s *modelSite) []func() {
	status := func(q amieusage.StatusQuery) func() {
		return func() {
			m.checkFailed(s) // tells the numbers of failed records
			m.checkStatus(s, q)
		}
	}
	return []func(){
		func() {
			counts, err := m.service.Counts(context.Background(), s.who)
			m.noError(err)
			m.equal("counts of "+s.name, s.counts, counts)
			m.checkFailed(s)
		},
		func() { m.checkLoaded(s) },
		status(amieusage.StatusQuery{}),
		status(amieusage.StatusQuery{From: time.Date(1, 1, 2, 0, 0, 0, 0, time.UTC), To: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)}),
		func() { status(amieusage.StatusQuery{From: m.loadingTime(s), To: m.loadingTime(s)})() },
		func() {
			m.checkSummary(s, amieusage.SummaryQuery{GroupBy: m.someKeys(), From: m.usageTime(s), To: m.usageTime(s)})
		},
		func() {
			m.checkSummary(s, amieusage.SummaryQuery{GroupBy: []amieusage.GroupKey{amieusage.ByProject, amieusage.ByResource}})
		},
	}
}

// verify runs the store's own check.
func (m *storeModel) verify() {
	m.t.Helper()
	if v, ok := m.store.(Verifier); ok {
		if err := v.Verify(context.Background()); err != nil {
			m.t.Errorf("the store: %v", err)
		}
	}
}

// loadingTime picks a time at which something was loaded or failed, or the
// full hour before it, or none.
func (m *storeModel) loadingTime(s *modelSite) time.Time {
	var times []time.Time
	for _, e := range s.sorted() {
		times = append(times, e.newest().loadedAt)
	}
	for _, f := range s.failed {
		times = append(times, f.at)
	}
	return m.pickTime(times, time.Hour)
}

// usageTime picks a time of usage, or the midnight before it, or the first of
// its month, or none.
func (m *storeModel) usageTime(s *modelSite) time.Time {
	var times []time.Time
	for _, e := range s.sorted() {
		at := e.newest().UsageTime()
		times = append(times, at, time.Date(at.Year(), at.Month(), 1, 0, 0, 0, 0, time.UTC))
	}
	return m.pickTime(times, 24*time.Hour)
}

func (m *storeModel) pickTime(times []time.Time, unit time.Duration) time.Time {
	i := m.pick(len(times) + 1)
	if i == len(times) {
		return time.Time{}
	}
	switch m.pick(3) {
	case 0:
		return times[i].Truncate(unit)
	case 1:
		return times[i].Add(1)
	}
	return times[i]
}

// someKeys picks keys to group by, in any order.
func (m *storeModel) someKeys() []amieusage.GroupKey {
	keys := slices.Clone(amieusage.GroupKeys)
	n := 1 + m.pick(len(keys))
	for i := range n {
		j := i + m.pick(len(keys)-i)
		keys[i], keys[j] = keys[j], keys[i]
	}
	return keys[:n]
}

// checkFailed compares the open failed records, and learns their numbers.
func (m *storeModel) checkFailed(s *modelSite) {
	m.t.Helper()
	got := m.failed(s)
	want := s.openFailed()
	if len(got) != len(want) {
		m.t.Fatalf("%d failed records of %s are open, want %d", len(got), s.name, len(want))
	}
	last := int64(0)
	for i, f := range got {
		if want[i].id == 0 {
			want[i].id = f.FailedRecordID
		}
		if f.FailedRecordID <= last {
			m.t.Errorf("failed record %d comes behind %d", f.FailedRecordID, last)
		}
		last = f.FailedRecordID
		m.equal("failed record", want[i].answer(), f)
	}
}

func (f *modelFailed) answer() amieusage.FailedRecord {
	return amieusage.FailedRecord{UsageType: f.record.UsageType(), Error: string(f.failure), FailedRecordID: f.id, Record: f.record.Record}
}

// failed returns all open failed records, a few at a time.
func (m *storeModel) failed(s *modelSite) (all []amieusage.FailedRecord) {
	m.t.Helper()
	q := ledger.FailedQuery{Limit: 3}
	for {
		page, next, err := m.service.Failed(context.Background(), s.who, q)
		m.noError(err)
		all = append(all, page...)
		if next == 0 {
			return all
		}
		q.After = next
	}
}

// loaded returns all loaded records, a few at a time.
func (m *storeModel) loaded(s *modelSite, q amieusage.LoadedQuery) (all []amieusage.LoadedRecord) {
	m.t.Helper()
	for {
		page, err := m.service.Loaded(context.Background(), s.who, q)
		m.noError(err)
		if len(page.Records) > q.Limit {
			m.t.Fatalf("a page of %d records, the limit is %d", len(page.Records), q.Limit)
		}
		all = append(all, page.Records...)
		switch page.Next {
		case "":
			return all
		case q.Cursor:
			m.t.Fatalf("cursor %s leads to itself", q.Cursor)
		}
		q.Cursor, q.Offset = page.Next, 0
	}
}

// checkLoaded compares the loaded records, and learns their numbers.
func (m *storeModel) checkLoaded(s *modelSite) {
	m.t.Helper()
	all := m.loaded(s, amieusage.LoadedQuery{Limit: 7})
	if len(all) != len(s.entries) {
		m.t.Errorf("%d records of %s are loaded, want %d", len(all), s.name, len(s.entries))
	}
	ids := map[int64]bool{}
	for i, got := range all {
		e := s.entries[got.Identity()]
		if e == nil {
			m.t.Fatalf("%s is loaded, but should not be", got)
		}
		if e.id == 0 {
			e.id = got.AccountingDbRecordID
		}
		m.equal("loaded record", e.answer(), got)
		if ids[got.AccountingDbRecordID] {
			m.t.Errorf("two records bear the number %d", got.AccountingDbRecordID)
		}
		ids[got.AccountingDbRecordID] = true
		if i > 0 && got.LoadedTime.Before(all[i-1].LoadedTime) {
			m.t.Errorf("%s comes behind %s", got, all[i-1])
		}
	}
}

func (e *modelEntry) answer() amieusage.LoadedRecord {
	r := e.newest()
	id := r.Identity()
	answer := amieusage.LoadedRecord{
		AccountingDbRecordID: e.id, UsageType: id.UsageType, LocalRecordID: id.LocalRecordID, Resource: id.Resource,
		SubmitTime: id.KeyTime, LoadedTime: r.loadedAt, Charge: amieusage.ChargeOfMillionths(millionths(r)),
	}
	if id.UsageType == amieusage.Adjustment {
		answer.SubmitTime = r.UsageTime().UTC()
	}
	return answer
}

// checkRevisions compares the revisions of all records.
func (m *storeModel) checkRevisions(s *modelSite) {
	m.t.Helper()
	for id, e := range s.entries {
		got, err := m.store.Revisions(context.Background(), s.who.Site, id)
		m.noError(err)
		var want []ledger.Revision
		for i, r := range e.revisions {
			want = append(want, ledger.Revision{
				Number: i + 1, Charge: amieusage.ChargeOfMillionths(millionths(r)), AcceptedAt: r.acceptedAt, LoadedAt: r.loadedAt,
				KeyID: s.who.KeyID, Record: r.AppendJSON(nil),
			})
		}
		m.equal("revisions of "+identityText(e.newest()), want, got, asText)
	}
}

// asText shows bytes as text.
var asText = gocmp.Transformer("text", func(b []byte) string { return string(b) })
