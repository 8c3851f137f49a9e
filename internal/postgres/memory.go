package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/amieusage/amieusage/internal/ledger"
)

const policyQuery = `SELECT policy FROM ledger`

// Policy returns the ledger's policy.
func (l *Ledger) Policy(ctx context.Context) (policy ledger.Policy, err error) {
	err = l.db.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
		return tx.QueryRow(ctx, policyQuery).Scan(&policy)
	})
	return policy, err
}

// SetPolicy changes the ledger's policy, or only chooses the first one.
func (l *Ledger) SetPolicy(ctx context.Context, policy ledger.Policy, first bool) (before ledger.Policy, err error) {
	err = l.db.write(ctx, "policy", func(ctx context.Context, tx pgx.Tx) error {
		// Of two that choose at the same time, the second sees what the first chose.
		err := tx.QueryRow(ctx, policyQuery+` FOR UPDATE`).Scan(&before)
		if err != nil || before == policy || first && before != "" {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE ledger SET policy = $1`, string(policy)); err != nil {
			return err
		}
		return addEvents(ctx, tx, 0, ledger.PolicyEvent(ctx, before, policy))
	})
	return before, err
}

// addEvents adds events of a site; 0: of none.
func addEvents(ctx context.Context, tx pgx.Tx, site int64, events ...ledger.Event) error {
	if len(events) == 0 {
		return nil
	}
	b := &pgx.Batch{}
	for _, e := range events {
		b.Queue(`
			INSERT INTO events (site_id, event_id, at, who, origin, action, what, key_id, project)
			VALUES ($1, nextval('event_ids'), $2, $3, $4, $5, $6, $7, $8)`,
			site, ledger.Nanos(e.At), e.Who, e.From, e.Action, e.What, e.KeyID, e.Project)
	}
	return tx.SendBatch(ctx, b).Close()
}

// Events returns what was done, in order of time.
func (l *Ledger) Events(ctx context.Context, q ledger.HistoryQuery) (events []ledger.Event, err error) {
	query, args := q.EventStatement()
	err = l.db.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if q.Site != "" {
			if _, err := l.siteOf(ctx, tx, q.Site); err != nil {
				return err
			}
		}
		if !isText(q.Project) {
			return nil
		}
		events, err = rowsOf(ctx, tx, func(row pgx.CollectableRow) (e ledger.Event, err error) {
			var at int64
			err = row.Scan(&e.ID, &e.Site, &at, &e.Who, &e.From, &e.Action, &e.What, &e.KeyID, &e.Project)
			e.At = ledger.TimeOrZero(at)
			return e, err
		}, query, args...)
		return err
	})
	return events, err
}

// History returns revisions and failed records, in order of acceptance. Each site is
// asked for by itself, where it lies.
func (l *Ledger) History(ctx context.Context, q ledger.HistoryQuery) (rows []ledger.HistoryRow, err error) {
	served, err := l.servedSites(ctx)
	if err != nil {
		return nil, err
	}
	known := q.Site == ""
	for _, s := range served {
		if q.Site != "" && q.Site != s.Name {
			continue
		}
		known = true
		if !isText(q.LocalRecordID) || !isText(q.Project) {
			break
		}
		query, args := q.RevisionStatement(ledger.SiteID(s.ID))
		failedQuery, failedArgs := q.FailedStatement(ledger.SiteID(s.ID))
		err := l.db.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
			revisions, err := rowsOf(ctx, tx, pgx.RowToStructByPos[ledger.RevisionRow], query, args...)
			if err != nil {
				return err
			}
			failed, err := rowsOf(ctx, tx, pgx.RowToStructByPos[ledger.FailedHistoryRow], failedQuery, failedArgs...)
			if err != nil {
				return err
			}
			for i := range revisions {
				rows = append(rows, revisions[i].Row(s.Name))
			}
			for i := range failed {
				if row, asked := failed[i].Row(&q, s.Name); asked {
					rows = append(rows, row)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if !known {
		return nil, ledger.UnknownSite(q.Site)
	}
	return q.Page(rows), nil
}
