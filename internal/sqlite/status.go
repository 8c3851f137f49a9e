package sqlite

import (
	"context"
	"errors"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// Status sums up what was loaded and what failed in [q.From, q.To).
func (l *Ledger) Status(ctx context.Context, site ledger.SiteID, q amieusage.StatusQuery, maxRecords int) (amieusage.Status, error) {
	var status ledger.StatusBuilder
	p := ledger.LoadPeriodsOf(q.From, q.To)
	err := l.db.read(ctx, func(conn *sqlite.Conn) error {
		err := sqlitex.Execute(conn, `
			SELECT (SELECT name FROM resources r WHERE r.resource_id = l.resource_id), sum(records), sum(charge) FROM (
				SELECT * FROM loads WHERE site_id = ?1 AND span = 0 AND loaded_at >= ?2 AND loaded_at < ?3
				UNION ALL
				SELECT * FROM loads WHERE site_id = ?1 AND span = 1 AND loaded_at >= ?3 AND loaded_at < ?4
				UNION ALL
				SELECT * FROM loads WHERE site_id = ?1 AND span = 0 AND loaded_at >= ?4 AND loaded_at < ?5) l
			GROUP BY resource_id HAVING sum(records) > 0`,
			&sqlitex.ExecOptions{
				Args: []any{int64(site), p.All.From, p.Hours.From, p.Hours.To, p.All.To},
				ResultFunc: func(stmt *sqlite.Stmt) error {
					status.Loaded(stmt.ColumnText(0), stmt.ColumnInt64(1), stmt.ColumnInt64(2))
					return nil
				},
			})
		if err != nil {
			return err
		}
		var groups []ledger.FailedGroup
		err = sqlitex.Execute(conn, `
			SELECT (SELECT name FROM resources r WHERE r.resource_id = f.resource_id), resource_id, failure, count(*)
			FROM failed_records f WHERE site_id = ? AND state = 0 AND failed_at >= ? AND failed_at < ?
			GROUP BY resource_id, failure ORDER BY 4, 2, 3`,
			&sqlitex.ExecOptions{
				Args: []any{int64(site), p.All.From, p.All.To},
				ResultFunc: func(stmt *sqlite.Stmt) error {
					groups = append(groups, ledger.FailedGroup{
						Resource: stmt.ColumnText(0), ID: stmt.ColumnInt64(1), Failure: stmt.ColumnText(2), Count: stmt.ColumnInt64(3),
					})
					return nil
				},
			})
		if err != nil {
			return err
		}
		for i, g := range groups {
			var records []amieusage.FailedRecord
			share := status.Share(len(groups) - i)
			err := sqlitex.Execute(conn, `
				SELECT `+failedColumns+` FROM failed_records
				WHERE site_id = ? AND state = 0 AND resource_id = ? AND failure = ? AND failed_at >= ? AND failed_at < ?
				ORDER BY failed_id LIMIT ?`,
				&sqlitex.ExecOptions{
					Args: []any{int64(site), g.ID, g.Failure, p.All.From, p.All.To, maxRecords},
					ResultFunc: func(stmt *sqlite.Stmt) error {
						if share -= stmt.ColumnLen(3); share < 0 {
							return errPageFull
						}
						records = append(records, scanFailed(stmt))
						return nil
					},
				})
			if err != nil && !errors.Is(err, errPageFull) {
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
