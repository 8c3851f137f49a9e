package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/amieusage/amieusage/internal/ledger"
)

// A contentsTx reads one site in a snapshot, to verify it.
type contentsTx struct {
	tx   pgx.Tx
	site int64
}

var _ ledger.ContentsTx = (*contentsTx)(nil)

// Registry returns the numbers of the site's names.
func (t *contentsTx) Registry(ctx context.Context) (*ledger.Registry, error) {
	return readRegistry(ctx, t.tx, ledger.SiteID(t.site))
}

const storedBatchColumns = `batch_id, usage_type, record_count, coalesce(` + loadedBatch + `, false), archive IS NOT NULL, records`

func scanStoredBatch(row pgx.CollectableRow) (*ledger.StoredBatch, error) {
	b := new(ledger.StoredBatch)
	var usageType int64
	err := row.Scan(&b.ID, &usageType, &b.Count, &b.Loaded, &b.Archived, &b.Packed)
	b.UsageType = ledger.UsageTypeOf(usageType)
	return b, err
}

// Batches returns batches behind another.
func (t *contentsTx) Batches(ctx context.Context, after int64, maxRecords, maxBytes int) ([]*ledger.StoredBatch, error) {
	return rowsOf(ctx, t.tx, scanStoredBatch, `
		SELECT `+storedBatchColumns+`
		FROM (SELECT *, sum(record_count) OVER earlier AS earlier_records, sum(octet_length(records)) OVER earlier AS earlier_bytes
			FROM (SELECT * FROM batches WHERE site_id = $1 AND batch_id > $2 ORDER BY batch_id LIMIT $3) AS b
			WINDOW earlier AS (ORDER BY batch_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) AS b
		WHERE coalesce(earlier_records, 0) < $3 AND coalesce(earlier_bytes, 0) < $4 ORDER BY batch_id`,
		t.site, after, maxRecords, maxBytes)
}

// Batch returns one batch, or nil.
func (t *contentsTx) Batch(ctx context.Context, id int64) (*ledger.StoredBatch, error) {
	found, err := rowsOf(ctx, t.tx, scanStoredBatch, `SELECT `+storedBatchColumns+` FROM batches b WHERE site_id = $1 AND batch_id = $2`, t.site, id)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return found[0], nil
}

const entryColumns = `r.record_id, r.resource_id, r.usage_type, r.local_record_id, r.key_time, r.revision, r.batch_id, r.ordinal, r.digest,
	r.project_id, r.user_id, r.usage_time, r.charge, r.gives_back, r.loaded_at`

func scanEntry(row pgx.CollectableRow) (*ledger.Entry, error) {
	e := new(ledger.Entry)
	var digest []byte
	err := row.Scan(&e.Record, &e.Resource, &e.UsageType, &e.LocalRecordID, &e.KeyTime, &e.Revision, &e.Batch, &e.Ordinal, &digest,
		&e.Project, &e.User, &e.UsageTime, &e.Charge, &e.GivesBack, &e.LoadedAt)
	copy(e.Digest[:], digest)
	return e, err
}

// Entries returns the newest revisions of identities.
func (t *contentsTx) Entries(ctx context.Context, keys []ledger.EntryKey) ([]*ledger.Entry, error) {
	return rowsOf(ctx, t.tx, scanEntry, `
		SELECT `+entryColumns+`
		FROM `+keyRows+` CROSS JOIN LATERAL (
			SELECT * FROM records r WHERE r.site_id = $1 AND r.resource_id = k.resource_id AND r.usage_type = k.usage_type
				AND r.local_record_id = k.local_record_id AND r.key_time = k.key_time LIMIT 1) r`, t.keyArgs(keys)...)
}

func (t *contentsTx) keyArgs(keys []ledger.EntryKey) []any {
	var c keyColumns
	for i := range keys {
		c.add(&keys[i])
	}
	return c.args(t.site)
}

