package sqlite

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
)

// TestOverdue has a change end behind its deadline: it is taken back.
func TestOverdue(t *testing.T) {
	l, err := OpenLedger(t.Context(), copiedLedger(t))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, late := range []bool{true, false} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if !late {
			ctx, cancel = context.WithTimeout(t.Context(), time.Hour)
		}
		err := l.db.write(ctx, "test", func(conn *sqlite.Conn) error {
			if late {
				<-ctx.Done()
			}
			return sqlitex.ExecuteTransient(conn, `UPDATE sites SET accepted = accepted + 1`, nil)
		})
		cancel()
		if errors.Is(err, context.DeadlineExceeded) != late || !late && err != nil {
			t.Errorf("late: %v: %v", late, err)
		}
		counts, err := l.Counts(t.Context(), 1)
		if err != nil || counts.Accepted > 0 == late {
			t.Errorf("late: %v: %+v, %v", late, counts, err)
		}
	}
}

// TestOpenTurn has another program stop while it opens the file.
func TestOpenTurn(t *testing.T) {
	turnTimeout = 100 * time.Millisecond
	defer func() { turnTimeout = time.Minute }()
	path := filepath.Join(t.TempDir(), "ledger.db")
	other := flock.New(path + ".lock")
	if err := other.Lock(); err != nil {
		t.Fatal(err)
	}
	_, err := OpenLedger(t.Context(), path)
	wantError(t, err, amieusage.CodeUnavailable, "another program is opening it")
	if err := other.Unlock(); err != nil {
		t.Fatal(err)
	}
	l, err := OpenLedger(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
