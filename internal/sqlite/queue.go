package sqlite

import (
	"context"
	"errors"
	"slices"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/outbox"
)

// Enqueue stores the items and moves the cursor.
func (q *Outbox) Enqueue(ctx context.Context, items []outbox.Item, cursor *outbox.Cursor) ([]outbox.Outcome, error) {
	entries, err := outbox.NewEntries(items, q.clock())
	if err != nil {
		return nil, err
	}
	what := "enqueue"
	if cursor != nil {
		what = "move cursor"
	}
	var outcomes []outbox.Outcome
	_, err = q.change(ctx, what, func(tx *queueTransaction) (int, error) {
		if outcomes, err = tx.enqueueAll(entries); err != nil {
			return 0, err
		}
		return 0, tx.move(cursor)
	})
	if err != nil {
		return nil, err
	}
	return outcomes, nil
}

// move moves a cursor; nil: none.
func (tx *queueTransaction) move(cursor *outbox.Cursor) error {
	if cursor == nil {
		return nil
	}
	stmt := tx.conn.Prep(`INSERT INTO cursors (source, at) VALUES (?, ?) ON CONFLICT DO UPDATE SET at = excluded.at`)
	stmt.BindText(1, cursor.Source)
	stmt.BindInt64(2, ledger.Nanos(cursor.At))
	return run(stmt)
}

// errPreview takes back the transaction of a preview.
var errPreview = errors.New("preview")

// Preview returns what Enqueue would return, by doing it and taking it back.
func (q *Outbox) Preview(ctx context.Context, items []outbox.Item) ([]outbox.Outcome, error) {
	entries, err := outbox.NewEntries(items, q.clock())
	if err != nil {
		return nil, err
	}
	var outcomes []outbox.Outcome
	_, err = q.change(ctx, "preview", func(tx *queueTransaction) (int, error) {
		if outcomes, err = tx.enqueueAll(entries); err == nil {
			err = errPreview
		}
		return 0, err
	})
	if !errors.Is(err, errPreview) {
		return nil, err
	}
	return outcomes, nil
}

func (tx *queueTransaction) enqueueAll(entries []outbox.Entry) ([]outbox.Outcome, error) {
	outcomes := make([]outbox.Outcome, len(entries))
	known := make(map[outbox.ID]bool, len(entries))
	for i, e := range entries {
		id, change, err := tx.enqueue(e)
		if err != nil {
			return nil, err
		}
		outcomes[i] = outbox.Outcome{ID: id, Change: change, Repeated: known[id]}
		known[id] = true
	}
	return outcomes, tx.keepNumber()
}

func (tx *queueTransaction) enqueue(e outbox.Entry) (outbox.ID, outbox.Change, error) {
	identity := e.Record.Identity()
	resource, err := tx.resource(identity.Resource)
	if err != nil {
		return 0, "", err
	}
	stmt := tx.conn.Prep(`
		INSERT INTO entries (resource_id, usage_type, local_record_id, key_time, state, revision, digest, charge, enqueued_at, stored)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (local_record_id, key_time, resource_id, usage_type) DO NOTHING`)
	stmt.BindInt64(1, resource)
	stmt.BindInt64(2, ledger.UsageTypeNumber(identity.UsageType))
	stmt.BindText(3, identity.LocalRecordID)
	stmt.BindInt64(4, ledger.Nanos(identity.KeyTime))
	stmt.BindInt64(5, stateNumber(e.State))
	stmt.BindInt64(6, e.Revision)
	stmt.BindBytes(7, e.Digest[:])
	stmt.BindInt64(8, e.Charge)
	stmt.BindInt64(9, ledger.Nanos(e.EnqueuedAt))
	stmt.BindInt64(10, tx.stored)
	if err := run(stmt); err != nil {
		return 0, "", err
	}
	if tx.conn.Changes() == 1 {
		e.ID = outbox.ID(tx.conn.LastInsertRowID())
		tx.counts[resourceState{resource, e.State}]++
		stmt = tx.conn.Prep(`INSERT INTO records (place, record, entry_id) VALUES (?, ?, ?)`)
		return e.ID, outbox.Added, tx.storeRecord(stmt, e)
	}
	row, _, err := tx.find(identity)
	if err != nil {
		return 0, "", err
	}
	e.ID = row.id
	if row.Digest != e.Digest {
		if err := tx.keepRevision(row.id); err != nil {
			return 0, "", err
		}
	}
	revised, err := tx.apply(&row, func(p *outbox.Progress) bool { return p.Revise(e.Progress) })
	if err != nil || !revised {
		return e.ID, outbox.Unchanged, err
	}
	// What the accounting had given is now as somebody has given it by hand.
	const set = `decision = CASE WHEN ended <> 0 THEN 4 ELSE decision END, ended = 0, rate_id = 0`
	stmt = tx.conn.Prep(`UPDATE entries SET revision = ?, digest = ?, charge = ?, enqueued_at = ?, stored = ?, ` + set + ` WHERE entry_id = ?`)
	stmt.BindInt64(1, row.Revision)
	stmt.BindBytes(2, row.Digest[:])
	stmt.BindInt64(3, row.Charge)
	stmt.BindInt64(4, ledger.Nanos(row.EnqueuedAt))
	stmt.BindInt64(5, tx.stored)
	stmt.BindInt64(6, int64(e.ID))
	if err := run(stmt); err != nil {
		return 0, "", err
	}
	stmt = tx.conn.Prep(`UPDATE records SET place = ?, record = ? WHERE entry_id = ?`)
	return e.ID, outbox.Revised, tx.storeRecord(stmt, e)
}

