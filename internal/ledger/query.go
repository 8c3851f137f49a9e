package ledger

import (
	"context"

	"github.com/amieusage/amieusage"
)

// Status sums up what was loaded and what failed, by time of loading; where
// the query sets no time, over the last 30 days.
func (s *Service) Status(ctx context.Context, who Caller, q amieusage.StatusQuery) (amieusage.Status, error) {
	if q.From.IsZero() {
		end := q.To
		if end.IsZero() {
			end = s.clock()
		}
		q.From = end.AddDate(0, 0, -statusDays)
	}
	return s.store.Status(ctx, who.Site, q, maxStatusRecords)
}

// Loaded returns a page of the site's loaded records.
func (s *Service) Loaded(ctx context.Context, who Caller, q amieusage.LoadedQuery) (LoadedPage, error) {
	if q.PageSize <= 0 || q.PageSize > amieusage.MaxLoadedPage {
		q.PageSize = amieusage.MaxLoadedPage
	}
	return s.store.Loaded(ctx, who.Site, q)
}

// Summary sums up the site's usage by time of usage.
func (s *Service) Summary(ctx context.Context, who Caller, q amieusage.SummaryQuery) (*amieusage.Summary, error) {
	if len(q.GroupBy) == 0 {
		q.GroupBy = []amieusage.GroupKey{amieusage.ByResource}
	}
	return s.store.Summary(ctx, who.Site, q, maxSummaryRows)
}
