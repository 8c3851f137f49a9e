// Package sqlite keeps the service's ledger and the site's outbox in SQLite
// files: Store and Queue on one engine, in pure Go.
//
// A file has one writer at a time. Every write is one transaction that is on
// stable storage when it returns (WAL, synchronous=FULL); readers never wait
// for it.
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/gofrs/flock"
	"github.com/pressly/goose/v3"
	modernc "modernc.org/sqlite" // goose speaks database/sql; all else uses zombiezen's low-level API on the same engine
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/failpoint"
)

//go:embed migrations
var migrations embed.FS

// A fileKind is what a file holds. It is written into the file's header, so
// that an outbox is never opened as a ledger.
type fileKind struct {
	name          string // as errors call it, and the folder of its migrations
	applicationID int64
	cacheKiB      int // page cache of the connection that writes; it takes about five times that of memory
}

var (
	ledgerFile = fileKind{"ledger", 0x414d4c31, 16 << 10} // "AML1"
	outboxFile = fileKind{"outbox", 0x414d4f31, 8 << 10}  // "AMO1"
)

// quickCheckBytes is the size up to which a file is checked as a whole when it
// is opened; a larger one is checked as far as it is read.
const quickCheckBytes = 64 << 20

const (
	busyTimeout = 10 * time.Second
	// readerCacheKiB is the page cache of each connection that reads: the
	// system's own cache stands behind it.
	readerCacheKiB = 2 << 10
	readers        = 4
)

// turnTimeout is how long who opens a file waits for others that bring its
// schema up to date: one of them may be stopped.
var turnTimeout = time.Minute

// database is one open file: one connection that writes, and a pool that
// reads.
type database struct {
	path   string
	writer chan *sqlite.Conn // holds the one connection while nobody writes
	pool   *sqlitex.Pool
}

// errClosed is the answer to whatever comes after close.
var errClosed = &amieusage.Error{Code: amieusage.CodeUnavailable, Message: "the file is closed"}

// open opens or creates the file, and brings its schema up to date. What is no
// file of this kind, is damaged, or was written by a newer program is refused
// with a *amieusage.Error.
func open(ctx context.Context, path string, kind fileKind) (*database, error) {
	if err := check(ctx, path, kind); err != nil {
		return nil, err
	}
	if err := migrate(ctx, path, kind); err != nil {
		return nil, err
	}
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite|sqlite.OpenCreate)
	if err != nil {
		return nil, openError(path, kind, err)
	}
	err = prepare(conn, kind.cacheKiB)
	if err == nil {
		err = checkWritable(conn, kind)
	}
	if err != nil {
		conn.Close()
		return nil, openError(path, kind, err)
	}
	pool, err := sqlitex.NewPool(path, sqlitex.PoolOptions{
		Flags:       sqlite.OpenReadWrite,
		PoolSize:    readers,
		PrepareConn: func(conn *sqlite.Conn) error { return prepare(conn, readerCacheKiB) },
	})
	if err != nil {
		conn.Close()
		return nil, openError(path, kind, err)
	}
	db := &database{path: path, writer: make(chan *sqlite.Conn, 1), pool: pool}
	db.writer <- conn
	return db, nil
}

func prepare(conn *sqlite.Conn, cacheKiB int) error {
	conn.SetBusyTimeout(busyTimeout)
	// One by one: a script runs inside a transaction, where the journal's mode
	// cannot change.
	for _, pragma := range []string{
		"journal_mode = WAL",
		"synchronous = FULL",
		"foreign_keys = ON",
		"wal_autocheckpoint = 20000",
		"cache_size = -" + strconv.Itoa(cacheKiB),
		"temp_store = MEMORY",
	} {
		if err := sqlitex.ExecuteTransient(conn, "PRAGMA "+pragma, nil); err != nil {
			return err
		}
	}
	return nil
}

// checkWritable refuses a file that cannot be written: the engine opens it all
// the same, to be read.
func checkWritable(conn *sqlite.Conn, kind fileKind) error {
	conn.SetBusyTimeout(0)
	defer conn.SetBusyTimeout(busyTimeout)
	err := sqlitex.ExecuteTransient(conn, "BEGIN IMMEDIATE", nil)
	if resultCode(err) == sqlite.ResultBusy {
		return nil // another program writes it
	}
	if err != nil {
		return err
	}
	// That is no write yet.
	err = markKind(conn, kind)
	return errors.Join(err, sqlitex.ExecuteTransient(conn, "ROLLBACK", nil))
}

// close waits for the writer and closes the file.
func (db *database) close() error {
	conn, open := <-db.writer
	if !open {
		return errClosed
	}
	close(db.writer)
	return errors.Join(db.pool.Close(), conn.Close())
}

