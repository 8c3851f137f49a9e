package sqlite

import (
	"context"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage/internal/ledger"
)

// Load loads the oldest queued batches of one site in one transaction. The
// records are read ahead of it, and on another core.
//
// A site's batches are loaded in order of acceptance, whoever loads them: what
// is read ahead is the head of the queue, and a batch that another program has
// loaded meanwhile is passed over.
func (l *Ledger) Load(ctx context.Context, now time.Time, maxRecords int, judge ledger.Judge) (ledger.LoadReport, error) {
	l.loading.Lock()
	defer l.loading.Unlock()
	queued, err := l.queuedBatches(ctx, maxRecords)
	if err != nil || len(queued) == 0 {
		return ledger.LoadReport{}, err
	}
	site := queued[0].Site
	verdicts := make(chan []ledger.Verdict, len(queued))
	go func() {
		defer close(verdicts)
		for _, q := range queued {
			verdicts <- judge.Read(&q.Batch)
		}
	}()
	var loading *ledger.Loading
	var t *loadTx
	err = l.db.write(ctx, "load", func(conn *sqlite.Conn) error {
		t = &loadTx{nameTx: nameTx{conn: conn, site: site}}
		loading, err = t.begin(l, now, judge)
		if err != nil {
			return err
		}
		for _, q := range queued {
			if err := t.load(loading, q, <-verdicts); err != nil {
				return err
			}
		}
		return t.writeTotals(loading)
	})
	if err != nil {
		// Names that were registered in it went with the transaction.
		delete(l.registries, site)
		return ledger.LoadReport{}, err
	}
	if t.added > 0 {
		l.registries[site].version++ // as writeTotals did
	}
	// What was read ahead may have been loaded by another program meanwhile.
	loading.Report.Busy = loading.Report.Batches == 0
	return loading.Report, nil
}

// A queuedBatch is a batch as it is in the queue.
type queuedBatch struct {
	ledger.Batch
	damaged bool // it has no Records then
}

// queuedBatches reads the oldest queued batches of the site that has waited
// longest, up to about maxRecords records and ledger.MaxLoadBytes.
func (l *Ledger) queuedBatches(ctx context.Context, maxRecords int) (queued []*queuedBatch, err error) {
	err = l.db.read(ctx, func(conn *sqlite.Conn) error {
		site, err := number(conn, `
			SELECT site_id FROM sites s WHERE queued > 0
				AND EXISTS (SELECT 1 FROM batches b WHERE b.site_id = s.site_id AND loaded_at IS NULL AND damaged = 0)
			ORDER BY last_loaded_at, site_id LIMIT 1`)
		if err != nil || site == 0 {
			return err
		}
		stmt, err := conn.Prepare(`
			SELECT batch_id, key_id, usage_type, accepted_at, record_count, records FROM batches
			WHERE site_id = ? AND loaded_at IS NULL AND damaged = 0 ORDER BY batch_id`)
		if err != nil {
			return err
		}
		defer stmt.Reset()
		stmt.BindInt64(1, site)
		for records, bytes := int64(0), 0; records < int64(maxRecords) && bytes < ledger.MaxLoadBytes; {
			if more, err := stmt.Step(); err != nil || !more {
				return err
			}
			q := &queuedBatch{Batch: ledger.Batch{
				ID:         stmt.ColumnInt64(0),
				Site:       ledger.SiteID(site),
				KeyID:      stmt.ColumnInt64(1),
				UsageType:  ledger.UsageTypeOf(stmt.ColumnInt64(2)),
				AcceptedAt: ledger.TimeOrZero(stmt.ColumnInt64(3)),
			}}
			count := stmt.ColumnInt64(4)
			q.Records, err = l.packer.Unpack(columnBytes(stmt, 5), count)
			q.damaged = err != nil || q.UsageType == ""
			queued = append(queued, q)
			records += count
			bytes += q.Bytes()
		}
		return nil
	})
	return queued, err
}

// A loadTx is one transaction of loading.
type loadTx struct {
	nameTx
	loadedAt                                int64
	insert, find, update, move, keep, close *sqlite.Stmt
	openFailed                              int64 // of the site
	// Corrections come together: where the last identity was there already, Insert
	// looks for the next one first, and keeps what it has found for Find.
	repeats bool
	found   *ledger.Entry
}

var _ ledger.LoadTx = (*loadTx)(nil)