// keepRevision keeps the present content of an entry that is to get another.
func (tx *queueTransaction) keepRevision(id outbox.ID) error {
	stmt := tx.conn.Prep(`
		INSERT INTO revisions (entry_id, revision, place, record, rate_id, state, reason, enqueued_at, sent_at)
		SELECT entry_id, revision, place, record, rate_id, state, reason, enqueued_at, sent_at
		FROM entries JOIN records USING (entry_id) WHERE entry_id = ? ON CONFLICT DO NOTHING`)
	stmt.BindInt64(1, int64(id))
	return run(stmt)
}

func (tx *queueTransaction) storeRecord(stmt *sqlite.Stmt, e outbox.Entry) error {
	if e.Job != nil {
		tx.record = outbox.AppendJob(tx.record[:0], e.Job)
	} else {
		tx.record = e.Record.AppendJSON(tx.record[:0])
	}
	stmt.BindText(1, e.Place)
	stmt.BindBytes(2, tx.record)
	stmt.BindInt64(3, int64(e.ID))
	return run(stmt)
}

// Cursor returns the source's cursor.
func (q *Outbox) Cursor(ctx context.Context, source string) (outbox.Cursor, error) {
	cursor := outbox.Cursor{Source: source}
	err := q.db.read(ctx, func(conn *sqlite.Conn) error {
		at, err := number(conn, `SELECT at FROM cursors WHERE source = ?`, source)
		cursor.At = ledger.TimeOrZero(at)
		return err
	})
	return cursor, err
}

// Sent stores the answers to a send.
func (q *Outbox) Sent(ctx context.Context, deliveries []outbox.Delivery) (int, error) {
	now := q.clock()
	return q.change(ctx, "sent", func(tx *queueTransaction) (moved int, err error) {
		for _, d := range deliveries {
			row, err := tx.get(d.ID)
			if err != nil {
				return 0, err
			}
			changed, err := tx.apply(&row, func(p *outbox.Progress) bool { return p.Sent(d, now) })
			if err != nil {
				return 0, err
			}
			if changed {
				moved++
			}
		}
		return moved, nil
	})
}

// Loaded takes in loaded records.
func (q *Outbox) Loaded(ctx context.Context, records []amieusage.LoadedRecord, within int64) (int, error) {
	return q.change(ctx, "take loaded", func(tx *queueTransaction) (loaded int, err error) {
		waiting, err := number(tx.conn, `SELECT EXISTS (SELECT 1 FROM entries WHERE waits_for <> 0)`)
		if err != nil {
			return 0, err
		}
		for _, r := range records {
			id := r.Identity()
			confirmed, err := tx.confirm(id, r, within)
			if err == nil && confirmed == 0 && r.UsageType == "" {
				id.UsageType = amieusage.Storage
				confirmed, err = tx.confirm(id, r, within)
				if err == nil && confirmed == 0 {
					id.UsageType, id.KeyTime = amieusage.Adjustment, time.Time{}
					confirmed, err = tx.confirm(id, r, within)
				}
			}
			if err != nil {
				return 0, err
			}
			if confirmed == 0 {
				continue
			}
			loaded++
			if waiting != 0 {
				if err := tx.releaseWaiting(confirmed); err != nil {
					return 0, err
				}
			}
		}
		return loaded, nil
	})
}

// confirm takes in a loaded record for the entry of an identity, and returns the
// entry where it is loaded now.
func (tx *queueTransaction) confirm(id amieusage.Identity, r amieusage.LoadedRecord, within int64) (outbox.ID, error) {
	row, ok, err := tx.find(id)
	if err != nil || !ok || !storableTime(r.LoadedTime) {
		return 0, err
	}
	changed, err := tx.apply(&row, func(p *outbox.Progress) bool { return p.Confirm(r, within) })
	if err != nil || !changed {
		return 0, err
	}
	return row.id, nil
}

// Failed takes in failed records.
func (q *Outbox) Failed(ctx context.Context, records []amieusage.FailedRecord) (int, error) {
	return q.change(ctx, "take failed", func(tx *queueTransaction) (failed int, err error) {
		for _, f := range records {
			if f.Record == nil {
				continue
			}
			row, ok, err := tx.find(f.Record.Identity())
			if err != nil {
				return 0, err
			}
			if !ok {
				continue
			}
			changed, err := tx.apply(&row, func(p *outbox.Progress) bool { return p.Fail(f) })
			if err != nil {
				return 0, err
			}
			if changed && row.State == outbox.Failed {
				failed++
			}
		}
		return failed, nil
	})
}

// Retry makes entries pending.
func (q *Outbox) Retry(ctx context.Context, which outbox.Selection) (int, error) {
	return q.change(ctx, "retry", func(tx *queueTransaction) (retried int, err error) {
		ids := slices.Clone(which.IDs)
		for _, state := range which.States {
			if ids, err = appendIDs(ids, tx.conn, state); err != nil {
				return 0, err
			}
		}
		for _, id := range ids {
			row, err := tx.get(id)
			if err != nil {
				return 0, err
			}
			if row.decision == outbox.DecidedHold || row.decision == outbox.DecidedDrop {
				continue
			}
			changed, err := tx.apply(&row, (*outbox.Progress).Retry)
			if err != nil {
				return 0, err
			}
			if changed {
				retried++
			}
		}
		return retried, nil
	})
}

// appendIDs appends the IDs of the entries in the state.
func appendIDs(ids []outbox.ID, conn *sqlite.Conn, state outbox.State) ([]outbox.ID, error) {
	err := sqlitex.Execute(conn, `SELECT entry_id FROM entries WHERE `+inState(state), &sqlitex.ExecOptions{
		Args: []any{stateNumber(state)},
		ResultFunc: func(stmt *sqlite.Stmt) error {
			ids = append(ids, outbox.ID(stmt.ColumnInt64(0)))
			return nil
		},
	})
	return ids, err
}