// write runs f in one transaction, and returns nil only when it is on stable
// storage. A context that ends before the transaction begins ends the wait for
// the writer; once begun, a transaction is not interrupted. What names the
// transaction for [failpoint.Hit].
func (db *database) write(ctx context.Context, what string, f func(conn *sqlite.Conn) error) (err error) {
	var conn *sqlite.Conn
	select {
	case conn = <-db.writer:
	case <-ctx.Done():
		return ctx.Err()
	}
	if conn == nil {
		return errClosed
	}
	defer func() { db.writer <- conn }()
	if err := ctx.Err(); err != nil {
		return err
	}
	end, err := sqlitex.ImmediateTransaction(conn)
	if err != nil {
		return db.failure(err)
	}
	defer func() {
		if err == nil {
			failpoint.Hit(what, "committed")
		}
		err = db.failure(err)
	}()
	defer end(&err)
	if err := f(conn); err != nil {
		return err
	}
	failpoint.Hit(what, "before commit")
	return nil
}

// read runs f in one snapshot of the file.
func (db *database) read(ctx context.Context, f func(conn *sqlite.Conn) error) (err error) {
	defer func() {
		if err != nil && ctx.Err() != nil && resultCode(err) == sqlite.ResultInterrupt {
			err = ctx.Err()
		}
		err = db.failure(err)
	}()
	conn, err := db.pool.Take(ctx)
	if err != nil {
		return err
	}
	defer db.pool.Put(conn)
	end := sqlitex.Transaction(conn)
	defer end(&err)
	return f(conn)
}

// What helps where a file cannot be used. A full disk has many names.
const (
	hintRoom     = "free some disk space"
	hintWritable = "let who runs this write the file and its folder"
	hintDisk     = "see that the disk is sound and has room, that the file and its folder can be written, and that files can be opened (ulimit -n)"
)

// failure translates the engine's errors by their codes.
func (db *database) failure(err error) error {
	if err == nil {
		return nil
	}
	switch resultCode(err) {
	case sqlite.ResultBusy, sqlite.ResultLocked:
		return &amieusage.Error{Code: amieusage.CodeUnavailable, Message: db.path + " is in use by another program", Err: err}
	case sqlite.ResultFull:
		return &amieusage.Error{Code: amieusage.CodeUnavailable, Message: "no room left to write " + db.path,
			Hint: hintRoom, Err: err}
	case sqlite.ResultCorrupt, sqlite.ResultNotADB:
		return &amieusage.Error{Code: amieusage.CodeInternal, Message: db.path + " is damaged",
			Hint: "restore it from a backup", Err: err}
	case sqlite.ResultReadOnly, sqlite.ResultPerm, sqlite.ResultIOErr, sqlite.ResultCantOpen:
		return &amieusage.Error{Code: amieusage.CodeUnavailable, Message: "cannot read or write " + db.path, Hint: hintDisk, Err: err}
	}
	return err
}

// resultCode returns the engine's code of an error, by whichever of its two
// interfaces it came; ResultOK for nil, ResultError for an error of another
// kind.
func resultCode(err error) sqlite.ResultCode {
	if e, ok := errors.AsType[*modernc.Error](err); ok {
		return sqlite.ResultCode(e.Code()).ToPrimary()
	}
	return sqlite.ErrCode(err).ToPrimary()
}

// check refuses a file that is there but is not what it should be. It changes
// nothing.
func check(ctx context.Context, path string, kind fileKind) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Stat(filepath.Dir(path)); err != nil {
			return &amieusage.Error{Code: amieusage.CodeNotFound, Message: "cannot create the " + kind.name + " " + path,
				Hint: "make its folder first", Err: err}
		}
		return nil
	case err != nil:
		return openError(path, kind, err)
	case info.IsDir():
		return &amieusage.Error{Code: amieusage.CodeInvalid, Message: path + " is a folder, not a " + kind.name}
	case info.Size() == 0:
		return nil
	}
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		return openError(path, kind, err)
	}
	defer conn.Close()
	conn.SetBusyTimeout(busyTimeout)
	conn.SetInterrupt(ctx.Done())
	id, err := number(conn, "PRAGMA application_id")
	if err != nil {
		return openError(path, kind, err)
	}
	tables, err := number(conn, "SELECT count(*) FROM sqlite_schema")
	if err != nil {
		return openError(path, kind, err)
	}
	if id != kind.applicationID && (id != 0 || tables > 0) {
		return &amieusage.Error{Code: amieusage.CodeInvalid, Message: path + " is a database, but no amieusage " + kind.name,
			Hint: "name another file"}
	}
	if info.Size() > quickCheckBytes {
		return nil
	}
	var finding string
	err = sqlitex.ExecuteTransient(conn, "PRAGMA quick_check(1)", &sqlitex.ExecOptions{
		ResultFunc: func(stmt *sqlite.Stmt) error {
			finding = stmt.ColumnText(0)
			return nil
		},
	})
	if err != nil {
		return openError(path, kind, err)
	}
	if finding != "ok" {
		return damaged(path, kind, errors.New(finding))
	}
	return nil
}

