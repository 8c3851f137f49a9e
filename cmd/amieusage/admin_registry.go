package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/siteconfig"
	"github.com/amieusage/amieusage/internal/sqlite"
)

// group returns a command that only has others.
func group(use, short, long, example string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Example: example, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(commands...)
	return cmd
}

// edit changes one part of a site's registry, and shows what changed.
func (p *program) edit(ctx context.Context, store ledgerStore, site string, resources []string, projects ...ledger.ProjectSpec) error {
	changes, err := store.Import(ctx, &ledger.RegistrySpec{Sites: []ledger.SiteSpec{
		{Name: site, Existing: true, Resources: resources, Projects: projects}}})
	if err != nil {
		return &statusError{exitUsage, err}
	}
	for _, c := range changes {
		fmt.Fprintf(p.stdout, "%-8s %s\n", c.Action, printable(c.What))
	}
	if len(changes) == 0 {
		fmt.Fprintln(p.stdout, "nothing changed")
	}
	return nil
}

func siteFlag(cmd *cobra.Command, site *string) {
	cmd.Flags().StringVar(site, "site", "", "the site's name (required)")
	markRequired(cmd, "site")
}

func projectFlag(cmd *cobra.Command, project *string) {
	cmd.Flags().StringVar(project, "project", "", "the local project ID (required)")
	markRequired(cmd, "project")
}

func (p *program) adminResourceCommand() *cobra.Command {
	var site string
	add := p.withLedger(&cobra.Command{
		Use:     "add NAME... --site NAME --db DB",
		Short:   "Add resources to a site",
		Example: `  amieusage admin resource add bridges2-rm.psc.access-ci.org --site PSC --db ledger.db`,
		Args:    cobra.MinimumNArgs(1),
	}, false, func(ctx context.Context, store ledgerStore, args []string) error {
		return p.edit(ctx, store, site, args)
	})
	siteFlag(add, &site)
	return group("resource", "Manage a site's resources", "", `  amieusage admin resource add bridges2-rm.psc.access-ci.org --site PSC --db ledger.db`, add)
}

func (p *program) adminProjectCommand() *cobra.Command {
	var site string
	var users []string
	add := p.withLedger(&cobra.Command{
		Use:   "add ID --site NAME --db DB",
		Short: "Add a project",
		Long: `Add a project with its users. Records of it are loaded once it has an allocation on
their resource (see: amieusage admin allocation add).`,
		Example: `  amieusage admin project add p.abc123456.000 --site PSC --user alice --user bob --db ledger.db`,
		Args:    cobra.ExactArgs(1),
	}, false, func(ctx context.Context, store ledgerStore, args []string) error {
		// First the project, if it is missing, and then its users, beside those that it has.
		project := ledger.ProjectSpec{ID: args[0]}
		if len(users) == 0 {
			return p.edit(ctx, store, site, nil, project)
		}
		if err := (&ledger.RegistrySpec{Sites: []ledger.SiteSpec{{Name: site, Projects: []ledger.ProjectSpec{{ID: args[0], Users: users}}}}}).Check(); err != nil {
			return &statusError{exitUsage, err}
		}
		if err := p.edit(ctx, store, site, nil, project); err != nil {
			return err
		}
		return p.edit(ctx, store, site, nil, ledger.ProjectSpec{ID: args[0], Edit: ledger.EditAdd, Users: users})
	})
	siteFlag(add, &site)
	add.Flags().StringSliceVar(&users, "user", nil, "a user of the project (may be repeated)")
	return group("project", "Manage a site's projects", "", `  amieusage admin project add p.abc123456.000 --site PSC --user alice --db ledger.db
  amieusage admin history --project p.abc123456.000 --db ledger.db`, add)
}

