package sqlite

import (
	"context"
	"iter"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/outbox"
)

// Note keeps bad rows and what was left out.
func (q *Outbox) Note(ctx context.Context, bad []outbox.BadRow, skips []outbox.Skipped) error {
	now := ledger.Nanos(q.clock())
	_, err := q.change(ctx, "note", func(tx *queueTransaction) (int, error) {
		for _, row := range bad {
			stmt := tx.conn.Prep(`INSERT INTO bad_rows (job_id, reason, place, first_seen, last_seen) VALUES (?1, ?2, ?3, ?4, ?4)
				ON CONFLICT DO UPDATE SET place = excluded.place, last_seen = excluded.last_seen`)
			stmt.BindText(1, row.JobID)
			stmt.BindText(2, row.Reason)
			stmt.BindText(3, row.Place)
			stmt.BindInt64(4, now)
			if err := run(stmt); err != nil {
				return 0, err
			}
		}
		if skips == nil {
			return 0, nil
		}
		if err := run(tx.conn.Prep(`DELETE FROM skips`)); err != nil {
			return 0, err
		}
		for _, s := range skips {
			stmt := tx.conn.Prep(`INSERT INTO skips (account, partition, reason, jobs, seconds) VALUES (?, ?, ?, ?, ?)`)
			stmt.BindText(1, s.Account)
			stmt.BindText(2, s.Partition)
			stmt.BindText(3, s.Reason)
			stmt.BindInt64(4, s.Jobs)
			stmt.BindInt64(5, s.Seconds)
			if err := run(stmt); err != nil {
				return 0, err
			}
		}
		return 0, nil
	})
	return err
}

// ReadWell forgets the bad rows of jobs.
func (q *Outbox) ReadWell(ctx context.Context, jobIDs []string) error {
	any := false
	err := q.db.read(ctx, func(conn *sqlite.Conn) error {
		n, err := number(conn, `SELECT EXISTS (SELECT 1 FROM bad_rows)`)
		any = n > 0
		return err
	})
	if err != nil || !any {
		return err
	}
	_, err = q.change(ctx, "read well", func(tx *queueTransaction) (int, error) {
		for _, id := range jobIDs {
			stmt := tx.conn.Prep(`DELETE FROM bad_rows WHERE job_id = ?`)
			stmt.BindText(1, id)
			if err := run(stmt); err != nil {
				return 0, err
			}
		}
		return 0, nil
	})
	return err
}

// BadRows returns the rows that could not be used, in order of their jobs.
func (q *Outbox) BadRows(ctx context.Context) (rows []outbox.BadRow, err error) {
	err = q.db.read(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, `SELECT job_id, reason, place, first_seen, last_seen FROM bad_rows ORDER BY job_id, reason`, &sqlitex.ExecOptions{
			ResultFunc: func(stmt *sqlite.Stmt) error {
				rows = append(rows, outbox.BadRow{JobID: stmt.ColumnText(0), Reason: stmt.ColumnText(1), Place: stmt.ColumnText(2),
					FirstSeen: ledger.TimeOrZero(stmt.ColumnInt64(3)), LastSeen: ledger.TimeOrZero(stmt.ColumnInt64(4))})
				return nil
			},
		})
	})
	return rows, err
}

// Skips returns what the last reading left out, what ran for longest first.
func (q *Outbox) Skips(ctx context.Context) (skips []outbox.Skipped, err error) {
	err = q.db.read(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, `SELECT account, partition, reason, jobs, seconds FROM skips ORDER BY seconds DESC, jobs DESC, account, partition, reason`, &sqlitex.ExecOptions{
			ResultFunc: func(stmt *sqlite.Stmt) error {
				skips = append(skips, outbox.Skipped{Account: stmt.ColumnText(0), Partition: stmt.ColumnText(1), Reason: stmt.ColumnText(2),
					Jobs: stmt.ColumnInt64(3), Seconds: stmt.ColumnInt64(4)})
				return nil
			},
		})
	})
	return skips, err
}

