package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/siteconfig"
)

func (p *program) adminCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "admin",
		GroupID: "service",
		Short:   "Manage the service's registry and its API keys",
		Long: `Manage the registry (sites, resources, projects, users, allocations) and the
API keys in a ledger. The service may be running; all of its replicas see each
change at once.`,
		Example: `  amieusage admin import registry.yaml --db ledger.db
  amieusage admin key create --site PSC --db ledger.db`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(p.adminImportCommand(), p.adminExportCommand(), p.adminSiteCommand(), p.adminKeyCommand(), p.adminVerifyCommand(), p.adminCopyCommand(), p.adminArchiveCommand(),
		p.adminDistributeCommand(), p.adminBackupCommand(), p.adminRestoreCommand(), p.adminPolicyCommand(), p.adminHistoryCommand(), p.adminUndoCommand(),
		p.adminResourceCommand(), p.adminProjectCommand(), p.adminUserCommand(), p.adminAllocationCommand())
	return cmd
}

func (p *program) adminExportCommand() *cobra.Command {
	return p.withLedger(&cobra.Command{
		Use:   "export --db DB",
		Short: "Print the registry as the file that import takes",
		Long: `Print the registry (sites, resources, projects, users, allocations) as registry.yaml:
to be edited and imported again, compared, or kept. API keys are not part of it.`,
		Example: `  amieusage admin export --db ledger.db > registry.yaml
  amieusage admin export --db ledger.db | diff registry.yaml -`,
		Args: cobra.NoArgs,
	}, false, func(ctx context.Context, store ledgerStore, _ []string) error {
		spec, err := store.Export(ctx)
		if err == nil {
			_, err = p.stdout.Write(siteconfig.FormatRegistry(spec))
		}
		return err
	})
}

func (p *program) adminImportCommand() *cobra.Command {
	var dryRun bool
	cmd := p.withLedger(&cobra.Command{
		Use:   "import REGISTRY.yaml --db DB",
		Short: "Bring the registry in line with a file",
		Long: `Bring the registry in line with a YAML file, and show what changed. The file
states the whole of every project that it names: users and allocations that it
no longer lists are taken from the project; a project without users: or without
allocations: keeps those that it has. Sites, resources and projects that it does
not name stay as they are. Importing the same file again changes nothing.

  sites:
    - name: PSC
      resources: [{name: bridges2-rm.psc.access-ci.org}]
      projects:
        - id: p.abc123456.000
          users: [alice, bob]
          allocations:
            - {resource: bridges2-rm.psc.access-ci.org, amount: 100000, start: 2026-01-01, end: 2026-12-31}

Dates are in UTC, and both days are part of the allocation.`,
		Example: `  amieusage admin import registry.yaml --db ledger.db --dry-run
  amieusage admin import registry.yaml --db ledger.db`,
		Args: cobra.ExactArgs(1),
	}, true, func(ctx context.Context, store ledgerStore, args []string) error {
		data, err := os.ReadFile(args[0])
		if err != nil {
			return &statusError{exitUsage, err}
		}
		spec, err := siteconfig.ParseRegistry(args[0], data)
		if err != nil {
			return &statusError{exitUsage, err}
		}
		spec.DryRun = dryRun
		changes, err := store.Import(ctx, spec)
		if err != nil {
			return &statusError{exitUsage, err}
		}
		for _, c := range changes {
			fmt.Fprintf(p.stdout, "%-8s %s\n", c.Action, c.What)
		}
		if len(changes) == 0 {
			fmt.Fprintln(p.stdout, "nothing changed")
		} else if dryRun {
			fmt.Fprintln(p.stdout, "this is a dry run: nothing changed")
		}
		return nil
	})
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would change, and change nothing")
	return cmd
}

