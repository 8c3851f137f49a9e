package postgres

import (
	"context"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
)

// WithTimeouts returns options with other time-outs: for a connection of the
// pool, and for a statement.
func (o Options) WithTimeouts(acquire, statement time.Duration) Options {
	o.acquire, o.statement = acquire, statement
	return o
}

// WithMigrations returns options of a program with other migrations.
func (o Options) WithMigrations(files fs.FS) Options {
	o.migrations = files
	return o
}

// CheckServer is what Open says to a server of a version.
func CheckServer(version int) error {
	return (&database{name: "postgres://host/db"}).checkState(serverState{Version: version, Encoding: "UTF8"})
}

// Write runs f in a transaction.
func (l *Ledger) Write(ctx context.Context, f func(tx pgx.Tx) error) error {
	return l.db.write(ctx, "test", func(ctx context.Context, tx pgx.Tx) error { return f(tx) })
}

// Read runs f in a transaction that only reads.
func (l *Ledger) Read(ctx context.Context, f func(tx pgx.Tx) error) error {
	return l.db.read(ctx, func(ctx context.Context, tx pgx.Tx) error { return f(tx) })
}

// Idle is how many connections of the pool wait to be used.
func (l *Ledger) Idle() int32 { return l.db.pool.Stat().IdleConns() }
