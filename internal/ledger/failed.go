package ledger

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/amieusage/amieusage"
)

// An UnknownFailedError names failed records that a site cannot clear: they
// are not there, or not its own.
type UnknownFailedError struct {
	IDs []int64
}

// Error names the ids, up to twenty of them.
func (e *UnknownFailedError) Error() string {
	var names []string
	for i, id := range e.IDs {
		if i == 20 {
			names = append(names, fmt.Sprintf("and %d more", len(e.IDs)-i))
			break
		}
		names = append(names, strconv.FormatInt(id, 10))
	}
	return "no failed record of this site has the id " + strings.Join(names, ", ") + "; nothing was cleared"
}

// Failed returns a page of the site's open failed records, in order of
// failing, and the FailedRecordID to go on after, or 0 behind the last page.
// Behind a page that is full in bytes there may be none left.
func (s *Service) Failed(ctx context.Context, who Caller, q FailedQuery) ([]amieusage.FailedRecord, int64, error) {
	if q.Limit <= 0 || q.Limit > maxFailedPage {
		q.Limit = maxFailedPage
	}
	limit := q.Limit
	q.Limit++
	failed, err := s.store.Failed(ctx, who.Site, q)
	if err != nil {
		return nil, 0, err
	}
	bytes := 0
	for _, f := range failed {
		bytes += len(f.Raw)
	}
	switch {
	case len(failed) > limit:
		failed = failed[:limit]
	case bytes < MaxPageBytes:
		return failed, 0, nil
	}
	return failed, failed[len(failed)-1].FailedRecordID, nil
}

// Clear clears failed records of the site, all or none. Ids that are not the
// site's are an [*UnknownFailedError].
func (s *Service) Clear(ctx context.Context, who Caller, ids []int64) error {
	actor := ActorOf(ctx) // with the address that it comes from
	actor.Who, actor.KeyID = fmt.Sprintf("key %d", who.KeyID), who.KeyID
	return s.store.Clear(WithActor(ctx, actor), who.Site, ids, s.clock())
}

// StoredFailed returns a failed record from what a store keeps of it.
func StoredFailed(id, usageType int64, failure string, raw []byte) amieusage.FailedRecord {
	f := amieusage.FailedRecord{FailedRecordID: id, UsageType: UsageTypeOf(usageType), Error: failure, Raw: raw}
	f.Record, f.Problem = amieusage.CheckRecord(f.UsageType, f.Raw)
	return f
}