func (p *program) adminSiteCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "site",
		Short: "Manage sites",
		Example: `  amieusage admin site add PSC --db ledger.db
  amieusage admin site list --db ledger.db`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(p.adminSiteListCommand(), p.adminSiteShowCommand(), p.adminSiteTakeBackCommand(), p.withLedger(&cobra.Command{
		Use:     "add NAME --db DB",
		Short:   "Add a site",
		Example: `  amieusage admin site add PSC --db ledger.db`,
		Args:    cobra.ExactArgs(1),
	}, true, func(ctx context.Context, store ledgerStore, args []string) error {
		if err := siteconfig.CheckSiteName(args[0]); err != nil {
			return &statusError{exitUsage, err}
		}
		changes, err := store.Import(ctx, &ledger.RegistrySpec{Sites: []ledger.SiteSpec{{Name: args[0]}}})
		if err != nil {
			return err
		}
		if len(changes) == 0 {
			fmt.Fprintf(p.stdout, "site %s is there already\n", args[0])
			return nil
		}
		fmt.Fprintf(p.stdout, "added    %s\n", changes[0].What)
		return nil
	}))
	return cmd
}

func (p *program) adminSiteListCommand() *cobra.Command {
	var output outputFlag
	cmd := p.withLedger(&cobra.Command{
		Use:   "list --db DB",
		Short: "List the sites, with what they have sent",
		Example: `  amieusage admin site list --db ledger.db
  amieusage admin site list --db ledger.db -o json`,
		Args: cobra.NoArgs,
	}, false, func(ctx context.Context, store ledgerStore, _ []string) error {
		sites, err := store.Sites(ctx)
		if err != nil {
			return err
		}
		views, rows := []siteView{}, [][]string{}
		for _, s := range sites {
			views = append(views, viewOfSite(&s))
			rows = append(rows, []string{s.Name, strconv.FormatInt(s.Accepted, 10), strconv.FormatInt(s.Loaded, 10),
				strconv.FormatInt(s.Failed, 10), strconv.FormatInt(s.Queued, 10), sentAt(s.LastAccepted)})
		}
		return p.print(output, views, []string{"SITE", "ACCEPTED", "LOADED", "FAILED", "QUEUED", "LAST SEND"}, rows)
	})
	output.add(cmd)
	return cmd
}

func sentAt(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format(time.RFC3339)
}

// A siteView is a site as programs see it. Accepted is the sum of the other three
// numbers of records; failed records are counted even after they were cleared.
type siteView struct {
	Name         string    `json:"name"`
	Accepted     int64     `json:"accepted"`
	Loaded       int64     `json:"loaded"`
	Failed       int64     `json:"failed"`
	Queued       int64     `json:"queued"`
	LastSend     time.Time `json:"last_send,omitzero"`
	OldestQueued time.Time `json:"oldest_queued,omitzero"`
}

func viewOfSite(s *ledger.SiteState) siteView {
	return siteView{s.Name, s.Accepted, s.Loaded, s.Failed, s.Queued, s.LastAccepted.UTC(), s.OldestQueued.UTC()}
}