func damaged(path string, kind fileKind, err error) error {
	return &amieusage.Error{Code: amieusage.CodeInternal, Message: "the " + kind.name + " " + path + " is damaged",
		Hint: "restore it from a backup; nothing was changed", Err: err}
}

func openError(path string, kind fileKind, err error) error {
	e := &amieusage.Error{Code: amieusage.CodeUnavailable, Message: "cannot open the " + kind.name + " " + path, Err: err}
	switch resultCode(err) {
	case sqlite.ResultNotADB:
		e.Code, e.Message = amieusage.CodeInvalid, path+" is not an amieusage "+kind.name
		e.Hint = "name another file"
	case sqlite.ResultBusy, sqlite.ResultLocked:
		e.Hint = "another program is using it"
	case sqlite.ResultCorrupt:
		return damaged(path, kind, err)
	case sqlite.ResultFull:
		e.Hint = hintRoom
	case sqlite.ResultReadOnly, sqlite.ResultPerm:
		e.Hint = hintWritable
	case sqlite.ResultIOErr, sqlite.ResultCantOpen:
		e.Hint = hintDisk
	}
	return e
}

// migrate brings the schema up to date. Programs that start together take
// turns; a schema from a newer program is refused.
func migrate(ctx context.Context, path string, kind fileKind) error {
	turn := flock.New(path+".lock", flock.SetPermissions(0o600))
	waiting, cancel := context.WithTimeout(ctx, turnTimeout)
	defer cancel()
	if _, err := turn.TryLockContext(waiting, 20*time.Millisecond); err != nil {
		if waiting.Err() != nil && ctx.Err() == nil {
			return &amieusage.Error{Code: amieusage.CodeUnavailable, Err: err,
				Message: "cannot open the " + kind.name + " " + path + ": another program is opening it, and has not finished",
				Hint:    "see which one, and whether it is stopped: fuser " + path + ".lock"}
		}
		return openError(path, kind, err)
	}
	defer turn.Unlock()
	if err := create(path, kind); err != nil {
		return openError(path, kind, err)
	}
	failpoint.Hit("migrate", "created")
	files, err := fs.Sub(migrations, "migrations/"+kind.name)
	if err != nil {
		return err
	}
	uri := "file:" + (&url.URL{Path: path}).EscapedPath() + "?_pragma=busy_timeout(10000)"
	db, err := sql.Open("sqlite", uri)
	if err != nil {
		return openError(path, kind, err)
	}
	defer db.Close()
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, files)
	if err != nil {
		return err
	}
	sources := provider.ListSources()
	newest := sources[len(sources)-1].Version
	current, err := provider.GetDBVersion(ctx)
	if err != nil {
		return openError(path, kind, err)
	}
	if current > newest {
		return &amieusage.Error{
			Code:    amieusage.CodeInvalid,
			Message: fmt.Sprintf("the %s %s has schema %d, this program knows schemas up to %d", kind.name, path, current, newest),
			Hint:    "it was written by a newer amieusage: run that one",
		}
	}
	failpoint.Hit("migrate", "versioned")
	for current < newest {
		applied, err := provider.UpByOne(ctx)
		if err != nil {
			return openError(path, kind, err)
		}
		failpoint.Hit("migrate", "committed")
		current = applied.Source.Version
	}
	return nil
}

// create makes a new file that only its owner can read, for it will hold who
// used what, and marks it as one of its kind before anything else is in it. Its
// journal is made a write-ahead log here, where one program at a time is: whoever
// finds another one at it is refused, and does not wait.
func create(path string, kind fileKind) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetBusyTimeout(busyTimeout)
	id, err := number(conn, "PRAGMA application_id")
	if err == nil && id != kind.applicationID {
		err = markKind(conn, kind)
	}
	if err != nil {
		return err
	}
	return sqlitex.ExecuteTransient(conn, "PRAGMA journal_mode = WAL", nil)
}

// markKind marks a file as one of its kind.
func markKind(conn *sqlite.Conn, kind fileKind) error {
	return sqlitex.ExecuteTransient(conn, "PRAGMA application_id = "+strconv.FormatInt(kind.applicationID, 10), nil)
}

// number returns the one number that a query gives.
func number(conn *sqlite.Conn, query string, args ...any) (int64, error) {
	var n int64
	err := sqlitex.Execute(conn, query, &sqlitex.ExecOptions{
		Args: args,
		ResultFunc: func(stmt *sqlite.Stmt) error {
			n = stmt.ColumnInt64(0)
			return nil
		},
	})
	return n, err
}
