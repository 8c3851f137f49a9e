package postgres_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/pgtest"
)

// A stand-in for Citus, in a database: functions of its names that move rows to
// the schema "nodes", note their calls, and refuse what Citus refuses. It stands
// in pg_extension, too.
const standIn = `
	INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
	SELECT 999999, 'citus', oid, 'pg_catalog'::regnamespace, false, '12.1-1' FROM pg_roles WHERE rolname = current_user;
	CREATE SCHEMA nodes;
	CREATE TABLE nodes.calls (call bigserial PRIMARY KEY, what text);
	CREATE TABLE nodes.faults (table_name regclass, function text);
	CREATE TABLE nodes.tables (table_name regclass PRIMARY KEY, citus_table_type text, distribution_column text, colocation_id bigint);
	CREATE VIEW citus_tables AS SELECT * FROM nodes.tables;

	CREATE FUNCTION nodes.note(function text, t regclass, more text) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO nodes.calls (what) VALUES (function || ' ' || t || more);
		IF EXISTS (SELECT 1 FROM nodes.faults f WHERE f.table_name = t AND f.function = note.function) THEN
			RAISE 'connection to the remote node failed' USING ERRCODE = 'connection_failure';
		END IF;
	END $$;

	CREATE FUNCTION create_reference_table(t regclass) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM nodes.note('create_reference_table', t, '');
		INSERT INTO nodes.tables VALUES (t, 'reference', '<none>', 0);
		EXECUTE format('CREATE TABLE nodes.%I AS TABLE %s', t, t);
	END $$;

	CREATE FUNCTION create_distributed_table(t regclass, c text, distribution_type text DEFAULT 'hash', colocate_with text DEFAULT 'default')
	RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		attribute smallint;
		colocation bigint;
	BEGIN
		PERFORM nodes.note('create_distributed_table', t, ' by ' || c || ' with ' || colocate_with);
		SELECT attnum INTO STRICT attribute FROM pg_attribute WHERE attrelid = t AND attname = c;
		IF EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = t AND i.indisunique AND NOT attribute = ANY (i.indkey)) THEN
			RAISE 'cannot create constraint on "%"', t USING ERRCODE = 'invalid_table_definition',
				DETAIL = 'Distributed relations cannot have UNIQUE or PRIMARY KEY constraints that do not include the partition column';
		END IF;
		IF EXISTS (SELECT 1 FROM pg_attribute WHERE attrelid = t AND attidentity <> '') THEN
			RAISE 'cannot complete operation on % with identity column', t;
		END IF;
		IF EXISTS (SELECT 1 FROM pg_trigger WHERE tgrelid = t AND NOT tgisinternal) THEN
			RAISE 'cannot distribute relation "%" because it has triggers', t;
		END IF;
		IF EXISTS (SELECT 1 FROM pg_constraint k WHERE k.conrelid = t AND k.contype = 'f'
				AND k.confrelid NOT IN (SELECT table_name FROM nodes.tables)) THEN
			RAISE 'cannot create foreign key constraint since referenced table is not distributed';
		END IF;
		IF colocate_with = 'none' THEN
			SELECT coalesce(max(colocation_id), 0) + 1 INTO colocation FROM nodes.tables;
		ELSE
			SELECT colocation_id INTO STRICT colocation FROM nodes.tables
			WHERE table_name = colocate_with::regclass AND citus_table_type = 'distributed';
		END IF;
		INSERT INTO nodes.tables VALUES (t, 'distributed', c, colocation);
		EXECUTE format('CREATE TABLE nodes.%I AS TABLE %s', t, t);
	END $$;

	CREATE FUNCTION truncate_local_data_after_distributing_table(t regclass) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM nodes.note('truncate_local_data_after_distributing_table', t, '');
		PERFORM 1 FROM nodes.tables WHERE table_name = t;
		IF NOT FOUND THEN
			RAISE 'supplied parameter is not a distributed relation';
		END IF;
		EXECUTE format('TRUNCATE %s', t);
	END $$;`

// siteTables are the tables of sites, in order.
var siteTables = []string{"acceptance", "allocations", "api_keys", "balances", "batches", "events", "failed_records", "loading", "loads",
	"project_users", "projects", "records", "resources", "revisions", "usage_totals", "users"}

