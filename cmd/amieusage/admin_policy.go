package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage/internal/ledger"
)

func (p *program) adminPolicyCommand() *cobra.Command {
	cmd := p.withLedger(&cobra.Command{
		Use:   "policy [strict|open] --db DB",
		Short: "Show or change what the ledger loads",
		Long: `Show the ledger's policy, or change it. Strict loads only what the registry knows: the
project, the user on the project, and an allocation on the resource at the record's time.
Open registers the resources, projects and users that it meets.

The first serve of a ledger chooses its policy. A change holds for all that is loaded from
now on, by every replica, but for the few records that are being loaded at that moment; what was
loaded stays. The ledger remembers who changed it (see:
amieusage admin history).`,
		Example: `  amieusage admin policy --db ledger.db
  amieusage admin policy strict --db ledger.db`,
		Args:      cobra.MaximumNArgs(1),
		ValidArgs: []string{string(ledger.Strict), string(ledger.Open)},
	}, false, func(ctx context.Context, store ledgerStore, args []string) error {
		if len(args) == 0 {
			policy, err := store.Policy(ctx)
			if err == nil && policy == "" {
				policy = "none yet: the first serve chooses it"
			}
			if err == nil {
				_, err = fmt.Fprintln(p.stdout, policy)
			}
			return err
		}
		policy := ledger.Policy(args[0])
		if policy != ledger.Strict && policy != ledger.Open {
			return usageError("%q is no policy: strict or open", args[0])
		}
		before, err := store.SetPolicy(ctx, policy, false)
		switch {
		case err != nil:
			return err
		case before == policy:
			fmt.Fprintf(p.stdout, "the policy is %s already\n", policy)
		case before == "":
			fmt.Fprintf(p.stdout, "chosen   policy %s\n", policy)
		default:
			fmt.Fprintf(p.stdout, "changed  policy %s (was %s)\n", policy, before)
		}
		return nil
	})
	return cmd
}
