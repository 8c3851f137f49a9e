package sqlite

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
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
		{`SELECT project_id, resource_id, start_time, end_time FROM allocations WHERE site_id = ?`, func(stmt *sqlite.Stmt) {
			if p := byID[stmt.ColumnInt64(0)]; p != nil {
				p.Allocations = append(p.Allocations, ledger.Allocation{
					Resource: stmt.ColumnInt64(1),
					Start:    timeOf(stmt.ColumnInt64(2)),
					End:      timeOf(stmt.ColumnInt64(3)),
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

// resource returns the number of a resource, registering it where it is new.
func (r *siteRegistry) resource(conn *sqlite.Conn, site ledger.SiteID, name string) (int64, error) {
	id, ok := r.Resources[name]
	if ok {
		return id, nil
	}
	err := sqlitex.Execute(conn, `INSERT INTO resources (site_id, name) VALUES (?, ?)`,
		&sqlitex.ExecOptions{Args: []any{int64(site), name}})
	if err != nil {
		return 0, err
	}
	id = conn.LastInsertRowID()
	r.Resources[name] = id
	return id, nil
}

// user returns the number of a user, registering it where it is new.
func (r *siteRegistry) user(conn *sqlite.Conn, site ledger.SiteID, name string) (int64, error) {
	id, ok := r.Users[name]
	if ok {
		return id, nil
	}
	err := sqlitex.Execute(conn, `INSERT INTO users (site_id, username) VALUES (?, ?)`,
		&sqlitex.ExecOptions{Args: []any{int64(site), name}})
	if err != nil {
		return 0, err
	}
	id = conn.LastInsertRowID()
	r.Users[name] = id
	return id, nil
}

// project returns the number of a project, registering it where it is new.
func (r *siteRegistry) project(conn *sqlite.Conn, site ledger.SiteID, name string) (int64, error) {
	if p := r.Projects[name]; p != nil {
		return p.ID, nil
	}
	err := sqlitex.Execute(conn, `INSERT INTO projects (site_id, local_project_id) VALUES (?, ?)`,
		&sqlitex.ExecOptions{Args: []any{int64(site), name}})
	if err != nil {
		return 0, err
	}
	id := conn.LastInsertRowID()
	r.Projects[name] = &ledger.Project{ID: id, Users: map[int64]bool{}}
	return id, nil
}

// Import brings the registry in line with what the spec names.
func (l *Ledger) Import(ctx context.Context, spec *ledger.RegistrySpec) (changes []ledger.Change, err error) {
	if err := spec.Check(); err != nil {
		return nil, err
	}
	err = l.db.write(ctx, func(conn *sqlite.Conn) error {
		changes = nil
		for i := range spec.Sites {
			imp := &siteImport{conn: conn, spec: &spec.Sites[i]}
			if err := imp.run(); err != nil {
				return err
			}
			changes = append(changes, imp.changes...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return changes, nil
}

// A siteImport brings one site's registry in line with its spec.
type siteImport struct {
	conn     *sqlite.Conn
	spec     *ledger.SiteSpec
	site     ledger.SiteID
	registry *siteRegistry
	// usernames are the registered users by their numbers.
	usernames map[int64]string
	changes   []ledger.Change
}

func (imp *siteImport) changed(action, format string, args ...any) {
	imp.changes = append(imp.changes, ledger.Change{Action: action, What: fmt.Sprintf(format, args...)})
}

func (imp *siteImport) exec(query string, args ...any) error {
	return sqlitex.Execute(imp.conn, query, &sqlitex.ExecOptions{Args: args})
}

func (imp *siteImport) run() error {
	name := imp.spec.Name
	site, err := number(imp.conn, `SELECT site_id FROM sites WHERE name = ?`, name)
	if err != nil {
		return err
	}
	if site == 0 {
		if err := imp.exec(`INSERT INTO sites (name) VALUES (?)`, name); err != nil {
			return err
		}
		site = imp.conn.LastInsertRowID()
		imp.changed("added", "site %s", name)
	}
	imp.site = ledger.SiteID(site)
	if imp.registry, err = readRegistry(imp.conn, imp.site); err != nil {
		return err
	}
	imp.usernames = make(map[int64]string, len(imp.registry.Users))
	for username, user := range imp.registry.Users {
		imp.usernames[user] = username
	}
	for _, resource := range imp.spec.Resources {
		if _, ok := imp.registry.Resources[resource]; ok {
			continue
		}
		if _, err := imp.registry.resource(imp.conn, imp.site, resource); err != nil {
			return err
		}
		imp.changed("added", "resource %s of site %s", resource, name)
	}
	for i := range imp.spec.Projects {
		if err := imp.project(&imp.spec.Projects[i]); err != nil {
			return err
		}
	}
	if err := imp.checkGranted(); err != nil {
		return err
	}
	if len(imp.changes) == 0 {
		return nil
	}
	return imp.exec(`UPDATE sites SET registry_version = registry_version + 1 WHERE site_id = ?`, site)
}

func (imp *siteImport) project(spec *ledger.ProjectSpec) error {
	_, known := imp.registry.Projects[spec.ID]
	id, err := imp.registry.project(imp.conn, imp.site, spec.ID)
	if err != nil {
		return err
	}
	if !known {
		imp.changed("added", "project %s of site %s", spec.ID, imp.spec.Name)
	}
	if spec.Users != nil {
		if err := imp.members(spec, id); err != nil {
			return err
		}
	}
	if spec.Allocations != nil {
		return imp.allocations(spec, id)
	}
	return nil
}

func (imp *siteImport) members(spec *ledger.ProjectSpec, project int64) error {
	members := imp.registry.Projects[spec.ID].Users
	wanted := map[int64]bool{}
	for _, username := range spec.Users {
		user, err := imp.registry.user(imp.conn, imp.site, username)
		if err != nil {
			return err
		}
		wanted[user] = true
		if members[user] {
			continue
		}
		members[user] = true
		if err := imp.exec(`INSERT INTO project_users (site_id, project_id, user_id) VALUES (?, ?, ?)`,
			int64(imp.site), project, user); err != nil {
			return err
		}
		imp.changed("added", "user %s to project %s", username, spec.ID)
	}
	for _, user := range slices.Sorted(maps.Keys(members)) {
		if wanted[user] {
			continue
		}
		if err := imp.exec(`DELETE FROM project_users WHERE site_id = ? AND project_id = ? AND user_id = ?`,
			int64(imp.site), project, user); err != nil {
			return err
		}
		imp.changed("removed", "user %s from project %s", imp.usernames[user], spec.ID)
	}
	return nil
}

func (imp *siteImport) allocations(spec *ledger.ProjectSpec, project int64) error {
	type key struct{ resource, start int64 }
	type grant struct{ end, amount int64 }
	old := map[key]grant{}
	err := sqlitex.Execute(imp.conn, `
		SELECT resource_id, start_time, end_time, amount FROM allocations WHERE site_id = ? AND project_id = ?`,
		&sqlitex.ExecOptions{
			Args: []any{int64(imp.site), project},
			ResultFunc: func(stmt *sqlite.Stmt) error {
				old[key{stmt.ColumnInt64(0), stmt.ColumnInt64(1)}] = grant{stmt.ColumnInt64(2), stmt.ColumnInt64(3)}
				return nil
			},
		})
	if err != nil {
		return err
	}
	names := map[int64]string{}
	for name, resource := range imp.registry.Resources {
		names[resource] = name
	}
	wanted := map[key]bool{}
	for _, a := range spec.Allocations {
		resource, known := imp.registry.Resources[a.Resource]
		if !known {
			return &amieusage.Error{
				Code:    amieusage.CodeInvalid,
				Message: fmt.Sprintf("project %s has an allocation on %s, which is no resource of site %s", spec.ID, a.Resource, imp.spec.Name),
				Hint:    "list it under the site's resources",
			}
		}
		k, g := key{resource, nanos(a.Start)}, grant{nanos(a.End), a.Amount}
		before, known := old[k]
		wanted[k] = true
		if known && before == g {
			continue
		}
		if err := imp.exec(`
			INSERT INTO allocations (site_id, project_id, resource_id, start_time, end_time, amount)
			VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET end_time = excluded.end_time, amount = excluded.amount`,
			int64(imp.site), project, resource, k.start, g.end, g.amount); err != nil {
			return err
		}
		action := "added"
		if known {
			action = "changed"
		}
		imp.changed(action, "allocation of project %s on %s from %s: %s until %s", spec.ID, a.Resource,
			amieusage.FormatTime(timeOf(k.start)), amieusage.ChargeOfMillionths(a.Amount), amieusage.FormatTime(timeOf(g.end)))
	}
	for _, k := range slices.SortedFunc(maps.Keys(old), func(a, b key) int {
		return cmp.Or(cmp.Compare(names[a.resource], names[b.resource]), cmp.Compare(a.start, b.start))
	}) {
		if wanted[k] {
			continue
		}
		if err := imp.exec(`DELETE FROM allocations WHERE site_id = ? AND project_id = ? AND resource_id = ? AND start_time = ?`,
			int64(imp.site), project, k.resource, k.start); err != nil {
			return err
		}
		imp.changed("removed", "allocation of project %s on %s from %s", spec.ID, names[k.resource],
			amieusage.FormatTime(timeOf(k.start)))
	}
	return nil
}

// checkGranted refuses allocations whose sum could not be held.
func (imp *siteImport) checkGranted() error {
	var total int64
	return sqlitex.Execute(imp.conn, `SELECT amount FROM allocations WHERE site_id = ?`, &sqlitex.ExecOptions{
		Args: []any{int64(imp.site)},
		ResultFunc: func(stmt *sqlite.Stmt) error {
			amount := stmt.ColumnInt64(0)
			if amount > math.MaxInt64-total {
				return &amieusage.Error{
					Code:    amieusage.CodeInvalid,
					Message: "the allocations of site " + imp.spec.Name + " add up to more than nine trillion units",
				}
			}
			total += amount
			return nil
		},
	})
}
