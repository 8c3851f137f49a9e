package storetest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

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
		m.checkSite(s)
		for _, look := range m.looks(s) {
			look()
		}
	}
}

// glance compares the records and the sums of all sites, and looks at each in
// one more way.
func (m *storeModel) glance() {
	m.t.Helper()
	for _, s := range m.sites {
		m.checkSite(s)
		looks := m.looks(s)
		looks[m.pick(len(looks))]()
	}
}

// checkSite compares where a site's records are and what they add up to. It
// tells the numbers of records, which other looks need.
func (m *storeModel) checkSite(s *modelSite) {
	m.t.Helper()
	m.checkCounts(s)
	m.checkFailed(s)
	m.checkLoaded(s)
	m.checkSummary(s, amieusage.SummaryQuery{GroupBy: []amieusage.GroupKey{amieusage.ByProject, amieusage.ByResource}})
}

// looks are further ways to look at a site, each of which compares what is
// seen.
func (m *storeModel) looks(s *modelSite) []func() {
	status := func(from, to time.Time) func() {
		return func() { m.checkStatus(s, amieusage.StatusQuery{From: from, To: to}) }
	}
	return []func(){
		func() { m.checkLoadedPages(s, m.someLoadedQuery(s)) },
		func() { m.checkFailedPages(s, m.someFailedID(s)) },
		status(time.Time{}, time.Time{}),
		status(time.Date(1, 1, 2, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)),
		func() { status(m.loadingTime(s), m.loadingTime(s))() },
		func() {
			m.checkSummary(s, amieusage.SummaryQuery{GroupBy: m.someKeys(), From: m.usageTime(s), To: m.usageTime(s)})
		},
	}
}

// checkCounts compares where the records of a site are, and its resources.
func (m *storeModel) checkCounts(s *modelSite) {
	m.t.Helper()
	counts, err := m.service.Counts(context.Background(), s.who)
	m.noError(err)
	m.equal("counts of "+s.name, s.counts, counts)
	if counts.Accepted != counts.Loaded+counts.Failed+counts.Queued {
		m.t.Errorf("counts of %s do not add up: %+v", s.name, counts)
	}
	authority, err := m.store.Authority(context.Background(), s.name)
	m.noError(err)
	m.equal("resources of "+s.name, s.resources, authority.Resources)
}

