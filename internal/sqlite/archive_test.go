package sqlite_test

import (
	"path/filepath"
	"testing"

	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/storetest"
)

func TestArchive(t *testing.T) {
	storetest.TestArchive(t, func(t *testing.T) func() ledger.Store {
		path := filepath.Join(t.TempDir(), "ledger.db")
		return func() ledger.Store { return openLedger(t, path) }
	})
}
