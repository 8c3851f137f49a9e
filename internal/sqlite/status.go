package sqlite

import (
	"context"
	"slices"
	"strings"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// Status sums up what was loaded and what failed in [q.From, q.To).
func (l *Ledger) Status(ctx context.Context, site ledger.SiteID, q amieusage.StatusQuery, maxRecords int) (amieusage.Status, error) {
	status := amieusage.Status{}
	places := map[string]int{}
	row := func(resource string) *amieusage.ResourceStatus {
		i, ok := places[resource]
		if !ok {
			i = len(status)
			places[resource] = i
			status = append(status, amieusage.ResourceStatus{Resource: resource, TotalCharge: amieusage.ChargeOfMillionths(0)})
		}
		return &status[i]
	}
	from, to := nanos(q.From), endNanos(q.To)
	// Whole hours come from the hourly sums; what is left at both ends, from
	// those of each transaction.
	firstHour := (from + hourNanos - 1) / hourNanos * hourNanos
	lastHour := to / hourNanos * hourNanos
	if firstHour > lastHour {
		firstHour, lastHour = to, to
	}
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
				Args: []any{int64(site), from, firstHour, lastHour, to},
				ResultFunc: func(stmt *sqlite.Stmt) error {
					s := row(stmt.ColumnText(0))
					s.LoadedRecordCount = stmt.ColumnInt64(1)
					s.TotalCharge = amieusage.ChargeOfMillionths(stmt.ColumnInt64(2))
					return nil
				},
			})
		if err != nil {
			return err
		}
		type group struct {
			resource string
			id       int64
			failure  string
		}
		var groups []group
		err = sqlitex.Execute(conn, `
			SELECT (SELECT name FROM resources r WHERE r.resource_id = f.resource_id), resource_id, failure, count(*)
			FROM failed_records f WHERE site_id = ? AND state = 0 AND failed_at >= ? AND failed_at < ?
			GROUP BY resource_id, failure ORDER BY resource_id, failure`,
			&sqlitex.ExecOptions{
				Args: []any{int64(site), from, to},
				ResultFunc: func(stmt *sqlite.Stmt) error {
					groups = append(groups, group{stmt.ColumnText(0), stmt.ColumnInt64(1), stmt.ColumnText(2)})
					row(stmt.ColumnText(0)).FailedJobCount += stmt.ColumnInt64(3)
					return nil
				},
			})
		if err != nil {
			return err
		}
		for _, g := range groups {
			e := amieusage.StatusError{Error: g.failure}
			err := sqlitex.Execute(conn, `
				SELECT `+failedColumns+` FROM failed_records
				WHERE site_id = ? AND state = 0 AND resource_id = ? AND failure = ? AND failed_at >= ? AND failed_at < ?
				ORDER BY failed_id LIMIT ?`,
				&sqlitex.ExecOptions{
					Args: []any{int64(site), g.id, g.failure, from, to, maxRecords},
					ResultFunc: func(stmt *sqlite.Stmt) error {
						e.Records = append(e.Records, scanFailed(stmt))
						return nil
					},
				})
			if err != nil {
				return err
			}
			s := row(g.resource)
			s.Errors = append(s.Errors, e)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(status, func(a, b amieusage.ResourceStatus) int { return strings.Compare(a.Resource, b.Resource) })
	return status, nil
}
