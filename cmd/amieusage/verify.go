package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/amieusage/amieusage/internal/ledger"
)

func (p *program) adminVerifyCommand() *cobra.Command {
	var output outputFlag
	cmd := p.withLedger(&cobra.Command{
		Use:   "verify --db DB",
		Short: "Verify that the ledger is whole and adds up",
		Long: `Verify that the ledger is whole: read every record as it was accepted, decide again
what becomes of it, and compare the ledger with that. Each accepted version of a
record must be the newest, one that a correction replaced, a failed record, or one
that was loaded already. Daily roll-ups, balances and counts must equal the sums of the
records, and failed records must be open or closed as later records demand. What was
archived is verified as far as it has rows here. Each difference is named with its
remedy, and the exit status is 1. Nothing is changed, except that a ledger of an older
release is brought up to date.

A backup is whole, too, although it is old: what it lacks, the sites find with
amieusage reconcile.

FAILED counts all records that failed when they were loaded, including those that
were cleared or sent again since.

It reads everything, some tens of thousands of records a second, in bounded
memory, and sorts in temporary files (TMPDIR). The service may be running: a
ledger in a file is read in one snapshot, beside which its write-ahead log
grows; one on PostgreSQL site by site.`,
		Example: `  amieusage admin verify --db ledger.db
  amieusage admin verify --db postgres://amieusage@db1/ledger -o json`,
		Args: cobra.NoArgs,
	}, false, func(ctx context.Context, store ledgerStore, _ []string) error {
		v, err := store.VerifyAll(ctx, p.verifyProgress(output))
		if err != nil {
			return err
		}
		if err := p.printVerification(output, v); err != nil {
			return err
		}
		return v.Err()
	})
	output.add(cmd)
	return cmd
}

// verifyProgress returns what shows progress on a terminal.
func (p *program) verifyProgress(output outputFlag) func(*ledger.VerifiedSite) {
	file, ok := p.stderr.(*os.File)
	if !ok || output == outputJSON || !term.IsTerminal(int(file.Fd())) {
		return func(*ledger.VerifiedSite) {}
	}
	var last time.Time
	return func(s *ledger.VerifiedSite) {
		if now := p.clock(); now.Sub(last) >= 200*time.Millisecond {
			last = now
			fmt.Fprintf(file, "\r\x1b[K%s: %d records\r", s.Site, s.Newest+s.Replaced+s.Repeated+s.Failed+s.Unread)
		}
	}
}

func (p *program) printVerification(output outputFlag, v *ledger.Verification) error {
	if output == outputJSON {
		return p.printJSON(v)
	}
	rows := [][]string{}
	for _, s := range v.Sites {
		row := []string{s.Site}
		for _, n := range []int64{s.Batches, s.Records, s.Newest, s.Replaced, s.Repeated, s.Failed, s.Queued, s.Archived, s.Unread} {
			row = append(row, strconv.FormatInt(n, 10))
		}
		rows = append(rows, append(row, s.Charge.String()))
	}
	header := []string{"SITE", "BATCHES", "RECORDS", "NEWEST", "REPLACED", "UNCHANGED", "FAILED", "QUEUED", "ARCHIVED", "UNREAD", "CHARGE"}
	if err := p.print(output, v, header, rows); err != nil {
		return err
	}
	for _, name := range v.Unserved {
		fmt.Fprintf(p.stdout, "site %s is not served, and was not verified: its copy into this ledger has not come to its end; run amieusage admin copy again\n", name)
	}
	if v.Differences == 0 {
		fmt.Fprintln(p.stdout, "the ledger is whole and adds up")
	}
	return nil
}
