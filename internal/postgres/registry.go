package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/amieusage/amieusage/internal/ledger"
)

// A siteRegistry is a site's registry as of a version.
type siteRegistry struct {
	ledger.Registry
	version int64
}

// takeRegistry returns the site's registry, read anew where it has changed. The
// caller holds the site's loading, and so the registry. It has a registry of its
// own: another one of this replica may come to load the site before the caller
// learns that it has lost its claim, and its names with it.
func (l *Ledger) takeRegistry(ctx context.Context, tx pgx.Tx, site ledger.SiteID, version int64) (*siteRegistry, error) {
	if kept, ok := l.registries.LoadAndDelete(site); ok && kept.(*siteRegistry).version == version {
		return kept.(*siteRegistry), nil
	}
	read, err := readRegistry(ctx, tx, site)
	if err != nil {
		return nil, err
	}
	return &siteRegistry{*read, version}, nil
}

func readRegistry(ctx context.Context, tx pgx.Tx, site ledger.SiteID) (*ledger.Registry, error) {
	r := &ledger.Registry{
		Resources: map[string]int64{},
		Users:     map[string]int64{},
		Projects:  map[string]*ledger.Project{},
	}
	byID := map[int64]*ledger.Project{}
	var id, other, start, end, amount int64
	var name string
	for _, q := range []struct {
		query string
		into  []any
		row   func()
	}{
		{`SELECT resource_id, name FROM resources WHERE site_id = $1`, []any{&id, &name}, func() { r.Resources[name] = id }},
		{`SELECT user_id, username FROM users WHERE site_id = $1`, []any{&id, &name}, func() { r.Users[name] = id }},
		{`SELECT project_id, local_project_id FROM projects WHERE site_id = $1`, []any{&id, &name}, func() {
			p := &ledger.Project{ID: id, Users: map[int64]bool{}}
			r.Projects[name], byID[id] = p, p
		}},
		{`SELECT project_id, user_id FROM project_users WHERE site_id = $1`, []any{&id, &other}, func() {
			if p := byID[id]; p != nil {
				p.Users[other] = true
			}
		}},
		{`SELECT project_id, resource_id, start_time, end_time, amount FROM allocations WHERE site_id = $1`,
			[]any{&id, &other, &start, &end, &amount}, func() {
				if p := byID[id]; p != nil {
					p.Allocations = append(p.Allocations, ledger.Allocation{
						Resource: other, Start: ledger.TimeOf(start), End: ledger.TimeOf(end), Amount: amount,
					})
				}
			}},
	} {
		rows, err := tx.Query(ctx, q.query, int64(site))
		if err != nil {
			return nil, err
		}
		if _, err := pgx.ForEachRow(rows, q.into, func() error { q.row(); return nil }); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// A nameTx registers names of a site, of which it has the last number given.
// They are written with the rest.
type nameTx struct {
	tx     pgx.Tx
	site   int64
	nameID int64
	names  pgx.Batch
}

func (t *nameTx) add(query, name string) (int64, error) {
	t.nameID++
	t.names.Queue(query, t.site, t.nameID, name)
	return t.nameID, nil
}

// AddResource registers a resource.
func (t *nameTx) AddResource(name string) (int64, error) {
	return t.add(`INSERT INTO resources (site_id, resource_id, name) VALUES ($1, $2, $3)`, name)
}

// AddProject registers a project.
func (t *nameTx) AddProject(localProjectID string) (int64, error) {
	return t.add(`INSERT INTO projects (site_id, project_id, local_project_id) VALUES ($1, $2, $3)`, localProjectID)
}

// AddUser registers a user.
func (t *nameTx) AddUser(username string) (int64, error) {
	return t.add(`INSERT INTO users (site_id, user_id, username) VALUES ($1, $2, $3)`, username)
}

// An importTx is an import to the registry of one site.
type importTx struct{ nameTx }

var _ ledger.ImportTx = (*importTx)(nil)

// AddMember adds a user to a project.
func (t *importTx) AddMember(project, user int64) error {
	t.names.Queue(`INSERT INTO project_users (site_id, project_id, user_id) VALUES ($1, $2, $3)`, t.site, project, user)
	return nil
}

// RemoveMember takes a user from a project.
func (t *importTx) RemoveMember(project, user int64) error {
	t.names.Queue(`DELETE FROM project_users WHERE site_id = $1 AND project_id = $2 AND user_id = $3`, t.site, project, user)
	return nil
}

// SetAllocation adds or changes an allocation of a project.
func (t *importTx) SetAllocation(project int64, a ledger.Allocation) error {
	t.names.Queue(`
		INSERT INTO allocations (site_id, project_id, resource_id, start_time, end_time, amount)
		VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (site_id, project_id, resource_id, start_time)
		DO UPDATE SET end_time = excluded.end_time, amount = excluded.amount`,
		t.site, project, a.Resource, ledger.Nanos(a.Start), ledger.Nanos(a.End), a.Amount)
	return nil
}

// RemoveAllocation takes an allocation from a project.
func (t *importTx) RemoveAllocation(project int64, a ledger.Allocation) error {
	t.names.Queue(`DELETE FROM allocations WHERE site_id = $1 AND project_id = $2 AND resource_id = $3 AND start_time = $4`,
		t.site, project, a.Resource, ledger.Nanos(a.Start))
	return nil
}

// Import brings the registry in line with what the spec names. Loading waits
// for it, and it for loading.
func (l *Ledger) Import(ctx context.Context, spec *ledger.RegistrySpec) (changes []ledger.Change, err error) {
	if err := spec.Check(); err != nil {
		return nil, err
	}
	for range importTries {
		err = l.db.write(ctx, "import", func(ctx context.Context, tx pgx.Tx) error {
			changed := map[string][]ledger.Change{}
			// In order of their names: two imports of the same sites never wait
			// for each other.
			for _, site := range slices.SortedFunc(slices.Values(spec.Sites), func(a, b ledger.SiteSpec) int {
				return strings.Compare(a.Name, b.Name)
			}) {
				if changed[site.Name], err = importSite(ctx, tx, &site); err != nil {
					return err
				}
			}
			changes = nil
			for _, site := range spec.Sites {
				changes = append(changes, changed[site.Name]...)
			}
			if spec.DryRun {
				return ledger.ErrDryRun
			}
			return nil
		})
		if !isUniqueViolation(err) {
			break
		}
	}
	if err != nil && !errors.Is(err, ledger.ErrDryRun) {
		return nil, err
	}
	return changes, nil
}

// Export states the registries of all sites that are served, each as it is at one
// moment.
func (l *Ledger) Export(ctx context.Context) (*ledger.RegistrySpec, error) {
	served, err := l.servedSites(ctx)
	if err != nil {
		return nil, err
	}
	spec := &ledger.RegistrySpec{}
	for _, s := range served {
		err := l.db.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
			r, err := readRegistry(ctx, tx, ledger.SiteID(s.ID))
			if err == nil {
				spec.Sites = append(spec.Sites, ledger.SpecOf(s.Name, r))
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return spec, nil
}

// importTries is how often an import or a new key may come upon the number or
// the name that another one has just taken.
const importTries = 20

func isUniqueViolation(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == "23505"
}

func importSite(ctx context.Context, tx pgx.Tx, spec *ledger.SiteSpec) ([]ledger.Change, error) {
	var added []ledger.Change
	var site int64
	var served bool
	err := tx.QueryRow(ctx, `SELECT site_id, served FROM sites WHERE name = $1`, spec.Name).Scan(&site, &served)
	switch {
	case errors.Is(err, pgx.ErrNoRows) && spec.Existing:
		err = ledger.UnknownSite(spec.Name)
	case errors.Is(err, pgx.ErrNoRows):
		if site, err = addSite(ctx, tx, spec.Name, true); err == nil {
			added = []ledger.Change{{Action: "added", What: "site " + spec.Name}}
		}
	case err == nil && !served:
		err = beingCopied(spec.Name)
	}
	if err != nil {
		return nil, err
	}
	t := &importTx{nameTx{tx: tx, site: site}}
	err = tx.QueryRow(ctx, `SELECT name_id FROM loading WHERE site_id = $1 FOR UPDATE`, site).Scan(&t.nameID)
	if err != nil {
		return nil, fmt.Errorf("site %s: %w", spec.Name, err)
	}
	registry, err := readRegistry(ctx, tx, ledger.SiteID(site))
	if err != nil {
		return nil, err
	}
	changes, err := ledger.ImportSite(t, registry, spec)
	if err != nil {
		return nil, err
	}
	all := append(added, changes...)
	if err := addEvents(ctx, tx, site, ledger.EventsOf(ctx, all)...); err != nil || len(changes) == 0 {
		return all, err
	}
	t.names.Queue(`UPDATE loading SET name_id = $2, registry_version = registry_version + 1 WHERE site_id = $1`, site, t.nameID)
	return all, tx.SendBatch(ctx, &t.names).Close()
}

// addSite adds a site, and returns its number. One that another transaction
// adds at the same time is a unique_violation.
func addSite(ctx context.Context, tx pgx.Tx, name string, served bool) (site int64, err error) {
	err = tx.QueryRow(ctx, `
		INSERT INTO sites (site_id, name, served) SELECT coalesce(max(site_id), 0) + 1, $1, $2 FROM sites RETURNING site_id`,
		name, served).Scan(&site)
	if err != nil {
		return 0, err
	}
	b := &pgx.Batch{}
	b.Queue(`INSERT INTO acceptance (site_id) VALUES ($1)`, site)
	b.Queue(`INSERT INTO loading (site_id) VALUES ($1)`, site)
	return site, tx.SendBatch(ctx, b).Close()
}