func (p *program) adminUserCommand() *cobra.Command {
	var site, project string
	work := func(edit ledger.Edit, unused bool) func(ctx context.Context, store ledgerStore, args []string) error {
		return func(ctx context.Context, store ledgerStore, args []string) error {
			if unused {
				used, err := usage(ctx, store, site, amieusage.ByUser)
				if err != nil {
					return err
				}
				for _, user := range args {
					if n := used[[2]string{project, user}]; n > 0 {
						return usageError("user %s has %d records on project %s, which stay: take the user off it with amieusage admin user end", user, n, project)
					}
				}
			}
			return p.edit(ctx, store, site, nil, ledger.ProjectSpec{ID: project, Edit: edit, Users: args})
		}
	}
	add := p.withLedger(&cobra.Command{
		Use:     "add USER... --project ID --site NAME --db DB",
		Short:   "Add users to a project",
		Long:    `Add users to a project, beside those that it has.`,
		Example: `  amieusage admin user add alice bob --project p.abc123456.000 --site PSC --db ledger.db`,
		Args:    cobra.MinimumNArgs(1),
	}, false, work(ledger.EditAdd, false))
	end := p.withLedger(&cobra.Command{
		Use:   "end USER... --project ID --site NAME --db DB",
		Short: "Take users off a project",
		Long: `Take users off a project. What was loaded of them stays; records of theirs that
come from now on fail when they are loaded, also of jobs that ran before.`,
		Example: `  amieusage admin user end bob --project p.abc123456.000 --site PSC --db ledger.db`,
		Args:    cobra.MinimumNArgs(1),
	}, false, work(ledger.EditRemove, false))
	remove := p.withLedger(&cobra.Command{
		Use:     "remove USER... --project ID --site NAME --db DB",
		Short:   "Take users off a project that they have not used",
		Long:    `Take users off a project that they were added to by mistake: only those without records on it.`,
		Example: `  amieusage admin user remove bbo --project p.abc123456.000 --site PSC --db ledger.db`,
		Args:    cobra.MinimumNArgs(1),
	}, false, work(ledger.EditRemove, true))
	for _, cmd := range []*cobra.Command{add, end, remove} {
		siteFlag(cmd, &site)
		projectFlag(cmd, &project)
	}
	return group("user", "Manage the users of a project", "", `  amieusage admin user add alice --project p.abc123456.000 --site PSC --db ledger.db
  amieusage admin user end bob --project p.abc123456.000 --site PSC --db ledger.db`, add, end, remove)
}

// usage returns how many records a site has loaded, by project and another key.
func usage(ctx context.Context, store ledgerStore, site string, second amieusage.GroupKey) (map[[2]string]int64, error) {
	authority, err := store.Authority(ctx, site)
	if err != nil {
		return nil, &statusError{exitUsage, err}
	}
	summary, err := store.Summary(ctx, authority.Site, amieusage.SummaryQuery{GroupBy: []amieusage.GroupKey{amieusage.ByProject, second}}, 1_000_000)
	if err != nil {
		return nil, err
	}
	used := map[[2]string]int64{}
	for _, r := range summary.Rows {
		of := r.Username
		if second == amieusage.ByResource {
			of = r.Resource
		}
		used[[2]string{r.LocalProjectID, of}] += r.RecordCount
	}
	return used, nil
}

