package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/amieusage/amieusage"
)

// oldestServer is the oldest version of PostgreSQL that is supported.
const oldestServer = 13

// connect opens the pool, and makes sure that there is a database that a ledger
// can be in.
func connect(ctx context.Context, url string, o Options) (*database, error) {
	config, err := pgxpool.ParseConfig(normal(url))
	if err != nil {
		return nil, urlError(url, err)
	}
	if !prepare(config.ConnConfig) {
		return nil, urlError(url, nil)
	}
	switch {
	case o.MaxConns > 0:
		config.MaxConns = o.MaxConns
	case !strings.Contains(url, "pool_max_conns"):
		config.MaxConns = DefaultMaxConns
	}
	if config.PingTimeout == 0 {
		config.PingTimeout = connectTimeout
	}
	lease, statement := cmp.Or(o.Lease, DefaultLease), cmp.Or(o.statement, statementTimeout)
	timeouts := fmt.Sprintf("; SET LOCAL lock_timeout = %d; SET LOCAL statement_timeout = %d; SET LOCAL idle_in_transaction_session_timeout = %d",
		lockTimeout.Milliseconds(), statement.Milliseconds(), lease.Milliseconds())
	db := &database{
		name:       nameOf(config.ConnConfig),
		beginWrite: "BEGIN ISOLATION LEVEL READ COMMITTED" + timeouts,
		beginRead:  "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" + timeouts,
		lease:      lease,
		acquire:    cmp.Or(o.acquire, acquireTimeout),
		answer:     statement + statement/4,
		migrations: o.migrations,
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

// urlError says that a URL cannot be read, and why only where no part of a
// password can be in that.
func urlError(raw string, cause error) error {
	u, err := url.Parse(raw)
	if err != nil || strings.Contains(strings.ToLower(raw), "pass") {
		cause = nil
	} else if _, secret := u.User.Password(); secret || strings.Count(raw, "@") > 1 || u.User == nil && strings.Contains(raw, "@") {
		cause = nil
	}
	return &amieusage.Error{Code: amieusage.CodeInvalid, Message: "the database's URL cannot be read", Err: cause,
		Hint: "postgres://USER@HOST:PORT/DATABASE; give the password as PGPASSWORD or in a passfile, or with %40 for @, %3A for : and %2F for /"}
}

// errReadOnly is what a connection to a server that cannot write is refused
// with, so that of several hosts the primary is found.
var errReadOnly = errors.New("the server is read-only")

func validateWritable(ctx context.Context, conn *pgconn.PgConn) error {
	result := conn.ExecParams(ctx, "SHOW transaction_read_only", nil, nil, nil, nil).Read()
	if result.Err != nil {
		return result.Err
	}
	if len(result.Rows) == 1 && string(result.Rows[0][0]) == "on" {
		return errReadOnly
	}
	return nil
}

// prepare sets what a connection has whatever its URL says. It reports false
// where a part of a password was read as something else.
func prepare(config *pgx.ConnConfig) bool {
	if strings.Contains(config.Host, "@") || strings.Contains(config.Database, "@") {
		return false
	}
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
		config.ValidateConnect = validateWritable
	}
	return true
}

// A serverState is what of a server decides whether a ledger can be on it.
type serverState struct {
	Version  int // as in server_version_num
	Encoding string
	ReadOnly bool
	Early    bool // it answers commits before they are on stable storage
}

// check refuses a server that a ledger cannot be on.
func (db *database) check(ctx context.Context) error {
	var state serverState
	err := db.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
		return tx.QueryRow(ctx, `
			SELECT current_setting('server_version_num')::integer, current_setting('server_encoding'),
				current_setting('default_transaction_read_only')::boolean OR pg_is_in_recovery(),
				current_setting('synchronous_commit') = 'off'`).
			Scan(&state.Version, &state.Encoding, &state.ReadOnly, &state.Early)
	})
	if err != nil {
		return db.openError(err)
	}
	return db.checkState(state)
}

