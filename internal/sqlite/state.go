package sqlite

import (
	"context"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// Sites returns how each site stands, in the order of their names.
func (l *Ledger) Sites(ctx context.Context) (sites []ledger.SiteState, err error) {
	err = l.db.read(ctx, func(conn *sqlite.Conn) error {
		at := map[int64]int{}
		err := sqlitex.Execute(conn, `
			SELECT s.site_id, s.name, s.accepted, s.loaded, s.failed, s.queued, s.last_accepted_at,
				coalesce((SELECT b.accepted_at FROM batches b WHERE b.site_id = s.site_id AND b.loaded_at IS NULL AND b.damaged = 0
					ORDER BY b.batch_id LIMIT 1), 0)
			FROM sites s WHERE s.moved_at = 0 ORDER BY s.name`,
			&sqlitex.ExecOptions{ResultFunc: func(stmt *sqlite.Stmt) error {
				at[stmt.ColumnInt64(0)] = len(sites)
				sites = append(sites, ledger.SiteState{
					Name: stmt.ColumnText(1),
					Counts: ledger.Counts{
						Accepted: stmt.ColumnInt64(2), Loaded: stmt.ColumnInt64(3), Failed: stmt.ColumnInt64(4), Queued: stmt.ColumnInt64(5),
					},
					LastAccepted: ledger.TimeOrZero(stmt.ColumnInt64(6)),
					OldestQueued: ledger.TimeOrZero(stmt.ColumnInt64(7)),
				})
				return nil
			}})
		if err != nil {
			return err
		}
		return sqlitex.Execute(conn, `
			SELECT b.site_id, n.name, sum(b.used), sum(b.given_back)
			FROM balances b JOIN resources n ON n.resource_id = b.resource_id
			GROUP BY b.site_id, b.resource_id ORDER BY n.name`,
			&sqlitex.ExecOptions{ResultFunc: func(stmt *sqlite.Stmt) error {
				i, known := at[stmt.ColumnInt64(0)]
				if !known {
					return nil // of a damaged ledger: admin verify names it
				}
				s := &sites[i]
				s.Charges = append(s.Charges, ledger.ResourceCharge{
					Resource:  stmt.ColumnText(1),
					Used:      amieusage.ChargeOfMillionths(stmt.ColumnInt64(2)),
					GivenBack: amieusage.ChargeOfMillionths(stmt.ColumnInt64(3)),
				})
				return nil
			}})
	})
	return sites, err
}
