package sqlite

import (
	"context"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"

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
