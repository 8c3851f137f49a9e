package postgres

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// A CopyTarget is a ledger that sites are copied into; others may use it at
// the same time.
type CopyTarget struct{ db *database }

var _ ledger.CopyTarget = (*CopyTarget)(nil)

// CopyTarget returns the ledger as one that sites are copied into.
func (l *Ledger) CopyTarget() *CopyTarget { return &CopyTarget{l.db} }

// Site returns a site with its counters, or nil.
func (c *CopyTarget) Site(ctx context.Context, name string) (*ledger.CopySite, error) {
	s := &ledger.CopySite{Name: name}
	err := c.db.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `SELECT site_id, served FROM sites WHERE name = $1`, name).Scan(&s.ID, &s.Served)
		if errors.Is(err, pgx.ErrNoRows) {
			s = nil
			return nil
		}
		if err != nil {
			return err
		}
		err = tx.QueryRow(ctx, `
			SELECT a.accepted, l.loaded, l.failed, a.accepted - l.loaded - l.failed, a.batch_id, l.gross_charge, l.batch_id,
				l.last_loaded_at, l.registry_version, l.name_id, l.record_id, l.archived_revisions
			FROM acceptance a JOIN loading l ON l.site_id = a.site_id WHERE a.site_id = $1`, int64(s.ID)).
			Scan(&s.Accepted, &s.Loaded, &s.Failed, &s.Queued, &s.Batches, &s.GrossCharge, &s.LoadedBatch,
				&s.LastLoadedAt, &s.RegistryVersion, &s.LastName, &s.LastRecord, &s.ArchivedRevisions)
		s.Changes = s.RegistryVersion // see unserved
		return err
	})
	return s, c.failure(err)
}

// Create adds a site that is not served.
func (c *CopyTarget) Create(ctx context.Context, name string) (site ledger.SiteID, err error) {
	for range importTries {
		err = c.db.write(ctx, "copy site", func(ctx context.Context, tx pgx.Tx) error {
			id, err := addSite(ctx, tx, name, false)
			site = ledger.SiteID(id)
			return err
		})
		if !isUniqueViolation(err) {
			return site, c.failure(err)
		}
	}
	return 0, errOtherCopy
}

// errOtherCopy means that two programs copy into the same site.
var errOtherCopy = &amieusage.Error{Code: amieusage.CodeConflict, Message: "another program copies into the same site",
	Hint: "wait until it has ended, and run this one again"}

// copyPage is how many rows are read or removed at once; of batches, which are
// large, far fewer.
func copyPage(t *ledger.CopyTable) int {
	if t.Name == "batches" {
		return 100
	}
	return 10_000
}

func pageQuery(t *ledger.CopyTable) string {
	columns := columnNames(t)
	return "SELECT " + strings.Join(columns, ", ") + " FROM " + t.Name + behind(t) + " ORDER BY " +
		strings.Join(columns[:t.Key], ", ") + fmt.Sprintf(" LIMIT %d", copyPage(t))
}

// errEnough ends a page that nobody reads on.
var errEnough = errors.New("enough")

// Rows gives the rows of a table of a site behind a key, page by page.
func (c *CopyTarget) Rows(ctx context.Context, site ledger.SiteID, t *ledger.CopyTable, after []int64) iter.Seq2[[]any, error] {
	return func(yield func([]any, error) bool) {
		query := pageQuery(t)
		key := slices.Clone(after)
		row := newCopyRow(t)
		for full := true; full; {
			n := 0
			err := c.db.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
				if err := byIndex(ctx, tx); err != nil {
					return err
				}
				rows, err := tx.Query(ctx, query, keyArgs(site, key)...)
				if err != nil {
					return err
				}
				_, err = pgx.ForEachRow(rows, row.into, func() error {
					n++
					for i := range key {
						key[i] = *row.into[i].(*int64)
					}
					if !yield(row.read(t), nil) {
						return errEnough
					}
					return nil
				})
				return err
			})
			if errors.Is(err, errEnough) {
				return
			}
			if err != nil {
				yield(nil, c.failure(err))
				return
			}
			full = n == copyPage(t)
		}
	}
}

// byIndex makes the statements of a transaction read by the indexes of the keys.
// The server would rather sort the table for each page as long as it has no
// statistics of it.
func byIndex(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `SET LOCAL enable_sort = off; SET LOCAL enable_bitmapscan = off`)
	return err
}

// A copyRow is what the values of a row are read into.
type copyRow struct{ into, values []any }

func newCopyRow(t *ledger.CopyTable) *copyRow {
	r := &copyRow{make([]any, len(t.Columns)), make([]any, len(t.Columns))}
	for i, c := range t.Columns {
		switch {
		case c.Kind == ledger.CopyBytes:
			r.into[i] = new([]byte)
		case c.Kind == ledger.CopyBool:
			r.into[i] = new(bool)
		case c.Kind == ledger.CopyText && c.Null:
			r.into[i] = new(pgtype.Text)
		case c.Kind == ledger.CopyText:
			r.into[i] = new(string)
		case c.Null:
			r.into[i] = new(pgtype.Int8)
		default:
			r.into[i] = new(int64)
		}
	}
	return r
}

