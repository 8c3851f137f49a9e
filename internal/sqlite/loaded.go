package sqlite

import (
	"context"
	"fmt"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// Loaded returns a page of loaded records in order of loading. A correction
// moves a record to the end, so a cursor never passes over one.
func (l *Ledger) Loaded(ctx context.Context, site ledger.SiteID, q amieusage.LoadedQuery) (page ledger.LoadedPage, err error) {
	after, err := ledger.StartOf(q)
	if err != nil {
		return page, err
	}
	where, loadedAt := `r.site_id = ?1`, `r.loaded_at`
	args := []any{int64(site), after.LoadedAt, after.Record, q.PageSize + 1, q.Offset}
	if q.LocalRecordID != "" {
		where += ` AND r.resource_id IN (SELECT resource_id FROM resources WHERE site_id = ?1)
			AND r.usage_type IN (1, 2, 3) AND r.local_record_id = ?6`
		loadedAt = `+r.loaded_at` // not by the index on it
		args = append(args, q.LocalRecordID)
	}
	also := func(condition string, value any) {
		args = append(args, value)
		where += fmt.Sprintf(" AND "+condition, len(args))
	}
	if q.LocalProjectID != "" {
		also(`r.project_id = (SELECT project_id FROM projects WHERE site_id = ?1 AND local_project_id = ?%d)`, q.LocalProjectID)
	}
	if q.Username != "" {
		also(`r.user_id = (SELECT user_id FROM users WHERE site_id = ?1 AND username = ?%d)`, q.Username)
	}
	if !q.From.IsZero() {
		also(`r.usage_time >= ?%d`, ledger.Nanos(q.From))
	}
	if !q.To.IsZero() {
		also(`r.usage_time < ?%d`, ledger.Nanos(q.To))
	}
	if !q.From.IsZero() || !q.To.IsZero() {
		loadedAt = `+r.loaded_at` // by the index on the time of usage
	}
	err = l.db.read(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, `
			SELECT r.record_id, r.usage_type, r.local_record_id, n.name, r.key_time, r.usage_time, r.loaded_at,
				r.charge
			FROM records r JOIN resources n ON n.resource_id = r.resource_id
			WHERE `+where+` AND (`+loadedAt+`, r.record_id) > (?2, ?3)
			ORDER BY `+loadedAt+`, r.record_id LIMIT ?4 OFFSET ?5`,
			&sqlitex.ExecOptions{
				Args: args,
				ResultFunc: func(stmt *sqlite.Stmt) error {
					page.Add(&ledger.StoredRecord{
						Record:        stmt.ColumnInt64(0),
						UsageType:     stmt.ColumnInt64(1),
						LocalRecordID: stmt.ColumnText(2),
						Resource:      stmt.ColumnText(3),
						KeyTime:       stmt.ColumnInt64(4),
						UsageTime:     stmt.ColumnInt64(5),
						LoadedAt:      stmt.ColumnInt64(6),
						Charge:        stmt.ColumnInt64(7),
					}, q.PageSize)
					return nil
				},
			})
	})
	return page, err
}

// Revisions returns all that is kept of one loaded record, oldest first.
func (l *Ledger) Revisions(ctx context.Context, site ledger.SiteID, id amieusage.Identity) (revisions []ledger.Revision, err error) {
	err = l.db.read(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, `
			WITH current AS (
				SELECT r.* FROM records r JOIN resources n ON n.resource_id = r.resource_id
				WHERE r.site_id = ?1 AND n.site_id = ?1 AND n.name = ?2 AND r.usage_type = ?3
					AND r.local_record_id = ?4 AND r.key_time = ?5),
			kept AS (
				SELECT revision, batch_id, ordinal, charge, loaded_at FROM current
				UNION ALL
				SELECT v.revision, v.batch_id, v.ordinal, v.charge, v.loaded_at
				FROM revisions v JOIN current c ON c.record_id = v.record_id WHERE v.site_id = ?1)
			SELECT k.revision, k.charge, b.accepted_at, k.loaded_at, b.key_id, k.ordinal, b.record_count, b.records,
				coalesce(b.archive, '')
			FROM kept k JOIN batches b ON b.batch_id = k.batch_id ORDER BY k.revision`,
			&sqlitex.ExecOptions{
				Args: []any{int64(site), id.Resource, ledger.UsageTypeNumber(id.UsageType), id.LocalRecordID, ledger.Nanos(id.KeyTime)},
				ResultFunc: func(stmt *sqlite.Stmt) error {
					v := ledger.Revision{
						Number:     stmt.ColumnInt(0),
						Charge:     amieusage.ChargeOfMillionths(stmt.ColumnInt64(1)),
						AcceptedAt: ledger.TimeOrZero(stmt.ColumnInt64(2)),
						LoadedAt:   ledger.TimeOf(stmt.ColumnInt64(3)),
						KeyID:      stmt.ColumnInt64(4),
						Archive:    stmt.ColumnText(8),
					}
					if v.Archive == "" {
						records, err := l.packer.Unpack(columnBytes(stmt, 7), stmt.ColumnInt64(6))
						if err != nil {
							return err
						}
						v.Record = records[stmt.ColumnInt64(5)]
					}
					revisions = append(revisions, v)
					return nil
				},
			})
	})
	return revisions, err
}
