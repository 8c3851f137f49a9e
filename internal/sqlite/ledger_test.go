package sqlite_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/sqlite"
	"github.com/amieusage/amieusage/internal/storetest"
)

func openLedger(t testing.TB, path string) *sqlite.Ledger {
	t.Helper()
	l, err := sqlite.OpenLedger(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func TestStore(t *testing.T) {
	storetest.TestStore(t, func(t *testing.T) func() ledger.Store {
		path := filepath.Join(t.TempDir(), "ledger.db")
		return func() ledger.Store { return openLedger(t, path) }
	})
}

func BenchmarkStore(b *testing.B) {
	storetest.BenchmarkStore(b, func(b *testing.B) ledger.Store { return openLedger(b, filepath.Join(b.TempDir(), "ledger.db")) })
}
