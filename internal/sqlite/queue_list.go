package sqlite

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/outbox"
)

// states are the states by their numbers in the file.
var states = []outbox.State{outbox.Failed, outbox.Loaded, outbox.Pending, outbox.Queued, outbox.Rejected, outbox.Held, outbox.Dropped, outbox.Waiting,
	outbox.Accepted}

func stateNumber(state outbox.State) int64 { return int64(slices.Index(states, state)) }

// inState is the condition for the state whose number is parameter 1. The index
// of the states but Loaded is used only where its own condition stands there.
func inState(state outbox.State) string {
	if state == outbox.Loaded {
		return `state = ?1`
	}
	return `state <> 1 AND state = ?1`
}

const entryColumns = progressColumns + `, usage_type, place, record, (SELECT text FROM rates r WHERE r.rate_id = entries.rate_id),
	(SELECT number FROM marks WHERE name = 'leaving')`

func scanEntry(stmt *sqlite.Stmt) (outbox.Entry, error) {
	const from = 18 // the columns behind those of the progress
	row := scanProgress(stmt)
	e := outbox.Entry{
		ID: row.id, Progress: row.Progress, Place: stmt.ColumnText(from + 1), Decision: row.decision, Superseded: row.superseded,
		WaitsFor: row.waitsFor, Left: row.stored <= stmt.ColumnInt64(from+4),
	}
	err := scanContent(&e, stmt, from+2, stmt.ColumnText(from+3), ledger.UsageTypeOf(stmt.ColumnInt64(from)))
	return e, err
}

// scanContent reads the content of an entry out of a column: a record's JSON, or
// the bytes of a job, which a rate has charged.
func scanContent(e *outbox.Entry, stmt *sqlite.Stmt, column int, rate string, usageType amieusage.UsageType) error {
	raw := make([]byte, stmt.ColumnLen(column))
	stmt.ColumnBytes(column, raw)
	if outbox.IsJob(raw) {
		job, err := outbox.ParseJob(raw)
		if err != nil {
			return fmt.Errorf("the job of entry %d cannot be read: %w", e.ID, err)
		}
		job.Rate = rate
		e.Job, e.Record = job, job.Record()
		return nil
	}
	if usageType == "" {
		return fmt.Errorf("entry %d has an unknown usage type", e.ID)
	}
	e.Record = amieusage.NewRecord(usageType)
	if err := e.Record.UnmarshalJSON(raw); err != nil {
		return fmt.Errorf("the record of entry %d cannot be read: %w", e.ID, err)
	}
	return nil
}

// Get returns one entry.
func (q *Outbox) Get(ctx context.Context, id outbox.ID) (outbox.Entry, error) {
	var page []outbox.Entry
	err := q.db.read(ctx, func(conn *sqlite.Conn) (err error) {
		page, err = entries(conn, `entry_id = ?1`, int64(id))
		return err
	})
	switch {
	case err != nil:
		return outbox.Entry{}, err
	case len(page) == 0:
		return outbox.Entry{}, noEntry(id)
	}
	return page[0], nil
}

// List returns a page of entries in order of their IDs.
func (q *Outbox) List(ctx context.Context, f outbox.Filter) (page []outbox.Entry, err error) {
	if f.Limit <= 0 {
		f.Limit = outbox.DefaultPage
	}
	err = q.db.read(ctx, func(conn *sqlite.Conn) error {
		switch {
		case f.LocalRecordID != "":
			page, err = entries(conn, `local_record_id = ?1 AND entry_id > ?2 ORDER BY +entry_id`, f.LocalRecordID, int64(f.After))
			page = slices.DeleteFunc(page, func(e outbox.Entry) bool {
				return len(f.States) > 0 && !slices.Contains(f.States, e.State)
			})
		case len(f.States) == 0:
			page, err = entries(conn, `entry_id > ?1 ORDER BY entry_id LIMIT ?2`, int64(f.After), f.Limit)
		default:
			for _, state := range slices.Compact(slices.Sorted(slices.Values(f.States))) {
				more, err := entries(conn, inState(state)+` AND entry_id > ?2 ORDER BY entry_id LIMIT ?3`,
					stateNumber(state), int64(f.After), f.Limit)
				if err != nil {
					return err
				}
				page = append(page, more...)
			}
			slices.SortFunc(page, func(a, b outbox.Entry) int { return cmp.Compare(a.ID, b.ID) })
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return page[:min(len(page), f.Limit)], nil
}

// Sample returns some of the entries in the state, drawn at random.
func (q *Outbox) Sample(ctx context.Context, state outbox.State, n int) (sample []outbox.Entry, err error) {
	err = q.db.read(ctx, func(conn *sqlite.Conn) error {
		sample, err = entries(conn, `entry_id IN (SELECT entry_id FROM entries WHERE `+inState(state)+` ORDER BY random() LIMIT ?2)
			ORDER BY entry_id`, stateNumber(state), n)
		return err
	})
	return sample, err
}

func entries(conn *sqlite.Conn, where string, args ...any) (found []outbox.Entry, err error) {
	err = sqlitex.Execute(conn, `SELECT `+entryColumns+` FROM entries JOIN records USING (entry_id) WHERE `+where, &sqlitex.ExecOptions{
		Args: args,
		ResultFunc: func(stmt *sqlite.Stmt) error {
			e, err := scanEntry(stmt)
			found = append(found, e)
			return err
		},
	})
	return found, err
}

// Counts returns how many entries there are, by resource and state.
func (q *Outbox) Counts(ctx context.Context) (counts []outbox.Count, err error) {
	err = q.db.read(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, `
			SELECT r.name, c.state, c.entries FROM counts c JOIN resources r ON r.resource_id = c.resource_id
			WHERE c.entries <> 0 ORDER BY r.name, c.state`,
			&sqlitex.ExecOptions{
				ResultFunc: func(stmt *sqlite.Stmt) error {
					counts = append(counts, outbox.Count{
						Resource: stmt.ColumnText(0),
						State:    states[stmt.ColumnInt(1)],
						Entries:  stmt.ColumnInt64(2),
					})
					return nil
				},
			})
	})
	return counts, err
}

// Unconfirmed returns what queued entries there are. It passes over them once
// for each resource, as grouping them would sort them all in memory.
func (q *Outbox) Unconfirmed(ctx context.Context) (rows []outbox.Unconfirmed, err error) {
	err = q.db.read(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, `
			SELECT r.name, c.entries,
				(SELECT min(sent_at) FROM entries e WHERE state <> 1 AND state = 3 AND e.resource_id = c.resource_id)
			FROM counts c JOIN resources r ON r.resource_id = c.resource_id
			WHERE c.state = 3 AND c.entries > 0 ORDER BY r.name`,
			&sqlitex.ExecOptions{
				ResultFunc: func(stmt *sqlite.Stmt) error {
					rows = append(rows, outbox.Unconfirmed{
						Resource:    stmt.ColumnText(0),
						Entries:     stmt.ColumnInt64(1),
						FirstSentAt: ledger.TimeOrZero(stmt.ColumnInt64(2)),
					})
					return nil
				},
			})
	})
	return rows, err
}
