package sqlite

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// copyTo copies the database into a new file, which only its owner can read, while others use it. The file is there once it is
// whole and change (nil: nothing) was made to it, and takes the place of one of that name.
func (db *database) copyTo(ctx context.Context, path string, change func(ctx context.Context, path string) error) (err error) {
	// The file is made first, so that it is private from its first byte on; the engine fills an empty one.
	part := path + ".part"
	if err := os.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(part, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := file.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			_ = os.Remove(part) // the error is told
		}
	}()
	conn, err := db.pool.Take(ctx)
	if err != nil {
		return db.failure(err)
	}
	defer db.pool.Put(conn)
	if err := sqlitex.ExecuteTransient(conn, `VACUUM INTO ?`, &sqlitex.ExecOptions{Args: []any{part}}); err != nil {
		return db.failure(err)
	}
	if change != nil {
		if err := change(ctx, part); err != nil {
			return err
		}
	}
	if err := file.Sync(); err != nil {
		return err
	}
	return os.Rename(part, path)
}

// Backup copies the ledger into a new file, while it is served.
func (l *Ledger) Backup(ctx context.Context, path string) error { return l.db.copyTo(ctx, path, nil) }

// A Restored says what became of a ledger that was restored.
type Restored struct {
	// Replaced is the file that the ledger was moved to which was there; "": there was none.
	Replaced string
	// Unreadable says why it could not be asked for its keys; nil: it could, or there was none.
	Unreadable error
	// Revoked are the keys that the backup had as valid, and that are revoked: those that the replaced ledger had revoked, or,
	// where it could not be asked, all.
	Revoked []ledger.Key
}

// RestoreLedger puts a backup in the place of a ledger, which nobody may be using. Keys that the ledger had revoked since the
// backup was made stay revoked; where there is no ledger to ask, all keys are revoked, unless keepKeys is set. The ledger that
// was there is kept beside it. A restore that is cut off leaves the old ledger, or the new one.
func RestoreLedger(ctx context.Context, backup, path string, keepKeys bool, now time.Time) (r Restored, err error) {
	from, err := OpenLedger(ctx, backup)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	revoked, there, err := revokedKeys(ctx, path)
	if e, ok := errors.AsType[*amieusage.Error](err); ok && e.Code == amieusage.CodeConflict {
		return r, err
	}
	r.Unreadable = err
	all := (!there || err != nil) && !keepKeys
	change := func(ctx context.Context, part string) error {
		r.Revoked, err = revoke(ctx, part, backup, revoked, all, now)
		return err
	}
	ready := path + ".restored"
	if err := from.db.copyTo(ctx, ready, change); err != nil {
		return r, err
	}
	if there {
		r.Replaced = path + ".replaced-" + now.UTC().Format("20060102T150405Z")
		if err := os.Link(path, r.Replaced); err != nil {
			return r, errors.Join(err, os.Remove(ready))
		}
	}
	// A log that was left by a ledger which could not be opened is no part of the new one.
	for _, ending := range []string{"-wal", "-shm"} {
		var err error
		if r.Replaced != "" {
			err = os.Rename(path+ending, r.Replaced+ending)
		} else {
			err = os.Remove(path + ending)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return r, err
		}
	}
	return r, os.Rename(ready, path)
}

// revokedKeys returns the hashes of the keys that a ledger has revoked, and whether there is one. Nobody may be using it: its
// log is taken into the file, which is whole by itself from then on.
func revokedKeys(ctx context.Context, path string) (hashes map[string]bool, there bool, err error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	} else if err != nil {
		return nil, true, err
	}
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		return nil, true, openError(path, ledgerFile, err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	conn.SetInterrupt(ctx.Done())
	if err := sqlitex.ExecuteTransient(conn, `PRAGMA journal_mode = DELETE`, nil); err != nil {
		if code := resultCode(err); code == sqlite.ResultBusy || code == sqlite.ResultLocked {
			return nil, true, &amieusage.Error{Code: amieusage.CodeConflict, Message: path + " is in use", Hint: "stop the service, and restore then", Err: err}
		}
		return nil, true, openError(path, ledgerFile, err)
	}
	hashes = map[string]bool{}
	err = sqlitex.ExecuteTransient(conn, `SELECT hex(hash) FROM api_keys WHERE revoked_at IS NOT NULL`, &sqlitex.ExecOptions{
		ResultFunc: func(stmt *sqlite.Stmt) error {
			hashes[stmt.ColumnText(0)] = true
			return nil
		},
	})
	if err != nil {
		return nil, true, openError(path, ledgerFile, err)
	}
	return hashes, true, nil
}

// revoke revokes keys of a ledger that was restored into a file: those of these hashes, or all. It returns those that were
// valid. The ledger remembers it.
func revoke(ctx context.Context, path, backup string, hashes map[string]bool, all bool, now time.Time) (revoked []ledger.Key, err error) {
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	conn.SetInterrupt(ctx.Done())
	defer sqlitex.Save(conn)(&err)
	type id struct{ site, key int64 }
	var ids []id
	err = sqlitex.ExecuteTransient(conn, `
		SELECT k.site_id, k.key_id, s.name, k.label, k.created_at, hex(k.hash) FROM api_keys k JOIN sites s USING (site_id)
		WHERE k.revoked_at IS NULL ORDER BY s.name, k.key_id`, &sqlitex.ExecOptions{
		ResultFunc: func(stmt *sqlite.Stmt) error {
			if all || hashes[stmt.ColumnText(5)] {
				ids = append(ids, id{stmt.ColumnInt64(0), stmt.ColumnInt64(1)})
				revoked = append(revoked, ledger.Key{ID: stmt.ColumnInt64(1), Site: stmt.ColumnText(2), Label: stmt.ColumnText(3),
					CreatedAt: ledger.TimeOrZero(stmt.ColumnInt64(4)), RevokedAt: now})
			}
			return nil
		},
	})
	for _, k := range ids {
		if err == nil {
			err = sqlitex.ExecuteTransient(conn, `UPDATE api_keys SET revoked_at = ? WHERE site_id = ? AND key_id = ?`,
				&sqlitex.ExecOptions{Args: []any{ledger.Nanos(now), k.site, k.key}})
		}
		if err == nil {
			err = addEvents(conn, k.site, ledger.KeyRevoked(ctx, k.key, now))
		}
	}
	if err == nil {
		err = addEvents(conn, 0, ledger.NewEvent(ctx, now, 0, "restored", "this ledger from the backup %s", backup))
	}
	return revoked, err
}
