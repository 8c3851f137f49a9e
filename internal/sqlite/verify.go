package sqlite

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
)

// verifications are what must hold in a ledger: each query gives a row of text
// for everything that does not.
var verifications = []struct{ what, query string }{
	{"the site's numbers of records", `
		SELECT s.name || ': accepted ' || s.accepted || ', loaded ' || s.loaded || ', failed ' || s.failed || ', queued ' || s.queued
			|| '; the batches hold ' || coalesce(b.accepted, 0) || ', of which ' || coalesce(b.queued, 0)
			|| ' queued; failed records: ' || coalesce(f.failed, 0)
		FROM sites s
		LEFT JOIN (SELECT site_id, sum(record_count) AS accepted, sum(CASE WHEN loaded_at IS NULL THEN record_count ELSE 0 END) AS queued
			FROM batches GROUP BY site_id) b ON b.site_id = s.site_id
		LEFT JOIN (SELECT site_id, count(*) AS failed FROM failed_records GROUP BY site_id) f ON f.site_id = s.site_id
		WHERE s.accepted IS NOT coalesce(b.accepted, 0) OR s.queued IS NOT coalesce(b.queued, 0)
			OR s.failed IS NOT coalesce(f.failed, 0) OR s.accepted IS NOT s.loaded + s.failed + s.queued`},
	{"the site's number of open failed records", `
		SELECT name || ': ' || open_failed FROM sites s
		WHERE open_failed IS NOT (SELECT count(*) FROM failed_records f WHERE f.site_id = s.site_id AND f.state = 0)`},
	{"the site's total of all charges", `
		SELECT s.name || ': ' || s.gross_charge || ' millionths, its records have ' || coalesce(r.charge, 0)
		FROM sites s LEFT JOIN (SELECT site_id, sum(charge) AS charge FROM records GROUP BY site_id) r ON r.site_id = s.site_id
		WHERE s.gross_charge IS NOT coalesce(r.charge, 0)`},
	{"the site's last time of loading", `
		SELECT s.name || ': ' || s.last_loaded_at FROM sites s
		WHERE last_loaded_at < (SELECT coalesce(max(loaded_at), 0) FROM records r WHERE r.site_id = s.site_id)`},
	{"usage by day", compared("(SELECT * FROM usage_totals WHERE span = 0)",
		"site_id, day, resource_id, project_id, user_id, usage_type", []string{"records", "deducted", "given_back"},
		"site_id, usage_time / 86400000000000 AS day, "+recordColumns)},
	{"usage by month", compared("(SELECT * FROM usage_totals WHERE span = 1)",
		"site_id, day, resource_id, project_id, user_id, usage_type", []string{"records", "deducted", "given_back"},
		"site_id, unixepoch(usage_time / 1000000000, 'unixepoch', 'start of month') / 86400 AS day, "+recordColumns)},
	{"balances", compared("balances", "site_id, project_id, resource_id", []string{"records", "used", "given_back"},
		`site_id, project_id, resource_id, 1 AS records, CASE gives_back WHEN 0 THEN charge ELSE 0 END AS used,
			CASE gives_back WHEN 0 THEN 0 ELSE charge END AS given_back`)},
	{"loads by transaction", compared("(SELECT * FROM loads WHERE span = 0)", "site_id, resource_id, loaded_at", []string{"records", "charge"},
		`site_id, resource_id, loaded_at, 1 AS records, CASE gives_back WHEN 0 THEN charge ELSE -charge END AS charge`)},
	{"loads by hour", compared("(SELECT * FROM loads WHERE span = 1)", "site_id, resource_id, loaded_at", []string{"records", "charge"},
		`site_id, resource_id, loaded_at - loaded_at % 3600000000000 AS loaded_at, 1 AS records,
			CASE gives_back WHEN 0 THEN charge ELSE -charge END AS charge`)},
	{"revisions", `
		SELECT 'record ' || r.record_id || ' has ' || count(v.revision) || ' before revision ' || r.revision
		FROM records r LEFT JOIN revisions v ON v.site_id = r.site_id AND v.record_id = r.record_id
		WHERE r.revision > 1 OR v.record_id IS NOT NULL
		GROUP BY r.record_id HAVING count(v.revision) <> r.revision - 1 OR max(v.revision) >= r.revision`},
	{"open failed records of one identity", `
		SELECT 'site ' || site_id || ', resource ' || resource_id || ', ' || local_record_id || ': ' || count(*)
		FROM failed_records WHERE state = 0
		GROUP BY site_id, resource_id, usage_type, local_record_id, key_time HAVING count(*) > 1`},
	{"what a record of the site refers to", `
		SELECT 'record ' || record_id FROM records r
		WHERE NOT EXISTS (SELECT 1 FROM resources x WHERE x.site_id = r.site_id AND x.resource_id = r.resource_id)
			OR NOT EXISTS (SELECT 1 FROM projects x WHERE x.site_id = r.site_id AND x.project_id = r.project_id)
			OR NOT EXISTS (SELECT 1 FROM users x WHERE x.site_id = r.site_id AND x.user_id = r.user_id)
			OR NOT EXISTS (SELECT 1 FROM batches x WHERE x.site_id = r.site_id AND x.batch_id = r.batch_id
				AND r.ordinal < x.record_count AND x.loaded_at <= r.loaded_at)`},
	{"what a failed record of the site refers to", `
		SELECT 'failed record ' || failed_id FROM failed_records r
		WHERE NOT EXISTS (SELECT 1 FROM resources x WHERE x.site_id = r.site_id AND x.resource_id = r.resource_id)
			OR NOT EXISTS (SELECT 1 FROM batches x WHERE x.site_id = r.site_id AND x.batch_id = r.batch_id
				AND r.ordinal < x.record_count AND x.loaded_at = r.failed_at)`},
}

