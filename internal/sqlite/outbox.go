package sqlite

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/outbox"
)

// An Outbox is an outbox.Queue in one SQLite file.
type Outbox struct {
	db    *database
	clock func() time.Time
}

var _ outbox.Queue = (*Outbox)(nil)

// OpenOutbox opens or creates the outbox in the file. What is no outbox, is
// damaged, or was written by a newer program is refused with a
// *amieusage.Error.
func OpenOutbox(ctx context.Context, path string, clock func() time.Time) (*Outbox, error) {
	db, err := open(ctx, path, outboxFile)
	if err != nil {
		return nil, err
	}
	return &Outbox{db, clock}, nil
}

// Close waits for the transaction under way and closes the file.
func (q *Outbox) Close() error { return q.db.close() }

// Lock makes this program the one that works on the outbox, until unlock or
// its end. A *amieusage.Error with CodeConflict says that another one does.
// Reading needs no lock.
func (q *Outbox) Lock() (unlock func() error, err error) {
	path := q.db.path + ".run"
	lock := flock.New(path, flock.SetPermissions(0o600))
	ok, err := lock.TryLock()
	if err != nil {
		return nil, &amieusage.Error{Code: amieusage.CodeUnavailable, Message: "cannot lock " + path, Err: err}
	}
	if !ok {
		message := "another amieusage is working on " + q.db.path
		if pid, err := os.ReadFile(path); err == nil && len(pid) > 0 {
			message += " (pid " + strings.TrimSpace(string(pid)) + ")"
		}
		return nil, &amieusage.Error{Code: amieusage.CodeConflict, Message: message, Hint: "wait for it to end"}
	}
	// The number is for people only: the lock does not depend on it.
	_ = os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600)
	return lock.Close, nil
}

// Backup copies the outbox into a new file, which only its owner can read, while
// others use it. The file is there once it is whole, and takes the place of
// one of that name.
func (q *Outbox) Backup(ctx context.Context, path string) error {
	return q.db.copyTo(ctx, path, forget)
}

// forget makes a copy of an outbox ask the service what it has: where it is
// restored, that is more than the copy knows.
func forget(ctx context.Context, path string) error {
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		return err
	}
	conn.SetInterrupt(ctx.Done())
	err = sqlitex.ExecuteScript(conn, `UPDATE marks SET number = 0 WHERE name IN ('met', 'adopted'); DELETE FROM at_service;`, nil)
	return errors.Join(err, conn.Close())
}
