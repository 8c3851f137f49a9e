package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"strings"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// A CopySource is a ledger's file that is copied. As long as it is open, no
// other program can open the file. It is for one goroutine at a time.
type CopySource struct {
	db   *database // for the errors; nothing of it is open
	conn *sqlite.Conn
}

var _ ledger.CopySource = (*CopySource)(nil)

// copyBusyTimeout is how long a copy waits for other programs that have the
// file open: a command ends soon, the service does not.
const copyBusyTimeout = 2 * time.Second

// OpenCopySource opens the ledger in the file for a copy of it. What is no
// ledger, or is open in another program, is refused with a *amieusage.Error.
func OpenCopySource(ctx context.Context, path string) (*CopySource, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &amieusage.Error{Code: amieusage.CodeNotFound, Message: "there is no ledger " + path,
			Hint: "name the file that the service runs on"}
	case err == nil && info.Size() == 0:
		return nil, &amieusage.Error{Code: amieusage.CodeInvalid, Message: path + " is empty, and no ledger",
			Hint: "name the file that the service runs on"}
	}
	if err := check(ctx, path, ledgerFile); err != nil {
		return nil, err
	}
	if err := migrate(ctx, path, ledgerFile); err != nil {
		return nil, err
	}
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		return nil, openError(path, ledgerFile, err)
	}
	s := &CopySource{db: &database{path: path}, conn: conn}
	if err := s.prepare(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

// prepare takes the file for this connection alone, and numbers the batches
// of each site.
func (s *CopySource) prepare(ctx context.Context) error {
	s.conn.SetBusyTimeout(copyBusyTimeout)
	for _, statement := range []string{
		"PRAGMA locking_mode = EXCLUSIVE",
		"BEGIN EXCLUSIVE",
		"COMMIT", // the file stays locked
	} {
		err := sqlitex.ExecuteTransient(s.conn, statement, nil)
		switch resultCode(err) {
		case sqlite.ResultOK:
		case sqlite.ResultBusy, sqlite.ResultLocked:
			return &amieusage.Error{Code: amieusage.CodeUnavailable, Message: s.db.path + " is in use by another program",
				Hint: "stop the service until the copy is made: nothing may be added meanwhile"}
		default:
			return openError(s.db.path, ledgerFile, err)
		}
	}
	s.conn.SetInterrupt(ctx.Done())
	// In a temporary file: there may be millions.
	err := sqlitex.ExecuteScript(s.conn, `
		CREATE TEMP TABLE batch_numbers (batch_id INTEGER PRIMARY KEY, site_id INTEGER NOT NULL, number INTEGER NOT NULL);
		INSERT INTO batch_numbers
			SELECT batch_id, site_id, row_number() OVER (PARTITION BY site_id ORDER BY batch_id) FROM batches;
		CREATE UNIQUE INDEX temp.batch_numbers_site ON batch_numbers (site_id, number);`, nil)
	return s.failure(ctx, err)
}

// Close closes the file, and frees it for other programs.
func (s *CopySource) Close() error { return s.conn.Close() }

func (s *CopySource) failure(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return s.db.failure(err)
}

// Policy returns the ledger's policy, or "" where none was chosen.
func (s *CopySource) Policy(ctx context.Context) (ledger.Policy, error) {
	policy, err := policyOf(s.conn)
	return policy, s.failure(ctx, err)
}

// SetMoved marks sites as served by the ledger that they were copied into, and no longer from
// this file.
func (s *CopySource) SetMoved(ctx context.Context, names []string) (err error) {
	now := ledger.ActorOf(ctx).At
	defer func() { err = s.failure(ctx, err) }()
	defer sqlitex.Save(s.conn)(&err)
	for _, name := range names {
		err := sqlitex.Execute(s.conn, `UPDATE sites SET moved_at = ? WHERE name = ? AND moved_at = 0`,
			&sqlitex.ExecOptions{Args: []any{ledger.Nanos(now), name}})
		if err != nil {
			return err
		}
		if s.conn.Changes() == 0 {
			continue // an earlier run has
		}
		if err := addEvents(s.conn, 0, ledger.NewEvent(ctx, now, 0, "moved", "site %s to another ledger", name)); err != nil {
			return err
		}
	}
	return nil
}

// Sites returns the names of all sites, in order.
func (s *CopySource) Sites(ctx context.Context) (names []string, err error) {
	err = sqlitex.Execute(s.conn, `SELECT name FROM sites ORDER BY name`, &sqlitex.ExecOptions{
		ResultFunc: func(stmt *sqlite.Stmt) error {
			names = append(names, stmt.ColumnText(0))
			return nil
		},
	})
	return names, s.failure(ctx, err)
}

// Site returns a site with its counters.
func (s *CopySource) Site(ctx context.Context, name string) (*ledger.CopySite, error) {
	id, err := siteOf(s.conn, name)
	if err != nil {
		return nil, s.failure(ctx, err)
	}
	site := &ledger.CopySite{ID: ledger.SiteID(id), Name: name}
	err = sqlitex.Execute(s.conn, `
		SELECT accepted, loaded, failed, queued, gross_charge, last_loaded_at, registry_version, archived_revisions,
			(SELECT count(*) FROM batch_numbers WHERE site_id = ?1),
			max((SELECT coalesce(max(resource_id), 0) FROM resources WHERE site_id = ?1),
				(SELECT coalesce(max(user_id), 0) FROM users WHERE site_id = ?1),
				(SELECT coalesce(max(project_id), 0) FROM projects WHERE site_id = ?1)),
			(SELECT coalesce(max(record_id), 0) FROM records INDEXED BY records_loaded WHERE site_id = ?1)
		FROM sites WHERE site_id = ?1`,
		&sqlitex.ExecOptions{
			Args: []any{id},
			ResultFunc: func(stmt *sqlite.Stmt) error {
				for i, n := range []*int64{&site.Accepted, &site.Loaded, &site.Failed, &site.Queued, &site.GrossCharge,
					&site.LastLoadedAt, &site.RegistryVersion, &site.ArchivedRevisions, &site.Batches, &site.LastName, &site.LastRecord} {
					*n = stmt.ColumnInt64(i)
				}
				return nil
			},
		})
	if err != nil {
		return nil, s.failure(ctx, err)
	}
	firstQueued, err := number(s.conn, `
		SELECT number FROM batch_numbers WHERE batch_id = (
			SELECT min(batch_id) FROM batches WHERE site_id = ? AND loaded_at IS NULL AND damaged = 0)`, id)
	if err != nil {
		return nil, s.failure(ctx, err)
	}
	site.LoadedBatch = site.Batches
	if firstQueued == 0 {
		return site, nil
	}
	site.LoadedBatch = firstQueued - 1
	// What says how far loading is, is one place in the order of acceptance.
	disorder, err := number(s.conn, `
		SELECT EXISTS (SELECT 1 FROM batch_numbers n CROSS JOIN batches b ON b.batch_id = n.batch_id
			WHERE n.site_id = ? AND n.number > ? AND b.loaded_at IS NOT NULL)`, id, firstQueued)
	if err == nil && disorder != 0 {
		err = s.damaged("site " + name + " has a loaded batch behind a queued one")
	}
	return site, s.failure(ctx, err)
}

func (s *CopySource) damaged(what string) error {
	return &amieusage.Error{Code: amieusage.CodeInternal, Message: s.db.path + ": " + what,
		Hint: "look closer: amieusage admin verify; or restore it from a backup"}
}

// Rows gives the rows of a table of a site behind a key.
func (s *CopySource) Rows(ctx context.Context, site ledger.SiteID, t *ledger.CopyTable, after []int64) iter.Seq2[[]any, error] {
	return func(yield func([]any, error) bool) {
		stmt, _, err := s.conn.PrepareTransient(copyQuery(t))
		if err != nil {
			yield(nil, s.failure(ctx, err))
			return
		}
		defer stmt.Finalize()
		stmt.BindInt64(1, int64(site))
		for i, k := range after {
			stmt.BindInt64(2+i, k)
		}
		row := make([]any, len(t.Columns))
		for {
			more, err := stmt.Step()
			if err == nil && !more {
				return
			}
			if err == nil {
				err = s.scan(stmt, t, row)
			}
			if err != nil {
				yield(nil, s.failure(ctx, err))
				return
			}
			if !yield(row, nil) {
				return
			}
		}
	}
}

// copyQuery selects the rows of a site (?1) behind a key (?2 and on).
func copyQuery(t *ledger.CopyTable) string {
	columns := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		columns[i] = "t." + c.Name
		if c.Name == "batch_id" {
			columns[i] = `(SELECT number FROM batch_numbers n WHERE n.batch_id = t.batch_id)`
		}
	}
	selected := "SELECT " + strings.Join(columns, ", ") + " FROM "
	from := t.Name + " t"
	switch t.Name {
	case "batches":
		return selected + `batch_numbers n CROSS JOIN batches t ON t.batch_id = n.batch_id
			WHERE n.site_id = ?1 AND n.number > ?2 ORDER BY n.number`
	// Large tables are read in the order in which they stand, and not sorted.
	case "records":
		from += " INDEXED BY records_loaded"
	case "failed_records":
		from += " NOT INDEXED"
	}
	key := strings.Join(columns[:t.Key], ", ")
	parameters := "?2"
	for i := 1; i < t.Key; i++ {
		parameters += fmt.Sprintf(", ?%d", 2+i)
	}
	return selected + from + " WHERE t.site_id = ?1 AND (" + key + ") > (" + parameters + ") ORDER BY " + key
}

// scan reads the row that a statement stands on.
func (s *CopySource) scan(stmt *sqlite.Stmt, t *ledger.CopyTable, row []any) error {
	for i, c := range t.Columns {
		null := stmt.ColumnType(i) == sqlite.TypeNull
		switch {
		case null && !c.Null:
			key := make([]int64, t.Key)
			for k := range key {
				key[k] = stmt.ColumnInt64(k)
			}
			return s.damaged(fmt.Sprintf("%s %v refers to a %s that is not there", t.Name, key, c.Name))
		case null:
			row[i] = nil
		case c.Kind == ledger.CopyBool:
			row[i] = stmt.ColumnBool(i)
		case c.Kind == ledger.CopyText:
			row[i] = stmt.ColumnText(i)
		case c.Kind == ledger.CopyBytes:
			row[i] = columnBytes(stmt, i)
		default:
			row[i] = stmt.ColumnInt64(i)
		}
	}
	return nil
}