func (t *loadTx) begin(l *Ledger, now time.Time, judge ledger.Judge) (*ledger.Loading, error) {
	var lastLoaded, grossCharge int64
	err := sqlitex.Execute(t.conn, `SELECT last_loaded_at, open_failed, gross_charge FROM sites WHERE site_id = ?`,
		&sqlitex.ExecOptions{
			Args: []any{int64(t.site)},
			ResultFunc: func(stmt *sqlite.Stmt) error {
				lastLoaded, t.openFailed, grossCharge = stmt.ColumnInt64(0), stmt.ColumnInt64(1), stmt.ColumnInt64(2)
				return nil
			},
		})
	if err != nil {
		return nil, err
	}
	t.loadedAt = ledger.LoadingTime(now, lastLoaded)
	registry, err := l.registryOf(t.conn, t.site)
	if err != nil {
		return nil, err
	}
	for _, p := range []struct {
		stmt  **sqlite.Stmt
		query string
	}{
		{&t.insert, `
			INSERT INTO records (site_id, resource_id, usage_type, local_record_id, key_time, revision, batch_id, ordinal,
				digest, project_id, user_id, usage_time, charge, gives_back, loaded_at)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT DO NOTHING`},
		{&t.find, `
			SELECT record_id, revision, batch_id, ordinal, digest, project_id, user_id, usage_time, charge, gives_back, loaded_at
			FROM records
			WHERE site_id = ? AND resource_id = ? AND usage_type = ? AND local_record_id = ? AND key_time = ?`},
		{&t.update, `
			UPDATE records SET revision = ?, batch_id = ?, ordinal = ?, digest = ?, project_id = ?, user_id = ?,
				charge = ?, gives_back = ?, loaded_at = ?
			WHERE record_id = ?`},
		// Apart, because naming the column writes its index anew, and few
		// corrections change it.
		{&t.move, `UPDATE records SET usage_time = ? WHERE record_id = ?`},
		{&t.keep, `
			INSERT INTO revisions (site_id, record_id, revision, batch_id, ordinal, charge, loaded_at)
			VALUES (?, ?, ?, ?, ?, ?, ?)`},
		{&t.close, `
			UPDATE failed_records SET state = ?6, closed_at = ?7
			WHERE site_id = ?1 AND resource_id = ?2 AND usage_type = ?3 AND local_record_id = ?4 AND key_time = ?5
				AND state = 0`},
	} {
		if *p.stmt, err = t.conn.Prepare(p.query); err != nil {
			return nil, err
		}
	}
	return ledger.NewLoading(t, judge, &registry.Registry, t.loadedAt, grossCharge), nil
}

// load loads one batch, of which verdicts were read.
func (t *loadTx) load(l *ledger.Loading, q *queuedBatch, verdicts []ledger.Verdict) error {
	err := sqlitex.Execute(t.conn, `
		UPDATE batches SET damaged = ?1, loaded_at = CASE ?1 WHEN 0 THEN ?2 END
		WHERE batch_id = ?3 AND loaded_at IS NULL AND damaged = 0`,
		&sqlitex.ExecOptions{Args: []any{q.damaged, t.loadedAt, q.ID}})
	if err != nil || t.conn.Changes() == 0 {
		return err
	}
	if q.damaged {
		l.Damaged(&q.Batch)
		return nil
	}
	return l.Load(&q.Batch, verdicts)
}

// bindKey binds an identity as the first five parameters.
func (t *loadTx) bindKey(stmt *sqlite.Stmt, k *ledger.EntryKey) {
	stmt.BindInt64(1, int64(t.site))
	stmt.BindInt64(2, k.Resource)
	stmt.BindInt64(3, k.UsageType)
	stmt.BindText(4, k.LocalRecordID)
	stmt.BindInt64(5, k.KeyTime)
}

// Insert stores e where its identity is new, and reports whether it is.
func (t *loadTx) Insert(e *ledger.Entry) (inserted bool, err error) {
	if t.repeats {
		t.found, err = t.lookUp(&e.EntryKey)
		if t.found != nil || err != nil {
			return false, err
		}
	}
	t.bindKey(t.insert, &e.EntryKey)
	t.insert.BindInt64(6, e.Revision)
	t.insert.BindInt64(7, e.Batch)
	t.insert.BindInt64(8, e.Ordinal)
	t.insert.BindBytes(9, e.Digest[:])
	t.insert.BindInt64(10, e.Project)
	t.insert.BindInt64(11, e.User)
	t.insert.BindInt64(12, e.UsageTime)
	t.insert.BindInt64(13, e.Charge)
	t.insert.BindBool(14, e.GivesBack)
	t.insert.BindInt64(15, e.LoadedAt)
	err = run(t.insert)
	inserted = t.conn.Changes() == 1
	t.repeats = !inserted
	return inserted, err
}

