package postgres

import (
	"context"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/pgtest"
)

// TestCopyPlans reads no page of a copy by sorting or scanning a table, though
// the server has no statistics of it; and holds the columns of a copy against
// the schema.
func TestCopyPlans(t *testing.T) {
	l, err := Open(t.Context(), pgtest.Database(t), Options{MaxConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	bad := regexp.MustCompile(`Seq Scan|Bitmap|Sort +\(|Sort Key`)
	err = l.db.write(t.Context(), "test", func(ctx context.Context, tx pgx.Tx) error {
		if err := byIndex(ctx, tx); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO users SELECT 1, n, n::text FROM generate_series(1, 50000) n;
			INSERT INTO records SELECT 1, 1, n, 1, 1, 1, 1, 1, 1, 1, 1, n, 1, false, n::text, 'd' FROM generate_series(1, 50000) n`); err != nil {
			return err
		}
		for _, table := range ledger.CopyTables {
			plan, err := rowsOf(ctx, tx, pgx.RowTo[string], "EXPLAIN "+pageQuery(table), keyArgs(1, table.First())...)
			if err != nil {
				return err
			}
			if text := strings.Join(plan, "\n"); bad.MatchString(text) {
				t.Errorf("%s:\n%s", table.Name, text)
			}
			columns, err := rowsOf(ctx, tx, pgx.RowTo[string], `
				SELECT attname || CASE WHEN attnotnull THEN '' ELSE ' NULL' END FROM pg_attribute
				WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped AND attname <> 'site_id'`, table.Name)
			if err != nil {
				return err
			}
			copied := map[string]bool{}
			for _, c := range table.Columns {
				name := c.Name
				if c.Null {
					name += " NULL"
				}
				copied[name] = true
			}
			for _, c := range columns {
				if !copied[c] {
					t.Errorf("%s: column %s is not copied", table.Name, c)
				}
			}
		}
		tables, err := tablesOf(ctx, tx)
		if err != nil {
			return err
		}
		for _, there := range tables {
			known := there.shared || there.name == "acceptance" || there.name == "loading"
			for _, table := range ledger.CopyTables {
				known = known || table.Name == there.name
			}
			if !known {
				t.Errorf("table %s is not copied", there.name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
