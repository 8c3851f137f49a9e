package sqlite_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/storetest"
)

// TestVerifyContents holds the rows of damaged ledgers against what was
// accepted.
func TestVerifyContents(t *testing.T) {
	storetest.TestVerify(t, func(t *testing.T, history func(store ledger.Store)) storetest.Damaged {
		path := filepath.Join(t.TempDir(), "ledger.db")
		store := openLedger(t, path)
		history(store)
		execute(t, path, `PRAGMA wal_checkpoint(TRUNCATE)`)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return func(t *testing.T, statements ...string) storetest.FullVerifier {
			path := filepath.Join(t.TempDir(), "ledger.db")
			if err := os.WriteFile(path, good, 0o600); err != nil {
				t.Fatal(err)
			}
			for _, s := range statements {
				execute(t, path, s)
			}
			return openLedger(t, path)
		}
	})
}

// TestVerifyOnline verifies a ledger that is in use.
func TestVerifyOnline(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	storetest.TestVerifyOnline(t, func() ledger.Store { return openLedger(t, path) }, func(statement string) { execute(t, path, statement) })
}
