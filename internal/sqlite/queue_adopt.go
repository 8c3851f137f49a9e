package sqlite

import (
	"context"
	"slices"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/outbox"
)

// Met reports whether the outbox knows what the service had before.
func (q *Outbox) Met(ctx context.Context) (met, adopted bool, err error) {
	err = q.db.read(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, `SELECT name, number FROM marks WHERE name IN ('met', 'adopted')`, &sqlitex.ExecOptions{
			ResultFunc: func(stmt *sqlite.Stmt) error {
				if stmt.ColumnText(0) == "met" {
					met = stmt.ColumnBool(1)
				} else {
					adopted = stmt.ColumnBool(1)
				}
				return nil
			},
		})
	})
	return met, adopted, err
}

// Meet stores what the service lists as loaded.
func (q *Outbox) Meet(ctx context.Context, records []amieusage.LoadedRecord, all bool) error {
	_, err := q.change(ctx, "meet", func(tx *queueTransaction) (int, error) {
		for _, r := range records {
			id := r.Identity()
			stmt := tx.conn.Prep(`INSERT OR REPLACE INTO at_service (local_record_id, key_time, usage_type, resource, charge, loaded_at)
				VALUES (?, ?, ?, ?, ?, ?)`)
			stmt.BindText(1, id.LocalRecordID)
			stmt.BindInt64(2, ledger.Nanos(id.KeyTime))
			stmt.BindInt64(3, ledger.UsageTypeNumber(id.UsageType))
			stmt.BindText(4, id.Resource)
			stmt.BindText(5, r.Charge.String())
			stmt.BindInt64(6, ledger.Nanos(r.LoadedTime))
			if err := run(stmt); err != nil {
				return 0, err
			}
		}
		if !all {
			return 0, nil
		}
		return 0, run(tx.conn.Prep(`UPDATE marks SET number = 1 WHERE name = 'met'`))
	})
	return err
}

// RequestBytes returns the size of a send that the service wants.
func (q *Outbox) RequestBytes(ctx context.Context) (n int, err error) {
	err = q.db.read(ctx, func(conn *sqlite.Conn) error {
		bytes, err := number(conn, `SELECT number FROM marks WHERE name = 'request bytes'`)
		n = int(bytes)
		return err
	})
	return n, err
}

// SetRequestBytes stores it.
func (q *Outbox) SetRequestBytes(ctx context.Context, n int) error {
	_, err := q.change(ctx, "request bytes", func(tx *queueTransaction) (int, error) {
		stmt := tx.conn.Prep(`UPDATE marks SET number = ? WHERE name = 'request bytes'`)
		stmt.BindInt64(1, int64(n))
		return 0, run(stmt)
	})
	return err
}

// Adopted stores that what the service had before is taken as reported.
func (q *Outbox) Adopted(ctx context.Context) error {
	_, err := q.change(ctx, "adopted", func(tx *queueTransaction) (int, error) {
		return 0, run(tx.conn.Prep(`UPDATE marks SET number = 1 WHERE name = 'adopted'`))
	})
	return err
}

// isAtService selects the entries of which nothing has left, and nothing of the
// same job by another entry, and that the service had before.
const isAtService = `
	entries.stored > (SELECT number FROM marks WHERE name = 'leaving') AND entries.loaded_at = 0 AND entries.attempts = 0
	AND EXISTS (SELECT 1 FROM at_service s WHERE s.local_record_id = entries.local_record_id AND s.key_time = entries.key_time
		AND s.usage_type = entries.usage_type)
	AND NOT EXISTS (SELECT 1 FROM entries o WHERE o.local_record_id = entries.local_record_id AND o.key_time = entries.key_time
		AND o.usage_type = entries.usage_type AND o.entry_id <> entries.entry_id AND (o.loaded_at <> 0 OR o.sent_at <> 0))`

// atService is the reason of what is held for that.
const atService = "the service had it before: report --adopt takes what it has as reported"

