package sqlite

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/storage"
)

// newestReadings is how many readings of a file system are looked at, besides those that are not done.
const newestReadings = 2

// SetReading stores what a file system held.
func (q *Outbox) SetReading(ctx context.Context, r *storage.Reading) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = q.change(ctx, "store a reading", func(tx *queueTransaction) (int, error) {
		stmt := tx.conn.Prep(`INSERT OR REPLACE INTO readings (filesystem, tick, uses, done) VALUES (?, ?, ?, 0)`)
		stmt.BindText(1, r.FileSystem)
		stmt.BindInt64(2, ledger.Nanos(r.Tick))
		stmt.BindText(3, string(text))
		return 1, run(stmt)
	})
	return err
}

// ReadingDone stores that the reading's records are stored.
func (q *Outbox) ReadingDone(ctx context.Context, r *storage.Reading) error {
	_, err := q.change(ctx, "end a reading", func(tx *queueTransaction) (int, error) {
		stmt := tx.conn.Prep(`UPDATE readings SET done = 1 WHERE filesystem = ? AND tick = ?`)
		stmt.BindText(1, r.FileSystem)
		stmt.BindInt64(2, ledger.Nanos(r.Tick))
		return 1, run(stmt)
	})
	return err
}

// Readings returns the newest readings of a file system.
func (q *Outbox) Readings(ctx context.Context, fileSystem string, upTo time.Time) (readings []outbox.StoredReading, err error) {
	err = q.db.read(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, `SELECT tick, uses, done FROM readings WHERE filesystem = ?1 AND tick <= ?2 ORDER BY tick DESC`, &sqlitex.ExecOptions{
			Args: []any{fileSystem, ledger.Nanos(upTo)},
			ResultFunc: func(stmt *sqlite.Stmt) error {
				if done := stmt.ColumnBool(2); len(readings) >= newestReadings && done {
					return nil
				}
				r := outbox.StoredReading{Done: stmt.ColumnBool(2)}
				if err := json.Unmarshal([]byte(stmt.ColumnText(1)), &r.Reading); err != nil {
					return fmt.Errorf("the reading of %s is damaged: %w", fileSystem, err)
				}
				r.FileSystem, r.Tick = fileSystem, time.Unix(0, stmt.ColumnInt64(0)).UTC()
				readings = append(readings, r)
				return nil
			},
		})
	})
	return readings, err
}
