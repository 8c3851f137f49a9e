package sqlite

import (
	"context"
	"fmt"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage/internal/ledger"
)

var _ ledger.Archivable = (*Ledger)(nil)

// SiteNames returns the names of all sites by their numbers.
func (l *Ledger) SiteNames(ctx context.Context) (map[ledger.SiteID]string, error) {
	names := map[ledger.SiteID]string{}
	return names, l.db.read(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, `SELECT site_id, name FROM sites`, &sqlitex.ExecOptions{
			ResultFunc: func(stmt *sqlite.Stmt) error {
				names[ledger.SiteID(stmt.ColumnInt64(0))] = stmt.ColumnText(1)
				return nil
			},
		})
	})
}

// OldBatches returns batches of a site that are to be archived.
func (l *Ledger) OldBatches(ctx context.Context, site ledger.SiteID, after int64, before time.Time, maxRecords int) (old ledger.OldBatches, err error) {
	err = l.db.read(ctx, func(conn *sqlite.Conn) error {
		if old, err = l.oldBatches(conn, site, after, before, maxRecords); err != nil || len(old) == 0 {
			return err
		}
		if err := setRevisions(conn, site, old); err != nil {
			return err
		}
		first, last := old.Span()
		return sqlitex.Execute(conn, `
			SELECT batch_id, ordinal, failed_id, failure FROM failed_records
			WHERE site_id = ? AND batch_id BETWEEN ? AND ?`,
			&sqlitex.ExecOptions{
				Args: []any{int64(site), first, last},
				ResultFunc: func(stmt *sqlite.Stmt) error {
					old.SetOutcome(stmt.ColumnInt64(0), stmt.ColumnInt64(1), ledger.Outcome{
						FailedID: stmt.ColumnInt64(2),
						Failure:  ledger.Failure(stmt.ColumnText(3)),
					})
					return nil
				},
			})
	})
	return old, err
}

// oldBatches reads the batches, without what has become of their records.
func (l *Ledger) oldBatches(conn *sqlite.Conn, site ledger.SiteID, after int64, before time.Time, maxRecords int) (ledger.OldBatches, error) {
	stmt, err := conn.Prepare(`
		SELECT batch_id, accepted_at >= ? OR loaded_at IS NULL, key_id, usage_type, accepted_at, record_count, records FROM batches
		WHERE site_id = ? AND batch_id > ? AND damaged = 0 AND archive IS NULL ORDER BY batch_id`)
	if err != nil {
		return nil, err
	}
	defer stmt.Reset()
	stmt.BindInt64(1, ledger.Nanos(before))
	stmt.BindInt64(2, int64(site))
	stmt.BindInt64(3, after)
	var batches []*ledger.Batch
	for records, bytes := int64(0), 0; records < int64(maxRecords) && bytes < ledger.MaxLoadBytes; {
		if more, err := stmt.Step(); err != nil {
			return nil, err
		} else if !more || stmt.ColumnBool(1) {
			break
		}
		b := &ledger.Batch{
			ID:         stmt.ColumnInt64(0),
			Site:       site,
			KeyID:      stmt.ColumnInt64(2),
			UsageType:  ledger.UsageTypeOf(stmt.ColumnInt64(3)),
			AcceptedAt: ledger.TimeOrZero(stmt.ColumnInt64(4)),
		}
		count := stmt.ColumnInt64(5)
		if b.Records, err = l.packer.Unpack(columnBytes(stmt, 6), count); err != nil {
			return nil, fmt.Errorf("batch %d: %w", b.ID, err)
		}
		batches = append(batches, b)
		records += count
		bytes += b.Bytes()
	}
	return ledger.NewOldBatches(batches), nil
}

// setRevisions finds the revisions that the batches have brought: by their
// records' identities, for neither revisions nor records are found by batch.
func setRevisions(conn *sqlite.Conn, site ledger.SiteID, old ledger.OldBatches) error {
	resources := map[string]int64{}
	err := sqlitex.Execute(conn, `SELECT name, resource_id FROM resources WHERE site_id = ?`, &sqlitex.ExecOptions{
		Args: []any{int64(site)},
		ResultFunc: func(stmt *sqlite.Stmt) error {
			resources[stmt.ColumnText(0)] = stmt.ColumnInt64(1)
			return nil
		},
	})
	if err != nil {
		return err
	}
	for _, k := range old.Keys(resources) {
		err := sqlitex.Execute(conn, `
			WITH current AS (
				SELECT * FROM records
				WHERE site_id = ?1 AND resource_id = ?2 AND usage_type = ?3 AND local_record_id = ?4 AND key_time = ?5)
			SELECT batch_id, ordinal, record_id, revision, loaded_at, charge, 1 FROM current
			UNION ALL
			SELECT batch_id, ordinal, record_id, revision, loaded_at, charge, 0 FROM revisions
			WHERE site_id = ?1 AND record_id = (SELECT record_id FROM current WHERE revision > 1)`,
			&sqlitex.ExecOptions{
				Args: []any{int64(site), k.Resource, k.UsageType, k.LocalRecordID, k.KeyTime},
				ResultFunc: func(stmt *sqlite.Stmt) error {
					old.SetOutcome(stmt.ColumnInt64(0), stmt.ColumnInt64(1), ledger.Outcome{
						RevisionKey: ledger.RevisionKey{Record: stmt.ColumnInt64(2), Revision: stmt.ColumnInt64(3)},
						LoadedAt:    stmt.ColumnInt64(4),
						Charge:      stmt.ColumnInt64(5),
						Newest:      stmt.ColumnBool(6),
					})
					return nil
				},
			})
		if err != nil {
			return err
		}
	}
	return nil
}

// SetArchived records that a file holds batches, and removes what it holds.
func (l *Ledger) SetArchived(ctx context.Context, site ledger.SiteID, file string, batches []int64, replaced []ledger.RevisionKey) (removed int64, err error) {
	err = l.db.write(ctx, "archive", func(conn *sqlite.Conn) error {
		for _, id := range batches {
			err := sqlitex.Execute(conn, `
				UPDATE batches SET archive = ?, records = x'' WHERE batch_id = ? AND site_id = ? AND archive IS NULL`,
				&sqlitex.ExecOptions{Args: []any{file, id, int64(site)}})
			if err != nil {
				return err
			}
			if conn.Changes() == 0 {
				return ledger.ErrArchived
			}
		}
		for _, k := range replaced {
			err := sqlitex.Execute(conn, `DELETE FROM revisions WHERE site_id = ? AND record_id = ? AND revision <= ?`,
				&sqlitex.ExecOptions{Args: []any{int64(site), k.Record, k.Revision}})
			if err != nil {
				return err
			}
			removed += int64(conn.Changes())
		}
		if err := addEvents(conn, int64(site), ledger.ArchivedEvent(ctx, file, batches)); err != nil {
			return err
		}
		return sqlitex.Execute(conn, `UPDATE sites SET archived_revisions = archived_revisions + ? WHERE site_id = ?`,
			&sqlitex.ExecOptions{Args: []any{removed, int64(site)}})
	})
	return removed, err
}
