package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// SweepQuery is the one statement of loading that crosses sites.
const SweepQuery = sweepQuery

// OpenTraced opens a ledger whose statements a tracer sees, all but those of
// opening.
func OpenTraced(ctx context.Context, url string, tracer pgx.QueryTracer) (*Ledger, error) {
	l, err := Open(ctx, url, Options{MaxConns: 6})
	if err != nil {
		return nil, err
	}
	config := l.db.pool.Config()
	config.ConnConfig.Tracer = tracer
	l.db.pool.Close()
	l.db.pool, err = pgxpool.NewWithConfig(ctx, config)
	return l, err
}