func (db *database) checkState(s serverState) error {
	if major := s.Version / 10_000; major < oldestServer {
		return &amieusage.Error{Code: amieusage.CodeInvalid,
			Message: fmt.Sprintf("%s is PostgreSQL %d", db.name, major),
			Hint:    fmt.Sprintf("upgrade the server to PostgreSQL %d or later", oldestServer)}
	}
	if s.Encoding != "UTF8" {
		return &amieusage.Error{Code: amieusage.CodeInvalid,
			Message: fmt.Sprintf("the database %s has the encoding %s", db.name, s.Encoding),
			Hint:    "make one with UTF8: createdb --encoding=UTF8 --template=template0 NAME"}
	}
	if s.ReadOnly {
		return db.readOnly(nil)
	}
	if s.Early {
		return &amieusage.Error{Code: amieusage.CodeInvalid,
			Message: db.name + " has synchronous_commit off, and would lose in a crash what it has answered",
			Hint:    "set it to on: ALTER DATABASE NAME SET synchronous_commit = on"}
	}
	return nil
}

func (db *database) readOnly(err error) error {
	return &amieusage.Error{Code: amieusage.CodeUnavailable, Message: db.name + " is read-only", Err: err,
		Hint: "connect to the primary; with several hosts in the URL it is found"}
}

// openError explains why a database cannot be connected to.
func (db *database) openError(err error) error {
	if errors.Is(err, errReadOnly) {
		return db.readOnly(err)
	}
	e := &amieusage.Error{Code: amieusage.CodeUnavailable, Message: "cannot connect to " + db.name, Err: cause(err),
		Hint: "is the server running, and does it accept connections from here?"}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pg.Code {
		case "3D000": // invalid_catalog_name
			e.Code, e.Hint = amieusage.CodeNotFound, "make the database: createdb --encoding=UTF8 --template=template0 NAME"
		case "28000", "28P01": // invalid_authorization_specification, invalid_password
			e.Code, e.Hint = amieusage.CodeForbidden, "check the user, and give the password as PGPASSWORD or in a passfile"
		case "42501": // insufficient_privilege
			e.Code, e.Hint = amieusage.CodeForbidden, "let the user connect: GRANT CONNECT ON DATABASE NAME TO USER"
		case "53300": // too_many_connections
			e.Hint = "raise max_connections of the server, or set pool_max_conns in the URLs of the replicas"
		}
	}
	return e
}

// migrateError explains why the schema cannot be laid.
func (db *database) migrateError(err error) error {
	e := &amieusage.Error{Code: amieusage.CodeUnavailable, Message: "cannot bring the schema of " + db.name + " up to date", Err: cause(err),
		Hint: "try again"}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case pg.Code == "25006": // read_only_sql_transaction
			return db.readOnly(err)
		case pg.Code == "42501": // insufficient_privilege
			e.Code = amieusage.CodeForbidden
			e.Hint = "let the user create tables: GRANT CREATE ON SCHEMA public TO USER; or connect as the owner of the ledger's tables"
		case pg.Code[:2] == "42": // what is there, or is not
			e.Code, e.Hint = amieusage.CodeInvalid, "give the ledger a database of its own"
		}
	}
	return e
}

// cause returns what an error of the driver was before it was translated, so
// that no message is in another.
func cause(err error) error {
	if e, ok := err.(*amieusage.Error); ok && e.Err != nil {
		err = e.Err
	}
	if c, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return &connectError{c}
	}
	return err
}

// A connectError tells in one line what went wrong with each address, once.
type connectError struct{ *pgconn.ConnectError }

func (e *connectError) Error() string {
	var told []string
	for line := range strings.SplitSeq(e.Unwrap().Error(), "\n") {
		if line = strings.TrimSpace(line); !slices.Contains(told, line) {
			told = append(told, line)
		}
	}
	return strings.Join(told, "; ")
}