// compared returns the query for the rows in which a roll-up with these keys
// and sums differs from what the records add up to.
func compared(rollUp, keys string, sums []string, fromRecords string) string {
	var summed, nonzero []string
	for _, column := range sums {
		summed = append(summed, "sum("+column+")")
		nonzero = append(nonzero, column+" <> 0")
	}
	columns := strings.Join(sums, ", ")
	return `
		SELECT min(side) || ' ' || concat_ws(', ', ` + columns + `) || ' (` + columns + `) for ' || concat_ws(', ', ` + keys + `) || ' (` + keys + `)'
		FROM (
			SELECT 'rolled up' AS side, ` + keys + `, ` + columns + ` FROM ` + rollUp + ` WHERE ` + strings.Join(nonzero, " OR ") + `
			UNION ALL
			SELECT 'the records have', ` + keys + `, ` + strings.Join(summed, ", ") + ` FROM (SELECT ` + fromRecords + ` FROM records)
			GROUP BY ` + keys + `)
		GROUP BY ` + keys + `, ` + columns + ` HAVING count(*) <> 2`
}

// maxFindings is how many of the rows that one verification finds are named.
const maxFindings = 5

// Verify checks that the file is whole, that every batch can be read back, and
// that roll-ups and counts are what the records add up to. It reads
// everything, in one snapshot; the ledger may be in use. The error names what
// differs.
func (l *Ledger) Verify(ctx context.Context) error {
	return l.db.read(ctx, func(conn *sqlite.Conn) error {
		var found []error
		for _, v := range append(verifications, struct{ what, query string }{"the file", `
			SELECT integrity_check FROM pragma_integrity_check WHERE integrity_check <> 'ok'`}) {
			rows := 0
			err := sqlitex.Execute(conn, v.query, &sqlitex.ExecOptions{
				ResultFunc: func(stmt *sqlite.Stmt) error {
					if rows++; rows <= maxFindings {
						found = append(found, fmt.Errorf("%s: %s", v.what, stmt.ColumnText(0)))
					}
					return nil
				},
			})
			if err != nil {
				return fmt.Errorf("%s: %w", v.what, err)
			}
			if rows > maxFindings {
				found = append(found, fmt.Errorf("%s: and %d more", v.what, rows-maxFindings))
			}
		}
		err := sqlitex.Execute(conn, `SELECT batch_id, record_count, records FROM batches`, &sqlitex.ExecOptions{
			ResultFunc: func(stmt *sqlite.Stmt) error {
				if _, err := l.packer.Unpack(columnBytes(stmt, 2), stmt.ColumnInt64(1)); err != nil {
					found = append(found, fmt.Errorf("batch %d cannot be read back", stmt.ColumnInt64(0)))
				}
				return nil
			},
		})
		if err != nil || len(found) == 0 {
			return err
		}
		return &amieusage.Error{
			Code:    amieusage.CodeInternal,
			Message: l.db.path + " does not add up",
			Hint:    "restore it from a backup",
			Err:     errors.Join(found...),
		}
	})
}
