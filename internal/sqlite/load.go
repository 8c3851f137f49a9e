package sqlite

import (
	"context"
	"math"
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
	var t *loadTransaction
	err = l.db.write(ctx, func(conn *sqlite.Conn) error {
		t = &loadTransaction{
			conn:     conn,
			site:     site,
			judge:    judge,
			totals:   map[totalKey]*usage{},
			balances: map[balanceKey]*usage{},
			loads:    map[loadKey]*usage{},
		}
		if err := t.begin(l, now); err != nil {
			return err
		}
		for _, q := range queued {
			if err := t.load(q, <-verdicts); err != nil {
				return err
			}
		}
		return t.writeTotals()
	})
	if err != nil {
		// Names that were registered in it went with the transaction.
		delete(l.registries, site)
		return ledger.LoadReport{}, err
	}
	return t.report, nil
}

// A queuedBatch is a batch as it is in the queue.
type queuedBatch struct {
	ledger.Batch
	damaged bool // it has no Records then
}

// queuedBatches reads the oldest queued batches of the site that has waited
// longest, up to about maxRecords records.
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
		for records := int64(0); records < int64(maxRecords); {
			if more, err := stmt.Step(); err != nil || !more {
				return err
			}
			q := &queuedBatch{Batch: ledger.Batch{
				ID:         stmt.ColumnInt64(0),
				Site:       ledger.SiteID(site),
				KeyID:      stmt.ColumnInt64(1),
				UsageType:  usageTypes[stmt.ColumnInt64(2)],
				AcceptedAt: fromNanos(stmt.ColumnInt64(3)),
			}}
			count := stmt.ColumnInt64(4)
			q.Records, err = l.unpack(columnBytes(stmt, 5), count)
			q.damaged = err != nil
			queued = append(queued, q)
			records += count
		}
		return nil
	})
	return queued, err
}

// A loadTransaction is one transaction of loading, with the changes to the
// roll-ups that it will write at its end.
type loadTransaction struct {
	conn     *sqlite.Conn
	site     ledger.SiteID
	judge    ledger.Judge
	registry *siteRegistry
	loadedAt int64
	report   ledger.LoadReport

	insert, find, update, keep, close *sqlite.Stmt
	openFailed, grossCharge           int64 // of the site
	totals                            map[totalKey]*usage
	balances                          map[balanceKey]*usage
	loads                             map[loadKey]*usage
}

// A ledgerEntry is a row of records.
type ledgerEntry struct {
	record, revision            int64
	resource, usageType         int64
	localRecordID               string
	keyTime                     int64
	batch, ordinal              int64
	digest                      [digestBytes]byte
	project, user               int64
	usageTime, charge, loadedAt int64
	givesBack                   bool
}

// digestBytes is how much of a digest is kept.
const digestBytes = 16

