package sqlite

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// Loaded returns a page of loaded records in order of loading. A correction
// moves a record to the end, so a cursor never passes over one.
func (l *Ledger) Loaded(ctx context.Context, site ledger.SiteID, q amieusage.LoadedQuery) (page ledger.LoadedPage, err error) {
	afterTime, afterRecord := int64(-1), int64(0)
	if q.Cursor != "" {
		t, r, ok := strings.Cut(q.Cursor, ".")
		var errTime, errRecord error
		afterTime, errTime = strconv.ParseInt(t, 36, 64)
		afterRecord, errRecord = strconv.ParseInt(r, 36, 64)
		if !ok || errTime != nil || errRecord != nil {
			return page, &amieusage.Error{
				Code:    amieusage.CodeInvalid,
				Message: "parameter Cursor is not one that this service gave",
				Hint:    "take it from the Link header of the page before",
			}
		}
	}
	where, order := `r.site_id = ?1`, `r.loaded_at, r.record_id`
	if q.LocalRecordID != "" {
		where += ` AND r.resource_id IN (SELECT resource_id FROM resources WHERE site_id = ?1)
			AND r.usage_type IN (1, 2, 3) AND r.local_record_id = ?7`
		order = `+r.loaded_at, r.record_id`
	}
	var lastTime, lastRecord int64
	err = l.db.read(ctx, func(conn *sqlite.Conn) error {
		// The index is entered at the cursor, not at the beginning of the query.
		from := max(nanos(q.MinLoadedTime), afterTime)
		args := []any{int64(site), from, afterTime, afterRecord, q.Limit + 1, q.Offset}
		if q.LocalRecordID != "" {
			args = append(args, q.LocalRecordID)
		}
		return sqlitex.Execute(conn, `
			SELECT r.record_id, r.usage_type, r.local_record_id, n.name, r.key_time, r.usage_time, r.loaded_at,
				r.charge
			FROM records r JOIN resources n ON n.resource_id = r.resource_id
			WHERE `+where+` AND r.loaded_at >= ?2 AND (r.loaded_at, r.record_id) > (?3, ?4)
			ORDER BY `+order+` LIMIT ?5 OFFSET ?6`,
			&sqlitex.ExecOptions{
				Args: args,
				ResultFunc: func(stmt *sqlite.Stmt) error {
					if len(page.Records) == q.Limit {
						page.Next = strconv.FormatInt(lastTime, 36) + "." + strconv.FormatInt(lastRecord, 36)
						return nil
					}
					r := amieusage.LoadedRecord{
						AccountingDbRecordID: stmt.ColumnInt64(0),
						UsageType:            usageTypes[stmt.ColumnInt64(1)],
						LocalRecordID:        stmt.ColumnText(2),
						Resource:             stmt.ColumnText(3),
						SubmitTime:           fromNanos(stmt.ColumnInt64(4)),
						LoadedTime:           fromNanos(stmt.ColumnInt64(6)),
						Charge:               amieusage.ChargeOfMillionths(stmt.ColumnInt64(7)),
					}
					if r.UsageType == amieusage.Adjustment {
						r.SubmitTime = fromNanos(stmt.ColumnInt64(5))
					}
					lastTime, lastRecord = stmt.ColumnInt64(6), r.AccountingDbRecordID
					page.Records = append(page.Records, r)
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
			SELECT k.revision, k.charge, b.accepted_at, k.loaded_at, b.key_id, k.ordinal, b.records
			FROM kept k JOIN batches b ON b.batch_id = k.batch_id ORDER BY k.revision`,
			&sqlitex.ExecOptions{
				Args: []any{int64(site), id.Resource, usageTypeNumber(id.UsageType), id.LocalRecordID, nanos(id.KeyTime)},
				ResultFunc: func(stmt *sqlite.Stmt) error {
					packed := make([]byte, stmt.ColumnLen(6))
					stmt.ColumnBytes(6, packed)
					records, err := l.unpack(packed)
					if err != nil {
						return err
					}
					ordinal := stmt.ColumnInt(5)
					if ordinal >= len(records) {
						return fmt.Errorf("a batch of %d records has none at %d", len(records), ordinal)
					}
					revisions = append(revisions, ledger.Revision{
						Number:     stmt.ColumnInt(0),
						Charge:     amieusage.ChargeOfMillionths(stmt.ColumnInt64(1)),
						AcceptedAt: fromNanos(stmt.ColumnInt64(2)),
						LoadedAt:   fromNanos(stmt.ColumnInt64(3)),
						KeyID:      stmt.ColumnInt64(4),
						Record:     records[ordinal],
					})
					return nil
				},
			})
	})
	return revisions, err
}
