package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/postgres"
)

func (p *program) adminDistributeCommand() *cobra.Command {
	return p.withLedger(&cobra.Command{
		Use:   "distribute --db postgres://USER@HOST/DATABASE",
		Short: "Spread the ledger over the nodes of a Citus cluster",
		Long: `Spread a ledger in PostgreSQL over the nodes of a Citus cluster, by site: all
rows of a site lie on one node. The few tables that all sites share are copied to
every node. Each table that was moved is shown; what is distributed already is
left as it is, so a run that was cut off is finished by the same command.

Before: make a backup (pg_dump), because nothing moves the tables back; install
the extension citus in the database on every node, and add the nodes on the
coordinator (citus_set_coordinator_host, citus_add_node). --db names the
coordinator, and all replicas connect to it, as before.

Stop all replicas first, and start them again when it is done: while some of the
tables are moved and others are not, the service could use neither. The disks of
the nodes and of the coordinator need room for both copies of the largest table.`,
		Example: `  psql postgres://amieusage@coordinator.example.org/amieusage -c 'SELECT * FROM citus_get_active_worker_nodes()'
  amieusage admin distribute --db postgres://amieusage@coordinator.example.org/amieusage`,
		Args: cobra.NoArgs,
	}, false, func(ctx context.Context, store ledgerStore, _ []string) error {
		l, ok := store.(*postgres.Ledger)
		if !ok {
			return usageError("a ledger in a file stays in one place: --db postgres://USER@HOST/DATABASE")
		}
		changes, err := l.Distribute(ctx)
		for _, c := range changes {
			fmt.Fprintf(p.stdout, "%-12s %s\n", c.Action, c.What)
		}
		if e, ok := errors.AsType[*amieusage.Error](err); ok && e.Code == amieusage.CodeInvalid {
			return &statusError{exitUsage, err}
		}
		if err == nil && len(changes) == 0 {
			fmt.Fprintln(p.stdout, "nothing changed")
		}
		return err
	})
}
