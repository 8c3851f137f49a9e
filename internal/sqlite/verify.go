package sqlite

import (
	"context"
	"fmt"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage/internal/ledger"
)

// checks are what must hold in a ledger.
var checks = append([]ledger.Check{
	{What: "the site's numbers of records", Query: `
		SELECT s.site_id, 'accepted ' || s.accepted || ', loaded ' || s.loaded || ', failed ' || s.failed || ', queued ' || s.queued
			|| '; the batches hold ' || coalesce(b.accepted, 0) || ', of which ' || coalesce(b.queued, 0)
			|| ' queued; failed records: ' || coalesce(f.failed, 0)
		FROM sites s
		LEFT JOIN (SELECT site_id, sum(record_count) AS accepted, sum(CASE WHEN loaded_at IS NULL THEN record_count ELSE 0 END) AS queued
			FROM batches GROUP BY site_id) b ON b.site_id = s.site_id
		LEFT JOIN (SELECT site_id, count(*) AS failed FROM failed_records GROUP BY site_id) f ON f.site_id = s.site_id
		WHERE s.accepted IS NOT coalesce(b.accepted, 0) OR s.queued IS NOT coalesce(b.queued, 0)
			OR s.failed IS NOT coalesce(f.failed, 0) OR s.accepted IS NOT s.loaded + s.failed + s.queued`},
	{What: "the site's number of open failed records", Query: `
		SELECT site_id, open_failed FROM sites s
		WHERE open_failed IS NOT (SELECT count(*) FROM failed_records f WHERE f.site_id = s.site_id AND f.state = 0)`},
	{What: "the file", Query: `
		SELECT 0, integrity_check FROM pragma_integrity_check WHERE integrity_check <> 'ok'`},
}, ledger.Checks(ledger.SQL{
	Rows:     "true",
	Counters: "sites",
	Month:    "unixepoch(usage_time / 1000000000, 'unixepoch', 'start of month') / 86400",
	LoadedBy: "b.loaded_at <= r.loaded_at",
	FailedBy: "b.loaded_at = r.failed_at",
})...)

// Verify checks that the file is whole, that every batch can be read back, and
// that roll-ups and counts are what the records add up to. It reads
// everything, in one snapshot; the ledger may be in use. The error names what
// differs.
func (l *Ledger) Verify(ctx context.Context) error {
	return l.db.read(ctx, func(conn *sqlite.Conn) error {
		names := map[int64]string{0: l.db.path}
		err := sqlitex.Execute(conn, `SELECT site_id, name FROM sites`, &sqlitex.ExecOptions{
			ResultFunc: func(stmt *sqlite.Stmt) error {
				names[stmt.ColumnInt64(0)] = stmt.ColumnText(1)
				return nil
			},
		})
		if err != nil {
			return err
		}
		nameOf := func(site int64) string {
			if name, ok := names[site]; ok {
				return name
			}
			return fmt.Sprintf("no site %d", site)
		}
		var findings ledger.Findings
		for _, check := range checks {
			err := sqlitex.Execute(conn, check.Query, &sqlitex.ExecOptions{
				ResultFunc: func(stmt *sqlite.Stmt) error {
					findings.Add(check.What, nameOf(stmt.ColumnInt64(0))+": "+stmt.ColumnText(1))
					return nil
				},
			})
			if err != nil {
				return fmt.Errorf("%s: %w", check.What, err)
			}
		}
		err = sqlitex.Execute(conn, `SELECT site_id, batch_id, record_count, records, archive IS NOT NULL FROM batches`, &sqlitex.ExecOptions{
			ResultFunc: func(stmt *sqlite.Stmt) error {
				if text := l.packer.Check(columnBytes(stmt, 3), stmt.ColumnInt64(2), stmt.ColumnBool(4)); text != "" {
					findings.Add("batches", fmt.Sprintf("%s: batch %d %s", nameOf(stmt.ColumnInt64(0)), stmt.ColumnInt64(1), text))
				}
				return nil
			},
		})
		if err != nil {
			return err
		}
		return findings.Err(l.db.path)
	})
}
