package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage/internal/sqlite"
)

func (p *program) adminBackupCommand() *cobra.Command {
	return p.withLedger(&cobra.Command{
		Use:   "backup FILE --db ledger.db",
		Short: "Copy a ledger's file, while it is served",
		Long: `Copy a ledger's file with all that it has, while the service runs. The copy is
readable by its owner only. A ledger on PostgreSQL is copied with PostgreSQL's own
tools. It is put back with admin restore.`,
		Example: `  amieusage admin backup /var/backups/ledger.db --db ledger.db
  amieusage admin verify --db /var/backups/ledger.db`,
		Args: cobra.ExactArgs(1),
	}, false, func(ctx context.Context, store ledgerStore, args []string) error {
		file, ok := store.(*sqlite.Ledger)
		if !ok {
			return usageError("this ledger is on PostgreSQL: back it up with pg_dump, or with its server's own archives")
		}
		if _, err := os.Lstat(args[0]); !errors.Is(err, fs.ErrNotExist) {
			return usageError("%s is there already: name a new file", args[0])
		}
		if err := file.Backup(ctx, args[0]); err != nil {
			return err
		}
		fmt.Fprintf(p.stdout, "copied to %s\n", args[0])
		return nil
	})
}

func (p *program) adminRestoreCommand() *cobra.Command {
	var db dbFlag
	var keepKeys bool
	cmd := &cobra.Command{
		Use:   "restore FILE --db ledger.db",
		Short: "Put a backup in the place of a ledger",
		Long: `Put a backup in the place of a ledger, while the service is stopped. The ledger
that was there is kept beside it.

Keys that were revoked since the backup was made stay revoked. If the replaced ledger is
gone or cannot be read, nobody knows which keys those are: all keys are revoked and
listed, unless --keep-keys is given.

A backup lacks what came later, but the sites have it: the output says what they should
run.`,
		Example: `  amieusage admin restore /var/backups/ledger.db --db ledger.db`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := db.resolve(p.stderr); err != nil {
				return err
			}
			if !db.isFile() {
				return usageError("a ledger on PostgreSQL is restored with PostgreSQL's own tools")
			}
			if err := checkFiles(args); err != nil {
				return err
			}
			restored, err := sqlite.RestoreLedger(p.acting(cmd.Context()), args[0], string(db), keepKeys, p.clock())
			if err != nil {
				return &statusError{exitUsage, err}
			}
			fmt.Fprintf(p.stdout, "restored %s from %s\n", db, args[0])
			if restored.Replaced != "" {
				fmt.Fprintf(p.stdout, "the ledger that was there is %s\n", restored.Replaced)
			}
			if restored.Unreadable != nil {
				fmt.Fprintf(p.stderr, "which keys it had revoked cannot be read: %s\n", printable(restored.Unreadable.Error()))
			}
			for _, k := range restored.Revoked {
				fmt.Fprintf(p.stdout, "revoked  key %d of site %s %s\n", k.ID, printable(k.Site), printable(k.Label))
			}
			fmt.Fprint(p.stdout, `
Look at it, and bring the registry up to date before it is served again:
  amieusage admin verify --db `+db.String()+`
  amieusage admin import registry.yaml --db `+db.String()+`
Give a site whose key is gone a new one:
  amieusage admin key create --site SITE --db `+db.String()+`
Then each site sends again what came after the backup; what is there counts once:
  amieusage records resend --config site.yaml --state queued,loaded,failed
  amieusage report --config site.yaml
`)
			return nil
		},
	}
	db.add(cmd)
	cmd.Flags().BoolVar(&keepKeys, "keep-keys", false, "keep the backup's keys even if the replaced ledger cannot say which were revoked since")
	return cmd
}
