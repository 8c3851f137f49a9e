package sqlite

import (
	"context"
	"slices"
	"strconv"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/outbox"
)

// Known returns the entries of each job.
func (q *Outbox) Known(ctx context.Context, jobs []outbox.Names) ([][]outbox.Entry, error) {
	known := make([][]outbox.Entry, len(jobs))
	err := q.db.read(ctx, func(conn *sqlite.Conn) error {
		const columns = `SELECT ` + entryColumns + ` FROM entries JOIN records USING (entry_id) `
		byRecord := conn.Prep(columns + `WHERE local_record_id = ?1 AND usage_type = ?2 ORDER BY key_time, entry_id`)
		byName := conn.Prep(columns + `WHERE entry_id IN (SELECT entry_id FROM job_names WHERE name = ?1) AND usage_type = ?2`)
		named, err := number(conn, `SELECT EXISTS (SELECT 1 FROM job_names)`)
		if err != nil {
			return err
		}
		for i, job := range jobs {
			add := func(stmt *sqlite.Stmt, name string) error {
				stmt.BindText(1, name)
				stmt.BindInt64(2, ledger.UsageTypeNumber(amieusage.Compute))
				for {
					ok, err := stmt.Step()
					if err != nil {
						return err
					}
					if !ok {
						return stmt.Reset()
					}
					e, err := scanEntry(stmt)
					if err != nil {
						_ = stmt.Reset()
						return err
					}
					if !slices.ContainsFunc(known[i], func(k outbox.Entry) bool { return k.ID == e.ID }) {
						known[i] = append(known[i], e)
					}
				}
			}
			if err := add(byRecord, job.RecordID); err != nil {
				return err
			}
			names := []string{job.ID, job.DisplayID}
			if job.ID == job.DisplayID {
				names = names[:1]
			}
			for _, name := range names {
				if name != "" && name != job.RecordID {
					if err := add(byRecord, name); err != nil {
						return err
					}
				}
				if name != "" && named != 0 {
					if err := add(byName, name); err != nil {
						return err
					}
				}
			}
		}
		return nil
	})
	return known, err
}

// keepNames keeps the names of an entry's job that are not its LocalRecordID.
func (tx *queueTransaction) keepNames(e *outbox.Entry) error {
	if e.Job == nil {
		return nil
	}
	id := e.Record.Common().LocalRecordID
	for _, name := range []string{e.Job.Facts.ID, e.Job.Facts.DisplayID} {
		if name == id || name == "" {
			continue
		}
		stmt := tx.conn.Prep(`INSERT OR IGNORE INTO job_names (name, entry_id) VALUES (?, ?)`)
		stmt.BindText(1, name)
		stmt.BindInt64(2, int64(e.ID))
		if err := run(stmt); err != nil {
			return err
		}
	}
	return nil
}

// Leave returns a page of pending entries, which may leave from now on.
func (q *Outbox) Leave(ctx context.Context, after outbox.ID) (page []outbox.Entry, err error) {
	_, err = q.change(ctx, "leave", func(tx *queueTransaction) (int, error) {
		if err := tx.holdAtService(after); err != nil {
			return 0, err
		}
		if page, err = entries(tx.conn, inState(outbox.Pending)+` AND entry_id > ?2 ORDER BY entry_id LIMIT ?3`,
			stateNumber(outbox.Pending), int64(after), outbox.DefaultPage); err != nil || len(page) == 0 || tx.leaving == tx.stored-1 {
			return 0, err
		}
		return 0, run(tx.conn.Prep(`UPDATE marks SET number = (SELECT number FROM marks WHERE name = 'stored') WHERE name = 'leaving'`))
	})
	for i := range page {
		page[i].Left = true
	}
	return page, err
}

// Apply stores what was decided and moves the cursor.
func (q *Outbox) Apply(ctx context.Context, writes []outbox.Write, cursor *outbox.Cursor) ([]outbox.ID, error) {
	what := "apply"
	if cursor != nil {
		what = "apply, move cursor"
	}
	ids := make([]outbox.ID, len(writes))
	now := q.clock()
	_, err := q.change(ctx, what, func(tx *queueTransaction) (int, error) {
		for i := range writes {
			w := writes[i]
			if w.Content {
				charge, err := w.Entry.Record.Common().Charge.Millionths()
				if err == nil {
					err = w.Entry.Record.Validate()
				}
				if err != nil {
					return 0, &amieusage.Error{Code: amieusage.CodeInvalid, Message: "record " + strconv.Itoa(i+1) + " cannot be stored", Err: err}
				}
				w.Entry.Digest, w.Entry.Charge, w.Entry.EnqueuedAt = amieusage.ContentDigest(w.Entry.Record), charge, now
			}
			var err error
			if w.ID == 0 {
				ids[i], err = tx.insert(w.Entry)
			} else {
				ids[i], err = w.ID, tx.rewrite(&w)
			}
			if err == nil && w.Entry.State == outbox.Accepted {
				err = tx.releaseWaiting(w.ID) // it cannot be confirmed any better
			}
			if err == nil && w.Note != nil {
				err = tx.note(ids[i], &w, now)
			}
			if err != nil {
				return 0, err
			}
		}
		if len(writes) > 0 {
			if err := tx.keepNumber(); err != nil {
				return 0, err
			}
		}
		return 0, tx.move(cursor)
	})
	if err != nil {
		return nil, err
	}
	return ids, nil
}

