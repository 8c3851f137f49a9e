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
	"io"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

const (
	// DefaultMaxConns is the size of a replica's pool of connections; one more
	// listens.
	DefaultMaxConns = 16
	// DefaultLease is how long the claim of a replica lasts that has stopped in
	// the middle of a transaction.
	DefaultLease = 15 * time.Second

	connectTimeout   = 5 * time.Second
	statementTimeout = 60 * time.Second
	lockTimeout      = 10 * time.Second
	// writeTimeout ends a write whose connection is dead without a sign of it.
	writeTimeout = 75 * time.Second
)

// oldestServer is the oldest version of PostgreSQL that is supported.
const oldestServer = 13

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
}

// A database is a pool of connections to one database.
type database struct {
	pool *pgxpool.Pool
	name string // for errors: without secrets
	// beginWrite and beginRead begin transactions, each with its time-outs.
	beginWrite, beginRead string
}

// IsURL reports whether a --db names a database of PostgreSQL.
func IsURL(db string) bool {
	return strings.HasPrefix(db, "postgres://") || strings.HasPrefix(db, "postgresql://")
}

// Redacted returns the URL without its password.
func Redacted(url string) string {
	config, err := pgx.ParseConfig(url)
	if err != nil {
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
	return "postgres://" + strings.Join(hosts, ",") + "/" + config.Database
}

func hostOf(host string, port uint16) string {
	if strings.HasPrefix(host, "/") {
		return host
	}
	return net.JoinHostPort(host, fmt.Sprint(port))
}

// connect opens the pool, and makes sure that there is a database that a ledger
// can be in.
func connect(ctx context.Context, url string, o Options) (*database, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, urlError(err)
	}
	prepare(config.ConnConfig)
	switch {
	case o.MaxConns > 0:
		config.MaxConns = o.MaxConns
	case !strings.Contains(url, "pool_max_conns"):
		config.MaxConns = DefaultMaxConns
	}
	lease := o.Lease
	if lease == 0 {
		lease = DefaultLease
	}
	timeouts := fmt.Sprintf("; SET LOCAL lock_timeout = %d; SET LOCAL statement_timeout = %d; SET LOCAL idle_in_transaction_session_timeout = %d",
		lockTimeout.Milliseconds(), statementTimeout.Milliseconds(), lease.Milliseconds())
	db := &database{
		name:       nameOf(config.ConnConfig),
		beginWrite: "BEGIN ISOLATION LEVEL READ COMMITTED" + timeouts,
		beginRead:  "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" + timeouts,
	}
	if db.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, db.openError(err)
	}
	if err := db.check(ctx); err != nil {
		db.pool.Close()
		return nil, err
	}
	return db, nil
}

func urlError(err error) error {
	return &amieusage.Error{Code: amieusage.CodeInvalid, Message: "the database's URL cannot be read", Err: err,
		Hint: "postgres://USER@HOST:PORT/DATABASE; give the password as PGPASSWORD or in a passfile"}
}

// errReadOnly is what a connection to a server that cannot write is refused
// with, so that of several hosts the primary is found.
var errReadOnly = errors.New("the server is read-only")

// prepare sets what a connection has whatever its URL says.
func prepare(config *pgx.ConnConfig) {
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	if config.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement {
		// Without named statements, so that a pooler may lend connections.
		config.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "amieusage"
	}
	if config.ValidateConnect == nil {
		config.ValidateConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
			if err := pgconn.ValidateConnectTargetSessionAttrsReadWrite(ctx, conn); err != nil {
				return errors.Join(errReadOnly, err)
			}
			return nil
		}
	}
}

// check refuses a server that a ledger cannot be on.
func (db *database) check(ctx context.Context) error {
	var version int
	var encoding string
	var readOnly bool
	err := db.pool.QueryRow(ctx, `
		SELECT current_setting('server_version_num')::integer, current_setting('server_encoding'),
			current_setting('transaction_read_only')::boolean`).Scan(&version, &encoding, &readOnly)
	if err != nil {
		return db.openError(err)
	}
	if major := version / 10_000; major < oldestServer {
		return &amieusage.Error{Code: amieusage.CodeInvalid,
			Message: fmt.Sprintf("%s is PostgreSQL %d", db.name, major),
			Hint:    fmt.Sprintf("upgrade the server to PostgreSQL %d or later", oldestServer)}
	}
	if encoding != "UTF8" {
		return &amieusage.Error{Code: amieusage.CodeInvalid,
			Message: fmt.Sprintf("the database %s has the encoding %s", db.name, encoding),
			Hint:    "make one with UTF8: createdb --encoding=UTF8 --template=template0 NAME"}
	}
	if readOnly {
		return db.readOnly(nil)
	}
	return nil
}

