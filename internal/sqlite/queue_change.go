package sqlite

import (
	"context"
	"strconv"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/outbox"
)

// queueTransaction is one change of the outbox.
type queueTransaction struct {
	conn      *sqlite.Conn
	resources map[string]int64
	rates     map[string]int64
	counts    map[resourceState]int64 // what is to be added to the table
	record    []byte                  // scratch
	stored    int64                   // the number of this transaction
	leaving   int64                   // up to which what is pending may have left
}

type resourceState struct {
	resource int64
	state    outbox.State
}

// queueRow is what the rules need of an entry.
type queueRow struct {
	id         outbox.ID
	resource   int64
	stored     int64
	decision   outbox.Decision
	superseded bool
	waitsFor   outbox.ID
	outbox.Progress
}

// change runs f in one transaction, and returns its number. What names the
// change for [failpoint.Hit].
func (q *Outbox) change(ctx context.Context, what string, f func(tx *queueTransaction) (int, error)) (n int, err error) {
	err = q.db.write(ctx, what, func(conn *sqlite.Conn) error {
		tx := &queueTransaction{conn: conn, resources: map[string]int64{}, counts: map[resourceState]int64{}}
		err := sqlitex.Execute(conn, `SELECT name, resource_id FROM resources`, &sqlitex.ExecOptions{
			ResultFunc: func(stmt *sqlite.Stmt) error {
				tx.resources[stmt.ColumnText(0)] = stmt.ColumnInt64(1)
				return nil
			},
		})
		if err != nil {
			return err
		}
		if err := tx.number(); err != nil {
			return err
		}
		if n, err = f(tx); err != nil {
			return err
		}
		return tx.addCounts()
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// number gives the transaction its number.
func (tx *queueTransaction) number() error {
	return sqlitex.Execute(tx.conn, `SELECT (SELECT number + 1 FROM marks WHERE name = 'stored'), (SELECT number FROM marks WHERE name = 'leaving')`,
		&sqlitex.ExecOptions{ResultFunc: func(stmt *sqlite.Stmt) error {
			tx.stored, tx.leaving = stmt.ColumnInt64(0), stmt.ColumnInt64(1)
			return nil
		}})
}

// keepNumber stores the transaction's number, where an entry bears it.
func (tx *queueTransaction) keepNumber() error {
	stmt := tx.conn.Prep(`UPDATE marks SET number = ? WHERE name = 'stored'`)
	stmt.BindInt64(1, tx.stored)
	return run(stmt)
}

// rate returns the number of a rate's text, a new one where it is new; 0 for "".
func (tx *queueTransaction) rate(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	if id, ok := tx.rates[text]; ok {
		return id, nil
	}
	err := sqlitex.Execute(tx.conn, `INSERT INTO rates (text) VALUES (?) ON CONFLICT DO NOTHING`, &sqlitex.ExecOptions{Args: []any{text}})
	if err != nil {
		return 0, err
	}
	id, err := number(tx.conn, `SELECT rate_id FROM rates WHERE text = ?`, text)
	if tx.rates == nil {
		tx.rates = map[string]int64{}
	}
	tx.rates[text] = id
	return id, err
}

func (tx *queueTransaction) addCounts() error {
	for key, n := range tx.counts {
		err := sqlitex.Execute(tx.conn, `
			INSERT INTO counts (resource_id, state, entries) VALUES (?, ?, ?)
			ON CONFLICT DO UPDATE SET entries = entries + excluded.entries`,
			&sqlitex.ExecOptions{Args: []any{key.resource, stateNumber(key.state), n}})
		if err != nil {
			return err
		}
	}
	return nil
}

// resource returns the number of a resource, a new one where it is new.
func (tx *queueTransaction) resource(name string) (int64, error) {
	if id, ok := tx.resources[name]; ok {
		return id, nil
	}
	err := sqlitex.Execute(tx.conn, `INSERT INTO resources (name) VALUES (?)`, &sqlitex.ExecOptions{Args: []any{name}})
	if err != nil {
		return 0, err
	}
	id := tx.conn.LastInsertRowID()
	tx.resources[name] = id
	return id, nil
}

// progressColumns are what scanProgress reads, from column 0 on.
const progressColumns = `entry_id, resource_id, state, reason, revision, digest, charge, attempts, failed_record_id,
	enqueued_at, sent_at, loaded_at, loaded_digest, loaded_charge, stored, decision, superseded, waits_for`

func scanProgress(stmt *sqlite.Stmt) queueRow {
	row := queueRow{
		id:       outbox.ID(stmt.ColumnInt64(0)),
		resource: stmt.ColumnInt64(1),
		Progress: outbox.Progress{
			State:          states[stmt.ColumnInt(2)],
			Reason:         stmt.ColumnText(3),
			Revision:       stmt.ColumnInt64(4),
			Charge:         stmt.ColumnInt64(6),
			Attempts:       stmt.ColumnInt64(7),
			FailedRecordID: stmt.ColumnInt64(8),
			EnqueuedAt:     ledger.TimeOrZero(stmt.ColumnInt64(9)),
			SentAt:         ledger.TimeOrZero(stmt.ColumnInt64(10)),
			LoadedAt:       ledger.TimeOrZero(stmt.ColumnInt64(11)),
			LoadedCharge:   stmt.ColumnInt64(13),
		},
		stored:     stmt.ColumnInt64(14),
		decision:   outbox.Decisions[stmt.ColumnInt(15)],
		superseded: stmt.ColumnInt(16) != 0,
		waitsFor:   outbox.ID(stmt.ColumnInt64(17)),
	}
	stmt.ColumnBytes(5, row.Digest[:])
	switch {
	case !stmt.ColumnIsNull(12):
		stmt.ColumnBytes(12, row.LoadedDigest[:])
	case !row.LoadedAt.IsZero():
		row.LoadedDigest = row.Digest
	}
	return row
}

// find returns the entry of the identity, and whether there is one.
func (tx *queueTransaction) find(id amieusage.Identity) (queueRow, bool, error) {
	resource, ok := tx.resources[id.Resource]
	if !ok || !storableTime(id.KeyTime) {
		return queueRow{}, false, nil
	}
	stmt := tx.conn.Prep(`SELECT ` + progressColumns + ` FROM entries
		WHERE local_record_id = ? AND key_time = ? AND resource_id = ? AND usage_type = ?`)
	stmt.BindText(1, id.LocalRecordID)
	stmt.BindInt64(2, ledger.Nanos(id.KeyTime))
	stmt.BindInt64(3, resource)
	stmt.BindInt64(4, ledger.UsageTypeNumber(id.UsageType))
	return oneRow(stmt)
}

// get returns the entry of the ID; it must exist.
func (tx *queueTransaction) get(id outbox.ID) (queueRow, error) {
	stmt := tx.conn.Prep(`SELECT ` + progressColumns + ` FROM entries WHERE entry_id = ?`)
	stmt.BindInt64(1, int64(id))
	row, ok, err := oneRow(stmt)
	if err == nil && !ok {
		err = noEntry(id)
	}
	return row, err
}

func oneRow(stmt *sqlite.Stmt) (row queueRow, ok bool, err error) {
	if ok, err = stmt.Step(); ok {
		row = scanProgress(stmt)
		err = stmt.Reset()
	}
	return row, ok, err
}

// apply lets a rule make its step and stores it, but for the columns that only
// a new revision changes. It reports whether the rule changed something.
func (tx *queueTransaction) apply(row *queueRow, rule func(p *outbox.Progress) bool) (bool, error) {
	before := row.State
	if !rule(&row.Progress) {
		return false, nil
	}
	stmt := tx.conn.Prep(`
		UPDATE entries SET state = ?2, reason = ?3, attempts = ?4, failed_record_id = ?5, sent_at = ?6, loaded_at = ?7,
			loaded_digest = ?8, loaded_charge = ?9
		WHERE entry_id = ?1`)
	stmt.BindInt64(1, int64(row.id))
	stmt.BindInt64(2, stateNumber(row.State))
	stmt.BindText(3, row.Reason)
	stmt.BindInt64(4, row.Attempts)
	stmt.BindInt64(5, row.FailedRecordID)
	stmt.BindInt64(6, ledger.Nanos(row.SentAt))
	stmt.BindInt64(7, ledger.Nanos(row.LoadedAt))
	if row.LoadedAt.IsZero() || row.LoadedDigest == row.Digest {
		stmt.BindNull(8)
	} else {
		stmt.BindBytes(8, row.LoadedDigest[:])
	}
	stmt.BindInt64(9, row.LoadedCharge)
	tx.counts[resourceState{row.resource, before}]--
	tx.counts[resourceState{row.resource, row.State}]++
	return true, run(stmt)
}

func noEntry(id outbox.ID) error {
	return &amieusage.Error{
		Code:    amieusage.CodeNotFound,
		Message: "the outbox has no entry " + strconv.FormatInt(int64(id), 10),
	}
}

// storableTime reports whether nanos can stand for the time.
func storableTime(t time.Time) bool {
	return t.IsZero() || t.Year() >= 1700 && t.Year() < 2262
}
