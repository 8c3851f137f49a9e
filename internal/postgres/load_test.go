package postgres_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/pgtest"
	"github.com/amieusage/amieusage/internal/postgres"
)

// TestLoadDamaged damages accepted batches: they are set aside, and hold up no
// other.
func TestLoadDamaged(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	c := serve(t, opened(t, url, postgres.Options{MaxConns: 2}), "PSC")
	for n := range 4 {
		c.send(t, compute(fmt.Sprint("a", n), "alice", 1), compute(fmt.Sprint("b", n), "eve", 1))
	}
	execute(t, url, `UPDATE batches SET records = substr(records, 1, length(records) - 9) WHERE batch_id = 1`,
		`UPDATE batches SET usage_type = 9 WHERE batch_id = 3`)
	report, err := c.LoadSome(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	want := ledger.LoadReport{Batches: 4, Loaded: 2, Failed: 2, Damaged: []int64{1, 3}}
	if diff := cmp.Diff(want, report); diff != "" {
		t.Errorf("report differs (-want +got):\n%s", diff)
	}
	counts, err := c.Counts(context.Background(), c.who)
	if want := (ledger.Counts{Accepted: 8, Loaded: 2, Failed: 2, Queued: 4}); err != nil || counts != want {
		t.Errorf("counts %+v, %v, want %+v", counts, err, want)
	}
	c.send(t, compute("c", "alice", 1))
	c.loadAll(t)
	if report, err := c.LoadSome(context.Background()); err != nil || report.Batches != 0 || report.Busy {
		t.Errorf("then: report %+v, %v", report, err)
	}
}