// note keeps who decided what.
func (tx *queueTransaction) note(id outbox.ID, w *outbox.Write, now time.Time) error {
	stmt := tx.conn.Prep(`INSERT INTO decisions (local_record_id, entry_id, kind, value, comment, who, at) VALUES (?, ?, ?, ?, ?, ?, ?)`)
	stmt.BindText(1, w.Entry.Record.Common().LocalRecordID)
	stmt.BindInt64(2, int64(id))
	stmt.BindText(3, w.Note.Kind)
	stmt.BindText(4, w.Note.Value)
	stmt.BindText(5, w.Note.Comment)
	stmt.BindText(6, w.Note.Who)
	stmt.BindInt64(7, ledger.Nanos(now))
	return run(stmt)
}

// insert stores a new entry.
func (tx *queueTransaction) insert(e outbox.Entry) (outbox.ID, error) {
	identity := e.Record.Identity()
	resource, err := tx.resource(identity.Resource)
	if err != nil {
		return 0, err
	}
	rate, ended, err := tx.jobColumns(&e)
	if err != nil {
		return 0, err
	}
	stmt := tx.conn.Prep(`
		INSERT INTO entries (resource_id, usage_type, local_record_id, key_time, state, reason, revision, digest, charge, enqueued_at, stored,
			rate_id, decision, superseded, waits_for, ended, loaded_at)
		VALUES (?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (local_record_id, key_time, resource_id, usage_type) DO NOTHING`)
	stmt.BindInt64(1, resource)
	stmt.BindInt64(2, ledger.UsageTypeNumber(identity.UsageType))
	stmt.BindText(3, identity.LocalRecordID)
	stmt.BindInt64(4, ledger.Nanos(identity.KeyTime))
	stmt.BindInt64(5, stateNumber(e.State))
	stmt.BindText(6, e.Reason)
	stmt.BindBytes(7, e.Digest[:])
	stmt.BindInt64(8, e.Charge)
	stmt.BindInt64(9, ledger.Nanos(e.EnqueuedAt))
	stmt.BindInt64(10, tx.storedIn(e.State))
	stmt.BindInt64(11, rate)
	stmt.BindInt64(12, int64(slices.Index(outbox.Decisions, e.Decision)))
	stmt.BindBool(13, e.Superseded)
	stmt.BindInt64(14, int64(e.WaitsFor))
	stmt.BindInt64(15, ended)
	stmt.BindInt64(16, ledger.Nanos(e.LoadedAt))
	if err := run(stmt); err != nil {
		return 0, err
	}
	if tx.conn.Changes() == 0 {
		return 0, errStale // it has come to be there since
	}
	e.ID = outbox.ID(tx.conn.LastInsertRowID())
	tx.counts[resourceState{resource, e.State}]++
	if err := tx.keepNames(&e); err != nil {
		return 0, err
	}
	return e.ID, tx.storeRecord(tx.conn.Prep(`INSERT INTO records (place, record, entry_id) VALUES (?, ?, ?)`), e)
}

// errStale says that an entry is not what a decision went by.
var errStale = &amieusage.Error{Code: amieusage.CodeConflict, Message: "an entry of the outbox has changed meanwhile", Hint: "run the command again"}

