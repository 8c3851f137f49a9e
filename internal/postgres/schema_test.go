package postgres_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/amieusage/amieusage/internal/pgtest"
)

// schemaFaults gives a row of text for everything in the catalogue that keeps
// the ledger from being distributed by site, or from sorting bytewise. Shared
// tables have that comment; the table of the migrations stays on one node.
const schemaFaults = `
	WITH tables AS (
		SELECT c.oid, c.relname, coalesce(obj_description(c.oid, 'pg_class') = 'shared', false) AS shared, a.attnum AS site_id,
			a.atttypid = 'bigint'::regtype AND a.attnotnull AS site_id_good
		FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'site_id' AND NOT a.attisdropped
		WHERE c.relkind IN ('r', 'p', 'f', 'm') AND c.relnamespace = 'public'::regnamespace AND c.relname <> 'goose_db_version')
	SELECT relname || ' is neither shared nor has site_id' FROM tables WHERE NOT shared AND site_id IS NULL
	UNION ALL
	SELECT relname || '.site_id is not bigint NOT NULL' FROM tables WHERE NOT site_id_good
	UNION ALL
	SELECT relname || ' has no primary key' FROM tables t
	WHERE NOT EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = t.oid AND i.indisprimary) AND relname <> 'schema_compatibility'
	UNION ALL
	SELECT i.indexrelid::regclass || ' does not start with site_id' FROM tables t JOIN pg_index i ON i.indrelid = t.oid
	WHERE NOT shared AND i.indkey[0] IS DISTINCT FROM site_id
	UNION ALL
	SELECT relname || ' has the foreign key ' || conname FROM tables t JOIN pg_constraint k ON k.conrelid = t.oid WHERE k.contype = 'f'
	UNION ALL
	SELECT relname || ' has the exclusion ' || conname FROM tables t JOIN pg_constraint k ON k.conrelid = t.oid WHERE k.contype = 'x'
	UNION ALL
	SELECT relname || ' has the trigger ' || tgname FROM tables t JOIN pg_trigger g ON g.tgrelid = t.oid WHERE NOT g.tgisinternal
	UNION ALL
	SELECT relname || '.' || attname || ' gets its numbers from a sequence'
	FROM tables t JOIN pg_attribute a ON a.attrelid = t.oid LEFT JOIN pg_attrdef d ON d.adrelid = t.oid AND d.adnum = a.attnum
	WHERE NOT a.attisdropped AND (a.attidentity <> '' OR pg_get_expr(d.adbin, d.adrelid) LIKE 'nextval(%')
	UNION ALL
	SELECT relname || '.' || attname || ' is not COLLATE "C"' FROM tables t JOIN pg_attribute a ON a.attrelid = t.oid
	WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attcollation NOT IN (0, '"C"'::regcollation)`

// TestSchema holds the schema to what lets it be distributed by site.
func TestSchema(t *testing.T) {
	ctx := context.Background()
	url := pgtest.Database(t)
	open(t, url)
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	faults := func(t *testing.T, tx pgx.Tx) []string {
		t.Helper()
		rows, _ := tx.Query(ctx, schemaFaults)
		found, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	for statement, fault := range map[string]string{
		``:                                       ``,
		`CREATE TABLE x (id bigint PRIMARY KEY)`: "x is neither shared nor has site_id\nx_pkey does not start with site_id",
		`CREATE TABLE x (site_id bigint)`:        "x.site_id is not bigint NOT NULL\nx has no primary key",
		`ALTER TABLE records ALTER site_id TYPE integer`:                                               `records.site_id is not bigint NOT NULL`,
		`ALTER TABLE loads DROP CONSTRAINT loads_pkey; ALTER TABLE loads ALTER site_id DROP NOT NULL`:  "loads.site_id is not bigint NOT NULL\nloads has no primary key",
		`ALTER TABLE records ADD UNIQUE (record_id)`:                                                   `records_record_id_key does not start with site_id`,
		`ALTER TABLE batches DROP CONSTRAINT batches_pkey, ADD PRIMARY KEY (batch_id, site_id)`:        `batches_pkey does not start with site_id`,
		`CREATE INDEX i ON records (usage_time)`:                                                       `i does not start with site_id`,
		`CREATE INDEX i ON records ((site_id + 0))`:                                                    `i does not start with site_id`,
		`ALTER TABLE loading ADD FOREIGN KEY (site_id) REFERENCES sites`:                               `loading has the foreign key loading_site_id_fkey`,
		`CREATE TRIGGER g AFTER INSERT ON loads EXECUTE FUNCTION suppress_redundant_updates_trigger()`: `loads has the trigger g`,
		`ALTER TABLE loads ALTER records ADD GENERATED ALWAYS AS IDENTITY`:                             `loads.records gets its numbers from a sequence`,
		`ALTER TABLE failed_records ALTER failed_id SET DEFAULT nextval('failed_ids')`:                 `failed_records.failed_id gets its numbers from a sequence`,
		`ALTER TABLE records ALTER local_record_id TYPE text COLLATE "default"`:                        `records.local_record_id is not COLLATE "C"`,
		`ALTER TABLE loads ADD COLUMN note text`:                                                       `loads.note is not COLLATE "C"`,
	} {
		t.Run(statement, func(t *testing.T) {
			tx, err := conn.Begin(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback(ctx)
			if _, err := tx.Exec(ctx, statement); err != nil {
				t.Fatal(err)
			}
			if found := strings.Join(faults(t, tx), "\n"); found != fault {
				t.Errorf("the catalogue shows\n%s\nwant\n%s", found, fault)
			}
		})
	}
}