func (p *program) adminKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Manage API keys",
		Long: `Manage API keys. A site may have several valid keys, so that a key can be
replaced without a gap: create the new one, change the site's configuration,
then revoke the old one.`,
		Example: `  amieusage admin key create --site PSC --db ledger.db
  amieusage admin key list --db ledger.db
  amieusage admin key revoke 1 --db ledger.db`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var site, label string
	create := p.withLedger(&cobra.Command{
		Use:   "create --site NAME --db DB",
		Short: "Create an API key and print it, this once",
		Long: `Create an API key and print it, and nothing else, on standard output. Only its
hash is kept: it can never be shown again.`,
		Example: `  umask 077 && amieusage admin key create --site PSC --db ledger.db > psc.key`,
		Args:    cobra.NoArgs,
	}, false, func(ctx context.Context, store ledgerStore, _ []string) error {
		secret, key, err := ledger.CreateKey(ctx, store, site, label, p.clock())
		if err != nil {
			return &statusError{exitUsage, err}
		}
		if _, err := fmt.Fprintln(p.stdout, secret); err != nil {
			return err
		}
		fmt.Fprintf(p.stderr, "key %d of site %s: it will not be shown again\n", key.ID, key.Site)
		return nil
	})
	create.Flags().StringVar(&site, "site", "", "the site's name (required)")
	create.Flags().StringVar(&label, "label", "", "a note to recognise the key by")
	markRequired(create, "site")

	var listSite string
	var output outputFlag
	list := p.withLedger(&cobra.Command{
		Use:   "list --db DB",
		Short: "List API keys, but not the keys themselves",
		Example: `  amieusage admin key list --db ledger.db
  amieusage admin key list --site PSC --db ledger.db -o json`,
		Args: cobra.NoArgs,
	}, false, func(ctx context.Context, store ledgerStore, _ []string) error {
		keys, err := store.Keys(ctx, listSite)
		if err != nil {
			return &statusError{exitUsage, err}
		}
		views, rows := []keyView{}, [][]string{}
		for _, k := range keys {
			views = append(views, viewOfKey(&k))
			rows = append(rows, []string{k.Site, strconv.FormatInt(k.ID, 10), k.CreatedAt.UTC().Format(time.RFC3339), stateOfKey(&k), k.Label})
		}
		return p.print(output, views, []string{"SITE", "KEY", "CREATED", "STATE", "LABEL"}, rows)
	})
	list.Flags().StringVar(&listSite, "site", "", "only this site's keys")
	output.add(list)

	var revokeSite string
	revoke := p.withLedger(&cobra.Command{
		Use:   "revoke KEY --db DB",
		Short: "Revoke an API key, by its number in the list",
		Example: `  amieusage admin key revoke 3 --db ledger.db
  amieusage admin key revoke 3 --site PSC --db ledger.db`,
		Args: cobra.ExactArgs(1),
	}, false, func(ctx context.Context, store ledgerStore, args []string) error {
		id, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil {
			return usageError("%q is no key's number (see: amieusage admin key list)", args[0])
		}
		site, err := siteOfKey(ctx, store, revokeSite, id)
		if err != nil {
			return &statusError{exitUsage, err}
		}
		if err := store.RevokeKey(ctx, site, id, p.clock()); err != nil {
			return &statusError{exitUsage, err}
		}
		fmt.Fprintf(p.stdout, "revoked  key %d of site %s\n", id, site)
		return nil
	})
	revoke.Flags().StringVar(&revokeSite, "site", "", "the site's name: needed only if sites were copied here from several ledgers")

	cmd.AddCommand(create, list, revoke)
	return cmd
}

// siteOfKey returns the site of a key. Keys have one number in the whole ledger, but sites
// that were copied from several ledgers may each have a key of the same number.
func siteOfKey(ctx context.Context, store ledgerStore, site string, id int64) (string, error) {
	if site != "" {
		return site, nil
	}
	keys, err := store.Keys(ctx, "")
	if err != nil {
		return "", err
	}
	for _, k := range keys {
		switch {
		case k.ID != id:
		case site != "":
			return "", usageError("sites %s and %s both have a key %d: name the --site", site, k.Site, id)
		default:
			site = k.Site
		}
	}
	if site == "" {
		return "", usageError("there is no key %d (see: amieusage admin key list)", id)
	}
	return site, nil
}

// A keyView is a key as programs see it.
type keyView struct {
	ID        int64     `json:"id"`
	Site      string    `json:"site"`
	Label     string    `json:"label"`
	CreatedAt time.Time `json:"created_at"`
	RevokedAt time.Time `json:"revoked_at,omitzero"`
}

func viewOfKey(k *ledger.Key) keyView {
	return keyView{k.ID, k.Site, k.Label, k.CreatedAt.UTC(), k.RevokedAt.UTC()}
}

func stateOfKey(k *ledger.Key) string {
	if k.RevokedAt.IsZero() {
		return "valid"
	}
	return "revoked " + k.RevokedAt.UTC().Format(time.RFC3339)
}