// holdAtService holds those of the next page of pending entries that the service
// had before.
func (tx *queueTransaction) holdAtService(after outbox.ID) error {
	if any, err := number(tx.conn, `SELECT EXISTS (SELECT 1 FROM at_service)`); any == 0 || err != nil {
		return err
	}
	for {
		var held []int64
		err := sqlitex.Execute(tx.conn, `
			UPDATE entries SET state = 5, decision = ?2, reason = ?1, stored = ?4
			WHERE entry_id IN (SELECT entry_id FROM entries WHERE state = 2 AND entry_id > ?5 ORDER BY entry_id LIMIT ?6)
				AND decision <> ?3 AND `+isAtService+` RETURNING resource_id`,
			&sqlitex.ExecOptions{
				Args: []any{atService, slices.Index(outbox.Decisions, outbox.AtService), slices.Index(outbox.Decisions, outbox.DecidedRelease),
					int64(neverLeaves), int64(after), outbox.DefaultPage},
				ResultFunc: func(stmt *sqlite.Stmt) error {
					held = append(held, stmt.ColumnInt64(0))
					return nil
				},
			})
		for _, resource := range held {
			tx.counts[resourceState{resource, outbox.Pending}]--
			tx.counts[resourceState{resource, outbox.Held}]++
		}
		if err != nil || len(held) == 0 {
			return err
		}
	}
}

// Found returns a page of the entries that the service had before.
func (q *Outbox) Found(ctx context.Context, after outbox.ID) (page []outbox.Found, err error) {
	err = q.db.read(ctx, func(conn *sqlite.Conn) error {
		found, err := entries(conn, `state IN (2, 5) AND (decision = ?1 OR state = 2 AND decision <> ?2) AND entry_id > ?3 AND `+isAtService+`
			ORDER BY entry_id LIMIT ?4`, slices.Index(outbox.Decisions, outbox.AtService),
			slices.Index(outbox.Decisions, outbox.DecidedRelease), int64(after), outbox.DefaultPage)
		if err != nil {
			return err
		}
		for _, e := range found {
			f := outbox.Found{Entry: e}
			id := e.Record.Identity()
			// Of several resources the last is the one that charges; else that of today's
			// rules.
			err := sqlitex.Execute(conn, `
				SELECT resource, charge, loaded_at FROM at_service WHERE local_record_id = ? AND key_time = ? AND usage_type = ?
				ORDER BY CAST(charge AS REAL) > 0, resource = ?, CAST(charge AS REAL)`, &sqlitex.ExecOptions{
				Args: []any{id.LocalRecordID, ledger.Nanos(id.KeyTime), ledger.UsageTypeNumber(id.UsageType), id.Resource},
				ResultFunc: func(stmt *sqlite.Stmt) error {
					charge, err := amieusage.ParseCharge(stmt.ColumnText(1))
					f.AtService = amieusage.LoadedRecord{
						UsageType: id.UsageType, LocalRecordID: id.LocalRecordID, Resource: stmt.ColumnText(0), SubmitTime: id.KeyTime,
						Charge: charge, LoadedTime: ledger.TimeOf(stmt.ColumnInt64(2)),
					}
					return err
				},
			})
			if err != nil {
				return err
			}
			page = append(page, f)
		}
		return nil
	})
	return page, err
}

// Home returns the cluster whose jobs need no clusters: in site.yaml.
func (q *Outbox) Home(ctx context.Context, cluster string) (home string, err error) {
	read := func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, `SELECT cluster FROM home`, &sqlitex.ExecOptions{ResultFunc: func(stmt *sqlite.Stmt) error {
			home = stmt.ColumnText(0)
			return nil
		}})
	}
	if err = q.db.read(ctx, read); err != nil || home != "" || cluster == "" {
		return home, err
	}
	_, err = q.change(ctx, "home", func(tx *queueTransaction) (int, error) {
		err := sqlitex.Execute(tx.conn, `INSERT OR IGNORE INTO home VALUES (1, ?)`, &sqlitex.ExecOptions{Args: []any{cluster}})
		if err != nil {
			return 0, err
		}
		return 0, read(tx.conn)
	})
	return home, err
}
