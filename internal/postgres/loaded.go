package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

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
	if !isText(q.LocalRecordID) || !isText(q.LocalProjectID) || !isText(q.Username) {
		return page, nil
	}
	from, where := loadedFrom, ""
	args := []any{int64(site), after.LoadedAt, after.Record, q.PageSize + 1, q.Offset}
	if q.LocalRecordID != "" {
		from = loadedFromByID
		args = append(args, q.LocalRecordID)
	}
	also := func(condition string, value any) {
		args = append(args, value)
		where += fmt.Sprintf(" AND "+condition, len(args))
	}
	if q.LocalProjectID != "" {
		also(`r.project_id = (SELECT p.project_id FROM projects p WHERE p.site_id = $1 AND p.local_project_id = $%d)`, q.LocalProjectID)
	}
	if q.Username != "" {
		also(`r.user_id = (SELECT u.user_id FROM users u WHERE u.site_id = $1 AND u.username = $%d)`, q.Username)
	}
	if !q.From.IsZero() {
		also(`r.usage_time >= $%d::bigint`, ledger.Nanos(q.From))
	}
	if !q.To.IsZero() {
		also(`r.usage_time < $%d::bigint`, ledger.Nanos(q.To))
	}
	query := from + where + loadedOrder
	err = l.db.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		r := new(ledger.StoredRecord)
		_, err = pgx.ForEachRow(rows, []any{&r.Record, &r.UsageType, &r.LocalRecordID, &r.Resource, &r.KeyTime, &r.UsageTime,
			&r.LoadedAt, &r.Charge}, func() error {
			page.Add(r, q.PageSize)
			return nil
		})
		return err
	})
	return page, err
}

const (
	loadedColumns = `r.record_id, r.usage_type, r.local_record_id,
			(SELECT name FROM resources n WHERE n.site_id = $1 AND n.resource_id = r.resource_id),
			r.key_time, r.usage_time, r.loaded_at, r.charge`
	loadedFrom = `
		SELECT ` + loadedColumns + ` FROM records r
		WHERE r.site_id = $1 AND (r.loaded_at, r.record_id) > ($2::bigint, $3::bigint)`
	loadedOrder = `
		ORDER BY r.loaded_at, r.record_id LIMIT $4 OFFSET $5`
	// By the identity's index: for each resource and usage type.
	loadedFromByID = `
		SELECT ` + loadedColumns + ` FROM (
			SELECT r.* FROM resources n CROSS JOIN (VALUES (1), (2), (3)) AS t (usage_type)
			JOIN records r ON r.site_id = n.site_id AND r.resource_id = n.resource_id AND r.usage_type = t.usage_type
			WHERE n.site_id = $1 AND r.site_id = $1 AND r.local_record_id = $6
			OFFSET 0) r
		WHERE (r.loaded_at, r.record_id) > ($2::bigint, $3::bigint)`
)

// Revisions returns all that is kept of one loaded record, oldest first.
func (l *Ledger) Revisions(ctx context.Context, site ledger.SiteID, id amieusage.Identity) (revisions []ledger.Revision, err error) {
	err = l.db.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
		revisions, err = rowsOf(ctx, tx, func(row pgx.CollectableRow) (v ledger.Revision, err error) {
			var charge, acceptedAt, loadedAt, ordinal, count int64
			var packed []byte
			if err := row.Scan(&v.Number, &charge, &acceptedAt, &loadedAt, &v.KeyID, &ordinal, &count, &packed, &v.Archive); err != nil {
				return v, err
			}
			v.Charge = amieusage.ChargeOfMillionths(charge)
			v.AcceptedAt = ledger.TimeOrZero(acceptedAt)
			v.LoadedAt = ledger.TimeOf(loadedAt)
			if v.Archive == "" {
				records, err := l.packer.Unpack(packed, count)
				if err != nil {
					return v, err
				}
				v.Record = records[ordinal]
			}
			return v, nil
		}, `
			WITH current AS (
				SELECT r.record_id, r.revision, r.batch_id, r.ordinal, r.charge, r.loaded_at
				FROM resources n JOIN records r ON r.site_id = n.site_id AND r.resource_id = n.resource_id
				WHERE n.site_id = $1 AND r.site_id = $1 AND n.name = $2 AND r.usage_type = $3 AND r.local_record_id = $4
					AND r.key_time = $5),
			kept AS (
				SELECT revision, batch_id, ordinal, charge, loaded_at FROM current
				UNION ALL
				SELECT v.revision, v.batch_id, v.ordinal, v.charge, v.loaded_at
				FROM revisions v WHERE v.site_id = $1 AND v.record_id = (SELECT record_id FROM current))
			SELECT k.revision, k.charge, b.accepted_at, k.loaded_at, b.key_id, k.ordinal, b.record_count, b.records,
				coalesce(b.archive, '')
			FROM kept k JOIN batches b ON b.site_id = $1 AND b.batch_id = k.batch_id ORDER BY k.revision`,
			int64(site), id.Resource, ledger.UsageTypeNumber(id.UsageType), id.LocalRecordID, ledger.Nanos(id.KeyTime))
		return err
	})
	return revisions, err
}
