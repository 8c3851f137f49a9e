package storetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// testNothing looks at a site of which nothing is stored, and at one that is
// none.
func testNothing(m *storeModel) {
	ctx := context.Background()
	s := m.site("PSC")
	m.equal("report", ledger.LoadReport{}, m.whenFree(m.service.LoadSome))
	m.changed(&ledger.RegistrySpec{Sites: []ledger.SiteSpec{{Name: "NCSA"}}}, "added site NCSA")
	empty, err := m.store.Authority(ctx, "NCSA")
	m.noError(err)
	m.equal("authority", &ledger.Authority{Site: empty.Site, Name: "NCSA", Resources: map[string]bool{}}, empty)
	for _, site := range []ledger.SiteID{s.who.Site, empty.Site, 4711, 0, -1} {
		counts, err := m.store.Counts(ctx, site)
		m.noError(err)
		m.equal("counts", ledger.Counts{}, counts)
		status, err := m.store.Status(ctx, site, amieusage.StatusQuery{}, 10)
		m.noError(err)
		m.equal("status", amieusage.Status{}, status)
		failed, err := m.store.Failed(ctx, site, ledger.FailedQuery{Limit: 10})
		m.noError(err)
		m.equal("failed records", 0, len(failed))
		page, err := m.store.Loaded(ctx, site, amieusage.LoadedQuery{PageSize: 10})
		m.noError(err)
		m.equal("loaded records", 0, len(page.Records))
		m.equal("next", "", page.Next)
		revisions, err := m.store.Revisions(ctx, site, job("1", "1").Identity())
		m.noError(err)
		m.equal("revisions", 0, len(revisions))
		for _, key := range amieusage.GroupKeys {
			summary, err := m.store.Summary(ctx, site, amieusage.SummaryQuery{GroupBy: []amieusage.GroupKey{key}}, 10)
			m.noError(err)
			rows := 0
			if site == s.who.Site && key == amieusage.ByProject {
				rows = 2 // of what is granted
			}
			m.equal("rows by "+string(key), rows, len(summary.Rows))
		}
		m.noError(m.store.Clear(ctx, site, nil, m.now))
		m.isUnknownFailed(m.store.Clear(ctx, site, []int64{1}, m.now), 1)
	}
	m.verify()
}

// testQueryEdges asks with numbers and periods at the edge of what there can
// be.
func testQueryEdges(m *storeModel) {
	ctx := context.Background()
	s := m.site("PSC")
	eve := func(r *amieusage.ComputeRecord) { r.Username = "eve" }
	for i := range 5 {
		m.send(s, job(fmt.Sprint(i), "1"), job(fmt.Sprint("e", i), "1", eve))
		m.load()
	}
	m.check()
	for _, q := range []amieusage.LoadedQuery{
		{Offset: 5}, {Offset: 6}, {Offset: math.MaxInt64}, {Offset: math.MaxInt64, LocalRecordID: "1"}, {Offset: 1, LocalRecordID: "1"},
		{MinLoadedTime: m.now.Add(1)}, {LocalRecordID: "e1"}, {LocalRecordID: "%"}, {LocalRecordID: "_"},
	} {
		q.PageSize = 2
		page, err := m.service.Loaded(ctx, s.who, q)
		m.noError(err)
		m.equal("records of "+q.Values().Encode(), 0, len(page.Records))
		m.equal("next of "+q.Values().Encode(), "", page.Next)
	}
	for _, limit := range []int{5, 6, amieusage.MaxLoadedPage, math.MaxInt} {
		page, err := m.service.Loaded(ctx, s.who, amieusage.LoadedQuery{PageSize: limit})
		m.noError(err)
		m.equal(fmt.Sprint("records with limit ", limit), 5, len(page.Records))
		m.equal("next", "", page.Next)
	}
	for after, want := range map[int64]int{math.MinInt64: 5, -1: 5, 0: 5, s.failed[4].id: 0, math.MaxInt64: 0} {
		failed, _, err := m.service.Failed(ctx, s.who, ledger.FailedQuery{After: after, Limit: math.MaxInt})
		m.noError(err)
		m.equal(fmt.Sprint("failed records behind ", after), want, len(failed))
	}
	// A period that ends before it begins holds nothing.
	loaded := s.sorted()[2].newest()
	for _, back := range []time.Duration{1, time.Minute, time.Hour, 26 * time.Hour, 40 * 24 * time.Hour} {
		status, err := m.store.Status(ctx, s.who.Site, amieusage.StatusQuery{From: loaded.loadedAt, To: loaded.loadedAt.Add(-back)}, 10)
		m.noError(err)
		m.equal("status", amieusage.Status{}, status)
		at := loaded.UsageTime()
		for _, key := range []amieusage.GroupKey{amieusage.ByUser, amieusage.ByDay, amieusage.ByMonth} {
			summary, err := m.store.Summary(ctx, s.who.Site,
				amieusage.SummaryQuery{GroupBy: []amieusage.GroupKey{key}, From: at, To: at.Add(-back)}, 10)
			m.noError(err)
			m.equal("rows", 0, len(summary.Rows))
		}
	}
	_, err := m.store.Summary(ctx, s.who.Site, amieusage.SummaryQuery{GroupBy: []amieusage.GroupKey{amieusage.ByDay}}, 0)
	m.hasCode(err, amieusage.CodeTooLarge)
	m.hasCode(m.store.Accept(ctx, m.batch(s, job("1", "1")), 0), amieusage.CodeTooManyRequests)
	for _, key := range []int64{0, -1, math.MaxInt64, math.MinInt64} {
		m.hasCode(m.store.RevokeKey(ctx, "PSC", key, m.now), amieusage.CodeNotFound)
	}
}

