package postgres_test

import (
	"testing"

	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/pgtest"
	"github.com/amieusage/amieusage/internal/storetest"
)

func TestArchive(t *testing.T) {
	storetest.TestArchive(t, func(t *testing.T) func() ledger.Store {
		url := pgtest.Database(t)
		return func() ledger.Store { return open(t, url) }
	})
}
