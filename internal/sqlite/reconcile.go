package sqlite

import (
	"context"
	"iter"
	"strconv"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/outbox"
)

// A Comparison is an outbox.Comparison in a temporary file, which has no name
// and goes with the program, however that ends.
type Comparison struct{ conn *sqlite.Conn }

var _ outbox.Comparison = (*Comparison)(nil)

// comparisonCacheKiB is the page cache of a comparison.
const comparisonCacheKiB = 4 << 10

// OpenComparison makes an empty comparison.
func OpenComparison() (*Comparison, error) {
	conn, err := sqlite.OpenConn("", sqlite.OpenReadWrite|sqlite.OpenCreate)
	if err != nil {
		return nil, err
	}
	for _, statement := range []string{
		"PRAGMA journal_mode = OFF",
		"PRAGMA synchronous = OFF",
		"PRAGMA temp_store = FILE",
		"PRAGMA cache_size = -" + strconv.Itoa(comparisonCacheKiB),
		`CREATE TABLE sides (
			local_record_id TEXT NOT NULL,
			key_time        INTEGER NOT NULL,
			resource        TEXT NOT NULL,
			usage_type      INTEGER NOT NULL,
			source          INTEGER NOT NULL,
			in_period       INTEGER NOT NULL,
			charge          INTEGER NOT NULL,
			gives_back      INTEGER NOT NULL,
			digest          BLOB NOT NULL,
			state           TEXT NOT NULL,
			entry_id        INTEGER NOT NULL,
			reason          TEXT NOT NULL,
			number          INTEGER NOT NULL,
			place           TEXT NOT NULL,
			superseded      INTEGER NOT NULL,
			PRIMARY KEY (local_record_id, key_time, resource, usage_type, source)
		) WITHOUT ROWID`,
	} {
		if err := sqlitex.ExecuteTransient(conn, statement, nil); err != nil {
			conn.Close()
			return nil, err
		}
	}
	return &Comparison{conn}, nil
}

// Close removes the comparison.
func (c *Comparison) Close() error { return c.conn.Close() }

// Add adds sides. Where their file cannot grow, the error is a
// *amieusage.Error.
func (c *Comparison) Add(ctx context.Context, sides []outbox.Side) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	defer func() {
		switch resultCode(err) {
		case sqlite.ResultFull, sqlite.ResultIOErr, sqlite.ResultCantOpen:
			err = &amieusage.Error{Code: amieusage.CodeUnavailable, Err: err,
				Message: "the temporary file of the comparison cannot be written",
				Hint:    "free some disk space, or set TMPDIR to a folder that has it"}
		}
	}()
	defer sqlitex.Transaction(c.conn)(&err)
	stmt, err := c.conn.Prepare(`
		INSERT INTO sides SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15
		WHERE ?16 OR EXISTS (SELECT 1 FROM sides WHERE local_record_id = ?1 AND key_time = ?2 AND resource = ?3 AND usage_type = ?4)
		ON CONFLICT DO UPDATE SET in_period = excluded.in_period, charge = excluded.charge, gives_back = excluded.gives_back,
			digest = excluded.digest, state = excluded.state, entry_id = excluded.entry_id, reason = excluded.reason,
			number = excluded.number, place = excluded.place, superseded = excluded.superseded`)
	if err != nil {
		return err
	}
	for i := range sides {
		s := &sides[i]
		stmt.BindText(1, s.Identity.LocalRecordID)
		stmt.BindInt64(2, ledger.Nanos(s.Identity.KeyTime))
		stmt.BindText(3, s.Identity.Resource)
		stmt.BindInt64(4, ledger.UsageTypeNumber(s.Identity.UsageType))
		stmt.BindInt64(5, int64(s.Source))
		stmt.BindBool(6, s.InPeriod)
		stmt.BindInt64(7, s.Charge)
		stmt.BindBool(8, s.GivesBack)
		stmt.BindBytes(9, s.Digest[:])
		stmt.BindText(10, string(s.State))
		stmt.BindInt64(11, int64(s.Entry))
		stmt.BindText(12, s.Reason)
		stmt.BindInt64(13, s.Number)
		stmt.BindText(14, s.Place)
		stmt.BindBool(15, s.Superseded)
		stmt.BindBool(16, s.Always)
		if err := run(stmt); err != nil {
			return err
		}
	}
	return nil
}

// Unloaded returns identities that the service should have loaded.
func (c *Comparison) Unloaded(_ context.Context, limit int) (ids []amieusage.Identity, err error) {
	side := func(source outbox.Source) string {
		return `EXISTS (SELECT 1 FROM sides x WHERE x.local_record_id = s.local_record_id AND x.key_time = s.key_time
			AND x.resource = s.resource AND x.usage_type = s.usage_type AND x.source = ` + strconv.Itoa(int(source)) + `)`
	}
	err = sqlitex.Execute(c.conn, `
		SELECT local_record_id, key_time, resource, usage_type FROM sides s
		WHERE in_period AND (source = ?1 AND NOT `+side(outbox.FromOutbox)+` OR source = ?2 AND state = ?3)
			AND NOT `+side(outbox.FromLoaded)+` LIMIT ?4`,
		&sqlitex.ExecOptions{
			Args: []any{int64(outbox.FromAccounting), int64(outbox.FromOutbox), string(outbox.Loaded), limit},
			ResultFunc: func(stmt *sqlite.Stmt) error {
				ids = append(ids, sideIdentity(stmt))
				return nil
			},
		})
	return ids, err
}

func sideIdentity(stmt *sqlite.Stmt) amieusage.Identity {
	id := amieusage.Identity{LocalRecordID: stmt.ColumnText(0), Resource: stmt.ColumnText(2), UsageType: ledger.UsageTypeOf(stmt.ColumnInt64(3))}
	if id.UsageType != amieusage.Adjustment {
		id.KeyTime = ledger.TimeOf(stmt.ColumnInt64(1))
	}
	return id
}

// All returns the records with all their sides.
func (c *Comparison) All(ctx context.Context) iter.Seq2[outbox.Compared, error] {
	return func(yield func(outbox.Compared, error) bool) {
		stmt, err := c.conn.Prepare(`SELECT * FROM sides ORDER BY local_record_id, key_time, resource, usage_type, source`)
		if err != nil {
			yield(outbox.Compared{}, err)
			return
		}
		defer stmt.Reset()
		var record outbox.Compared
		for ctx.Err() == nil {
			more, err := stmt.Step()
			if err != nil {
				yield(outbox.Compared{}, err)
				return
			}
			if !more {
				if record.Identity != (amieusage.Identity{}) {
					yield(record, nil)
				}
				return
			}
			s := &outbox.Side{
				Identity:  sideIdentity(stmt),
				Source:    outbox.Source(stmt.ColumnInt64(4)),
				InPeriod:  stmt.ColumnBool(5),
				Charge:    stmt.ColumnInt64(6),
				GivesBack: stmt.ColumnBool(7),
				State:     outbox.State(stmt.ColumnText(9)),
				Entry:     outbox.ID(stmt.ColumnInt64(10)),
				Reason:    stmt.ColumnText(11),
				Number:    stmt.ColumnInt64(12),
				Place:     stmt.ColumnText(13),

				Superseded: stmt.ColumnBool(14),
			}
			stmt.ColumnBytes(8, s.Digest[:])
			if s.Identity != record.Identity {
				if record.Identity != (amieusage.Identity{}) && !yield(record, nil) {
					return
				}
				record = outbox.Compared{Identity: s.Identity}
			}
			record.Set(s)
		}
		yield(outbox.Compared{}, ctx.Err())
	}
}
