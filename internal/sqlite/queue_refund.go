package sqlite

import (
	"context"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/outbox"
)

// Refund stores refunds of jobs, and who decided so.
func (q *Outbox) Refund(ctx context.Context, refunds []outbox.Refund, note outbox.Note) error {
	now := q.clock()
	_, err := q.change(ctx, "refund", func(tx *queueTransaction) (int, error) {
		for _, r := range refunds {
			// A job that has moved has several entries, and one refund.
			stmt := tx.conn.Prep(`INSERT INTO refunds (entry_id, percent, cap_seconds, amount, comment, undone) VALUES (
					(SELECT min(o.entry_id) FROM entries e JOIN entries o USING (local_record_id, key_time, usage_type) WHERE e.entry_id = ?),
					?, ?, ?, ?, ?)
				ON CONFLICT DO UPDATE SET percent = excluded.percent, cap_seconds = excluded.cap_seconds, amount = excluded.amount,
					comment = excluded.comment, undone = excluded.undone`)
			stmt.BindInt64(1, int64(r.Job))
			stmt.BindText(2, r.Percent)
			stmt.BindInt64(3, r.CapSeconds)
			stmt.BindText(4, r.Amount.String())
			stmt.BindText(5, r.Comment)
			stmt.BindBool(6, r.Undone)
			if err := run(stmt); err != nil {
				return 0, err
			}
			stmt = tx.conn.Prep(`INSERT INTO decisions (local_record_id, entry_id, kind, value, comment, who, at)
				SELECT local_record_id, entry_id, ?, ?, ?, ?, ? FROM entries WHERE entry_id = ?`)
			stmt.BindText(1, note.Kind)
			stmt.BindText(2, note.Value)
			stmt.BindText(3, r.Comment)
			stmt.BindText(4, note.Who)
			stmt.BindInt64(5, ledger.Nanos(now))
			stmt.BindInt64(6, int64(r.Job))
			if err := run(stmt); err != nil {
				return 0, err
			}
		}
		return 0, nil
	})
	return err
}

// Refunds returns all refunds.
func (q *Outbox) Refunds(ctx context.Context) (refunds []outbox.Refund, err error) {
	err = q.db.read(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, `SELECT entry_id, percent, cap_seconds, amount, comment, undone FROM refunds ORDER BY entry_id`, &sqlitex.ExecOptions{
			ResultFunc: func(stmt *sqlite.Stmt) error {
				r := outbox.Refund{Job: outbox.ID(stmt.ColumnInt64(0)), Percent: stmt.ColumnText(1), CapSeconds: stmt.ColumnInt64(2),
					Comment: stmt.ColumnText(4), Undone: stmt.ColumnBool(5)}
				if text := stmt.ColumnText(3); text != "" {
					var err error
					if r.Amount, err = amieusage.ParseCharge(text); err != nil {
						return err
					}
				}
				refunds = append(refunds, r)
				return nil
			},
		})
	})
	return refunds, err
}