func (db *database) readOnly(err error) error {
	return &amieusage.Error{Code: amieusage.CodeUnavailable, Message: db.name + " is read-only", Err: err,
		Hint: "connect to the primary; with several hosts in the URL it is found"}
}

// openError explains why a database cannot be opened.
func (db *database) openError(err error) error {
	e := &amieusage.Error{Code: amieusage.CodeUnavailable, Message: "cannot connect to " + db.name, Err: err,
		Hint: "is the server running, and does it accept connections from here?"}
	if errors.Is(err, errReadOnly) {
		return db.readOnly(nil)
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pg.Code {
		case "3D000": // invalid_catalog_name
			e.Code, e.Hint = amieusage.CodeNotFound, "make the database: createdb --encoding=UTF8 --template=template0 NAME"
		case "28000", "28P01": // invalid_authorization_specification, invalid_password
			e.Code, e.Hint = amieusage.CodeForbidden, "check the user, and give the password as PGPASSWORD or in a passfile"
		case "42501": // insufficient_privilege
			e.Code, e.Hint = amieusage.CodeForbidden, "let the user create tables: GRANT CREATE ON SCHEMA public TO USER"
		}
	}
	return e
}

// write runs f in one transaction, and returns nil only when it is committed. A
// context that ends before the transaction begins ends the wait for a
// connection; once begun, a transaction is not interrupted by it.
func (db *database) write(ctx context.Context, f func(ctx context.Context, tx pgx.Tx) error) error {
	return db.transaction(ctx, db.beginWrite, f)
}

// read runs f in one snapshot of the database.
func (db *database) read(ctx context.Context, f func(ctx context.Context, tx pgx.Tx) error) error {
	return db.transaction(ctx, db.beginRead, f)
}

func (db *database) transaction(ctx context.Context, begin string, f func(ctx context.Context, tx pgx.Tx) error) error {
	conn, err := db.pool.Acquire(ctx)
	if err != nil {
		return db.failure(err, false)
	}
	defer conn.Release()
	if begin == db.beginWrite {
		// To interrupt a transaction is to close its connection, and not to know
		// whether it was committed.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
		defer cancel()
	}
	err = pgx.BeginTxFunc(ctx, conn.Conn(), pgx.TxOptions{BeginQuery: begin}, func(tx pgx.Tx) error { return f(ctx, tx) })
	return db.failure(err, conn.Conn().IsClosed())
}

// failure translates errors by their codes; lost says that the connection is
// gone.
func (db *database) failure(err error, lost bool) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*amieusage.Error](err); ok {
		return err
	}
	unavailable := &amieusage.Error{Code: amieusage.CodeUnavailable, Message: "cannot use " + db.name + " at the moment", Err: err}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case pg.Code == "25006": // read_only_sql_transaction: the primary is another one now
			db.pool.Reset()
			return db.readOnly(err)
		case pg.Code == "53100": // disk_full
			unavailable.Hint = "free some disk space on the server"
			return unavailable
		}
		switch pg.Code[:2] {
		case "08", // connection exceptions
			"25", // a transaction that was ended: idle_in_transaction_session_timeout
			"40", // serialization failures and deadlocks
			"53", // insufficient resources
			"55", // lock_not_available
			"57", // shut down, statement_timeout
			"58": // the server's disk
			return unavailable
		case "XX":
			return &amieusage.Error{Code: amieusage.CodeInternal, Message: "the server of " + db.name + " met an internal error",
				Hint: "look into its log", Err: err}
		}
		return err
	}
	if ctxErr := contextError(err); ctxErr != nil && !lost {
		return err
	}
	_, connecting := errors.AsType[*pgconn.ConnectError](err)
	if _, network := errors.AsType[net.Error](err); lost || connecting || network || errors.Is(err, io.ErrUnexpectedEOF) || pgconn.SafeToRetry(err) {
		return unavailable
	}
	return err
}

func contextError(err error) error {
	for _, ended := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, ended) {
			return ended
		}
	}
	return nil
}

// one returns the rows of a query, each as f reads it, and stops at the first
// error.
func rowsOf[T any](ctx context.Context, tx pgx.Tx, scan pgx.RowToFunc[T], query string, args ...any) ([]T, error) {
	rows, err := tx.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scan)
}

var _ ledger.Store = (*Ledger)(nil)