func (p *program) adminAllocationCommand() *cobra.Command {
	var site, project, resource, amount, start, end, on string
	// stated returns the allocation that the flags name.
	stated := func() (a ledger.AllocationSpec, err error) {
		a = ledger.AllocationSpec{Resource: resource, Amount: -1}
		if a.Start, err = amieusage.ParseTime(start); err != nil {
			return a, usageError("--start %w", err)
		}
		if amount != "" {
			if a.Amount, err = siteconfig.ParseAmount(amount); err != nil {
				return a, usageError("--amount %w", err)
			}
		}
		if end != "" {
			if a.End, err = siteconfig.ParseEnd(end); err != nil {
				return a, usageError("--end %w", err)
			}
		}
		return a, nil
	}
	edit := func(ctx context.Context, store ledgerStore, edit ledger.Edit, a ledger.AllocationSpec) error {
		if err := siteconfig.CheckYears(a.Start, a.End); err != nil {
			return &statusError{exitUsage, err}
		}
		return p.edit(ctx, store, site, nil, ledger.ProjectSpec{ID: project, Edit: edit, Allocations: []ledger.AllocationSpec{a}})
	}
	add := p.withLedger(&cobra.Command{
		Use:   "add --project ID --resource NAME --amount N --start DATE --end DATE --site NAME --db DB",
		Short: "Add an allocation to a project",
		Long: `Add an allocation to a project, beside those that it has. Dates are in UTC, and both
days are part of the allocation.`,
		Example: `  amieusage admin allocation add --project p.abc123456.000 --resource bridges2-rm.psc.access-ci.org \
    --amount 100000 --start 2026-01-01 --end 2026-12-31 --site PSC --db ledger.db`,
		Args: cobra.NoArgs,
	}, false, func(ctx context.Context, store ledgerStore, _ []string) error {
		a, err := stated()
		if err != nil {
			return err
		}
		return edit(ctx, store, ledger.EditAdd, a)
	})
	set := p.withLedger(&cobra.Command{
		Use:   "set --project ID --resource NAME --start DATE [--amount N] [--end DATE] --site NAME --db DB",
		Short: "Change the amount or the end of an allocation",
		Long: `Change the amount or the end of the allocation that starts at --start. What was loaded
stays: a smaller amount may leave a negative balance.`,
		Example: `  amieusage admin allocation set --project p.abc123456.000 --resource bridges2-rm.psc.access-ci.org \
    --start 2026-01-01 --amount 150000 --site PSC --db ledger.db`,
		Args: cobra.NoArgs,
	}, false, func(ctx context.Context, store ledgerStore, _ []string) error {
		if amount == "" && end == "" {
			return usageError("give --amount, --end or both")
		}
		a, err := stated()
		if err != nil {
			return err
		}
		return edit(ctx, store, ledger.EditChange, a)
	})
	ends := p.withLedger(&cobra.Command{
		Use:   "end --project ID --resource NAME --start DATE [--on DATE] --site NAME --db DB",
		Short: "End an allocation, now or on a day",
		Long: `End the allocation that starts at --start: now, or with the day --on. Records of
later usage fail when they are loaded; what was loaded stays.`,
		Example: `  amieusage admin allocation end --project p.abc123456.000 --resource bridges2-rm.psc.access-ci.org \
    --start 2026-01-01 --on 2026-11-30 --site PSC --db ledger.db`,
		Args: cobra.NoArgs,
	}, false, func(ctx context.Context, store ledgerStore, _ []string) error {
		a, err := stated()
		if err != nil {
			return err
		}
		a.End = p.clock().UTC().Truncate(time.Second)
		if on != "" {
			if a.End, err = siteconfig.ParseEnd(on); err != nil {
				return usageError("--on %w", err)
			}
		}
		return edit(ctx, store, ledger.EditChange, a)
	})
	remove := p.withLedger(&cobra.Command{
		Use:   "remove --project ID --resource NAME --start DATE --site NAME --db DB",
		Short: "Remove an allocation that was not used",
		Long: `Remove an allocation that was added by mistake: only if the project has no records on
the resource. An allocation that was used is ended.`,
		Example: `  amieusage admin allocation remove --project p.abc123456.000 --resource bridges2-rm.psc.access-ci.org \
    --start 2026-01-01 --site PSC --db ledger.db`,
		Args: cobra.NoArgs,
	}, false, func(ctx context.Context, store ledgerStore, _ []string) error {
		a, err := stated()
		if err != nil {
			return err
		}
		used, err := usage(ctx, store, site, amieusage.ByResource)
		if err != nil {
			return err
		}
		if n := used[[2]string{project, resource}]; n > 0 {
			return usageError("project %s has %d records on %s: end the allocation instead (amieusage admin allocation end)", project, n, resource)
		}
		return edit(ctx, store, ledger.EditRemove, a)
	})
	for _, cmd := range []*cobra.Command{add, set, ends, remove} {
		siteFlag(cmd, &site)
		projectFlag(cmd, &project)
		cmd.Flags().StringVar(&resource, "resource", "", "the resource's name (required)")
		cmd.Flags().StringVar(&start, "start", "", "the allocation's first day, or time (required)")
		markRequired(cmd, "resource")
		markRequired(cmd, "start")
	}
	for _, cmd := range []*cobra.Command{add, set} {
		cmd.Flags().StringVar(&amount, "amount", "", "units of the resource")
		cmd.Flags().StringVar(&end, "end", "", "the last day of the allocation, or the time that it ends at")
	}
	markRequired(add, "amount")
	markRequired(add, "end")
	ends.Flags().StringVar(&on, "on", "", "the last day of the allocation, or the time that it ends at (default now)")
	return group("allocation", "Manage the allocations of a project", "", `  amieusage admin allocation set --project p.abc123456.000 --resource bridges2-rm.psc.access-ci.org \
    --start 2026-01-01 --amount 150000 --site PSC --db ledger.db`, add, set, ends, remove)
}