// read returns the values that were read.
func (r *copyRow) read(t *ledger.CopyTable) []any {
	for i := range t.Columns {
		switch v := r.into[i].(type) {
		case *int64:
			r.values[i] = *v
		case *bool:
			r.values[i] = *v
		case *string:
			r.values[i] = *v
		case *[]byte:
			r.values[i] = *v
		case *pgtype.Int8:
			if r.values[i] = nil; v.Valid {
				r.values[i] = v.Int64
			}
		case *pgtype.Text:
			if r.values[i] = nil; v.Valid {
				r.values[i] = v.String
			}
		}
	}
	return r.values
}

func columnNames(t *ledger.CopyTable) []string {
	names := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		names[i] = c.Name
	}
	return names
}

// behind is the condition on the rows of a site ($1) behind a key ($2 and on).
func behind(t *ledger.CopyTable) string {
	parameters := make([]string, t.Key)
	for i := range parameters {
		parameters[i] = fmt.Sprintf("$%d::bigint", i+2)
	}
	return " WHERE site_id = $1 AND (" + strings.Join(columnNames(t)[:t.Key], ", ") + ") > (" +
		strings.Join(parameters, ", ") + ")"
}

func keyArgs(site ledger.SiteID, key []int64) []any {
	args := []any{int64(site)}
	for _, k := range key {
		args = append(args, k)
	}
	return args
}

// LastKey returns the largest key of a table of a site.
func (c *CopyTarget) LastKey(ctx context.Context, site ledger.SiteID, t *ledger.CopyTable) (key []int64, err error) {
	err = c.db.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
		key, err = keyFromEnd(ctx, tx, site, t, 0)
		return err
	})
	return key, c.failure(err)
}

// keyFromEnd returns the key of a table of a site that so many keys are larger
// than, or that before all others.
func keyFromEnd(ctx context.Context, tx pgx.Tx, site ledger.SiteID, t *ledger.CopyTable, larger int) ([]int64, error) {
	names := columnNames(t)[:t.Key]
	query := "SELECT " + strings.Join(names, ", ") + " FROM " + t.Name + " WHERE site_id = $1 ORDER BY " +
		strings.Join(names, " DESC, ") + " DESC LIMIT 1 OFFSET $2"
	key := t.First()
	into := make([]any, len(key))
	for i := range key {
		into[i] = &key[i]
	}
	err := tx.QueryRow(ctx, query, int64(site), larger).Scan(into...)
	if errors.Is(err, pgx.ErrNoRows) {
		return t.First(), nil
	}
	return key, err
}

