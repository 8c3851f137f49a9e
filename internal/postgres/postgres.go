// Package postgres keeps the service's ledger in PostgreSQL: the Store of many
// identical replicas.
//
// A site's batches are a log, numbered in order of acceptance, and loading is a
// place in it. Whoever loads a site holds the row of its place, from the claim
// to the commit that moves it; a replica that dies, stalls or is cut off loses
// the claim with its transaction. All statements of a request or of loading are
// about one site, which every key starts with, so that the tables can be
// distributed by site.
//
// No session state is used, except by the connection that listens: everything
// else works through a pooler that lends connections by transaction.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/failpoint"
	"github.com/amieusage/amieusage/internal/ledger"
)

const (
	// DefaultMaxConns is the size of a replica's pool of connections; one more
	// listens.
	DefaultMaxConns = 16
	// DefaultLease is how long the claim of a replica lasts that has stopped in
	// the middle of a transaction.
	DefaultLease = 15 * time.Second

	// connectTimeout bounds connecting to each host, and the wait for a sign of
	// life of a connection that was idle.
	connectTimeout = 5 * time.Second
	// acquireTimeout bounds the wait for a connection of the pool.
	acquireTimeout   = 30 * time.Second
	statementTimeout = 60 * time.Second
	lockTimeout      = 10 * time.Second
)

// Options are what [Open] may be told.
type Options struct {
	// ListenURL is where the connection that listens goes; "": where all go. A
	// pooler that lends connections by transaction does not pass notifications
	// on, so it is the server itself then.
	ListenURL string
	// MaxConns is the size of the pool; 0: pool_max_conns of the URL, or
	// [DefaultMaxConns].
	MaxConns int32
	// Lease is how long an idle transaction keeps its claim; 0:
	// [DefaultLease].
	Lease time.Duration
	// Logger is told of what happens beside requests; nil: nobody is.
	Logger *slog.Logger

	// What tests change.
	acquire, statement time.Duration // 0: acquireTimeout and statementTimeout
	migrations         fs.FS         // nil: those of the program
}

// A database is a pool of connections to one database.
type database struct {
	pool *pgxpool.Pool
	name string // for errors: without secrets
	// beginWrite and beginRead begin transactions, each with its time-outs.
	beginWrite, beginRead string
	lease                 time.Duration
	// acquire bounds the wait for a connection, and answer a transaction: it
	// ends one whose connection is dead without a sign of it.
	acquire, answer time.Duration
	migrations      fs.FS
}

// Redacted returns the URL without its password.
func Redacted(url string) string {
	config, err := pgx.ParseConfig(normal(url))
	if err != nil || !prepare(config) {
		return "postgres://…"
	}
	return nameOf(config)
}

func nameOf(config *pgx.ConnConfig) string {
	hosts := []string{hostOf(config.Host, config.Port)}
	for _, f := range config.Fallbacks {
		if host := hostOf(f.Host, f.Port); host != hosts[len(hosts)-1] {
			hosts = append(hosts, host)
		}
	}
	return "postgres://" + config.User + "@" + strings.Join(hosts, ",") + "/" + config.Database
}

func hostOf(host string, port uint16) string {
	if strings.HasPrefix(host, "/") {
		return host
	}
	return net.JoinHostPort(host, fmt.Sprint(port))
}

// write runs f in one transaction, and returns nil only when it is committed. A
// context that ends before the transaction begins ends the wait for a
// connection; once begun, a transaction is interrupted by its deadline only.
// What names the transaction for [failpoint.Hit].
func (db *database) write(ctx context.Context, what string, f func(ctx context.Context, tx pgx.Tx) error) error {
	err := db.transaction(ctx, db.beginWrite, func(ctx context.Context, tx pgx.Tx) error {
		if err := f(ctx, tx); err != nil {
			return err
		}
		failpoint.Hit(what, "before commit")
		return nil
	})
	if err == nil {
		failpoint.Hit(what, "committed")
	}
	return err
}

// read runs f in one snapshot of the database.
func (db *database) read(ctx context.Context, f func(ctx context.Context, tx pgx.Tx) error) error {
	return db.transaction(ctx, db.beginRead, f)
}

func (db *database) transaction(ctx context.Context, begin string, f func(ctx context.Context, tx pgx.Tx) error) error {
	conn, err := db.connection(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	if begin == db.beginWrite {
		// To interrupt a transaction is to close its connection, and not to know
		// whether it was committed: a client that goes does not. Behind the
		// deadline nobody waits for one whose connection is dead.
		whole := context.WithoutCancel(ctx)
		if deadline, ok := ctx.Deadline(); ok {
			var cancel context.CancelFunc
			whole, cancel = context.WithDeadline(whole, deadline)
			defer cancel()
		}
		ctx = whole
	}
	bounded, cancel := context.WithTimeout(ctx, db.answer)
	defer cancel()
	err = pgx.BeginTxFunc(bounded, conn.Conn(), pgx.TxOptions{BeginQuery: begin}, func(tx pgx.Tx) error { return f(bounded, tx) })
	if !conn.Conn().IsClosed() {
		return db.failure(err)
	}
	if errors.Is(bounded.Err(), context.DeadlineExceeded) {
		db.pool.Reset() // as this connection, others may be dead without a sign of it
	}
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*amieusage.Error](err); ok {
		return err
	}
	return db.unavailable(err) // whatever it was, and whether or not it was committed
}

// connection takes a connection out of the pool.
func (db *database) connection(ctx context.Context) (*pgxpool.Conn, error) {
	bounded, cancel := context.WithTimeout(ctx, db.acquire)
	defer cancel()
	conn, err := db.pool.Acquire(bounded)
	switch {
	case err == nil:
		return conn, nil
	case ctx.Err() != nil:
		return nil, err
	case bounded.Err() != nil:
		db.pool.Reset() // it may be full of connections that are dead without a sign of it
	}
	return nil, db.unavailable(err)
}

func (db *database) unavailable(err error) *amieusage.Error {
	return &amieusage.Error{Code: amieusage.CodeUnavailable, Message: "cannot use " + db.name + " at the moment", Err: err}
}

// failure translates errors on a connection that lives, by their codes. What
// passes will be over: it is amieusage.CodeUnavailable.
func (db *database) failure(err error) error {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return err
	}
	switch {
	case pg.Code == "25006": // read_only_sql_transaction: the primary is another one now
		db.pool.Reset()
		return db.readOnly(err)
	case pg.Code == "53100": // disk_full
		full := db.unavailable(err)
		full.Hint = "free some disk space on the server"
		return full
	}
	switch pg.Code[:2] {
	case "08", // connection exceptions
		"25", // a transaction that was ended: idle_in_transaction_session_timeout
		"40", // serialization failures and deadlocks
		"53", // insufficient resources
		"55", // lock_not_available
		"57", // shut down, statement_timeout
		"58": // the server's disk
		return db.unavailable(err)
	case "XX":
		return &amieusage.Error{Code: amieusage.CodeInternal, Message: "the server of " + db.name + " met an internal error",
			Hint: "look into its log", Err: err}
	}
	return err
}

// isText reports whether a text can be in the database, which refuses to look
// for what cannot.
func isText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// rowsOf returns the rows of a query, each as f reads it, and stops at the first
// error.
func rowsOf[T any](ctx context.Context, tx pgx.Tx, scan pgx.RowToFunc[T], query string, args ...any) ([]T, error) {
	rows, err := tx.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scan)
}

var _ ledger.Store = (*Ledger)(nil)
