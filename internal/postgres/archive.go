package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/amieusage/amieusage/internal/ledger"
)

var _ ledger.Archivable = (*Ledger)(nil)

// SiteNames returns the names of all sites that are served, by their numbers.
func (l *Ledger) SiteNames(ctx context.Context) (map[ledger.SiteID]string, error) {
	names := map[ledger.SiteID]string{}
	return names, l.db.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT site_id, name FROM sites WHERE served`)
		if err != nil {
			return err
		}
		var site ledger.SiteID
		var name string
		_, err = pgx.ForEachRow(rows, []any{&site, &name}, func() error {
			names[site] = name
			return nil
		})
		return err
	})
}

// OldBatches returns batches of a site that are to be archived.
func (l *Ledger) OldBatches(ctx context.Context, site ledger.SiteID, after int64, before time.Time, maxRecords int) (old ledger.OldBatches, err error) {
	err = l.db.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if old, err = l.oldBatches(ctx, tx, site, after, before, maxRecords); err != nil || len(old) == 0 {
			return err
		}
		if err := setRevisions(ctx, tx, site, old); err != nil {
			return err
		}
		first, last := old.Span()
		rows, err := tx.Query(ctx, `
			SELECT batch_id, ordinal, failed_id, failure FROM failed_records
			WHERE site_id = $1 AND batch_id BETWEEN $2 AND $3`, int64(site), first, last)
		if err != nil {
			return err
		}
		var batch, ordinal int64
		var o ledger.Outcome
		_, err = pgx.ForEachRow(rows, []any{&batch, &ordinal, &o.FailedID, &o.Failure}, func() error {
			old.SetOutcome(batch, ordinal, o)
			return nil
		})
		return err
	})
	return old, err
}

// oldBatches reads the batches, without what has become of their records.
func (l *Ledger) oldBatches(ctx context.Context, tx pgx.Tx, site ledger.SiteID, after int64, before time.Time, maxRecords int) (ledger.OldBatches, error) {
	type head struct {
		ID, Records, Packed int64
		TooNew              bool
	}
	heads, err := rowsOf(ctx, tx, pgx.RowToStructByPos[head], `
		SELECT batch_id, record_count, octet_length(records), accepted_at >= $3 FROM batches
		WHERE site_id = $1 AND batch_id > $2 AND batch_id <= (SELECT batch_id FROM loading WHERE site_id = $1)
			AND NOT damaged AND archive IS NULL
		ORDER BY batch_id LIMIT $4`, int64(site), after, ledger.Nanos(before), min(maxRecords, maxBatches))
	if err != nil {
		return nil, err
	}
	last, records, packed := after, int64(0), int64(0)
	for _, h := range heads {
		if h.TooNew || records >= int64(maxRecords) || packed >= ledger.MaxLoadBytes {
			break
		}
		last = h.ID
		records += h.Records
		packed += h.Packed
	}
	rows, err := tx.Query(ctx, `
		SELECT batch_id, key_id, usage_type, accepted_at, record_count, records FROM batches
		WHERE site_id = $1 AND batch_id > $2 AND batch_id <= $3 AND NOT damaged AND archive IS NULL
		ORDER BY batch_id`, int64(site), after, last)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var batches []*ledger.Batch
	for unpacked := 0; unpacked < ledger.MaxLoadBytes && rows.Next(); {
		b, err := l.oldBatch(rows, site)
		if err != nil {
			return nil, err
		}
		batches = append(batches, b)
		unpacked += b.Bytes()
	}
	rows.Close() // whether or not it has come to the end
	return ledger.NewOldBatches(batches), rows.Err()
}

func (l *Ledger) oldBatch(row pgx.CollectableRow, site ledger.SiteID) (*ledger.Batch, error) {
	b := &ledger.Batch{Site: site}
	var usageType, acceptedAt, count int64
	var packed []byte
	if err := row.Scan(&b.ID, &b.KeyID, &usageType, &acceptedAt, &count, &packed); err != nil {
		return nil, err
	}
	b.UsageType = ledger.UsageTypeOf(usageType)
	b.AcceptedAt = ledger.TimeOrZero(acceptedAt)
	var err error
	if b.Records, err = l.packer.Unpack(packed, count); err != nil {
		return nil, fmt.Errorf("batch %d: %w", b.ID, err)
	}
	return b, nil
}

// setRevisions finds the revisions that the batches have brought: by their
// records' identities, for neither revisions nor records are found by batch.
func setRevisions(ctx context.Context, tx pgx.Tx, site ledger.SiteID, old ledger.OldBatches) error {
	resources := map[string]int64{}
	var name string
	var id int64
	rows, err := tx.Query(ctx, `SELECT name, resource_id FROM resources WHERE site_id = $1`, int64(site))
	if err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, []any{&name, &id}, func() error {
		resources[name] = id
		return nil
	})
	if err != nil {
		return err
	}
	var keys keyColumns
	for _, k := range old.Keys(resources) {
		keys.add(&k)
	}
	var batch, ordinal int64
	var o ledger.Outcome
	into := []any{&batch, &ordinal, &o.Record, &o.Revision, &o.LoadedAt, &o.Charge, &o.Newest}
	var corrected []int64
	rows, err = tx.Query(ctx, `
		SELECT r.batch_id, r.ordinal, r.record_id, r.revision, r.loaded_at, r.charge, true
		FROM `+keyRows+` CROSS JOIN LATERAL (
			SELECT * FROM records r
			WHERE r.site_id = $1 AND r.resource_id = k.resource_id AND r.usage_type = k.usage_type
				AND r.local_record_id = k.local_record_id AND r.key_time = k.key_time LIMIT 1) AS r`, keys.args(int64(site))...)
	if err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, into, func() error {
		old.SetOutcome(batch, ordinal, o)
		if o.Revision > 1 {
			corrected = append(corrected, o.Record)
		}
		return nil
	})
	if err != nil || len(corrected) == 0 {
		return err
	}
	rows, err = tx.Query(ctx, `
		SELECT batch_id, ordinal, record_id, revision, loaded_at, charge, false FROM revisions
		WHERE site_id = $1 AND record_id = ANY ($2)`, int64(site), corrected)
	if err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, into, func() error {
		old.SetOutcome(batch, ordinal, o)
		return nil
	})
	return err
}

// SetArchived records that a file holds batches, and removes what it holds. It
// holds the site's loading, so that no correction is loaded at the same time.
func (l *Ledger) SetArchived(ctx context.Context, site ledger.SiteID, file string, batches []int64, replaced []ledger.RevisionKey) (removed int64, err error) {
	records, revisions := make([]int64, len(replaced)), make([]int64, len(replaced))
	for i, k := range replaced {
		records[i], revisions[i] = k.Record, k.Revision
	}
	err = l.db.write(ctx, "archive", func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT 1 FROM loading WHERE site_id = $1 FOR UPDATE`, int64(site)); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `
			UPDATE batches SET archive = $3, records = '' WHERE site_id = $1 AND batch_id = ANY ($2) AND archive IS NULL`,
			int64(site), batches, file)
		if err != nil {
			return err
		}
		if tag.RowsAffected() != int64(len(batches)) {
			return ledger.ErrArchived
		}
		// Each is looked up on its own: another join could come to read the whole
		// site.
		if _, err := tx.Exec(ctx, `SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off`); err != nil {
			return err
		}
		tag, err = tx.Exec(ctx, `
			DELETE FROM revisions v USING unnest($2::bigint[], $3::bigint[]) AS u (record_id, revision)
			WHERE v.site_id = $1 AND v.record_id = u.record_id AND v.revision <= u.revision`, int64(site), records, revisions)
		if err != nil {
			return err
		}
		removed = tag.RowsAffected()
		if err := addEvents(ctx, tx, int64(site), ledger.ArchivedEvent(ctx, file, batches)); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE loading SET archived_revisions = archived_revisions + $2 WHERE site_id = $1`, int64(site), removed)
		return err
	})
	return removed, err
}
