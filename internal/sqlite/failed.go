package sqlite

import (
	"context"
	"errors"
	"slices"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// failedColumns are what scanFailed reads.
const failedColumns = `failed_id, usage_type, failure, record`

// errPageFull ends a statement whose rows are enough.
var errPageFull = errors.New("the page is full")

func scanFailed(stmt *sqlite.Stmt) amieusage.FailedRecord {
	return ledger.StoredFailed(stmt.ColumnInt64(0), stmt.ColumnInt64(1), stmt.ColumnText(2), columnBytes(stmt, 3))
}

// Failed returns open failed records, in order of failing.
func (l *Ledger) Failed(ctx context.Context, site ledger.SiteID, q ledger.FailedQuery) (failed []amieusage.FailedRecord, err error) {
	bytes := 0
	err = l.db.read(ctx, func(conn *sqlite.Conn) error {
		err := sqlitex.Execute(conn, `
			SELECT `+failedColumns+` FROM failed_records
			WHERE site_id = ? AND state = 0 AND failed_id > ? ORDER BY failed_id LIMIT ?`,
			&sqlitex.ExecOptions{
				Args: []any{int64(site), q.After, q.Limit},
				ResultFunc: func(stmt *sqlite.Stmt) error {
					failed = append(failed, scanFailed(stmt))
					if bytes += stmt.ColumnLen(3); bytes >= ledger.MaxPageBytes {
						return errPageFull
					}
					return nil
				},
			})
		if errors.Is(err, errPageFull) {
			return nil
		}
		return err
	})
	return failed, err
}

// Clear clears failed records, all or none.
func (l *Ledger) Clear(ctx context.Context, site ledger.SiteID, ids []int64, now time.Time) error {
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	return l.db.write(ctx, "clear", func(conn *sqlite.Conn) error {
		unknown := &ledger.UnknownFailedError{}
		var open []int64
		for _, id := range ids {
			state, known := int64(0), false
			err := sqlitex.Execute(conn, `SELECT state FROM failed_records WHERE failed_id = ? AND site_id = ?`, &sqlitex.ExecOptions{
				Args: []any{id, int64(site)},
				ResultFunc: func(stmt *sqlite.Stmt) error {
					state, known = stmt.ColumnInt64(0), true
					return nil
				},
			})
			switch {
			case err != nil:
				return err
			case !known:
				unknown.IDs = append(unknown.IDs, id)
			case state == ledger.FailedOpen:
				open = append(open, id)
			}
		}
		if len(unknown.IDs) > 0 {
			return unknown
		}
		if len(open) == 0 {
			return nil
		}
		for _, id := range open {
			err := sqlitex.Execute(conn, `UPDATE failed_records SET state = ?, closed_at = ? WHERE failed_id = ?`,
				&sqlitex.ExecOptions{Args: []any{ledger.FailedCleared, ledger.Nanos(now), id}})
			if err != nil {
				return err
			}
		}
		err := sqlitex.Execute(conn, `UPDATE sites SET open_failed = open_failed - ? WHERE site_id = ?`,
			&sqlitex.ExecOptions{Args: []any{len(open), int64(site)}})
		if err != nil {
			return err
		}
		return addEvents(conn, int64(site), ledger.ClearedEvent(ctx, open, now))
	})
}
