package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// Sites returns how each site stands, in the order of their names. Each is asked
// for by itself, where it lies.
func (l *Ledger) Sites(ctx context.Context) (sites []ledger.SiteState, err error) {
	served, err := l.servedSites(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range served {
		state := ledger.SiteState{Name: s.Name}
		err := l.db.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
			var last, oldest int64
			err := tx.QueryRow(ctx, `
				SELECT a.accepted, l.loaded, l.failed,
					coalesce((SELECT b.accepted_at FROM batches b WHERE b.site_id = $1 AND b.batch_id = a.batch_id), 0),
					coalesce((SELECT b.accepted_at FROM batches b WHERE b.site_id = $1 AND b.batch_id > l.batch_id AND NOT b.damaged
						ORDER BY b.batch_id LIMIT 1), 0)
				FROM acceptance a JOIN loading l ON l.site_id = a.site_id WHERE a.site_id = $1 AND l.site_id = $1`, s.ID).
				Scan(&state.Accepted, &state.Loaded, &state.Failed, &last, &oldest)
			if err != nil {
				return err
			}
			state.Queued = state.Accepted - state.Loaded - state.Failed
			state.LastAccepted, state.OldestQueued = ledger.TimeOrZero(last), ledger.TimeOrZero(oldest)
			state.Charges, err = rowsOf(ctx, tx, func(row pgx.CollectableRow) (c ledger.ResourceCharge, err error) {
				var used, givenBack int64
				err = row.Scan(&c.Resource, &used, &givenBack)
				c.Used, c.GivenBack = amieusage.ChargeOfMillionths(used), amieusage.ChargeOfMillionths(givenBack)
				return c, err
			}, `
				SELECT n.name, sum(b.used)::bigint, sum(b.given_back)::bigint
				FROM balances b JOIN resources n ON n.site_id = b.site_id AND n.resource_id = b.resource_id
				WHERE b.site_id = $1 AND n.site_id = $1 GROUP BY n.name ORDER BY n.name`, s.ID)
			return err
		})
		if err != nil {
			return nil, err
		}
		sites = append(sites, state)
	}
	return sites, nil
}

type servedSite struct {
	ID   int64
	Name string
}

func (l *Ledger) servedSites(ctx context.Context) (served []servedSite, err error) {
	err = l.db.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
		served, err = rowsOf(ctx, tx, pgx.RowToStructByPos[servedSite], `SELECT site_id, name FROM sites WHERE served ORDER BY name`)
		return err
	})
	return served, err
}

// A PoolState is how a pool of connections stands.
type PoolState struct {
	Max, Open, Busy int32
	Waited          int64 // how often a connection had to be waited for
}

// Pool returns how the pool of connections stands.
func (l *Ledger) Pool() PoolState {
	s := l.db.pool.Stat()
	return PoolState{Max: s.MaxConns(), Open: s.TotalConns(), Busy: s.AcquiredConns(), Waited: s.EmptyAcquireCount()}
}