// rewrite changes or deletes an entry.
func (tx *queueTransaction) rewrite(w *outbox.Write) error {
	row, err := tx.get(w.ID)
	if err != nil {
		return err
	}
	if w.Was != (outbox.Version{Revision: row.Revision, State: row.State, Left: row.stored <= tx.leaving}) {
		return errStale
	}
	if w.Delete {
		for _, statement := range []string{`DELETE FROM job_names WHERE entry_id = ?`, `DELETE FROM records WHERE entry_id = ?`, `DELETE FROM entries WHERE entry_id = ?`} {
			stmt := tx.conn.Prep(statement)
			stmt.BindInt64(1, int64(w.ID))
			if err := run(stmt); err != nil {
				return err
			}
		}
		tx.counts[resourceState{row.resource, row.State}]--
		return nil
	}
	e := w.Entry
	e.ID = w.ID
	if w.Content {
		if err := tx.rewriteContent(w, &row, e); err != nil {
			return err
		}
	}
	stmt := tx.conn.Prep(`UPDATE entries SET state = ?, reason = ?, decision = ?, superseded = ?, waits_for = ?,
		stored = CASE WHEN stored = ?7 AND ?1 = 2 THEN ?8 ELSE stored END WHERE entry_id = ?6`)
	stmt.BindInt64(1, stateNumber(e.State))
	stmt.BindText(2, e.Reason)
	stmt.BindInt64(3, int64(slices.Index(outbox.Decisions, e.Decision)))
	stmt.BindBool(4, e.Superseded)
	stmt.BindInt64(5, int64(e.WaitsFor))
	stmt.BindInt64(6, int64(e.ID))
	stmt.BindInt64(7, neverLeaves)
	stmt.BindInt64(8, tx.stored)
	tx.counts[resourceState{row.resource, row.State}]--
	tx.counts[resourceState{row.resource, e.State}]++
	return run(stmt)
}

// rewriteContent gives an entry another content, on the same resource.
func (tx *queueTransaction) rewriteContent(w *outbox.Write, row *queueRow, e outbox.Entry) error {
	rate, ended, err := tx.jobColumns(&e)
	if err != nil {
		return err
	}
	if w.Revise {
		if err := tx.keepRevision(e.ID); err != nil {
			return err
		}
		row.Revision++
		stmt := tx.conn.Prep(`
			UPDATE entries SET revision = ?, digest = ?, charge = ?, enqueued_at = ?, stored = ?, attempts = 0, sent_at = 0,
				loaded_digest = CASE WHEN loaded_at <> 0 THEN coalesce(loaded_digest, digest) END
			WHERE entry_id = ?`)
		stmt.BindInt64(1, row.Revision)
		stmt.BindBytes(2, e.Digest[:])
		stmt.BindInt64(3, e.Charge)
		stmt.BindInt64(4, ledger.Nanos(e.EnqueuedAt))
		stmt.BindInt64(5, tx.storedIn(e.State))
		stmt.BindInt64(6, int64(e.ID))
		if err := run(stmt); err != nil {
			return err
		}
	}
	stmt := tx.conn.Prep(`UPDATE entries SET rate_id = ?, ended = ? WHERE entry_id = ?`)
	stmt.BindInt64(1, rate)
	stmt.BindInt64(2, ended)
	stmt.BindInt64(3, int64(e.ID))
	if err := run(stmt); err != nil {
		return err
	}
	return tx.storeRecord(tx.conn.Prep(`UPDATE records SET place = ?, record = ? WHERE entry_id = ?`), e)
}

// neverLeaves is the number of what is not pending, and so cannot leave: it has
// one of a transaction once it becomes pending.
const neverLeaves = 1 << 62

// storedIn is the number of content that is stored now, in a state.
func (tx *queueTransaction) storedIn(state outbox.State) int64 {
	if state == outbox.Pending {
		return tx.stored
	}
	return neverLeaves
}

// jobColumns returns the numbers of a job's rate and end; 0 of any other record.
func (tx *queueTransaction) jobColumns(e *outbox.Entry) (rate, ended int64, err error) {
	if e.Job == nil {
		return 0, 0, nil
	}
	rate, err = tx.rate(e.Job.Rate)
	return rate, ledger.Nanos(e.Job.Facts.End), err
}

// releaseWaiting makes pending what waited for an entry to be confirmed.
func (tx *queueTransaction) releaseWaiting(id outbox.ID) error {
	var waiting []queueRow
	err := sqlitex.Execute(tx.conn, `SELECT `+progressColumns+` FROM entries WHERE waits_for <> 0 AND waits_for = ?`, &sqlitex.ExecOptions{
		Args: []any{int64(id)},
		ResultFunc: func(stmt *sqlite.Stmt) error {
			waiting = append(waiting, scanProgress(stmt))
			return nil
		},
	})
	if err != nil {
		return err
	}
	if len(waiting) > 0 {
		if err := tx.keepNumber(); err != nil {
			return err
		}
	}
	for _, row := range waiting {
		if row.State != outbox.Waiting {
			continue
		}
		stmt := tx.conn.Prep(`UPDATE entries SET state = 2, waits_for = 0, stored = CASE WHEN stored = ?2 THEN ?3 ELSE stored END WHERE entry_id = ?1`)
		stmt.BindInt64(1, int64(row.id))
		stmt.BindInt64(2, neverLeaves)
		stmt.BindInt64(3, tx.stored)
		if err := run(stmt); err != nil {
			return err
		}
		tx.counts[resourceState{row.resource, outbox.Waiting}]--
		tx.counts[resourceState{row.resource, outbox.Pending}]++
	}
	return nil
}
