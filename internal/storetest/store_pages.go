package storetest

import (
	"context"
	"fmt"
	"strings"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// testPages fills answers in bytes before they are full in records: pages end,
// and go on where they ended; a status gives a part of the records, and counts
// all.
func testPages(m *storeModel) {
	ctx := context.Background()
	s := m.site("PSC")
	const large, count = 900_000, 7
	note := amieusage.Extra{{Name: "Note", Value: []byte(`"` + strings.Repeat("x", large) + `"`)}}
	for i := range count {
		m.send(s, job(fmt.Sprint("large", i), "1", func(r *amieusage.ComputeRecord) { r.Username, r.Extra = "eve", note }))
	}
	m.send(s, job("small", "1", func(r *amieusage.ComputeRecord) { r.LocalProjectID = "unknown" }))
	m.load()

	perPage := ledger.MaxPageBytes/large + 1
	first, next, err := m.service.Failed(ctx, s.who, ledger.FailedQuery{})
	m.noError(err)
	m.equal("records of the first page", perPage, len(first))
	m.equal("next", first[len(first)-1].FailedRecordID, next)
	second, next, err := m.service.Failed(ctx, s.who, ledger.FailedQuery{After: next})
	m.noError(err)
	m.equal("records of the second page", count+1-perPage, len(second))
	m.equal("next", int64(0), next)
	m.checkFailed(s)

	status, err := m.service.Status(ctx, s.who, amieusage.StatusQuery{})
	m.noError(err)
	m.equal("failed records", int64(count+1), status[0].FailedJobCount)
	for _, e := range status[0].Errors {
		given := map[bool]int{true: ledger.MaxPageBytes / large, false: 1}[e.Error == string(ledger.UnknownUser)]
		m.equal("records given of "+e.Error, given, len(e.Records))
	}

	// Each of these names takes 6 KiB as JSON.
	unprintable := strings.Repeat("\x01", 1000)
	var named []amieusage.Record
	for i := range 1000 {
		named = append(named, job(fmt.Sprint(unprintable, i), "1"))
	}
	m.send(s, named...)
	m.load()
	all := m.loaded(s, amieusage.LoadedQuery{PageSize: amieusage.MaxLoadedPage})
	m.equal("loaded records", len(named), len(all))
	page, err := m.service.Loaded(ctx, s.who, amieusage.LoadedQuery{})
	m.noError(err)
	if n := len(page.Records); page.Next == "" || n < 600 || n > ledger.MaxPageBytes/6000+1 {
		m.t.Errorf("a page of %d records, then %q", n, page.Next)
	}
	m.sites = nil // the model gives all records in a status
}
