package postgres

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/failpoint"
)

//go:embed migrations
var migrations embed.FS

const (
	// migrationTimeout is how long bringing the schema up to date may take.
	migrationTimeout = 10 * time.Minute
	// migrationTries is how often a replica may come upon another one, or upon
	// what is in use.
	migrationTries = 20
)

// migrate brings the schema up to date. A schema from a newer program is
// refused, unless it says that this program works with it; a replica that runs
// already is not stopped by it.
//
// Each migration is one transaction. Replicas that start together are not kept
// apart, by a lock that a pooler could not hold: of two that run the same
// migration one fails, and finds it done. A migration of tables that are in use
// sets a lock_timeout, and is tried again when it had to give way.
func (db *database) migrate(ctx context.Context) error {
	files := db.migrations
	if files == nil {
		var err error
		if files, err = fs.Sub(migrations, "migrations"); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, migrationTimeout)
	defer cancel()
	std := stdlib.OpenDBFromPool(db.pool)
	defer std.Close()
	provider, err := goose.NewProvider(goose.DialectPostgres, std, files)
	if err != nil {
		return err
	}
	sources := provider.ListSources()
	newest := sources[len(sources)-1].Version
	for try := 1; ; try++ {
		current, err := db.schema(ctx, std, newest)
		if err == nil && current < newest {
			if err = upgrade(ctx, provider); meanwhileDone(err) && try < migrationTries {
				continue
			}
		}
		if _, refused := errors.AsType[*amieusage.Error](err); err != nil && !refused {
			return db.migrateError(err)
		}
		return err
	}
}

// upgrade runs the migrations that are left.
func upgrade(ctx context.Context, provider *goose.Provider) error {
	for {
		if _, err := provider.UpByOne(ctx); errors.Is(err, goose.ErrNoNextVersion) {
			return nil
		} else if err != nil {
			return err
		}
		failpoint.Hit("migrate", "committed")
	}
}

// meanwhileDone reports whether a migration failed because another replica was
// running it, or was using what it changes.
func meanwhileDone(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && slices.Contains([]string{
		"23505", "42P07", "42P06", "42701", "42710", // unique_violation; duplicate table, schema, column, object
		"40P01", "55P03", // deadlock_detected, lock_not_available
	}, pg.Code)
}

// schema returns the version of the schema, 0 where there is no ledger yet. It
// refuses one that a program which knows versions up to newest does not work
// with.
func (db *database) schema(ctx context.Context, std *sql.DB, newest int64) (version int64, err error) {
	var versioned, ours bool
	err = std.QueryRowContext(ctx, `
		SELECT coalesce(bool_or(tablename = 'goose_db_version'), false), coalesce(bool_or(tablename = 'schema_compatibility'), false)
		FROM pg_tables WHERE schemaname = ANY (current_schemas(false))`).Scan(&versioned, &ours)
	if err != nil || !versioned {
		return 0, err
	}
	if err := std.QueryRowContext(ctx, `SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`).Scan(&version); err != nil {
		return 0, err
	}
	if version > 0 && !ours {
		return 0, &amieusage.Error{Code: amieusage.CodeInvalid, Message: "the database " + db.name + " holds the tables of another program",
			Hint: "give the ledger a database of its own"}
	}
	if version <= newest {
		return version, nil
	}
	var oldest int64
	if err := std.QueryRowContext(ctx, `SELECT oldest_schema FROM schema_compatibility`).Scan(&oldest); err != nil {
		return 0, err
	}
	if oldest > newest {
		return 0, &amieusage.Error{
			Code:    amieusage.CodeInvalid,
			Message: fmt.Sprintf("the ledger %s has schema %d, this program knows schemas up to %d", db.name, version, newest),
			Hint:    "it was written by a newer amieusage: run that one",
		}
	}
	return version, nil
}
