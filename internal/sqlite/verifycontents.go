package sqlite

import (
	"context"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage/internal/ledger"
)

// A contentsTx reads one site in a snapshot, to verify it.
type contentsTx struct {
	conn *sqlite.Conn
	site int64
}

var _ ledger.ContentsTx = (*contentsTx)(nil)

// Registry returns the numbers of the site's names.
func (t *contentsTx) Registry(context.Context) (*ledger.Registry, error) {
	r, err := readRegistry(t.conn, ledger.SiteID(t.site))
	if err != nil {
		return nil, err
	}
	return &r.Registry, nil
}

const storedBatchColumns = `batch_id, usage_type, record_count, loaded_at IS NOT NULL, archive IS NOT NULL, records`

func storedBatch(stmt *sqlite.Stmt) *ledger.StoredBatch {
	return &ledger.StoredBatch{
		Batch:    ledger.Batch{ID: stmt.ColumnInt64(0), UsageType: ledger.UsageTypeOf(stmt.ColumnInt64(1))},
		Count:    stmt.ColumnInt64(2),
		Loaded:   stmt.ColumnBool(3),
		Archived: stmt.ColumnBool(4),
		Packed:   columnBytes(stmt, 5),
	}
}

// Batches returns batches behind another.
func (t *contentsTx) Batches(_ context.Context, after int64, maxRecords, maxBytes int) (page []*ledger.StoredBatch, err error) {
	// By number: a site's own index has only those that are queued.
	stmt, err := t.conn.Prepare(`SELECT ` + storedBatchColumns + ` FROM batches WHERE site_id = ? AND batch_id > ? ORDER BY batch_id`)
	if err != nil {
		return nil, err
	}
	defer stmt.Reset()
	stmt.BindInt64(1, t.site)
	stmt.BindInt64(2, after)
	for records, bytes := int64(0), 0; records < int64(maxRecords) && bytes < maxBytes && len(page) < maxRecords; {
		if more, err := stmt.Step(); err != nil || !more {
			return page, err
		}
		b := storedBatch(stmt)
		page = append(page, b)
		records += b.Count
		bytes += len(b.Packed)
	}
	return page, nil
}

// Batch returns one batch, or nil.
func (t *contentsTx) Batch(_ context.Context, id int64) (b *ledger.StoredBatch, err error) {
	err = t.each(`SELECT `+storedBatchColumns+` FROM batches WHERE site_id = ? AND batch_id = ?`,
		func(stmt *sqlite.Stmt) { b = storedBatch(stmt) }, id)
	return b, err
}

// each runs a query, whose first parameter is the site, and calls row for each
// row.
func (t *contentsTx) each(query string, row func(stmt *sqlite.Stmt), args ...any) error {
	return sqlitex.Execute(t.conn, query, &sqlitex.ExecOptions{
		Args:       append([]any{t.site}, args...),
		ResultFunc: func(stmt *sqlite.Stmt) error { row(stmt); return nil },
	})
}

const entryRowColumns = `record_id, resource_id, usage_type, local_record_id, key_time, revision, batch_id, ordinal, digest, project_id,
	user_id, usage_time, charge, gives_back, loaded_at`

func entryRow(stmt *sqlite.Stmt) *ledger.Entry {
	e := &ledger.Entry{
		EntryKey: ledger.EntryKey{Resource: stmt.ColumnInt64(1), UsageType: stmt.ColumnInt64(2),
			LocalRecordID: stmt.ColumnText(3), KeyTime: stmt.ColumnInt64(4)},
		Record:    stmt.ColumnInt64(0),
		Revision:  stmt.ColumnInt64(5),
		Batch:     stmt.ColumnInt64(6),
		Ordinal:   stmt.ColumnInt64(7),
		Project:   stmt.ColumnInt64(9),
		User:      stmt.ColumnInt64(10),
		UsageTime: stmt.ColumnInt64(11),
		Charge:    stmt.ColumnInt64(12),
		GivesBack: stmt.ColumnBool(13),
		LoadedAt:  stmt.ColumnInt64(14),
	}
	stmt.ColumnBytes(8, e.Digest[:])
	return e
}

