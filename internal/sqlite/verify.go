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
	{What: "batches set aside", Query: `
		SELECT site_id, 'batch ' || batch_id || ' is marked as damaged, and is not loaded' FROM batches WHERE damaged <> 0`},
	{What: "the file", Query: `
		SELECT 0, integrity_check FROM pragma_integrity_check WHERE integrity_check <> 'ok'`},
}, ledger.Checks(ledger.SQL{
	Rows:     "true",
	Counters: "sites",
	Month:    "unixepoch(usage_time / 1000000000, 'unixepoch', 'start of month') / 86400",
	LoadedBy: "b.loaded_at <= r.loaded_at",
	FailedBy: "b.loaded_at = r.failed_at",
})...)

// verifyCacheKiB is the page cache of the connection that verifies.
const verifyCacheKiB = 8 << 10

// Verify is [Ledger.VerifyAll] for whoever wants to know only whether the
// ledger adds up. The error names what differs.
func (l *Ledger) Verify(ctx context.Context) error {
	v, err := l.VerifyAll(ctx, func(*ledger.VerifiedSite) {})
	if err != nil {
		return err
	}
	return v.Err()
}

// VerifyAll verifies that the file is whole, that roll-ups and counts are what
// the records add up to, and that all rows are what was accepted. It reads
// everything, in one snapshot; the ledger may be in use, and its write-ahead
// log grows meanwhile. What is sorted goes through temporary files.
func (l *Ledger) VerifyAll(ctx context.Context, progress func(*ledger.VerifiedSite)) (v *ledger.Verification, err error) {
	// A connection of its own, for its settings.
	conn, err := sqlite.OpenConn(l.db.path, sqlite.OpenReadWrite)
	if err != nil {
		return nil, openError(l.db.path, ledgerFile, err)
	}
	defer conn.Close()
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = ctx.Err()
		}
		err = l.db.failure(err)
	}()
	if err := prepare(conn, verifyCacheKiB); err != nil {
		return nil, err
	}
	if err := sqlitex.ExecuteTransient(conn, "PRAGMA temp_store = FILE", nil); err != nil {
		return nil, err
	}
	conn.SetInterrupt(ctx.Done())
	end := sqlitex.Transaction(conn)
	defer end(&err)
	return l.verifyAll(ctx, conn, progress)
}

func (l *Ledger) verifyAll(ctx context.Context, conn *sqlite.Conn, progress func(*ledger.VerifiedSite)) (*ledger.Verification, error) {
	v := &ledger.Verification{Ledger: l.db.path}
	var ids []int64
	names := map[int64]string{0: l.db.path}
	err := sqlitex.Execute(conn, `SELECT site_id, name FROM sites ORDER BY name`, &sqlitex.ExecOptions{
		ResultFunc: func(stmt *sqlite.Stmt) error {
			ids = append(ids, stmt.ColumnInt64(0))
			names[stmt.ColumnInt64(0)] = stmt.ColumnText(1)
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	if err := verifyOwners(conn, v); err != nil {
		return nil, err
	}
	for _, check := range checks {
		err := sqlitex.Execute(conn, check.Query, &sqlitex.ExecOptions{
			ResultFunc: func(stmt *sqlite.Stmt) error {
				name, known := names[stmt.ColumnInt64(0)]
				if !known {
					name = fmt.Sprintf("no site %d", stmt.ColumnInt64(0))
				}
				v.Add(ledger.Finding{Check: check.What, Site: name, Text: stmt.ColumnText(1)})
				return nil
			},
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", check.What, err)
		}
	}
	for _, id := range ids {
		site := &ledger.VerifiedSite{Site: names[id]}
		v.Sites = append(v.Sites, site)
		tx := &contentsTx{conn, id}
		if err := ledger.VerifyContents(ctx, tx, l.packer, v, site, func() { progress(site) }); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// verifyOwners looks for rows of sites that are not there.
func verifyOwners(conn *sqlite.Conn, v *ledger.Verification) error {
	var tables []string
	err := sqlitex.Execute(conn, `
		SELECT t.name FROM sqlite_schema t JOIN pragma_table_info(t.name) c ON c.name = 'site_id'
		WHERE t.type = 'table' AND t.name <> 'sites' ORDER BY t.name`, &sqlitex.ExecOptions{
		ResultFunc: func(stmt *sqlite.Stmt) error {
			tables = append(tables, stmt.ColumnText(0))
			return nil
		},
	})
	if err != nil {
		return err
	}
	for _, table := range tables {
		err := sqlitex.ExecuteTransient(conn, `
			SELECT DISTINCT site_id FROM `+table+` WHERE site_id NOT IN (SELECT site_id FROM sites) AND NOT (site_id = 0 AND ?) ORDER BY site_id`, &sqlitex.ExecOptions{
			Args: []any{table == "events"}, // those of site 0 are of none
			ResultFunc: func(stmt *sqlite.Stmt) error {
				v.Add(ledger.NoSite(stmt.ColumnInt64(0), table))
				return nil
			},
		})
		if err != nil {
			return fmt.Errorf("%s: %w", table, err)
		}
	}
	return nil
}
