package sqlite

import (
	"context"
	"errors"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage/internal/ledger"
)

// A siteRegistry is a site's registry as of a version, and registers names
// that are new.
type siteRegistry struct {
	ledger.Registry
	version int64
}

// registryOf returns the site's registry, read anew where it has changed.
func (l *Ledger) registryOf(conn *sqlite.Conn, site ledger.SiteID) (*siteRegistry, error) {
	version, err := number(conn, `SELECT registry_version FROM sites WHERE site_id = ?`, int64(site))
	if err != nil {
		return nil, err
	}
	if r := l.registries[site]; r != nil && r.version == version {
		return r, nil
	}
	r, err := readRegistry(conn, site)
	if err != nil {
		return nil, err
	}
	r.version = version
	l.registries[site] = r
	return r, nil
}

func readRegistry(conn *sqlite.Conn, site ledger.SiteID) (*siteRegistry, error) {
	r := &siteRegistry{Registry: ledger.Registry{
		Resources: map[string]int64{},
		Users:     map[string]int64{},
		Projects:  map[string]*ledger.Project{},
	}}
	byID := map[int64]*ledger.Project{}
	for _, q := range []struct {
		query string
		row   func(stmt *sqlite.Stmt)
	}{
		{`SELECT resource_id, name FROM resources WHERE site_id = ?`, func(stmt *sqlite.Stmt) {
			r.Resources[stmt.ColumnText(1)] = stmt.ColumnInt64(0)
		}},
		{`SELECT user_id, username FROM users WHERE site_id = ?`, func(stmt *sqlite.Stmt) {
			r.Users[stmt.ColumnText(1)] = stmt.ColumnInt64(0)
		}},
		{`SELECT project_id, local_project_id FROM projects WHERE site_id = ?`, func(stmt *sqlite.Stmt) {
			p := &ledger.Project{ID: stmt.ColumnInt64(0), Users: map[int64]bool{}}
			r.Projects[stmt.ColumnText(1)] = p
			byID[p.ID] = p
		}},
		{`SELECT project_id, user_id FROM project_users WHERE site_id = ?`, func(stmt *sqlite.Stmt) {
			if p := byID[stmt.ColumnInt64(0)]; p != nil {
				p.Users[stmt.ColumnInt64(1)] = true
			}
		}},
		{`SELECT project_id, resource_id, start_time, end_time, amount FROM allocations WHERE site_id = ?`, func(stmt *sqlite.Stmt) {
			if p := byID[stmt.ColumnInt64(0)]; p != nil {
				p.Allocations = append(p.Allocations, ledger.Allocation{
					Resource: stmt.ColumnInt64(1),
					Start:    ledger.TimeOf(stmt.ColumnInt64(2)),
					End:      ledger.TimeOf(stmt.ColumnInt64(3)),
					Amount:   stmt.ColumnInt64(4),
				})
			}
		}},
	} {
		err := sqlitex.Execute(conn, q.query, &sqlitex.ExecOptions{
			Args:       []any{int64(site)},
			ResultFunc: func(stmt *sqlite.Stmt) error { q.row(stmt); return nil },
		})
		if err != nil {
			return nil, err
		}
	}
	return r, nil
}

// A nameTx registers names of a site in the transaction of a connection.
type nameTx struct {
	conn  *sqlite.Conn
	site  ledger.SiteID
	added int64 // names
}

func (t *nameTx) exec(query string, args ...any) error {
	return sqlitex.Execute(t.conn, query, &sqlitex.ExecOptions{Args: append([]any{int64(t.site)}, args...)})
}

func (t *nameTx) add(query, name string) (int64, error) {
	err := t.exec(query, name)
	t.added++
	return t.conn.LastInsertRowID(), err
}

// AddResource registers a resource.
func (t *nameTx) AddResource(name string) (int64, error) {
	return t.add(`INSERT INTO resources (site_id, name) VALUES (?, ?)`, name)
}

// AddProject registers a project.
func (t *nameTx) AddProject(localProjectID string) (int64, error) {
	return t.add(`INSERT INTO projects (site_id, local_project_id) VALUES (?, ?)`, localProjectID)
}

// AddUser registers a user.
func (t *nameTx) AddUser(username string) (int64, error) {
	return t.add(`INSERT INTO users (site_id, username) VALUES (?, ?)`, username)
}

