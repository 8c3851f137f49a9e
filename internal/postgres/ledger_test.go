package postgres_test

import (
	"testing"

	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/pgtest"
	"github.com/amieusage/amieusage/internal/postgres"
	"github.com/amieusage/amieusage/internal/storetest"
)

func open(t testing.TB, url string) *postgres.Ledger {
	t.Helper()
	return opened(t, url, postgres.Options{MaxConns: 6})
}

func TestStore(t *testing.T) {
	storetest.TestStore(t, func(t *testing.T) func() ledger.Store {
		url := pgtest.Database(t)
		return func() ledger.Store { return open(t, url) }
	})
}

func BenchmarkStore(b *testing.B) {
	server := pgtest.Start(b, "shared_buffers=1GB", "max_wal_size=8GB")
	storetest.BenchmarkStore(b, func(b *testing.B) ledger.Store { return open(b, server.Database(b)) })
}