// testEndedContext asks with a context that has ended: nothing happens.
func testEndedContext(m *storeModel) {
	s := m.site("PSC")
	m.send(s, job("0", "1"), job("e", "1", func(r *amieusage.ComputeRecord) { r.Username = "eve" }))
	m.load()
	m.checkFailed(s)
	m.send(s, job("1", "1"))
	before := m.view(s)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, store := range m.stores {
		for name, call := range map[string]func() error{
			"Accept":    func() error { return store.Accept(ctx, m.batch(s, job("2", "1")), math.MaxInt64) },
			"Load":      func() error { _, err := store.Load(ctx, m.now, 10, readAll{}); return err },
			"Counts":    func() error { _, err := store.Counts(ctx, s.who.Site); return err },
			"Status":    func() error { _, err := store.Status(ctx, s.who.Site, amieusage.StatusQuery{}, 10); return err },
			"Failed":    func() error { _, err := store.Failed(ctx, s.who.Site, ledger.FailedQuery{Limit: 10}); return err },
			"Clear":     func() error { return store.Clear(ctx, s.who.Site, []int64{s.failed[0].id}, m.now) },
			"Loaded":    func() error { _, err := store.Loaded(ctx, s.who.Site, amieusage.LoadedQuery{PageSize: 10}); return err },
			"Revisions": func() error { _, err := store.Revisions(ctx, s.who.Site, job("0", "1").Identity()); return err },
			"Summary": func() error {
				_, err := store.Summary(ctx, s.who.Site, amieusage.SummaryQuery{GroupBy: amieusage.GroupKeys}, 10)
				return err
			},
			"Authority": func() error { _, err := store.Authority(ctx, "PSC"); return err },
			"Import":    func() error { _, err := store.Import(ctx, standard("NCSA")); return err },
			"CreateKey": func() error { _, err := store.CreateKey(ctx, "PSC", ledger.KeyHash{}, "", m.now); return err },
			"Keys":      func() error { _, err := store.Keys(ctx, ""); return err },
			"RevokeKey": func() error { return store.RevokeKey(ctx, "PSC", s.who.KeyID, m.now) },
		} {
			if err := call(); !errors.Is(err, context.Canceled) {
				m.t.Errorf("%s: error %v, want that the context was cancelled", name, err)
			}
		}
	}
	if diff := cmp.Diff(before, m.view(s), byText, asText); diff != "" {
		m.t.Errorf("what is seen has changed (-before +after):\n%s", diff)
	}
	_, err := m.store.Authority(context.Background(), "NCSA")
	m.hasCode(err, amieusage.CodeNotFound)
	m.check()
	m.load()
}
