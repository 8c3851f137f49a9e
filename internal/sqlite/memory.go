package sqlite

import (
	"context"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage/internal/ledger"
)

// policyOf returns the ledger's policy.
func policyOf(conn *sqlite.Conn) (policy ledger.Policy, err error) {
	err = sqlitex.Execute(conn, `SELECT policy FROM ledger`, &sqlitex.ExecOptions{
		ResultFunc: func(stmt *sqlite.Stmt) error {
			policy = ledger.Policy(stmt.ColumnText(0))
			return nil
		},
	})
	return policy, err
}

// Policy returns the ledger's policy.
func (l *Ledger) Policy(ctx context.Context) (policy ledger.Policy, err error) {
	err = l.db.read(ctx, func(conn *sqlite.Conn) error {
		policy, err = policyOf(conn)
		return err
	})
	return policy, err
}

// SetPolicy changes the ledger's policy, or only chooses the first one.
func (l *Ledger) SetPolicy(ctx context.Context, policy ledger.Policy, first bool) (before ledger.Policy, err error) {
	err = l.db.write(ctx, "policy", func(conn *sqlite.Conn) error {
		if before, err = policyOf(conn); err != nil || before == policy || first && before != "" {
			return err
		}
		if err := sqlitex.Execute(conn, `UPDATE ledger SET policy = ?`, &sqlitex.ExecOptions{Args: []any{string(policy)}}); err != nil {
			return err
		}
		return addEvents(conn, 0, ledger.PolicyEvent(ctx, before, policy))
	})
	return before, err
}

// TakeBack serves a site from this file again that was copied into another ledger.
func (l *Ledger) TakeBack(ctx context.Context, siteName string) error {
	return l.db.write(ctx, "take back", func(conn *sqlite.Conn) error {
		site, err := siteOf(conn, siteName)
		if err != nil {
			return err
		}
		err = sqlitex.Execute(conn, `UPDATE sites SET moved_at = 0 WHERE site_id = ? AND moved_at <> 0`, &sqlitex.ExecOptions{Args: []any{site}})
		if err != nil || conn.Changes() == 0 {
			return err
		}
		// Of no site: the file stays equal to what was copied of it.
		return addEvents(conn, 0, ledger.NewEvent(ctx, ledger.ActorOf(ctx).At, 0, "took back", "site %s, which had been moved", siteName))
	})
}

// addEvents adds events of a site; 0: of none.
func addEvents(conn *sqlite.Conn, site int64, events ...ledger.Event) error {
	for _, e := range events {
		err := sqlitex.Execute(conn, `
			INSERT INTO events (site_id, at, who, origin, action, what, key_id, project) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
			&sqlitex.ExecOptions{Args: []any{site, ledger.Nanos(e.At), e.Who, e.From, e.Action, e.What, e.KeyID, e.Project}})
		if err != nil {
			return err
		}
	}
	return nil
}

// Events returns what was done, in order of time.
func (l *Ledger) Events(ctx context.Context, q ledger.HistoryQuery) (events []ledger.Event, err error) {
	query, args := q.EventStatement()
	err = l.db.read(ctx, func(conn *sqlite.Conn) error {
		if q.Site != "" {
			if _, err := siteOf(conn, q.Site); err != nil {
				return err
			}
		}
		return sqlitex.Execute(conn, query, &sqlitex.ExecOptions{Args: args, ResultFunc: func(stmt *sqlite.Stmt) error {
			events = append(events, ledger.Event{
				ID: stmt.ColumnInt64(0), Site: stmt.ColumnText(1), At: ledger.TimeOrZero(stmt.ColumnInt64(2)),
				Who: stmt.ColumnText(3), From: stmt.ColumnText(4), Action: stmt.ColumnText(5), What: stmt.ColumnText(6),
				KeyID: stmt.ColumnInt64(7), Project: stmt.ColumnText(8),
			})
			return nil
		}})
	})
	return events, err
}

// History returns revisions and failed records, in order of acceptance.
func (l *Ledger) History(ctx context.Context, q ledger.HistoryQuery) (rows []ledger.HistoryRow, err error) {
	err = l.db.read(ctx, func(conn *sqlite.Conn) error {
		if q.Site != "" {
			if _, err := siteOf(conn, q.Site); err != nil {
				return err
			}
		}
		return sqlitex.Execute(conn, `SELECT site_id, name FROM sites WHERE ?1 = '' OR name = ?1 ORDER BY name`, &sqlitex.ExecOptions{
			Args: []any{q.Site},
			ResultFunc: func(stmt *sqlite.Stmt) error {
				of, err := siteHistory(conn, &q, stmt.ColumnInt64(0), stmt.ColumnText(1))
				rows = append(rows, of...)
				return err
			},
		})
	})
	return q.Page(rows), err
}

func siteHistory(conn *sqlite.Conn, q *ledger.HistoryQuery, site int64, name string) (rows []ledger.HistoryRow, err error) {
	query, args := q.RevisionStatement(ledger.SiteID(site))
	err = sqlitex.Execute(conn, query, &sqlitex.ExecOptions{Args: args, ResultFunc: func(stmt *sqlite.Stmt) error {
		row := ledger.RevisionRow{
			Resource: stmt.ColumnText(0), UsageType: stmt.ColumnInt64(1), LocalRecordID: stmt.ColumnText(2), KeyTime: stmt.ColumnInt64(3),
			Project: stmt.ColumnText(4), Username: stmt.ColumnText(5), KeyID: stmt.ColumnInt64(6), AcceptedAt: stmt.ColumnInt64(7),
			Revision: stmt.ColumnInt64(8), Newest: stmt.ColumnInt64(9), Charge: stmt.ColumnInt64(10), GivesBack: stmt.ColumnInt64(11),
			LoadedAt: stmt.ColumnInt64(12),
		}
		rows = append(rows, row.Row(name))
		return nil
	}})
	if err != nil {
		return nil, err
	}
	query, args = q.FailedStatement(ledger.SiteID(site))
	err = sqlitex.Execute(conn, query, &sqlitex.ExecOptions{Args: args, ResultFunc: func(stmt *sqlite.Stmt) error {
		stored := ledger.FailedHistoryRow{
			Resource: stmt.ColumnText(0), UsageType: stmt.ColumnInt64(1), LocalRecordID: stmt.ColumnText(2), KeyTime: stmt.ColumnInt64(3),
			KeyID: stmt.ColumnInt64(4), AcceptedAt: stmt.ColumnInt64(5), FailedID: stmt.ColumnInt64(6), Failure: stmt.ColumnText(7),
			FailedAt: stmt.ColumnInt64(8), State: stmt.ColumnInt64(9), Record: columnBytes(stmt, 10),
		}
		if row, asked := stored.Row(q, name); asked {
			rows = append(rows, row)
		}
		return nil
	}})
	return rows, err
}