func TestDistribute(t *testing.T) {
	ctx := context.Background()
	url := pgtest.Database(t)
	store := open(t, url)
	history(t, store, "PSC")
	count := func(schema string) (counts []int64) {
		for _, table := range siteTables {
			counts = append(counts, queried[int64](t, url, "SELECT count(*) FROM "+schema+"."+table))
		}
		return counts
	}
	before := count("public")

	changes, err := store.Distribute(ctx)
	if e, ok := err.(*amieusage.Error); !ok || e.Code != amieusage.CodeInvalid || !strings.Contains(e.Error(), "CREATE EXTENSION citus") {
		t.Errorf("without Citus: %v", err)
	}
	if len(changes) > 0 {
		t.Errorf("without Citus: %v", changes)
	}

	execute(t, url, standIn)
	if changes, err = store.Distribute(ctx); err != nil {
		t.Fatal(err)
	}
	want := []ledger.Change{{Action: "shared", What: "sites"}, {Action: "shared", What: "ledger"}, {Action: "shared", What: "schema_compatibility"}}
	for _, table := range siteTables {
		want = append(want, ledger.Change{Action: "distributed", What: table})
	}
	if diff := cmp.Diff(want, changes); diff != "" {
		t.Errorf("changes differ (-want +got):\n%s", diff)
	}
	calls := strings.Split(queried[string](t, url, "SELECT string_agg(what, E'\n' ORDER BY call) FROM nodes.calls"), "\n")
	wantCalls := []string{"create_reference_table sites", "truncate_local_data_after_distributing_table sites",
		"create_reference_table ledger", "truncate_local_data_after_distributing_table ledger",
		"create_reference_table schema_compatibility", "truncate_local_data_after_distributing_table schema_compatibility"}
	with := "none"
	for i, table := range siteTables {
		wantCalls = append(wantCalls, "create_distributed_table "+table+" by site_id with "+with)
		if before[i] > 0 {
			wantCalls = append(wantCalls, "truncate_local_data_after_distributing_table "+table)
		}
		with = table
	}
	if diff := cmp.Diff(wantCalls, calls); diff != "" {
		t.Errorf("calls differ (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, count("nodes")); diff != "" {
		t.Errorf("the nodes' rows differ (-want +got):\n%s", diff)
	}
	if n := queried[int](t, url, "SELECT count(DISTINCT colocation_id) FROM citus_tables WHERE citus_table_type = 'distributed'"); n != 1 {
		t.Errorf("the tables lie in %d places, not in one", n)
	}

	if changes, err = store.Distribute(ctx); err != nil || len(changes) > 0 {
		t.Errorf("again: %v, %v", changes, err)
	}
	if n := queried[int](t, url, "SELECT count(*) FROM nodes.calls"); n != len(wantCalls) {
		t.Errorf("again: %d calls, want none", n-len(wantCalls))
	}
}

// TestDistributeInterrupted lets each step fail, once: the next run goes on
// where it ended.
func TestDistributeInterrupted(t *testing.T) {
	ctx := context.Background()
	for _, fault := range []string{
		"'sites', 'create_reference_table'",
		"'sites', 'truncate_local_data_after_distributing_table'",
		"'acceptance', 'create_distributed_table'",
		"'loading', 'create_distributed_table'",
		"'records', 'truncate_local_data_after_distributing_table'",
		"'users', 'create_distributed_table'",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			store := open(t, url)
			history(t, store, "PSC")
			records := queried[int](t, url, "SELECT count(*) FROM records")
			execute(t, url, standIn, "INSERT INTO nodes.faults VALUES ("+fault+")")
			first, err := store.Distribute(ctx)
			if e, ok := err.(*amieusage.Error); !ok || e.Code != amieusage.CodeUnavailable {
				t.Fatalf("with a fault: %v", err)
			}
			execute(t, url, "DELETE FROM nodes.faults")
			second, err := store.Distribute(ctx)
			if err != nil {
				t.Fatal(err)
			}
			done := map[string]int{}
			for _, c := range append(first, second...) {
				if c.Action != "cleaned" {
					done[c.What]++
				}
			}
			for _, table := range append(siteTables, "sites", "schema_compatibility") {
				if done[table] != 1 {
					t.Errorf("%s was distributed %d times", table, done[table])
				}
			}
			if n := queried[int](t, url, "SELECT count(*) FROM nodes.records"); n != records {
				t.Errorf("the nodes have %d records of %d", n, records)
			}
			if n := queried[int](t, url, "SELECT count(*) FROM records"); n != 0 {
				t.Errorf("%d records are left", n)
			}
			if n := queried[int](t, url, "SELECT count(DISTINCT colocation_id) FROM citus_tables WHERE citus_table_type = 'distributed'"); n != 1 {
				t.Errorf("the tables lie in %d places, not in one", n)
			}
			if third, err := store.Distribute(ctx); err != nil || len(third) > 0 {
				t.Errorf("once more: %v, %v", third, err)
			}
		})
	}
}

// TestDistributeRefused shows that the stand-in refuses what Citus refuses, and
// that it is said.
func TestDistributeRefused(t *testing.T) {
	for statement, text := range map[string]string{
		`ALTER TABLE records ADD UNIQUE (record_id)`:                                                   "cannot distribute records: ",
		`ALTER TABLE loads ALTER records ADD GENERATED ALWAYS AS IDENTITY`:                             "cannot distribute loads: ",
		`CREATE TRIGGER g AFTER INSERT ON users EXECUTE FUNCTION suppress_redundant_updates_trigger()`: "cannot distribute users: ",
		`ALTER TABLE allocations ADD FOREIGN KEY (site_id, project_id) REFERENCES projects`:            "cannot distribute allocations: ",
	} {
		t.Run(statement, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			store := open(t, url)
			execute(t, url, standIn, statement)
			if _, err := store.Distribute(context.Background()); err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("error %v, want one that says %q", err, text)
			}
		})
	}
}

// TestDistributeTimeouts distributes without a limit of time, and without making
// everyone wait behind it for long where it waits for a lock.
func TestDistributeTimeouts(t *testing.T) {
	url := pgtest.Database(t)
	store := open(t, url)
	execute(t, url, standIn, `
		CREATE OR REPLACE FUNCTION create_reference_table(t regclass) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
			PERFORM nodes.note(current_setting('lock_timeout') || ' ' || current_setting('statement_timeout'), t, '');
		END $$`)
	_, _ = store.Distribute(context.Background())
	if calls := queried[string](t, url, "SELECT min(what) FROM nodes.calls WHERE what LIKE '% sites'"); calls != "10s 0 sites" {
		t.Errorf("lock_timeout and statement_timeout are %q", calls)
	}
}
