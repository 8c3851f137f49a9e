package postgres

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// failedColumns are what scanFailed reads.
const failedColumns = `failed_id, usage_type, failure, record`

func scanFailed(row pgx.CollectableRow) (amieusage.FailedRecord, error) {
	var id, usageType int64
	var failure string
	var raw []byte
	if err := row.Scan(&id, &usageType, &failure, &raw); err != nil {
		return amieusage.FailedRecord{}, err
	}
	return ledger.StoredFailed(id, usageType, failure, raw), nil
}

// failedQuery cuts the page before rows are sent: all that a server has begun
// to send must be read.
const failedQuery = `
	SELECT ` + failedColumns + ` FROM (
		SELECT ` + failedColumns + `, sum(octet_length(record)) OVER (ORDER BY failed_id) AS bytes FROM (
			SELECT ` + failedColumns + ` FROM failed_records
			WHERE site_id = $1 AND state = 0 AND failed_id > $2 ORDER BY failed_id LIMIT $3) AS page) AS summed
	WHERE bytes - octet_length(record) < $4 ORDER BY failed_id`

// Failed returns open failed records, in order of failing.
func (l *Ledger) Failed(ctx context.Context, site ledger.SiteID, q ledger.FailedQuery) (failed []amieusage.FailedRecord, err error) {
	err = l.db.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
		failed, err = rowsOf(ctx, tx, scanFailed, failedQuery, int64(site), q.After, q.Limit, ledger.MaxPageBytes)
		return err
	})
	return failed, err
}

// Clear clears failed records, all or none.
func (l *Ledger) Clear(ctx context.Context, site ledger.SiteID, ids []int64, now time.Time) error {
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	return l.db.write(ctx, "clear", func(ctx context.Context, tx pgx.Tx) error {
		// The site's loading is held, so that no failed record is superseded at
		// the same time.
		if _, err := tx.Exec(ctx, `SELECT 1 FROM loading WHERE site_id = $1 FOR UPDATE`, int64(site)); err != nil {
			return err
		}
		known, err := rowsOf(ctx, tx, pgx.RowTo[int64], `
			SELECT failed_id FROM failed_records WHERE site_id = $1 AND failed_id = ANY ($2) ORDER BY failed_id`, int64(site), ids)
		if err != nil {
			return err
		}
		unknown := &ledger.UnknownFailedError{}
		for _, id := range ids {
			if _, found := slices.BinarySearch(known, id); !found {
				unknown.IDs = append(unknown.IDs, id)
			}
		}
		if len(unknown.IDs) > 0 {
			return unknown
		}
		cleared, err := rowsOf(ctx, tx, pgx.RowTo[int64], `
			UPDATE failed_records SET state = $3, closed_at = $4
			WHERE site_id = $1 AND failed_id = ANY ($2) AND state = 0 RETURNING failed_id`, int64(site), ids, ledger.FailedCleared, ledger.Nanos(now))
		if err != nil || len(cleared) == 0 {
			return err
		}
		slices.Sort(cleared)
		return addEvents(ctx, tx, int64(site), ledger.ClearedEvent(ctx, cleared, now))
	})
}