func (t *loadTransaction) begin(l *Ledger, now time.Time) (err error) {
	var lastLoaded int64
	err = sqlitex.Execute(t.conn, `SELECT last_loaded_at, open_failed, gross_charge FROM sites WHERE site_id = ?`,
		&sqlitex.ExecOptions{
			Args: []any{int64(t.site)},
			ResultFunc: func(stmt *sqlite.Stmt) error {
				lastLoaded, t.openFailed, t.grossCharge = stmt.ColumnInt64(0), stmt.ColumnInt64(1), stmt.ColumnInt64(2)
				return nil
			},
		})
	if err != nil {
		return err
	}
	t.loadedAt = max(nanos(now), lastLoaded+1)
	if t.registry, err = l.registryOf(t.conn, t.site); err != nil {
		return err
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
				usage_time = ?, charge = ?, gives_back = ?, loaded_at = ?
			WHERE record_id = ?`},
		{&t.keep, `
			INSERT INTO revisions (site_id, record_id, revision, batch_id, ordinal, charge, loaded_at)
			VALUES (?, ?, ?, ?, ?, ?, ?)`},
		{&t.close, `
			UPDATE failed_records SET state = ?6, closed_at = ?7
			WHERE site_id = ?1 AND resource_id = ?2 AND usage_type = ?3 AND local_record_id = ?4 AND key_time = ?5
				AND state = 0`},
	} {
		if *p.stmt, err = t.conn.Prepare(p.query); err != nil {
			return err
		}
	}
	return nil
}

// load loads one batch, of which verdicts were read.
func (t *loadTransaction) load(q *queuedBatch, verdicts []ledger.Verdict) error {
	err := sqlitex.Execute(t.conn, `
		UPDATE batches SET damaged = ?1, loaded_at = CASE ?1 WHEN 0 THEN ?2 END
		WHERE batch_id = ?3 AND loaded_at IS NULL AND damaged = 0`,
		&sqlitex.ExecOptions{Args: []any{asNumber(q.damaged), t.loadedAt, q.ID}})
	if err != nil || t.conn.Changes() == 0 {
		return err
	}
	t.report.Batches++
	if q.damaged {
		t.report.Damaged = append(t.report.Damaged, q.ID)
		return nil
	}
	for i := range verdicts {
		if err := t.apply(&q.Batch, i, &verdicts[i]); err != nil {
			return err
		}
	}
	return nil
}

// apply brings one record into the ledger, or among the failed ones.
func (t *loadTransaction) apply(b *ledger.Batch, ordinal int, v *ledger.Verdict) (err error) {
	id := v.Record.Identity()
	e := &ledgerEntry{
		revision:      1,
		usageType:     usageTypeNumber(id.UsageType),
		localRecordID: id.LocalRecordID,
		keyTime:       nanos(id.KeyTime),
		batch:         b.ID,
		ordinal:       int64(ordinal),
		digest:        [digestBytes]byte(v.Digest[:digestBytes]),
		usageTime:     nanos(v.Record.UsageTime()),
		charge:        v.Charge,
		givesBack:     v.GivesBack,
		loadedAt:      t.loadedAt,
	}
	if e.resource, err = t.registry.resource(t.conn, t.site, id.Resource); err != nil {
		return err
	}
	failure := v.Failure
	if failure == "" {
		failure = t.judge.Check(&t.registry.Registry, v.Record)
	}
	if failure != "" {
		return t.fail(e, failure, b.Records[ordinal])
	}
	common := v.Record.Common()
	if e.project, err = t.registry.project(t.conn, t.site, common.LocalProjectID); err != nil {
		return err
	}
	if e.user, err = t.registry.user(t.conn, t.site, common.Username); err != nil {
		return err
	}
	stored := false
	if e.charge <= math.MaxInt64-t.grossCharge {
		if stored, err = t.insertEntry(e); err != nil {
			return err
		}
	}
	if !stored {
		old, err := t.lookup(e)
		switch {
		case err != nil:
			return err
		case old == nil || e.charge > math.MaxInt64-(t.grossCharge-old.charge):
			return t.fail(e, ledger.TotalTooLarge, b.Records[ordinal])
		case old.digest == e.digest:
			t.report.Unchanged++
		default:
			if err := t.reviseEntry(old, e); err != nil {
				return err
			}
			t.count(old, -1)
			stored = true
		}
	}
	if stored {
		t.count(e, +1)
	}
	t.report.Loaded++
	return t.supersede(e)
}

// bindIdentity binds e's identity as the first five parameters.
func (t *loadTransaction) bindIdentity(stmt *sqlite.Stmt, e *ledgerEntry) {
	stmt.BindInt64(1, int64(t.site))
	stmt.BindInt64(2, e.resource)
	stmt.BindInt64(3, e.usageType)
	stmt.BindText(4, e.localRecordID)
	stmt.BindInt64(5, e.keyTime)
}

// insertEntry stores e where its identity is new, and reports whether it is.
func (t *loadTransaction) insertEntry(e *ledgerEntry) (bool, error) {
	t.bindIdentity(t.insert, e)
	t.insert.BindInt64(6, e.revision)
	t.insert.BindInt64(7, e.batch)
	t.insert.BindInt64(8, e.ordinal)
	t.insert.BindBytes(9, e.digest[:])
	t.insert.BindInt64(10, e.project)
	t.insert.BindInt64(11, e.user)
	t.insert.BindInt64(12, e.usageTime)
	t.insert.BindInt64(13, e.charge)
	t.insert.BindBool(14, e.givesBack)
	t.insert.BindInt64(15, e.loadedAt)
	err := run(t.insert)
	return t.conn.Changes() == 1, err
}

// lookup returns the entry of e's identity, or nil.
func (t *loadTransaction) lookup(e *ledgerEntry) (*ledgerEntry, error) {
	defer t.find.Reset()
	t.bindIdentity(t.find, e)
	if found, err := t.find.Step(); err != nil || !found {
		return nil, err
	}
	old := &ledgerEntry{
		record:    t.find.ColumnInt64(0),
		revision:  t.find.ColumnInt64(1),
		resource:  e.resource,
		usageType: e.usageType,
		batch:     t.find.ColumnInt64(2),
		ordinal:   t.find.ColumnInt64(3),
		project:   t.find.ColumnInt64(5),
		user:      t.find.ColumnInt64(6),
		usageTime: t.find.ColumnInt64(7),
		charge:    t.find.ColumnInt64(8),
		givesBack: t.find.ColumnBool(9),
		loadedAt:  t.find.ColumnInt64(10),
	}
	t.find.ColumnBytes(4, old.digest[:])
	return old, nil
}

// reviseEntry puts e in the place of old, which is kept among the revisions.
func (t *loadTransaction) reviseEntry(old, e *ledgerEntry) error {
	for i, n := range []int64{int64(t.site), old.record, old.revision, old.batch, old.ordinal, old.charge, old.loadedAt} {
		t.keep.BindInt64(i+1, n)
	}
	if err := run(t.keep); err != nil {
		return err
	}
	t.update.BindInt64(1, old.revision+1)
	t.update.BindInt64(2, e.batch)
	t.update.BindInt64(3, e.ordinal)
	t.update.BindBytes(4, e.digest[:])
	t.update.BindInt64(5, e.project)
	t.update.BindInt64(6, e.user)
	t.update.BindInt64(7, e.usageTime)
	t.update.BindInt64(8, e.charge)
	t.update.BindBool(9, e.givesBack)
	t.update.BindInt64(10, e.loadedAt)
	t.update.BindInt64(11, old.record)
	return run(t.update)
}

// fail keeps the record, raw as it was sent, among the failed ones, in the
// place of an earlier failure of the same identity.
func (t *loadTransaction) fail(e *ledgerEntry, failure ledger.Failure, raw []byte) error {
	t.report.Failed++
	if err := t.supersede(e); err != nil {
		return err
	}
	t.openFailed++
	return sqlitex.Execute(t.conn, `
		INSERT INTO failed_records (site_id, resource_id, usage_type, local_record_id, key_time, batch_id, ordinal,
			failure, failed_at, record, state)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		&sqlitex.ExecOptions{Args: []any{
			int64(t.site), e.resource, e.usageType, e.localRecordID, e.keyTime, e.batch, e.ordinal,
			string(failure), t.loadedAt, raw, failedOpen,
		}})
}

// supersede closes the open failed record of e's identity.
func (t *loadTransaction) supersede(e *ledgerEntry) error {
	if t.openFailed == 0 {
		return nil
	}
	t.bindIdentity(t.close, e)
	t.close.BindInt64(6, failedSuperseded)
	t.close.BindInt64(7, t.loadedAt)
	err := run(t.close)
	t.openFailed -= int64(t.conn.Changes())
	return err
}

// States of failed_records, and spans of loads and of usage_totals.
const (
	failedOpen       = 0
	failedCleared    = 1
	failedSuperseded = 2

	spanTransaction = 0
	spanHour        = 1

	spanDay   = 0
	spanMonth = 1
)

const (
	hourNanos = int64(time.Hour)
	dayNanos  = 24 * hourNanos
)

func asNumber(b bool) int64 {
	if b {
		return 1
	}
	return 0
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