// Find returns the entry of an identity, or nil.
func (t *loadTx) Find(k *ledger.EntryKey) (*ledger.Entry, error) {
	if found := t.found; found != nil && found.EntryKey == *k {
		t.found = nil
		return found, nil
	}
	return t.lookUp(k)
}

func (t *loadTx) lookUp(k *ledger.EntryKey) (*ledger.Entry, error) {
	defer t.find.Reset()
	t.bindKey(t.find, k)
	if found, err := t.find.Step(); err != nil || !found {
		return nil, err
	}
	e := &ledger.Entry{
		EntryKey:  *k,
		Record:    t.find.ColumnInt64(0),
		Revision:  t.find.ColumnInt64(1),
		Batch:     t.find.ColumnInt64(2),
		Ordinal:   t.find.ColumnInt64(3),
		Project:   t.find.ColumnInt64(5),
		User:      t.find.ColumnInt64(6),
		UsageTime: t.find.ColumnInt64(7),
		Charge:    t.find.ColumnInt64(8),
		GivesBack: t.find.ColumnBool(9),
		LoadedAt:  t.find.ColumnInt64(10),
	}
	t.find.ColumnBytes(4, e.Digest[:])
	return e, nil
}

// Revise puts e in the place of old, which is kept among the revisions.
func (t *loadTx) Revise(old, e *ledger.Entry) error {
	for i, n := range []int64{int64(t.site), old.Record, old.Revision, old.Batch, old.Ordinal, old.Charge, old.LoadedAt} {
		t.keep.BindInt64(i+1, n)
	}
	if err := run(t.keep); err != nil {
		return err
	}
	t.update.BindInt64(1, e.Revision)
	t.update.BindInt64(2, e.Batch)
	t.update.BindInt64(3, e.Ordinal)
	t.update.BindBytes(4, e.Digest[:])
	t.update.BindInt64(5, e.Project)
	t.update.BindInt64(6, e.User)
	t.update.BindInt64(7, e.Charge)
	t.update.BindBool(8, e.GivesBack)
	t.update.BindInt64(9, e.LoadedAt)
	t.update.BindInt64(10, e.Record)
	if err := run(t.update); err != nil || e.UsageTime == old.UsageTime {
		return err
	}
	t.move.BindInt64(1, e.UsageTime)
	t.move.BindInt64(2, e.Record)
	return run(t.move)
}

// Fail keeps the record among the failed ones.
func (t *loadTx) Fail(e *ledger.Entry, failure ledger.Failure, raw []byte) error {
	t.openFailed++
	return sqlitex.Execute(t.conn, `
		INSERT INTO failed_records (site_id, resource_id, usage_type, local_record_id, key_time, batch_id, ordinal,
			failure, failed_at, record, state)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		&sqlitex.ExecOptions{Args: []any{
			int64(t.site), e.Resource, e.UsageType, e.LocalRecordID, e.KeyTime, e.Batch, e.Ordinal,
			string(failure), e.LoadedAt, raw, ledger.FailedOpen,
		}})
}

// Balance returns what was loaded of a project on a resource.
func (t *loadTx) Balance(k ledger.BalanceKey) (u ledger.Usage, err error) {
	err = sqlitex.Execute(t.conn, `
		SELECT records, used, given_back FROM balances WHERE site_id = ? AND project_id = ? AND resource_id = ?`,
		&sqlitex.ExecOptions{
			Args: []any{int64(t.site), k.Project, k.Resource},
			ResultFunc: func(stmt *sqlite.Stmt) error {
				u = ledger.Usage{Records: stmt.ColumnInt64(0), Deducted: stmt.ColumnInt64(1), GivenBack: stmt.ColumnInt64(2)}
				return nil
			},
		})
	return u, err
}

// Supersede closes the open failed record of an identity.
func (t *loadTx) Supersede(k *ledger.EntryKey) error {
	if t.openFailed == 0 {
		return nil
	}
	t.bindKey(t.close, k)
	t.close.BindInt64(6, ledger.FailedSuperseded)
	t.close.BindInt64(7, t.loadedAt)
	err := run(t.close)
	t.openFailed -= int64(t.conn.Changes())
	return err
}

// columnBytes returns a copy of a column's bytes.
func columnBytes(stmt *sqlite.Stmt, column int) []byte {
	b := make([]byte, stmt.ColumnLen(column))
	stmt.ColumnBytes(column, b)
	return b
}

// run steps a statement that gives no rows, and makes it ready to run again.
func run(stmt *sqlite.Stmt) error {
	_, err := stmt.Step()
	if resetErr := stmt.Reset(); err == nil {
		err = resetErr
	}
	return err
}
