package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func (p *program) adminVerifyCommand() *cobra.Command {
	return p.withLedger(&cobra.Command{
		Use:   "verify --db DB",
		Short: "Verify that the ledger is whole and adds up",
		Long: `Verify that the ledger is whole, and that the daily roll-ups, the balances and
the counts are what the records add up to. It reads everything, which takes a
while for millions of records; the service may be running.`,
		Example: `  amieusage admin verify --db ledger.db`,
		Args:    cobra.NoArgs,
	}, false, func(ctx context.Context, store ledgerStore, _ []string) error {
		if err := store.Verify(ctx); err != nil {
			return err
		}
		fmt.Fprintln(p.stdout, "the ledger is whole and adds up")
		return nil
	})
}
