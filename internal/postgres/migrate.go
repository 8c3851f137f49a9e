package postgres

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/amieusage/amieusage"
)

//go:embed migrations
var migrations embed.FS

const (
	// migrationLock is the advisory lock that replicas which start together
	// take turns by: "AML1".
	migrationLock = 0x414d4c31
	// migrationTimeout is how long one waits for another's migrations.
	migrationTimeout = 10 * time.Minute
)

// migrate brings the schema up to date, once, however many replicas start
// together. A schema from a newer program is refused, unless it says that this
// program works with it.
func (db *database) migrate(ctx context.Context) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	goose.SetLogger(goose.NopLogger())
	std := stdlib.OpenDBFromPool(db.pool)
	defer std.Close()
	provider, err := goose.NewProvider(goose.DialectPostgres, std, files)
	if err != nil {
		return err
	}
	sources := provider.ListSources()
	newest := sources[len(sources)-1].Version
	if current, err := db.schema(ctx, std); err != nil {
		return db.openError(err)
	} else if current >= newest {
		return db.checkNewer(ctx, current, newest)
	}
	// Held by a transaction, and not by a session, so that it works through a
	// pooler. The migrations have a connection of their own.
	begin := fmt.Sprintf("BEGIN; SET LOCAL statement_timeout = %d; SET LOCAL idle_in_transaction_session_timeout = 0", migrationTimeout.Milliseconds())
	err = pgx.BeginTxFunc(ctx, db.pool, pgx.TxOptions{BeginQuery: begin}, func(turn pgx.Tx) error {
		if _, err := turn.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, migrationLock); err != nil {
			return err
		}
		current, err := db.schema(ctx, std)
		if err != nil || current >= newest {
			return err
		}
		_, err = provider.Up(ctx)
		return err
	})
	if err != nil {
		return db.openError(err)
	}
	return nil
}

// schema returns the number of the last migration that was run, 0 where there
// is no ledger yet.
func (db *database) schema(ctx context.Context, std *sql.DB) (version int64, err error) {
	err = std.QueryRowContext(ctx, `SELECT coalesce(max(version_id), 0) FROM `+goose.DefaultTablename+` WHERE is_applied`).Scan(&version)
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "42P01" { // undefined_table
		return 0, nil
	}
	return version, err
}

// checkNewer refuses a schema that this program does not work with.
func (db *database) checkNewer(ctx context.Context, current, newest int64) error {
	if current == newest {
		return nil
	}
	var oldest int64
	if err := db.pool.QueryRow(ctx, `SELECT oldest_schema FROM schema_compatibility`).Scan(&oldest); err != nil {
		return db.openError(err)
	}
	if oldest <= newest {
		return nil
	}
	return &amieusage.Error{
		Code:    amieusage.CodeInvalid,
		Message: fmt.Sprintf("the ledger %s has schema %d, this program knows schemas up to %d", db.name, current, newest),
		Hint:    "it was written by a newer amieusage: run that one",
	}
}
