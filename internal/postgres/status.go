package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

const (
	// statusLoadsQuery sums up whole hours, [$3, $4), from the hourly sums, and
	// what is left at both ends from those of each transaction.
	statusLoadsQuery = `
		SELECT (SELECT name FROM resources r WHERE r.site_id = $1 AND r.resource_id = l.resource_id),
			sum(records)::bigint, sum(charge)::bigint
		FROM (
			SELECT resource_id, records, charge FROM loads WHERE site_id = $1 AND span = 0 AND loaded_at >= $2 AND loaded_at < $3
			UNION ALL
			SELECT resource_id, records, charge FROM loads WHERE site_id = $1 AND span = 1 AND loaded_at >= $3 AND loaded_at < $4
			UNION ALL
			SELECT resource_id, records, charge FROM loads WHERE site_id = $1 AND span = 0 AND loaded_at >= $4 AND loaded_at < $5) l
		GROUP BY resource_id HAVING sum(records) > 0`
	statusFailedQuery = `
		SELECT (SELECT name FROM resources r WHERE r.site_id = $1 AND r.resource_id = f.resource_id), resource_id, failure, count(*)
		FROM failed_records f WHERE site_id = $1 AND state = 0 AND failed_at >= $2 AND failed_at < $3
		GROUP BY resource_id, failure ORDER BY 4, 2, 3`
	statusRecordsQuery = `
		SELECT ` + failedColumns + ` FROM (
			SELECT ` + failedColumns + `, sum(octet_length(record)) OVER (ORDER BY failed_id) AS bytes FROM (
				SELECT ` + failedColumns + ` FROM failed_records
				WHERE site_id = $1 AND state = 0 AND resource_id = $2 AND failure = $3 AND failed_at >= $4 AND failed_at < $5
				ORDER BY failed_id LIMIT $6) AS page) AS summed
		WHERE bytes <= $7 ORDER BY failed_id`
)

// Status sums up what was loaded and what failed in [q.From, q.To).
func (l *Ledger) Status(ctx context.Context, site ledger.SiteID, q amieusage.StatusQuery, maxRecords int) (amieusage.Status, error) {
	var status ledger.StatusBuilder
	p := ledger.LoadPeriodsOf(q.From, q.To)
	err := l.db.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, statusLoadsQuery, int64(site), p.All.From, p.Hours.From, p.Hours.To, p.All.To)
		if err != nil {
			return err
		}
		var resource string
		var records, charge int64
		if _, err := pgx.ForEachRow(rows, []any{&resource, &records, &charge}, func() error {
			status.Loaded(resource, records, charge)
			return nil
		}); err != nil {
			return err
		}
		groups, err := rowsOf(ctx, tx, pgx.RowToStructByPos[ledger.FailedGroup], statusFailedQuery, int64(site), p.All.From, p.All.To)
		if err != nil {
			return err
		}
		for i, g := range groups {
			records, err := rowsOf(ctx, tx, scanFailed, statusRecordsQuery,
				int64(site), g.ID, g.Failure, p.All.From, p.All.To, maxRecords, status.Share(len(groups)-i))
			if err != nil {
				return err
			}
			status.Failed(g.Resource, g.Failure, g.Count, records)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return status.Status(), nil
}
