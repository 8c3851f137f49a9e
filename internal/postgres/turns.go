package postgres

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/amieusage/amieusage/internal/ledger"
)

// sweepInterval is how often a replica that has enough to do looks for sites
// whose batches nobody has told it of.
const sweepInterval = 2 * time.Second

// turns are the sites that may have something queued, in the order in which
// this replica will load them.
type turns struct {
	mu     sync.Mutex
	sites  []ledger.SiteID
	inHand int // turns that were taken and are not over
	swept  time.Time
	freed  time.Time // when claims were last looked for that nobody will use
}

// add gives a site a turn, the last one, where it has none.
func (t *turns) add(site ledger.SiteID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !slices.Contains(t.sites, site) {
		t.sites = append(t.sites, site)
	}
}

// next takes the first turn. Where there is none, busy says whether a site is
// being loaded, which may have more.
func (t *turns) next() (site ledger.SiteID, ok, busy bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.sites) == 0 {
		return 0, false, t.inHand > 0
	}
	site = t.sites[0]
	t.sites = t.sites[1:]
	t.inHand++
	return site, true, false
}

// over ends a turn; again gives the site another one.
func (t *turns) over(site ledger.SiteID, again bool) {
	if again {
		t.add(site)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inHand--
}

// count returns the number of turns that wait.
func (t *turns) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.sites)
}

// due reports whether it is time to look at all sites, and if so starts the
// next interval.
func (t *turns) due(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if (len(t.sites) > 0 || t.inHand > 0) && now.Sub(t.swept).Abs() < sweepInterval {
		return false
	}
	t.swept = now
	return true
}

// sweepQuery crosses sites.
const sweepQuery = `
	SELECT l.site_id FROM loading l JOIN acceptance a ON a.site_id = l.site_id
	WHERE a.batch_id > l.batch_id ORDER BY l.last_loaded_at, l.site_id`

// sweep gives all sites a turn that have something queued: those first whose
// last loading was longest ago.
func (l *Ledger) sweep(ctx context.Context) error {
	return l.db.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
		sites, err := rowsOf(ctx, tx, pgx.RowTo[int64], sweepQuery)
		for _, site := range sites {
			l.turns.add(ledger.SiteID(site))
		}
		return err
	})
}

// free ends the transactions of replicas that have stopped in the middle of what
// they were sending, once in a lease: a server that waits for the rest heeds none
// of its time-outs.
func (l *Ledger) free(ctx context.Context, now time.Time) error {
	l.turns.mu.Lock()
	due := now.Sub(l.turns.freed).Abs() >= l.db.lease
	if due {
		l.turns.freed = now
	}
	l.turns.mu.Unlock()
	if !due {
		return nil
	}
	return l.db.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
		// Whoever holds a claim has a lock on its table.
		ended, err := tx.Exec(ctx, `
			SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE datname = current_database() AND usename = current_user AND state = 'active' AND wait_event = 'ClientRead'
				AND clock_timestamp() - query_start > $1 * interval '1 millisecond'
				AND pid IN (SELECT pid FROM pg_locks WHERE relation = 'loading'::regclass)`, l.db.lease.Milliseconds())
		if n := ended.RowsAffected(); n > 0 {
			l.log.Warn("ended the transactions of replicas that had stopped", "transactions", n)
		}
		return err
	})
}