// KnowsJobs reports whether there is any job.
func (q *Outbox) KnowsJobs(ctx context.Context) (known bool, err error) {
	err = q.db.read(ctx, func(conn *sqlite.Conn) error {
		n, err := number(conn, `SELECT count(*) FROM (SELECT 1 FROM entries WHERE ended <> 0 LIMIT 1)`)
		known = n > 0
		return err
	})
	return known, err
}

// EndedJobs yields the entries of jobs that ended in [from, to), page by page.
func (q *Outbox) EndedJobs(ctx context.Context, from, to time.Time) iter.Seq2[outbox.Entry, error] {
	return func(yield func(outbox.Entry, error) bool) {
		since, after := ledger.Nanos(from), outbox.ID(0)
		for {
			var page []outbox.Entry
			err := q.db.read(ctx, func(conn *sqlite.Conn) (err error) {
				page, err = entries(conn, `ended <> 0 AND (ended, entry_id) > (?1, ?2) AND ended < ?3 ORDER BY ended, entry_id LIMIT ?4`,
					since, int64(after), ledger.Nanos(to), outbox.DefaultPage)
				return err
			})
			if err != nil {
				yield(outbox.Entry{}, err)
				return
			}
			for _, e := range page {
				if !yield(e, nil) {
					return
				}
				after = e.ID
				if e.Job != nil {
					since = ledger.Nanos(e.Job.Facts.End)
				}
			}
			if len(page) < outbox.DefaultPage {
				return
			}
		}
	}
}

// AcceptMissing takes the entries out of what the accounting should show.
func (q *Outbox) AcceptMissing(ctx context.Context, ids []outbox.ID) error {
	_, err := q.change(ctx, "accept missing", func(tx *queueTransaction) (int, error) {
		for _, id := range ids {
			// Before 1970: it is a job still, and of no day that is asked for.
			stmt := tx.conn.Prep(`UPDATE entries SET ended = -abs(ended) WHERE entry_id = ?`)
			stmt.BindInt64(1, int64(id))
			if err := run(stmt); err != nil {
				return 0, err
			}
		}
		return 0, nil
	})
	return err
}

// Notes returns what was decided about the records with a LocalRecordID.
func (q *Outbox) Notes(ctx context.Context, recordID string) (notes []outbox.Note, err error) {
	err = q.db.read(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, `SELECT kind, value, comment, who, at FROM decisions WHERE local_record_id = ? ORDER BY decision_id`, &sqlitex.ExecOptions{
			Args: []any{recordID},
			ResultFunc: func(stmt *sqlite.Stmt) error {
				notes = append(notes, outbox.Note{Kind: stmt.ColumnText(0), Value: stmt.ColumnText(1), Comment: stmt.ColumnText(2),
					Who: stmt.ColumnText(3), At: ledger.TimeOrZero(stmt.ColumnInt64(4))})
				return nil
			},
		})
	})
	return notes, err
}

// Revisions returns the contents that an entry had before.
func (q *Outbox) Revisions(ctx context.Context, id outbox.ID) (revisions []outbox.Entry, err error) {
	err = q.db.read(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, `
			SELECT v.revision, v.place, v.record, (SELECT text FROM rates r WHERE r.rate_id = v.rate_id), v.state, v.reason, v.enqueued_at, v.sent_at, e.usage_type
			FROM revisions v JOIN entries e USING (entry_id) WHERE entry_id = ? ORDER BY v.revision`, &sqlitex.ExecOptions{
			Args: []any{int64(id)},
			ResultFunc: func(stmt *sqlite.Stmt) error {
				e := outbox.Entry{ID: id, Place: stmt.ColumnText(1), Progress: outbox.Progress{
					Revision: stmt.ColumnInt64(0), State: states[stmt.ColumnInt(4)], Reason: stmt.ColumnText(5),
					EnqueuedAt: ledger.TimeOrZero(stmt.ColumnInt64(6)), SentAt: ledger.TimeOrZero(stmt.ColumnInt64(7)),
				}}
				err := scanContent(&e, stmt, 2, stmt.ColumnText(3), ledger.UsageTypeOf(stmt.ColumnInt64(8)))
				revisions = append(revisions, e)
				return err
			},
		})
	})
	return revisions, err
}