// verify runs the store's own check.
func (m *storeModel) verify() {
	m.t.Helper()
	store := m.store
	if t, ok := store.(*tap); ok {
		store = t.Store
	}
	if v, ok := store.(Verifier); ok {
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
	if m.coarse {
		return times[i].Truncate(time.Minute).Add(time.Duration(m.pick(2)) * time.Minute)
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

// someFailedID picks the number of a failed record, open or not, or 0.
func (m *storeModel) someFailedID(s *modelSite) int64 {
	if i := m.pick(len(s.failed) + 1); i < len(s.failed) {
		return s.failed[i].id
	}
	return 0
}

// checkFailedPages compares the open failed records behind a number.
func (m *storeModel) checkFailedPages(s *modelSite, after int64) {
	m.t.Helper()
	var want []amieusage.FailedRecord
	for _, f := range s.openFailed() {
		if f.id > after {
			want = append(want, f.answer())
		}
	}
	m.equal(fmt.Sprintf("failed records of %s behind %d", s.name, after), want, m.failedBehind(s, after, 1+m.pick(4)))
}

func (f *modelFailed) answer() amieusage.FailedRecord {
	return amieusage.FailedRecord{UsageType: f.record.UsageType(), Error: string(f.failure), FailedRecordID: f.id, Record: f.record.Record}
}

// failed returns all open failed records, a few at a time.
func (m *storeModel) failed(s *modelSite) []amieusage.FailedRecord {
	m.t.Helper()
	return m.failedBehind(s, 0, 3)
}

// fewRecords is up to how many records a page has if there are so many,
// whatever bytes they take; a longer one may end in bytes.
const fewRecords = 4

// failedBehind returns the open failed records behind a number, by pages.
func (m *storeModel) failedBehind(s *modelSite, after int64, limit int) (all []amieusage.FailedRecord) {
	m.t.Helper()
	q := ledger.FailedQuery{After: after, Limit: limit}
	for {
		page, next, err := m.api.Failed(context.Background(), s.who, q)
		m.noError(err)
		all = append(all, page...)
		if len(page) > limit || next != 0 && (len(page) < min(limit, fewRecords) || next != page[len(page)-1].FailedRecordID) || q.After > after && len(page) == 0 {
			m.t.Fatalf("a page of %d failed records and a next one behind %d, the limit is %d", len(page), next, limit)
		}
		if next == 0 {
			return all
		}
		q.After = next
	}
}

// loaded returns all loaded records, a few at a time, and keeps the cursors.
func (m *storeModel) loaded(s *modelSite, q amieusage.LoadedQuery) (all []amieusage.LoadedRecord) {
	m.t.Helper()
	for first := true; ; first = false {
		page, err := m.api.Loaded(context.Background(), s.who, q)
		m.noError(err)
		if n := len(page.Records); n > q.PageSize || n < min(q.PageSize, fewRecords) && page.Next != "" || n == 0 && !first {
			m.t.Fatalf("a page of %d records and the next at %q, the limit is %d", n, page.Next, q.PageSize)
		}
		all = append(all, page.Records...)
		switch page.Next {
		case "":
			return all
		case q.Cursor:
			m.t.Fatalf("cursor %s leads to itself", q.Cursor)
		}
		last := all[len(all)-1]
		s.keepCursor(modelCursor{page.Next, last.LoadedTime, last.AccountingDbRecordID})
		q.Cursor, q.Offset = page.Next, 0
	}
}

// keepCursor keeps the last few cursors.
func (s *modelSite) keepCursor(c modelCursor) {
	s.cursors = append(s.cursors[max(0, len(s.cursors)-3):], c)
}

// checkLoaded compares the loaded records, and learns their numbers.
func (m *storeModel) checkLoaded(s *modelSite) {
	m.t.Helper()
	all := m.loaded(s, amieusage.LoadedQuery{PageSize: 7})
	if len(all) != len(s.entries) {
		m.t.Errorf("%d records of %s are loaded, want %d", len(all), s.name, len(s.entries))
	}
	ids := map[int64]bool{}
	for i, got := range all {
		e := s.entries[got.Identity()]
		if e == nil {
			m.t.Fatalf("%s is loaded, but should not be", got)
		}
		newest := &e.revisions[len(e.revisions)-1]
		if e.id == 0 {
			e.id = got.AccountingDbRecordID
		}
		if m.coarse && got.LoadedTime.Sub(newest.loadedAt).Abs() < time.Second {
			newest.loadedAt = got.LoadedTime
		}
		m.equal("loaded record", e.answer(), got)
		if ids[got.AccountingDbRecordID] {
			m.t.Errorf("two records bear the number %d", got.AccountingDbRecordID)
		}
		ids[got.AccountingDbRecordID] = true
		if i == 0 {
			continue
		}
		before := s.entries[all[i-1].Identity()].newest()
		if got.LoadedTime.Before(all[i-1].LoadedTime) || got.LoadedTime.After(all[i-1].LoadedTime) && newest.batch <= before.batch {
			m.t.Errorf("%s comes behind %s", got, all[i-1])
		}
	}
}

// someLoadedQuery picks what to ask of the loaded records.
func (m *storeModel) someLoadedQuery(s *modelSite) amieusage.LoadedQuery {
	q := amieusage.LoadedQuery{PageSize: 1 + m.pick(4), MinLoadedTime: m.loadingTime(s), LocalRecordID: one(m, "", "", "1", "2", "none")}
	switch {
	case m.pick(2) == 0:
		q.Offset = int64(m.pick(6))
	case len(s.cursors) > 0:
		q.Cursor = s.cursors[m.pick(len(s.cursors))].text
	}
	return q
}

// checkLoadedPages compares what a query selects of the loaded records.
func (m *storeModel) checkLoadedPages(s *modelSite, q amieusage.LoadedQuery) {
	m.t.Helper()
	var behind modelCursor
	for _, c := range s.cursors {
		if c.text == q.Cursor {
			behind = c
		}
	}
	entries := s.sorted()
	slices.SortStableFunc(entries, func(a, b *modelEntry) int {
		return cmp.Or(a.newest().loadedAt.Compare(b.newest().loadedAt), cmp.Compare(a.id, b.id))
	})
	var want []amieusage.LoadedRecord
	for _, e := range entries {
		r := e.newest()
		place := cmp.Or(r.loadedAt.Compare(behind.loadedAt), cmp.Compare(e.id, behind.id))
		if !r.loadedAt.Before(q.MinLoadedTime) && place > 0 && (q.LocalRecordID == "" || q.LocalRecordID == r.Common().LocalRecordID) {
			want = append(want, e.answer())
		}
	}
	want = want[min(int(q.Offset), len(want)):]
	m.equal("loaded records of "+s.name+" "+q.Values().Encode(), want, m.loaded(s, q), cmpopts.EquateEmpty())
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
	for _, e := range s.sorted() {
		m.checkRevision(s, e)
	}
}

// checkRevision compares the revisions of a record.
func (m *storeModel) checkRevision(s *modelSite, e *modelEntry) {
	m.t.Helper()
	got, err := m.store.Revisions(context.Background(), s.who.Site, e.newest().Identity())
	m.noError(err)
	var want []ledger.Revision
	for i, r := range e.revisions {
		if m.coarse && i < len(got) && got[i].LoadedAt.Sub(r.loadedAt).Abs() < time.Second {
			r.loadedAt = got[i].LoadedAt
		}
		want = append(want, ledger.Revision{
			Number: i + 1, Charge: amieusage.ChargeOfMillionths(millionths(r)), AcceptedAt: r.acceptedAt, LoadedAt: r.loadedAt,
			KeyID: r.keyID, Record: r.raw,
		})
	}
	m.equal("revisions of "+identityText(e.newest()), want, got, asText)
}

// asText shows bytes as text.
var asText = gocmp.Transformer("text", func(b []byte) string { return string(b) })
