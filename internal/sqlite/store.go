package sqlite

import (
	"context"
	"errors"
	"sync"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage/internal/ledger"
)

// A Ledger is a ledger.Store in one SQLite file.
type Ledger struct {
	db     *database
	packer *ledger.Packer
	// loading is held by the one Load at a time, for which registries holds
	// what records are checked against, by site.
	loading    sync.Mutex
	registries map[ledger.SiteID]*siteRegistry
}

var _ ledger.Store = (*Ledger)(nil)

// OpenLedger opens or creates the ledger in the file. What is no ledger, is
// damaged, or was written by a newer program is refused with a
// *amieusage.Error.
func OpenLedger(ctx context.Context, path string) (*Ledger, error) {
	db, err := open(ctx, path, ledgerFile)
	if err != nil {
		return nil, err
	}
	packer, err := ledger.NewPacker()
	if err != nil {
		return nil, errors.Join(err, db.close())
	}
	return &Ledger{db: db, packer: packer, registries: map[ledger.SiteID]*siteRegistry{}}, nil
}

// Close waits for the transaction under way and closes the file.
func (l *Ledger) Close() error {
	return errors.Join(l.db.close(), l.packer.Close())
}

// Accept stores the batch and returns when it is on stable storage.
func (l *Ledger) Accept(ctx context.Context, b *ledger.Batch, maxQueued int64) error {
	packed, err := l.packer.Pack(b.Records)
	if err != nil {
		return err
	}
	return l.db.write(ctx, "accept", func(conn *sqlite.Conn) error {
		queued, err := number(conn, `SELECT queued FROM sites WHERE site_id = ?`, int64(b.Site))
		if err != nil {
			return err
		}
		if queued >= maxQueued {
			return ledger.ErrQueueFull
		}
		revoked, err := number(conn, `SELECT count(*) FROM api_keys WHERE site_id = ? AND key_id = ? AND revoked_at IS NOT NULL`, int64(b.Site), b.KeyID)
		if err != nil {
			return err
		}
		if revoked > 0 {
			return ledger.ErrRevoked
		}
		if err := checkNewest(ctx, conn, b); err != nil {
			return err
		}
		n := int64(len(b.Records))
		err = sqlitex.Execute(conn, `
			INSERT INTO batches (site_id, key_id, usage_type, accepted_at, record_count, records)
			VALUES (?, ?, ?, ?, ?, ?)`,
			&sqlitex.ExecOptions{Args: []any{
				int64(b.Site), b.KeyID, ledger.UsageTypeNumber(b.UsageType), ledger.Nanos(b.AcceptedAt), n, packed,
			}})
		if err != nil {
			return err
		}
		b.ID = conn.LastInsertRowID()
		err = sqlitex.Execute(conn, `
			UPDATE sites SET accepted = accepted + ?1, queued = queued + ?1, last_accepted_at = ?3 WHERE site_id = ?2`,
			&sqlitex.ExecOptions{Args: []any{n, int64(b.Site), ledger.Nanos(b.AcceptedAt)}})
		if err != nil {
			return err
		}
		return ledger.Awaited(ctx)
	})
}

// checkNewest refuses a batch that is to undo revisions which are not the newest any more, and
// leaves the event of one that may.
func checkNewest(ctx context.Context, conn *sqlite.Conn, b *ledger.Batch) error {
	for _, u := range b.Undoes {
		newest, err := number(conn, `
			SELECT r.revision FROM records r JOIN resources n ON n.resource_id = r.resource_id
			WHERE r.site_id = ?1 AND n.site_id = ?1 AND n.name = ?2 AND r.usage_type = ?3 AND r.local_record_id = ?4 AND r.key_time = ?5`,
			int64(b.Site), u.Identity.Resource, ledger.UsageTypeNumber(u.Identity.UsageType), u.Identity.LocalRecordID, ledger.Nanos(u.Identity.KeyTime))
		if err != nil {
			return err
		}
		if newest != int64(u.Revision) {
			return ledger.ErrNotNewest
		}
	}
	if len(b.Undoes) == 0 {
		return nil
	}
	return addEvents(conn, int64(b.Site), ledger.UndoneEvent(ctx, b))
}

// Counts returns where the site's records are.
func (l *Ledger) Counts(ctx context.Context, site ledger.SiteID) (c ledger.Counts, err error) {
	err = l.db.read(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, `SELECT accepted, loaded, failed, queued FROM sites WHERE site_id = ?`,
			&sqlitex.ExecOptions{
				Args: []any{int64(site)},
				ResultFunc: func(stmt *sqlite.Stmt) error {
					c = ledger.Counts{
						Accepted: stmt.ColumnInt64(0),
						Loaded:   stmt.ColumnInt64(1),
						Failed:   stmt.ColumnInt64(2),
						Queued:   stmt.ColumnInt64(3),
					}
					return nil
				},
			})
	})
	return c, err
}
