package httpapi_test

import (
	"cmp"
	"context"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/pgtest"
	"github.com/amieusage/amieusage/internal/postgres"
	"github.com/amieusage/amieusage/internal/sqlite"
)

// The engines that a bench's ledger may be on.
const (
	onSQLite   = "sqlite"
	onPostgres = "postgres"
)

// engine is the one of the run that is under way.
var engine = flag.String("engine", "", "run once, on sqlite or on postgres, rather than once on each")

// TestMain runs the tests once per engine. Fuzzing, benchmarks, and profiles
// that a second run would write over are of one engine: SQLite, or -engine's.
// So is coverage, which is counted up to the end of the first run.
func TestMain(m *testing.M) {
	flag.Parse()
	once := *engine != ""
	*engine = cmp.Or(*engine, onSQLite)
	for _, name := range []string{"fuzz", "bench", "list", "cpuprofile", "trace"} {
		once = once || flag.Lookup("test."+name).Value.String() != ""
	}
	if once {
		os.Exit(m.Run())
	}
	status := 0
	for _, *engine = range []string{onSQLite, onPostgres} {
		status = max(status, m.Run())
	}
	os.Exit(status)
}

// openLedger opens a new ledger, until the end of the test.
func openLedger(t testing.TB) ledger.Store {
	t.Helper()
	return openReplicas(t)()
}

// openReplicas prepares a new ledger, and returns what opens it, until the end
// of the test; each is a replica of the others.
func openReplicas[T testing.TB](t T) func() ledger.Store {
	t.Helper()
	t.Log("the ledger is on", *engine)
	type closer interface {
		ledger.Store
		Close() error
	}
	var open func() (closer, error)
	switch *engine {
	case onSQLite:
		path := filepath.Join(t.TempDir(), "ledger.db")
		open = func() (closer, error) { return sqlite.OpenLedger(context.Background(), path) }
	case onPostgres:
		url := pgtest.Database(t)
		open = func() (closer, error) { return postgres.Open(context.Background(), url, postgres.Options{}) }
	default:
		t.Fatalf("-engine %q is not one of %s, %s", *engine, onSQLite, onPostgres)
	}
	return func() ledger.Store {
		t.Helper()
		store, err := open()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := store.Close(); err != nil {
				t.Error(err)
			}
		})
		return store
	}
}