// unserved runs f in one transaction in which nobody else copies into the
// site, and nobody serves it; and counts the change, in place of those of a
// registry that nobody reads yet. What names the transaction, as in write.
func (c *CopyTarget) unserved(ctx context.Context, what string, site ledger.SiteID, f func(ctx context.Context, tx pgx.Tx) error) error {
	return c.failure(c.db.write(ctx, what, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := holdUnserved(ctx, tx, site); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE loading SET registry_version = registry_version + 1 WHERE site_id = $1`, int64(site)); err != nil {
			return err
		}
		if err := byIndex(ctx, tx); err != nil {
			return err
		}
		return f(ctx, tx)
	}))
}

// holdUnserved holds a site until the end of the transaction, and returns how
// often it was changed.
func holdUnserved(ctx context.Context, tx pgx.Tx, site ledger.SiteID) (changes int64, err error) {
	err = tx.QueryRow(ctx, `SELECT registry_version FROM loading WHERE site_id = $1 FOR UPDATE`, int64(site)).Scan(&changes)
	if err != nil {
		return 0, err
	}
	var name string
	var served bool
	err = tx.QueryRow(ctx, `SELECT name, served FROM sites WHERE site_id = $1`, int64(site)).Scan(&name, &served)
	if err == nil && served {
		err = ledger.ServedSite(name)
	}
	return changes, err
}

// Append adds rows to a table of a site.
func (c *CopyTarget) Append(ctx context.Context, site ledger.SiteID, t *ledger.CopyTable, after []int64, rows [][]any) error {
	return c.unserved(ctx, "copy rows", site, func(ctx context.Context, tx pgx.Tx) error {
		last, err := keyFromEnd(ctx, tx, site, t, 0)
		if err != nil {
			return err
		}
		if !slices.Equal(last, after) {
			return errOtherCopy
		}
		row := append(make([]any, 0, 1+len(t.Columns)), int64(site))
		_, err = tx.CopyFrom(ctx, pgx.Identifier{t.Name}, append([]string{"site_id"}, columnNames(t)...),
			pgx.CopyFromSlice(len(rows), func(i int) ([]any, error) { return append(row[:1], rows[i]...), nil }))
		return err
	})
}

// Remove removes all rows of a site, from the ends of the tables.
func (c *CopyTarget) Remove(ctx context.Context, site ledger.SiteID) error {
	for _, t := range ledger.CopyTables {
		for key := []int64(nil); !slices.Equal(key, t.First()); {
			err := c.unserved(ctx, "remove copy", site, func(ctx context.Context, tx pgx.Tx) (err error) {
				if key, err = keyFromEnd(ctx, tx, site, t, copyPage(t)); err != nil {
					return err
				}
				_, err = tx.Exec(ctx, "DELETE FROM "+t.Name+behind(t), keyArgs(site, key)...)
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// failedIDsApart is how far behind the largest copied number the next one for a
// failed record is at least: others that are being given numbers in the same
// moment get none that was copied.
const failedIDsApart = 100_000

// Serve gives sites their counters, and lets them be served.
func (c *CopyTarget) Serve(ctx context.Context, sites []*ledger.CopySite) error {
	if len(sites) == 0 {
		return nil
	}
	// The service's first requests are planned with statistics, too. Where
	// another program's lock is in the way, autovacuum sees to them later.
	_ = c.db.long(ctx, "BEGIN", func(ctx context.Context, tx pgx.Tx) error {
		names := make([]string, len(ledger.CopyTables))
		for i, t := range ledger.CopyTables {
			names[i] = t.Name
		}
		_, err := tx.Exec(ctx, "ANALYZE "+strings.Join(names, ", "))
		return err
	})
	return c.failure(c.db.write(ctx, "serve copy", func(ctx context.Context, tx pgx.Tx) error {
		for _, s := range sites {
			changes, err := holdUnserved(ctx, tx, s.ID)
			if err == nil && changes != s.Changes {
				err = errOtherCopy
			}
			if err != nil {
				return err
			}
			var failed, event, key int64
			err = tx.QueryRow(ctx, `
				SELECT (SELECT coalesce(max(failed_id), 0) FROM failed_records WHERE site_id = $1),
					(SELECT coalesce(max(event_id), 0) FROM events WHERE site_id = $1),
					(SELECT coalesce(max(key_id), 0) FROM api_keys WHERE site_id = $1)`, int64(s.ID)).Scan(&failed, &event, &key)
			if err != nil {
				return err
			}
			b := &pgx.Batch{}
			b.Queue(`SELECT setval('failed_ids', $1) FROM failed_ids WHERE last_value <= $2`, failed+failedIDsApart, failed)
			b.Queue(`SELECT setval('event_ids', $1) FROM event_ids WHERE last_value <= $2`, event+failedIDsApart, event)
			b.Queue(`UPDATE ledger SET last_key_id = greatest(last_key_id, $1)`, key)
			b.Queue(`UPDATE acceptance SET batch_id = $2, accepted = $3 WHERE site_id = $1`, int64(s.ID), s.Batches, s.Accepted)
			b.Queue(`
				UPDATE loading SET batch_id = $2, loaded = $3, failed = $4, gross_charge = $5, last_loaded_at = $6,
					registry_version = $7, name_id = $8, record_id = $9, archived_revisions = $10
				WHERE site_id = $1`,
				int64(s.ID), s.LoadedBatch, s.Loaded, s.Failed, s.GrossCharge, s.LastLoadedAt,
				s.RegistryVersion, s.LastName, s.LastRecord, s.ArchivedRevisions)
			b.Queue(`UPDATE sites SET served = true WHERE site_id = $1`, int64(s.ID))
			if err := tx.SendBatch(ctx, b).Close(); err != nil {
				return err
			}
			// Of no site: what is copied stays equal to what it was copied from.
			if err := addEvents(ctx, tx, 0, ledger.CopiedEvent(ctx, s.Name)); err != nil {
				return err
			}
		}
		return nil
	}))
}

// failure names what only a copy meets.
func (c *CopyTarget) failure(err error) error {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if _, named := errors.AsType[*amieusage.Error](err); !ok || named {
		return err
	}
	switch pg.Code {
	case "23505": // unique_violation
		return &amieusage.Error{Code: amieusage.CodeConflict, Message: "an earlier copy into " + c.db.name + " was made from something else", Err: err,
			Hint: "the ledger has changed since, or is another one: begin anew with --restart"}
	case "42501": // insufficient_privilege
		return &amieusage.Error{Code: amieusage.CodeForbidden, Message: "the user may not write into " + c.db.name, Err: err,
			Hint: "connect as the owner of the ledger's tables"}
	case "22021": // character_not_in_repertoire
		return &amieusage.Error{Code: amieusage.CodeInvalid, Message: "the ledger holds a text that " + c.db.name + " cannot hold", Err: err,
			Hint: "a text must be valid UTF-8 without zero bytes: look closer with sqlite3, and correct it there"}
	}
	return err
}
