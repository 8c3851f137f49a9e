package sqlite

import (
	"context"
	"fmt"
	"math"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// Load loads the oldest queued batches of one site in one transaction.
func (l *Ledger) Load(ctx context.Context, now time.Time, maxRecords int, judge ledger.Judge) (ledger.LoadReport, error) {
	var queued bool
	err := l.db.read(ctx, func(conn *sqlite.Conn) error {
		n, err := number(conn, `SELECT EXISTS (SELECT 1 FROM batches WHERE loaded_at IS NULL)`)
		queued = n == 1
		return err
	})
	if err != nil || !queued {
		return ledger.LoadReport{}, err
	}
	var t *loadTransaction
	err = l.db.write(ctx, func(conn *sqlite.Conn) error {
		batches, err := l.queuedBatches(conn, maxRecords)
		if err != nil || len(batches) == 0 {
			return err
		}
		t = &loadTransaction{
			conn:     conn,
			site:     batches[0].Site,
			daily:    map[dailyKey]*usage{},
			balances: map[balanceKey]*usage{},
			loads:    map[loadKey]*usage{},
		}
		return t.run(l, batches, now, judge)
	})
	if t == nil {
		return ledger.LoadReport{}, err
	}
	if err != nil {
		// Names that were registered in it went with the transaction.
		delete(l.registries, t.site)
		return ledger.LoadReport{}, err
	}
	return t.report, nil
}

// queuedBatches reads the oldest queued batch, and those behind it of the same
// site up to about maxRecords records.
func (l *Ledger) queuedBatches(conn *sqlite.Conn, maxRecords int) ([]*ledger.Batch, error) {
	site, err := number(conn, `SELECT site_id FROM batches WHERE loaded_at IS NULL ORDER BY batch_id LIMIT 1`)
	if err != nil || site == 0 {
		return nil, err
	}
	var batches []*ledger.Batch
	stmt, err := conn.Prepare(`
		SELECT batch_id, key_id, usage_type, accepted_at, records FROM batches
		WHERE loaded_at IS NULL AND +site_id = ? ORDER BY batch_id`)
	if err != nil {
		return nil, err
	}
	defer stmt.Reset()
	stmt.BindInt64(1, site)
	for records := 0; records < maxRecords; {
		if more, err := stmt.Step(); err != nil || !more {
			return batches, err
		}
		packed := make([]byte, stmt.ColumnLen(4))
		stmt.ColumnBytes(4, packed)
		b := &ledger.Batch{
			ID:         stmt.ColumnInt64(0),
			Site:       ledger.SiteID(site),
			KeyID:      stmt.ColumnInt64(1),
			UsageType:  usageTypes[stmt.ColumnInt64(2)],
			AcceptedAt: fromNanos(stmt.ColumnInt64(3)),
		}
		if b.Records, err = l.unpack(packed); err != nil {
			return nil, fmt.Errorf("batch %d: %w", b.ID, err)
		}
		batches = append(batches, b)
		records += len(b.Records)
	}
	return batches, nil
}

// A loadTransaction is one transaction of loading, with the changes to the
// roll-ups that it will write at its end.
type loadTransaction struct {
	conn     *sqlite.Conn
	site     ledger.SiteID
	registry *siteRegistry
	loadedAt int64
	report   ledger.LoadReport

	find, insert, update      *sqlite.Stmt
	openFailed, grossCharge   int64
	daily                     map[dailyKey]*usage
	balances                  map[balanceKey]*usage
	loads                     map[loadKey]*usage
	failedBefore, grossBefore int64
}

type (
	dailyKey   struct{ day, resource, project, user, usageType int64 }
	balanceKey struct{ project, resource int64 }
	loadKey    struct{ span, resource, loadedAt int64 }
	usage      struct{ records, deducted, givenBack int64 }
)

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

func (t *loadTransaction) run(l *Ledger, batches []*ledger.Batch, now time.Time, judge ledger.Judge) (err error) {
	if err := t.begin(l, now); err != nil {
		return err
	}
	for _, b := range batches {
		verdicts, err := judge(&t.registry.Registry, b)
		if err != nil {
			return err
		}
		for i := range verdicts {
			if err := t.apply(b, int64(i), &verdicts[i]); err != nil {
				return err
			}
		}
		err = sqlitex.Execute(t.conn, `UPDATE batches SET loaded_at = ? WHERE batch_id = ?`,
			&sqlitex.ExecOptions{Args: []any{t.loadedAt, b.ID}})
		if err != nil {
			return err
		}
		t.report.Batches++
	}
	return t.writeTotals()
}

func (t *loadTransaction) begin(l *Ledger, now time.Time) (err error) {
	var lastLoaded int64
	err = sqlitex.Execute(t.conn, `SELECT last_loaded_at, open_failed, gross_charge FROM sites WHERE site_id = ?`,
		&sqlitex.ExecOptions{
			Args: []any{int64(t.site)},
			ResultFunc: func(stmt *sqlite.Stmt) error {
				lastLoaded, t.failedBefore, t.grossBefore = stmt.ColumnInt64(0), stmt.ColumnInt64(1), stmt.ColumnInt64(2)
				return nil
			},
		})
	if err != nil {
		return err
	}
	t.openFailed, t.grossCharge = t.failedBefore, t.grossBefore
	t.loadedAt = max(nanos(now), lastLoaded+1)
	if t.registry, err = l.registryOf(t.conn, t.site); err != nil {
		return err
	}
	if t.find, err = t.conn.Prepare(`
		SELECT record_id, revision, batch_id, ordinal, digest, project_id, user_id, usage_time, charge, gives_back, loaded_at
		FROM records
		WHERE site_id = ? AND resource_id = ? AND usage_type = ? AND local_record_id = ? AND key_time = ?`); err != nil {
		return err
	}
	if t.insert, err = t.conn.Prepare(`
		INSERT INTO records (site_id, resource_id, usage_type, local_record_id, key_time, revision, batch_id, ordinal,
			digest, project_id, user_id, usage_time, charge, gives_back, loaded_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`); err != nil {
		return err
	}
	t.update, err = t.conn.Prepare(`
		UPDATE records SET revision = ?, batch_id = ?, ordinal = ?, digest = ?, project_id = ?, user_id = ?,
			usage_time = ?, charge = ?, gives_back = ?, loaded_at = ?
		WHERE record_id = ?`)
	return err
}

// apply brings one record into the ledger, or among the failed ones.
func (t *loadTransaction) apply(b *ledger.Batch, ordinal int64, v *ledger.Verdict) error {
	id := v.Record.Identity()
	common := v.Record.Common()
	resource, err := t.registry.resource(t.conn, t.site, id.Resource)
	if err != nil {
		return err
	}
	e := &ledgerEntry{
		revision:      1,
		resource:      resource,
		usageType:     usageTypeNumber(id.UsageType),
		localRecordID: id.LocalRecordID,
		keyTime:       nanos(id.KeyTime),
		batch:         b.ID,
		ordinal:       ordinal,
		digest:        [digestBytes]byte(v.Digest[:digestBytes]),
		usageTime:     nanos(v.Record.UsageTime()),
		charge:        v.Charge,
		givesBack:     v.GivesBack,
		loadedAt:      t.loadedAt,
	}
	old, err := t.lookup(e)
	if err != nil {
		return err
	}
	failure := v.Failure
	if failure == "" && t.overflows(old, e) {
		failure = ledger.TotalTooLarge
	}
	stale := old != nil && (old.batch > e.batch || old.batch == e.batch && old.ordinal >= e.ordinal)
	if failure != "" {
		return t.fail(e, failure, v.Record, stale)
	}
	t.report.Loaded++
	if err := t.supersede(e); err != nil {
		return err
	}
	switch {
	case stale:
		t.report.Unchanged++
		return nil
	case old != nil && old.digest == e.digest:
		// The content stands, but it was accepted again: what was accepted in
		// between must not come out on top of it.
		t.report.Unchanged++
		return sqlitex.Execute(t.conn, `UPDATE records SET batch_id = ?, ordinal = ? WHERE record_id = ?`,
			&sqlitex.ExecOptions{Args: []any{e.batch, e.ordinal, old.record}})
	}
	if e.project, err = t.registry.project(t.conn, t.site, common.LocalProjectID); err != nil {
		return err
	}
	if e.user, err = t.registry.user(t.conn, t.site, common.Username); err != nil {
		return err
	}
	if old == nil {
		if err := t.insertEntry(e); err != nil {
			return err
		}
	} else {
		if err := t.reviseEntry(old, e); err != nil {
			return err
		}
		t.count(old, -1)
	}
	t.count(e, +1)
	return nil
}

// lookup returns the entry of e's identity, or nil.
func (t *loadTransaction) lookup(e *ledgerEntry) (*ledgerEntry, error) {
	defer t.find.Reset()
	t.find.BindInt64(1, int64(t.site))
	t.find.BindInt64(2, e.resource)
	t.find.BindInt64(3, e.usageType)
	t.find.BindText(4, e.localRecordID)
	t.find.BindInt64(5, e.keyTime)
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

// overflows reports whether e in place of old would take the site's gross
// total beyond an int64.
func (t *loadTransaction) overflows(old, e *ledgerEntry) bool {
	gross := t.grossCharge
	if old != nil {
		gross -= old.charge
	}
	return e.charge > math.MaxInt64-gross
}

func (t *loadTransaction) insertEntry(e *ledgerEntry) error {
	for i, n := range []int64{int64(t.site), e.resource, e.usageType, 0, e.keyTime, e.revision, e.batch, e.ordinal,
		0, e.project, e.user, e.usageTime, e.charge, asNumber(e.givesBack), e.loadedAt} {
		t.insert.BindInt64(i+1, n)
	}
	t.insert.BindText(4, e.localRecordID)
	t.insert.BindBytes(9, e.digest[:])
	return run(t.insert)
}

// reviseEntry puts e in the place of old, which is kept among the revisions.
func (t *loadTransaction) reviseEntry(old, e *ledgerEntry) error {
	err := sqlitex.Execute(t.conn, `
		INSERT INTO revisions (site_id, record_id, revision, batch_id, ordinal, charge, loaded_at)
		VALUES (?, ?, ?, ?, ?, ?, ?)`,
		&sqlitex.ExecOptions{Args: []any{
			int64(t.site), old.record, old.revision, old.batch, old.ordinal, old.charge, old.loadedAt,
		}})
	if err != nil {
		return err
	}
	e.record, e.revision = old.record, old.revision+1
	for i, n := range []int64{e.revision, e.batch, e.ordinal, 0, e.project, e.user, e.usageTime, e.charge,
		asNumber(e.givesBack), e.loadedAt, e.record} {
		t.update.BindInt64(i+1, n)
	}
	t.update.BindBytes(4, e.digest[:])
	return run(t.update)
}

// fail keeps the record among the failed ones, in the place of an earlier
// failure of the same identity. One that a later content has overtaken is
// superseded at once.
func (t *loadTransaction) fail(e *ledgerEntry, failure ledger.Failure, record amieusage.Record, stale bool) error {
	t.report.Failed++
	if err := t.supersede(e); err != nil {
		return err
	}
	state := failedOpen
	if stale {
		state = failedSuperseded
	} else {
		t.openFailed++
	}
	return sqlitex.Execute(t.conn, `
		INSERT INTO failed_records (site_id, resource_id, usage_type, local_record_id, key_time, batch_id, ordinal,
			failure, failed_at, record, state)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		&sqlitex.ExecOptions{Args: []any{
			int64(t.site), e.resource, e.usageType, e.localRecordID, e.keyTime, e.batch, e.ordinal,
			string(failure), t.loadedAt, record.AppendJSON(nil), state,
		}})
}

// supersede closes the open failed records of e's identity that were accepted
// before it.
func (t *loadTransaction) supersede(e *ledgerEntry) error {
	if t.openFailed == 0 {
		return nil
	}
	err := sqlitex.Execute(t.conn, `
		UPDATE failed_records SET state = ?1, closed_at = ?2
		WHERE site_id = ?3 AND resource_id = ?4 AND usage_type = ?5 AND local_record_id = ?6 AND key_time = ?7
			AND state = 0 AND (batch_id, ordinal) < (?8, ?9)`,
		&sqlitex.ExecOptions{Args: []any{
			failedSuperseded, t.loadedAt, int64(t.site), e.resource, e.usageType, e.localRecordID, e.keyTime, e.batch, e.ordinal,
		}})
	t.openFailed -= int64(t.conn.Changes())
	return err
}

// count moves the roll-ups by an entry, up (+1) or down (−1).
func (t *loadTransaction) count(e *ledgerEntry, sign int64) {
	t.grossCharge += sign * e.charge
	delta := usage{records: sign}
	if e.givesBack {
		delta.givenBack = sign * e.charge
	} else {
		delta.deducted = sign * e.charge
	}
	addUsage(t.daily, dailyKey{dayOf(e.usageTime), e.resource, e.project, e.user, e.usageType}, delta)
	addUsage(t.balances, balanceKey{e.project, e.resource}, delta)
	addUsage(t.loads, loadKey{loadSpanExact, e.resource, e.loadedAt}, delta)
	addUsage(t.loads, loadKey{loadSpanHour, e.resource, e.loadedAt - e.loadedAt%hourNanos}, delta)
}

func addUsage[K comparable](totals map[K]*usage, key K, delta usage) {
	u := totals[key]
	if u == nil {
		u = new(usage)
		totals[key] = u
	}
	u.records += delta.records
	u.deducted += delta.deducted
	u.givenBack += delta.givenBack
}

// writeTotals writes the roll-ups and the site's counts.
func (t *loadTransaction) writeTotals() error {
	site := int64(t.site)
	for k, u := range t.daily {
		err := sqlitex.Execute(t.conn, `
			INSERT INTO daily_usage (site_id, day, resource_id, project_id, user_id, usage_type, records, deducted, given_back)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET records = records + excluded.records,
				deducted = deducted + excluded.deducted, given_back = given_back + excluded.given_back`,
			&sqlitex.ExecOptions{Args: []any{
				site, k.day, k.resource, k.project, k.user, k.usageType, u.records, u.deducted, u.givenBack,
			}})
		if err != nil {
			return err
		}
	}
	for k, u := range t.balances {
		err := sqlitex.Execute(t.conn, `
			INSERT INTO balances (site_id, project_id, resource_id, records, used, given_back)
			VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET records = records + excluded.records,
				used = used + excluded.used, given_back = given_back + excluded.given_back`,
			&sqlitex.ExecOptions{Args: []any{site, k.project, k.resource, u.records, u.deducted, u.givenBack}})
		if err != nil {
			return err
		}
	}
	for k, u := range t.loads {
		err := sqlitex.Execute(t.conn, `
			INSERT INTO loads (site_id, span, resource_id, loaded_at, records, charge)
			VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET records = records + excluded.records, charge = charge + excluded.charge`,
			&sqlitex.ExecOptions{Args: []any{site, k.span, k.resource, k.loadedAt, u.records, u.deducted - u.givenBack}})
		if err != nil {
			return err
		}
	}
	return sqlitex.Execute(t.conn, `
		UPDATE sites SET loaded = loaded + ?1, failed = failed + ?2, queued = queued - ?1 - ?2,
			open_failed = ?3, gross_charge = ?4, last_loaded_at = ?5
		WHERE site_id = ?6`,
		&sqlitex.ExecOptions{Args: []any{
			t.report.Loaded, t.report.Failed, t.openFailed, t.grossCharge, t.loadedAt, site,
		}})
}

// States of failed_records, and spans of loads.
const (
	failedOpen       = 0
	failedCleared    = 1
	failedSuperseded = 2

	loadSpanExact = 0
	loadSpanHour  = 1
)

const (
	hourNanos = int64(time.Hour)
	dayNanos  = 24 * hourNanos
)

func dayOf(ns int64) int64 { return ns / dayNanos }

func asNumber(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// run steps a statement that gives no rows, and makes it ready to run again.
func run(stmt *sqlite.Stmt) error {
	_, err := stmt.Step()
	if resetErr := stmt.Reset(); err == nil {
		err = resetErr
	}
	return err
}
