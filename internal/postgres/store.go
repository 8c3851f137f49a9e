package postgres

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/amieusage/amieusage/internal/ledger"
)

// A Ledger is a ledger.Store in a database of PostgreSQL, as one replica sees
// it.
type Ledger struct {
	db     *database
	packer *ledger.Packer
	log    *slog.Logger
	listen *pgx.ConnConfig // of the connection that listens
	turns  turns
	// names are the numbers of sites that were met; sites do not go away.
	names sync.Map
	// registries are those of sites, each as it is in the database: whoever
	// loads a site takes its registry out, and puts it back when what it has
	// registered is committed.
	registries sync.Map
}

// Open opens the ledger in the database, and lays its schema where it is
// missing. What cannot hold a ledger, or holds one of a newer program, is
// refused with a *amieusage.Error.
func Open(ctx context.Context, url string, o Options) (*Ledger, error) {
	listenURL := cmp.Or(o.ListenURL, url)
	// As a pool's, whose settings are no server's.
	listen, err := pgxpool.ParseConfig(normal(listenURL))
	if err != nil || !prepare(listen.ConnConfig) {
		return nil, urlError(listenURL, err)
	}
	db, err := connect(ctx, url, o)
	if err != nil {
		return nil, err
	}
	if err := db.migrate(ctx); err != nil {
		db.pool.Close()
		return nil, err
	}
	packer, err := ledger.NewPacker()
	if err != nil {
		db.pool.Close()
		return nil, err
	}
	l := &Ledger{db: db, packer: packer, log: o.Logger, listen: listen.ConnConfig}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	return l, nil
}

// Close waits for the transactions under way and closes the connections.
func (l *Ledger) Close() error {
	l.db.pool.Close()
	return l.packer.Close()
}

// Accept stores the batch and returns when it is committed.
func (l *Ledger) Accept(ctx context.Context, b *ledger.Batch, maxQueued int64) error {
	packed, err := l.packer.Pack(b.Records)
	if err != nil {
		return err
	}
	n := int64(len(b.Records))
	var batch, loaded int64
	request := ctx
	err = l.db.write(ctx, "accept", func(ctx context.Context, tx pgx.Tx) error {
		// The row is held until the commit: batches of a site are numbered in
		// order of their commits, without a gap.
		err := tx.QueryRow(ctx, `
			UPDATE acceptance SET batch_id = batch_id + 1, accepted = accepted + $2
			WHERE site_id = $1 AND accepted - (SELECT loaded + failed FROM loading WHERE site_id = $1) < $3
			RETURNING batch_id`, int64(b.Site), n, maxQueued).Scan(&batch)
		if errors.Is(err, pgx.ErrNoRows) {
			return ledger.ErrQueueFull
		}
		if err != nil {
			return err
		}
		b.ID = batch
		if err := checkNewest(ctx, tx, b); err != nil {
			return err
		}
		stored := &pgx.Batch{}
		stored.Queue(`
			INSERT INTO batches (site_id, batch_id, key_id, usage_type, accepted_at, record_count, records)
			VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			int64(b.Site), batch, b.KeyID, ledger.UsageTypeNumber(b.UsageType), ledger.Nanos(b.AcceptedAt), n, packed)
		var revoked bool
		stored.Queue(`SELECT EXISTS (SELECT 1 FROM api_keys WHERE site_id = $1 AND key_id = $2 AND revoked_at IS NOT NULL)`,
			int64(b.Site), b.KeyID).QueryRow(func(row pgx.Row) error { return row.Scan(&revoked) })
		stored.Queue(`SELECT batch_id FROM loading WHERE site_id = $1`, int64(b.Site)).QueryRow(func(row pgx.Row) error {
			return row.Scan(&loaded)
		})
		if err := tx.SendBatch(ctx, stored).Close(); err != nil {
			return err
		}
		if revoked {
			return ledger.ErrRevoked
		}
		return ledger.Awaited(request)
	})
	if !errors.Is(err, ledger.ErrQueueFull) {
		l.turns.add(b.Site) // also where it is not known whether it was committed
	}
	if err == nil && loaded == batch-1 {
		// Nothing was queued: whoever is idle may load. Commits that notify wait
		// for each other, all sites', so that it is none that syncs the disk. If
		// nobody is listening, the replica that accepted loads it.
		if err := l.notify(ctx, strconv.FormatInt(int64(b.Site), 10)); err != nil {
			l.log.Debug("other replicas were not told of a batch", "site", b.Site, "batch", batch, "error", err)
		}
	}
	return err
}

// checkNewest refuses a batch that is to undo revisions which are not the newest any more, and
// leaves the event of one that may. The caller holds the site's acceptance, and nothing is
// queued.
func checkNewest(ctx context.Context, tx pgx.Tx, b *ledger.Batch) error {
	if len(b.Undoes) == 0 {
		return nil
	}
	asked, newest := &pgx.Batch{}, true
	for _, u := range b.Undoes {
		asked.Queue(`
			SELECT count(*) FROM records r JOIN resources n ON n.site_id = r.site_id AND n.resource_id = r.resource_id
			WHERE r.site_id = $1 AND n.site_id = $1 AND n.name = $2 AND r.usage_type = $3 AND r.local_record_id = $4 AND r.key_time = $5
				AND r.revision = $6`,
			int64(b.Site), u.Identity.Resource, ledger.UsageTypeNumber(u.Identity.UsageType), u.Identity.LocalRecordID,
			ledger.Nanos(u.Identity.KeyTime), u.Revision).QueryRow(func(row pgx.Row) error {
			var there int
			err := row.Scan(&there)
			newest = newest && there == 1
			return err
		})
	}
	if err := tx.SendBatch(ctx, asked).Close(); err != nil {
		return err
	}
	if !newest {
		return ledger.ErrNotNewest
	}
	return addEvents(ctx, tx, int64(b.Site), ledger.UndoneEvent(ctx, b))
}

// Counts returns where the site's records are.
func (l *Ledger) Counts(ctx context.Context, site ledger.SiteID) (c ledger.Counts, err error) {
	err = l.db.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
		return tx.QueryRow(ctx, `
			SELECT a.accepted, l.loaded, l.failed, a.accepted - l.loaded - l.failed
			FROM acceptance a JOIN loading l ON l.site_id = a.site_id WHERE a.site_id = $1`,
			int64(site)).Scan(&c.Accepted, &c.Loaded, &c.Failed, &c.Queued)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	return c, err
}
