package sqlite

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/gofrs/flock"

	"github.com/amieusage/amieusage"
)

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
