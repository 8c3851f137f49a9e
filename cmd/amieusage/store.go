package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"

	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/postgres"
	"github.com/amieusage/amieusage/internal/sqlite"
)

// dbVariable names the ledger where --db does not: a URL with a password is
// safer in the environment than among a process's arguments.
const dbVariable = "AMIEUSAGE_DB"

// A ledgerStore is a ledger on either engine.
type ledgerStore interface {
	ledger.Store
	ledger.Archivable
	Verify(ctx context.Context) error
	VerifyAll(ctx context.Context, progress func(*ledger.VerifiedSite)) (*ledger.Verification, error)
	Close() error
}

// dbFlag is the flag --db, which names a ledger.
type dbFlag string

func (db *dbFlag) add(cmd *cobra.Command) {
	cmd.Flags().StringVar((*string)(db), "db", "", "the ledger: a file, or postgres://USER@HOST/DATABASE (required; or "+dbVariable+")")
}

// resolve sets what the flag leaves open from the environment. A password among the
// arguments is warned of.
func (db *dbFlag) resolve(stderr io.Writer) error {
	if *db != "" && !db.isFile() {
		if _, secret := postgres.WithoutPassword(string(*db)); secret {
			fmt.Fprintln(stderr, "amieusage: warning: the database's password stands among the arguments, where all users of this machine see it: "+
				"give it as PGPASSWORD or in a passfile, or the whole URL as "+dbVariable)
		}
	}
	if *db == "" {
		*db = dbFlag(os.Getenv(dbVariable))
	}
	if *db == "" {
		return usageError(`required flag(s) "db" not set, nor is %s`, dbVariable)
	}
	return nil
}

// isFile reports whether the ledger is a file.
func (db dbFlag) isFile() bool { return !postgres.IsURL(string(db)) }

// String names the ledger without secrets.
func (db dbFlag) String() string {
	if db.isFile() {
		return string(db)
	}
	return postgres.Redacted(string(db))
}

// open opens the ledger.
func (db dbFlag) open(ctx context.Context, o postgres.Options) (ledgerStore, error) {
	store, err := db.openEither(ctx, o)
	if err != nil {
		return nil, &statusError{exitUsage, err}
	}
	return store, nil
}

func (db dbFlag) openEither(ctx context.Context, o postgres.Options) (ledgerStore, error) {
	if db.isFile() {
		return sqlite.OpenLedger(ctx, string(db))
	}
	return postgres.Open(ctx, string(db), o)
}

// withLedger adds the flag --db to a command that works on a ledger. With
// creates the ledger's file is made where it is missing.
func (p *program) withLedger(cmd *cobra.Command, creates bool, work func(ctx context.Context, store ledgerStore, args []string) error) *cobra.Command {
	var db dbFlag
	db.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if err := db.resolve(p.stderr); err != nil {
			return err
		}
		dryRun := cmd.Flags().Lookup("dry-run")
		if (!creates || dryRun != nil && dryRun.Changed) && db.isFile() { // a dry run creates nothing
			const createdBy = "(amieusage admin import and amieusage serve create one)"
			switch info, err := os.Stat(string(db)); {
			case errors.Is(err, fs.ErrNotExist):
				return usageError("there is no ledger %s %s", db, createdBy)
			case err == nil && info.Size() == 0:
				return usageError("%s is empty, and no ledger %s", db, createdBy)
			}
		}
		store, err := db.open(cmd.Context(), postgres.Options{MaxConns: adminConns})
		if err != nil {
			return err
		}
		defer func() {
			if closeErr := store.Close(); err == nil {
				err = closeErr
			}
		}()
		return work(p.acting(cmd.Context()), store, args)
	}
	return cmd
}

// acting returns the context of what a user of this machine does to a ledger, which
// remembers it.
func (p *program) acting(ctx context.Context) context.Context {
	actor := ledger.Actor{Who: "an unknown user", At: p.clock()}
	if u, err := user.Current(); err == nil {
		actor.Who = u.Username
		if sudo := os.Getenv("SUDO_USER"); sudo != "" && sudo != u.Username {
			actor.Who += " (sudo by " + sudo + ")"
		}
	}
	actor.From, _ = os.Hostname()
	return ledger.WithActor(ctx, actor)
}

// adminConns is how many connections a command needs that does one thing after
// another.
const adminConns = 2
