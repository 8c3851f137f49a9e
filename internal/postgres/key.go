package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// siteOf returns the number of a site by its name.
func (l *Ledger) siteOf(ctx context.Context, tx pgx.Tx, name string) (int64, error) {
	if site, known := l.names.Load(name); known {
		return site.(int64), nil
	}
	if !isText(name) {
		return 0, ledger.UnknownSite(name)
	}
	var site int64
	var served bool
	err := tx.QueryRow(ctx, `SELECT site_id, served FROM sites WHERE name = $1`, name).Scan(&site, &served)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return 0, ledger.UnknownSite(name)
	case err != nil:
		return 0, err
	case !served:
		return 0, beingCopied(name)
	}
	l.names.Store(name, site)
	return site, nil
}

// beingCopied is the error for a site that is not served yet.
func beingCopied(name string) error {
	return &amieusage.Error{Code: amieusage.CodeUnavailable, Message: "site " + name + " is being copied into this ledger",
		Hint: "finish it: amieusage admin copy"}
}

// Authority returns what a site's requests are checked against.
func (l *Ledger) Authority(ctx context.Context, siteName string) (*ledger.Authority, error) {
	a := &ledger.Authority{Name: siteName, Resources: map[string]bool{}}
	err := l.db.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
		site, err := l.siteOf(ctx, tx, siteName)
		if err != nil {
			return err
		}
		a.Site = ledger.SiteID(site)
		b := &pgx.Batch{}
		b.Queue(`SELECT key_id, hash, revoked_at IS NOT NULL FROM api_keys WHERE site_id = $1`, site).Query(func(rows pgx.Rows) error {
			var key ledger.AuthorityKey
			var hash []byte
			_, err := pgx.ForEachRow(rows, []any{&key.ID, &hash, &key.Revoked}, func() error {
				copy(key.Hash[:], hash)
				a.Keys = append(a.Keys, key)
				return nil
			})
			return err
		})
		b.Queue(policyQuery).QueryRow(func(row pgx.Row) error { return row.Scan(&a.Policy) })
		b.Queue(`SELECT name FROM resources WHERE site_id = $1`, site).Query(func(rows pgx.Rows) error {
			var name string
			_, err := pgx.ForEachRow(rows, []any{&name}, func() error {
				a.Resources[name] = true
				return nil
			})
			return err
		})
		return tx.SendBatch(ctx, b).Close()
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// CreateKey stores the hash of a key of the site.
func (l *Ledger) CreateKey(ctx context.Context, siteName string, hash ledger.KeyHash, label string, now time.Time) (key ledger.Key, err error) {
	for range importTries {
		err = l.db.write(ctx, "create key", func(ctx context.Context, tx pgx.Tx) error {
			site, err := l.siteOf(ctx, tx, siteName)
			if err != nil {
				return err
			}
			key = ledger.Key{Site: siteName, Label: label, CreatedAt: now}
			// One number in the whole ledger.
			if err := tx.QueryRow(ctx, `UPDATE ledger SET last_key_id = last_key_id + 1 RETURNING last_key_id`).Scan(&key.ID); err != nil {
				return err
			}
			_, err = tx.Exec(ctx, `INSERT INTO api_keys (site_id, key_id, hash, label, created_at) VALUES ($1, $2, $3, $4, $5)`,
				site, key.ID, hash[:], label, ledger.Nanos(now))
			if err != nil {
				return err
			}
			return addEvents(ctx, tx, site, ledger.KeyCreated(ctx, &key))
		})
		if !isUniqueViolation(err) {
			break
		}
	}
	return key, err
}

// Keys lists the keys of a site, or of all sites where siteName is "".
func (l *Ledger) Keys(ctx context.Context, siteName string) (keys []ledger.Key, err error) {
	err = l.db.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if siteName != "" {
			if _, err := l.siteOf(ctx, tx, siteName); err != nil {
				return err
			}
		}
		keys, err = rowsOf(ctx, tx, func(row pgx.CollectableRow) (k ledger.Key, err error) {
			var createdAt, revokedAt int64
			err = row.Scan(&k.ID, &k.Site, &k.Label, &createdAt, &revokedAt)
			k.CreatedAt, k.RevokedAt = ledger.TimeOrZero(createdAt), ledger.TimeOrZero(revokedAt)
			return k, err
		}, `
			SELECT k.key_id, s.name, k.label, k.created_at, coalesce(k.revoked_at, 0)
			FROM api_keys k JOIN sites s ON s.site_id = k.site_id
			WHERE $1 = '' OR s.name = $1 ORDER BY s.name, k.key_id`, siteName)
		return err
	})
	return keys, err
}

// RevokeKey ends a key of the site.
func (l *Ledger) RevokeKey(ctx context.Context, siteName string, keyID int64, now time.Time) error {
	return l.db.write(ctx, "revoke key", func(ctx context.Context, tx pgx.Tx) error {
		site, err := l.siteOf(ctx, tx, siteName)
		if err != nil {
			return err
		}
		var known bool
		err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM api_keys WHERE site_id = $1 AND key_id = $2)`, site, keyID).Scan(&known)
		if err == nil && !known {
			err = ledger.UnknownKey(siteName, keyID)
		}
		if err != nil {
			return err
		}
		revoked, err := tx.Exec(ctx, `UPDATE api_keys SET revoked_at = $3 WHERE site_id = $1 AND key_id = $2 AND revoked_at IS NULL`,
			site, keyID, ledger.Nanos(now))
		if err != nil || revoked.RowsAffected() == 0 {
			return err
		}
		return addEvents(ctx, tx, site, ledger.KeyRevoked(ctx, keyID, now))
	})
}
