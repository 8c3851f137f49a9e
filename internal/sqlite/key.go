package sqlite

import (
	"context"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage/internal/ledger"
)

// siteOf returns the number of a site by its name.
func siteOf(conn *sqlite.Conn, name string) (int64, error) {
	site, err := number(conn, `SELECT site_id FROM sites WHERE name = ?`, name)
	if err == nil && site == 0 {
		err = ledger.UnknownSite(name)
	}
	return site, err
}

// servedSite returns the number of a site that was not moved to another ledger.
func servedSite(conn *sqlite.Conn, name string) (int64, error) {
	site, err := siteOf(conn, name)
	if err != nil {
		return 0, err
	}
	moved, err := number(conn, `SELECT moved_at FROM sites WHERE site_id = ?`, site)
	if err == nil && moved != 0 {
		err = ledger.MovedSite(name)
	}
	return site, err
}

// Authority returns what a site's requests are checked against.
func (l *Ledger) Authority(ctx context.Context, siteName string) (*ledger.Authority, error) {
	a := &ledger.Authority{Name: siteName, Resources: map[string]bool{}}
	err := l.db.read(ctx, func(conn *sqlite.Conn) error {
		site, err := servedSite(conn, siteName)
		if err != nil {
			return err
		}
		a.Site = ledger.SiteID(site)
		if a.Policy, err = policyOf(conn); err != nil {
			return err
		}
		err = sqlitex.Execute(conn, `SELECT key_id, hash, revoked_at IS NOT NULL FROM api_keys WHERE site_id = ?`,
			&sqlitex.ExecOptions{
				Args: []any{site},
				ResultFunc: func(stmt *sqlite.Stmt) error {
					key := ledger.AuthorityKey{ID: stmt.ColumnInt64(0), Revoked: stmt.ColumnBool(2)}
					stmt.ColumnBytes(1, key.Hash[:])
					a.Keys = append(a.Keys, key)
					return nil
				},
			})
		if err != nil {
			return err
		}
		return sqlitex.Execute(conn, `SELECT name FROM resources WHERE site_id = ?`, &sqlitex.ExecOptions{
			Args: []any{site},
			ResultFunc: func(stmt *sqlite.Stmt) error {
				a.Resources[stmt.ColumnText(0)] = true
				return nil
			},
		})
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// CreateKey stores the hash of a key of the site.
func (l *Ledger) CreateKey(ctx context.Context, siteName string, hash ledger.KeyHash, label string, now time.Time) (key ledger.Key, err error) {
	err = l.db.write(ctx, "create key", func(conn *sqlite.Conn) error {
		site, err := servedSite(conn, siteName)
		if err != nil {
			return err
		}
		// One number in the whole ledger.
		id, err := number(conn, `UPDATE ledger SET last_key_id = last_key_id + 1 RETURNING last_key_id`)
		if err != nil {
			return err
		}
		key = ledger.Key{ID: id, Site: siteName, Label: label, CreatedAt: now}
		if err := addEvents(conn, site, ledger.KeyCreated(ctx, &key)); err != nil {
			return err
		}
		return sqlitex.Execute(conn, `INSERT INTO api_keys (site_id, key_id, hash, label, created_at) VALUES (?, ?, ?, ?, ?)`,
			&sqlitex.ExecOptions{Args: []any{site, key.ID, hash[:], label, ledger.Nanos(now)}})
	})
	return key, err
}

// Keys lists the keys of a site, or of all sites where siteName is "".
func (l *Ledger) Keys(ctx context.Context, siteName string) (keys []ledger.Key, err error) {
	err = l.db.read(ctx, func(conn *sqlite.Conn) error {
		if siteName != "" {
			if _, err := siteOf(conn, siteName); err != nil {
				return err
			}
		}
		return sqlitex.Execute(conn, `
			SELECT k.key_id, s.name, k.label, k.created_at, coalesce(k.revoked_at, 0)
			FROM api_keys k JOIN sites s ON s.site_id = k.site_id
			WHERE ?1 = '' OR s.name = ?1 ORDER BY s.name, k.key_id`,
			&sqlitex.ExecOptions{
				Args: []any{siteName},
				ResultFunc: func(stmt *sqlite.Stmt) error {
					keys = append(keys, ledger.Key{
						ID:        stmt.ColumnInt64(0),
						Site:      stmt.ColumnText(1),
						Label:     stmt.ColumnText(2),
						CreatedAt: ledger.TimeOrZero(stmt.ColumnInt64(3)),
						RevokedAt: ledger.TimeOrZero(stmt.ColumnInt64(4)),
					})
					return nil
				},
			})
	})
	return keys, err
}

// RevokeKey ends a key of the site.
func (l *Ledger) RevokeKey(ctx context.Context, siteName string, keyID int64, now time.Time) error {
	return l.db.write(ctx, "revoke key", func(conn *sqlite.Conn) error {
		site, err := siteOf(conn, siteName)
		if err != nil {
			return err
		}
		known, err := number(conn, `SELECT count(*) FROM api_keys WHERE site_id = ? AND key_id = ?`, site, keyID)
		if err == nil && known == 0 {
			err = ledger.UnknownKey(siteName, keyID)
		}
		if err != nil {
			return err
		}
		err = sqlitex.Execute(conn, `UPDATE api_keys SET revoked_at = ? WHERE site_id = ? AND key_id = ? AND revoked_at IS NULL`,
			&sqlitex.ExecOptions{Args: []any{ledger.Nanos(now), site, keyID}})
		if err != nil || conn.Changes() == 0 {
			return err
		}
		return addEvents(conn, site, ledger.KeyRevoked(ctx, keyID, now))
	})
}