func (p *program) adminSiteShowCommand() *cobra.Command {
	var output outputFlag
	cmd := p.withLedger(&cobra.Command{
		Use:   "show NAME --db DB",
		Short: "Show a site: what it has sent, its keys, and its registry",
		Example: `  amieusage admin site show PSC --db ledger.db
  amieusage admin site show PSC --db ledger.db -o json`,
		Args: cobra.ExactArgs(1),
	}, false, func(ctx context.Context, store ledgerStore, args []string) error {
		name := args[0]
		keys, err := store.Keys(ctx, name) // an unknown site is an error
		if err != nil {
			return &statusError{exitUsage, err}
		}
		spec, err := store.Export(ctx)
		if err != nil {
			return err
		}
		spec.Sites = slices.DeleteFunc(spec.Sites, func(s ledger.SiteSpec) bool { return s.Name != name })
		sites, err := store.Sites(ctx)
		if err != nil {
			return err
		}
		at := slices.IndexFunc(sites, func(s ledger.SiteState) bool { return s.Name == name })
		if at < 0 || len(spec.Sites) == 0 {
			return &statusError{exitUsage, ledger.MovedSite(name)}
		}
		s := sites[at]
		if output == outputJSON {
			return p.printJSON(shownSite(s, keys, &spec.Sites[0]))
		}
		rows := [][]string{}
		for _, line := range [][2]string{
			{"accepted", strconv.FormatInt(s.Accepted, 10)}, {"loaded", strconv.FormatInt(s.Loaded, 10)},
			{"failed", strconv.FormatInt(s.Failed, 10)}, {"queued", strconv.FormatInt(s.Queued, 10)}, {"last send", sentAt(s.LastAccepted)},
		} {
			rows = append(rows, line[:])
		}
		for _, c := range s.Charges {
			rows = append(rows, []string{"used of " + c.Resource, c.Used.String()}, []string{"given back on " + c.Resource, c.GivenBack.String()})
		}
		for _, k := range keys {
			rows = append(rows, []string{fmt.Sprintf("key %d", k.ID), stateOfKey(&k) + labelOf(k.Label)})
		}
		if err := p.print(output, nil, []string{"SITE", name}, rows); err != nil || output == outputCSV {
			return err
		}
		_, err = fmt.Fprintf(p.stdout, "\n%s", siteconfig.FormatRegistry(spec))
		return err
	})
	output.add(cmd)
	return cmd
}

func (p *program) adminSiteTakeBackCommand() *cobra.Command {
	return p.withLedger(&cobra.Command{
		Use:   "take-back NAME --db ledger.db",
		Short: "Serve a site from this file again that was copied elsewhere",
		Long: `Serve a site from this ledger's file again, after admin copy has moved it into a database.
What was sent to the database since is not in this file: each site sends it again with
amieusage records resend and amieusage report. See that the database does not serve the site
any more.`,
		Example: `  amieusage admin site take-back PSC --db ledger.db`,
		Args:    cobra.ExactArgs(1),
	}, false, func(ctx context.Context, store ledgerStore, args []string) error {
		file, ok := store.(*sqlite.Ledger)
		if !ok {
			return usageError("--db must be a ledger's file: sites are copied from files only")
		}
		if err := file.TakeBack(ctx, args[0]); err != nil {
			return &statusError{exitUsage, err}
		}
		fmt.Fprintf(p.stdout, "site %s is served from here\n", args[0])
		return nil
	})
}

func labelOf(label string) string {
	if label == "" {
		return ""
	}
	return ", " + label
}

// A shownSiteView is a site and its registry as programs see it.
type shownSiteView struct {
	siteView
	Keys      []keyView     `json:"keys"`
	Resources []string      `json:"resources"`
	Projects  []projectView `json:"projects"`
}

type projectView struct {
	ID          string           `json:"id"`
	Users       []string         `json:"users"`
	Allocations []allocationView `json:"allocations"`
}

type allocationView struct {
	Resource string      `json:"resource"`
	Amount   json.Number `json:"amount"`
	Start    time.Time   `json:"start"`
	End      time.Time   `json:"end"` // the first moment behind it
}

func shownSite(s ledger.SiteState, keys []ledger.Key, spec *ledger.SiteSpec) shownSiteView {
	v := shownSiteView{
		siteView: viewOfSite(&s),
		Keys:     []keyView{}, Resources: append([]string{}, spec.Resources...), Projects: []projectView{},
	}
	for _, k := range keys {
		v.Keys = append(v.Keys, viewOfKey(&k))
	}
	for i := range spec.Projects {
		project := projectView{spec.Projects[i].ID, append([]string{}, spec.Projects[i].Users...), []allocationView{}}
		for _, a := range spec.Projects[i].Allocations {
			project.Allocations = append(project.Allocations, allocationView{a.Resource, json.Number(amieusage.ChargeOfMillionths(a.Amount).String()), a.Start.UTC(), a.End.UTC()})
		}
		v.Projects = append(v.Projects, project)
	}
	return v
}
