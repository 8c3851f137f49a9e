package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// A table is one of the ledger's, by its quoted name.
type table struct {
	name   string
	shared bool // every node may have a copy; else its rows belong to sites
}

// tablesOf returns the ledger's tables: first the shared ones, of which sites
// is the first. That of the migrations is not among them.
func tablesOf(ctx context.Context, tx pgx.Tx) ([]table, error) {
	return rowsOf(ctx, tx, func(row pgx.CollectableRow) (t table, err error) {
		err = row.Scan(&t.name, &t.shared)
		return t, err
	}, `
		SELECT c.oid::regclass::text, coalesce(obj_description(c.oid, 'pg_class') = 'shared', false) AS shared
		FROM pg_class c
		WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'sites'::regclass)
			AND (obj_description(c.oid, 'pg_class') = 'shared'
				OR EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'site_id' AND NOT a.attisdropped))
		ORDER BY shared DESC, c.relname <> 'sites', c.relname`)
}

// Distribute distributes the ledger over the nodes of a Citus cluster, by
// site: shared tables are copied to all nodes, and all others lie with their
// sites. It returns what it changed. A run that was interrupted is finished by
// the next one. Nobody else should use the ledger meanwhile: what is about
// tables of which only some are moved fails. A database without Citus is
// amieusage.CodeInvalid.
func (l *Ledger) Distribute(ctx context.Context) (changes []ledger.Change, err error) {
	var tables []table
	err = l.db.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
		var installed bool
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM pg_extension WHERE extname = 'citus')`).Scan(&installed); err != nil {
			return err
		}
		if !installed {
			return &amieusage.Error{Code: amieusage.CodeInvalid,
				Message: "the extension citus is not installed in " + l.db.name,
				Hint: "on every node: put citus first in shared_preload_libraries, restart the server, and run CREATE EXTENSION citus in the " +
					"database; then add the nodes on the coordinator (citus_set_coordinator_host, citus_add_node), and connect to that one"}
		}
		tables, err = tablesOf(ctx, tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	with := "none" // the table that the others lie with; its own place for the first
	for _, t := range tables {
		done, err := l.distribute(ctx, t, with)
		changes = append(changes, done...)
		if err != nil {
			if _, told := errors.AsType[*amieusage.Error](err); !told {
				err = &amieusage.Error{Code: amieusage.CodeInternal, Message: "cannot distribute " + t.name, Err: err,
					Hint: "see the messages of Citus; then run this again: it goes on where it ended"}
			}
			return changes, err
		}
		if !t.shared {
			with = t.name
		}
	}
	return changes, nil
}

// distribute distributes one table where it is not yet, and then removes the
// rows that its copying has left behind on the coordinator.
func (l *Ledger) distribute(ctx context.Context, t table, with string) (changes []ledger.Change, err error) {
	want, action := "distributed", "distributed"
	create, args := `SELECT create_distributed_table($1::text::regclass, 'site_id', colocate_with => $2)`, []any{t.name, with}
	if t.shared {
		want, action = "reference", "shared"
		create, args = `SELECT create_reference_table($1::text::regclass)`, []any{t.name}
	}
	err = l.db.long(ctx, "BEGIN", func(ctx context.Context, tx pgx.Tx) error {
		var is bool
		err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM citus_tables WHERE table_name = $1::text::regclass AND citus_table_type = $2)`,
			t.name, want).Scan(&is)
		if err != nil || is {
			return err
		}
		if _, err = tx.Exec(ctx, create, args...); err == nil {
			changes = []ledger.Change{{Action: action, What: t.name}}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	err = l.db.long(ctx, "BEGIN", func(ctx context.Context, tx pgx.Tx) error {
		// Of what is distributed this is the size of what lies here.
		var left int64
		if err := tx.QueryRow(ctx, `SELECT pg_relation_size($1::text::regclass)`, t.name).Scan(&left); err != nil || left == 0 {
			return err
		}
		_, err := tx.Exec(ctx, `SELECT truncate_local_data_after_distributing_table($1::text::regclass)`, t.name)
		if err == nil && len(changes) == 0 {
			changes = []ledger.Change{{Action: "cleaned", What: t.name}}
		}
		return err
	})
	return changes, err
}