// eachKey runs a query about each identity, which is its parameters 2 to 5.
func (t *contentsTx) eachKey(ctx context.Context, keys []ledger.EntryKey, query string, row func(stmt *sqlite.Stmt)) error {
	stmt, err := t.conn.Prepare(query)
	if err != nil {
		return err
	}
	defer stmt.Reset()
	for i := range keys {
		k := &keys[i]
		stmt.BindInt64(1, t.site)
		stmt.BindInt64(2, k.Resource)
		stmt.BindInt64(3, k.UsageType)
		stmt.BindText(4, k.LocalRecordID)
		stmt.BindInt64(5, k.KeyTime)
		for {
			more, err := stmt.Step()
			if err != nil {
				return err
			}
			if !more {
				break
			}
			row(stmt)
		}
		if err := stmt.Reset(); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Entries returns the newest revisions of identities.
func (t *contentsTx) Entries(ctx context.Context, keys []ledger.EntryKey) (entries []*ledger.Entry, err error) {
	err = t.eachKey(ctx, keys, `
		SELECT `+entryRowColumns+` FROM records
		WHERE site_id = ? AND resource_id = ? AND usage_type = ? AND local_record_id = ? AND key_time = ?`,
		func(stmt *sqlite.Stmt) { entries = append(entries, entryRow(stmt)) })
	return entries, err
}

// Replaced returns replaced revisions of records.
func (t *contentsTx) Replaced(_ context.Context, records []int64, first, last int64) (revisions []*ledger.Entry, err error) {
	for _, id := range records {
		err := t.each(`
			SELECT record_id, revision, batch_id, ordinal, charge FROM revisions
			WHERE site_id = ?1 AND record_id = ?2 AND (batch_id BETWEEN ?3 AND ?4 OR revision = (
				SELECT max(revision) FROM revisions WHERE site_id = ?1 AND record_id = ?2 AND batch_id < ?3))`,
			func(stmt *sqlite.Stmt) {
				revisions = append(revisions, &ledger.Entry{Record: stmt.ColumnInt64(0), Revision: stmt.ColumnInt64(1),
					Batch: stmt.ColumnInt64(2), Ordinal: stmt.ColumnInt64(3), Charge: stmt.ColumnInt64(4)})
			}, id, first, last)
		if err != nil {
			return nil, err
		}
	}
	return revisions, nil
}

const failedRowColumns = `failed_id, resource_id, usage_type, local_record_id, key_time, batch_id, ordinal`

func failedRow(stmt *sqlite.Stmt) *ledger.FailedRow {
	return &ledger.FailedRow{
		ID: stmt.ColumnInt64(0),
		EntryKey: ledger.EntryKey{Resource: stmt.ColumnInt64(1), UsageType: stmt.ColumnInt64(2),
			LocalRecordID: stmt.ColumnText(3), KeyTime: stmt.ColumnInt64(4)},
		Batch:   stmt.ColumnInt64(5),
		Ordinal: stmt.ColumnInt64(6),
	}
}

// Failed returns the failed records from some batches.
func (t *contentsTx) Failed(_ context.Context, first, last int64) (failed []*ledger.FailedRow, err error) {
	err = t.each(`SELECT `+failedRowColumns+`, record FROM failed_records WHERE site_id = ? AND batch_id BETWEEN ? AND ?`,
		func(stmt *sqlite.Stmt) {
			f := failedRow(stmt)
			f.Raw = columnBytes(stmt, 7)
			failed = append(failed, f)
		}, first, last)
	return failed, err
}

// OpenFailed returns the open failed records of identities.
func (t *contentsTx) OpenFailed(ctx context.Context, keys []ledger.EntryKey) (failed []*ledger.FailedRow, err error) {
	err = t.eachKey(ctx, keys, `
		SELECT `+failedRowColumns+` FROM failed_records
		WHERE site_id = ? AND resource_id = ? AND usage_type = ? AND local_record_id = ? AND key_time = ? AND state = 0`,
		func(stmt *sqlite.Stmt) { failed = append(failed, failedRow(stmt)) })
	return failed, err
}

// Unproven returns the superseded failed records of which there is no row of
// what has superseded them.
func (t *contentsTx) Unproven(_ context.Context, limit int) (failed []*ledger.FailedRow, err error) {
	err = t.each(ledger.SQL{Rows: "site_id = ?1"}.UnprovenSuperseded()+` LIMIT ?2`,
		func(stmt *sqlite.Stmt) { failed = append(failed, failedRow(stmt)) }, limit)
	return failed, err
}

// Rows returns the numbers of records and of revisions from batches that are in
// no archive.
func (t *contentsTx) Rows(context.Context) (records, revisions int64, err error) {
	for _, q := range []struct {
		table string
		n     *int64
	}{{"records", &records}, {"revisions", &revisions}} {
		err := t.each(`
			SELECT count(*) FROM `+q.table+` r LEFT JOIN batches b ON b.batch_id = r.batch_id
			WHERE r.site_id = ? AND b.archive IS NULL`, func(stmt *sqlite.Stmt) { *q.n = stmt.ColumnInt64(0) })
		if err != nil {
			return 0, 0, err
		}
	}
	return records, revisions, nil
}

// EntriesBehind returns newest revisions in order of loading.
func (t *contentsTx) EntriesBehind(_ context.Context, after ledger.Place, limit int) (entries []*ledger.Entry, err error) {
	err = t.each(`
		SELECT `+entryRowColumns+` FROM records WHERE site_id = ? AND (loaded_at, record_id) > (?, ?)
		ORDER BY loaded_at, record_id LIMIT ?`,
		func(stmt *sqlite.Stmt) { entries = append(entries, entryRow(stmt)) }, after.LoadedAt, after.Record, limit)
	return entries, err
}