// Import brings the registry in line with what the spec names.
func (l *Ledger) Import(ctx context.Context, spec *ledger.RegistrySpec) (changes []ledger.Change, err error) {
	if err := spec.Check(); err != nil {
		return nil, err
	}
	err = l.db.write(ctx, "import", func(conn *sqlite.Conn) error {
		changes = nil
		for i := range spec.Sites {
			changed, err := importSite(ctx, conn, &spec.Sites[i])
			if err != nil {
				return err
			}
			changes = append(changes, changed...)
		}
		if spec.DryRun {
			return ledger.ErrDryRun
		}
		return nil
	})
	if err != nil && !errors.Is(err, ledger.ErrDryRun) {
		return nil, err
	}
	return changes, nil
}

// Export states the registries of all sites.
func (l *Ledger) Export(ctx context.Context) (spec *ledger.RegistrySpec, err error) {
	err = l.db.read(ctx, func(conn *sqlite.Conn) error {
		spec = &ledger.RegistrySpec{}
		return sqlitex.Execute(conn, `SELECT site_id, name FROM sites ORDER BY name`, &sqlitex.ExecOptions{
			ResultFunc: func(stmt *sqlite.Stmt) error {
				name := stmt.ColumnText(1)
				r, err := readRegistry(conn, ledger.SiteID(stmt.ColumnInt64(0)))
				if err == nil {
					spec.Sites = append(spec.Sites, ledger.SpecOf(name, &r.Registry))
				}
				return err
			}})
	})
	return spec, err
}

func importSite(ctx context.Context, conn *sqlite.Conn, spec *ledger.SiteSpec) ([]ledger.Change, error) {
	site, err := number(conn, `SELECT site_id FROM sites WHERE name = ?`, spec.Name)
	if err != nil {
		return nil, err
	}
	var added []ledger.Change
	if site == 0 && spec.Existing {
		return nil, ledger.UnknownSite(spec.Name)
	}
	if site == 0 {
		if err := sqlitex.Execute(conn, `INSERT INTO sites (name) VALUES (?)`, &sqlitex.ExecOptions{Args: []any{spec.Name}}); err != nil {
			return nil, err
		}
		site = conn.LastInsertRowID()
		added = []ledger.Change{{Action: "added", What: "site " + spec.Name}}
	}
	if _, err := servedSite(conn, spec.Name); err != nil {
		return nil, err
	}
	registry, err := readRegistry(conn, ledger.SiteID(site))
	if err != nil {
		return nil, err
	}
	tx := &importTx{nameTx{conn: conn, site: ledger.SiteID(site)}}
	changes, err := ledger.ImportSite(tx, &registry.Registry, spec)
	if err != nil {
		return nil, err
	}
	all := append(added, changes...)
	if err := addEvents(conn, site, ledger.EventsOf(ctx, all)...); err != nil || len(changes) == 0 {
		return all, err
	}
	return all, tx.exec(`UPDATE sites SET registry_version = registry_version + 1 WHERE site_id = ?`)
}

// An importTx is an import to the registry of one site.
type importTx struct{ nameTx }

var _ ledger.ImportTx = (*importTx)(nil)

// AddMember adds a user to a project.
func (t *importTx) AddMember(project, user int64) error {
	return t.exec(`INSERT INTO project_users (site_id, project_id, user_id) VALUES (?, ?, ?)`, project, user)
}

// RemoveMember takes a user from a project.
func (t *importTx) RemoveMember(project, user int64) error {
	return t.exec(`DELETE FROM project_users WHERE site_id = ? AND project_id = ? AND user_id = ?`, project, user)
}

// SetAllocation adds or changes an allocation of a project.
func (t *importTx) SetAllocation(project int64, a ledger.Allocation) error {
	return t.exec(`
		INSERT INTO allocations (site_id, project_id, resource_id, start_time, end_time, amount)
		VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET end_time = excluded.end_time, amount = excluded.amount`,
		project, a.Resource, ledger.Nanos(a.Start), ledger.Nanos(a.End), a.Amount)
}

// RemoveAllocation takes an allocation from a project.
func (t *importTx) RemoveAllocation(project int64, a ledger.Allocation) error {
	return t.exec(`DELETE FROM allocations WHERE site_id = ? AND project_id = ? AND resource_id = ? AND start_time = ?`,
		project, a.Resource, ledger.Nanos(a.Start))
}