// Replaced returns replaced revisions of records.
func (t *contentsTx) Replaced(ctx context.Context, records []int64, first, last int64) ([]*ledger.Entry, error) {
	return rowsOf(ctx, t.tx, func(row pgx.CollectableRow) (*ledger.Entry, error) {
		e := new(ledger.Entry)
		return e, row.Scan(&e.Record, &e.Revision, &e.Batch, &e.Ordinal, &e.Charge)
	}, `
		SELECT v.* FROM unnest($2::bigint[]) AS u (record_id) CROSS JOIN LATERAL (
			(SELECT record_id, revision, batch_id, ordinal, charge FROM revisions
				WHERE site_id = $1 AND record_id = u.record_id AND batch_id BETWEEN $3 AND $4 OFFSET 0)
			UNION ALL
			(SELECT record_id, revision, batch_id, ordinal, charge FROM revisions
				WHERE site_id = $1 AND record_id = u.record_id AND batch_id < $3 ORDER BY revision DESC LIMIT 1)) AS v`,
		t.site, records, first, last)
}

const failedRowColumns = `f.failed_id, f.resource_id, f.usage_type, f.local_record_id, f.key_time, f.batch_id, f.ordinal`

func scanFailedRow(row pgx.CollectableRow) (*ledger.FailedRow, error) {
	f := new(ledger.FailedRow)
	return f, row.Scan(&f.ID, &f.Resource, &f.UsageType, &f.LocalRecordID, &f.KeyTime, &f.Batch, &f.Ordinal)
}

// Failed returns the failed records from some batches.
func (t *contentsTx) Failed(ctx context.Context, first, last int64) ([]*ledger.FailedRow, error) {
	return rowsOf(ctx, t.tx, func(row pgx.CollectableRow) (*ledger.FailedRow, error) {
		f := new(ledger.FailedRow)
		return f, row.Scan(&f.ID, &f.Resource, &f.UsageType, &f.LocalRecordID, &f.KeyTime, &f.Batch, &f.Ordinal, &f.Raw)
	}, `SELECT `+failedRowColumns+`, f.record FROM failed_records f WHERE f.site_id = $1 AND f.batch_id BETWEEN $2 AND $3`,
		t.site, first, last)
}

// OpenFailed returns the open failed records of identities.
func (t *contentsTx) OpenFailed(ctx context.Context, keys []ledger.EntryKey) ([]*ledger.FailedRow, error) {
	return rowsOf(ctx, t.tx, scanFailedRow, `
		SELECT `+failedRowColumns+`
		FROM `+keyRows+` CROSS JOIN LATERAL (
			SELECT * FROM failed_records f WHERE f.site_id = $1 AND f.resource_id = k.resource_id
				AND f.usage_type = k.usage_type AND f.local_record_id = k.local_record_id AND f.key_time = k.key_time
				AND f.state = 0 OFFSET 0) f`, t.keyArgs(keys)...)
}

// Unproven returns the superseded failed records of which there is no row of
// what has superseded them.
func (t *contentsTx) Unproven(ctx context.Context, limit int) ([]*ledger.FailedRow, error) {
	return rowsOf(ctx, t.tx, scanFailedRow, ledger.SQL{Rows: "site_id = $1"}.UnprovenSuperseded()+` LIMIT $2`, t.site, limit)
}

// Rows returns the numbers of records and of revisions from batches that are in
// no archive.
func (t *contentsTx) Rows(ctx context.Context) (records, revisions int64, err error) {
	count := func(table string) string {
		return `(SELECT count(*) FROM ` + table + ` r LEFT JOIN batches b ON b.site_id = r.site_id AND b.batch_id = r.batch_id
			WHERE r.site_id = $1 AND b.archive IS NULL)`
	}
	err = t.tx.QueryRow(ctx, `SELECT `+count("records")+`, `+count("revisions"), t.site).Scan(&records, &revisions)
	return records, revisions, err
}

// EntriesBehind returns newest revisions in order of loading.
func (t *contentsTx) EntriesBehind(ctx context.Context, after ledger.Place, limit int) ([]*ledger.Entry, error) {
	return rowsOf(ctx, t.tx, scanEntry, `
		SELECT `+entryColumns+` FROM records r WHERE r.site_id = $1 AND (r.loaded_at, r.record_id) > ($2, $3)
		ORDER BY r.loaded_at, r.record_id LIMIT $4`, t.site, after.LoadedAt, after.Record, limit)
}
