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
		Long: `Verify that the ledger is whole: read every record as it was accepted, judge it
anew, and hold against it all that the ledger says. Each accepted content must
be its record's newest, one that a correction has replaced, a failed record, or
what was loaded already, and each row must be what its content says; the daily
roll-ups, the balances and the counts must be what the records add up to, and
failed records must be open or closed as what came later demands. What archives
hold is verified as far as it has rows here. What differs is named, with what
helps; the exit status is 1 then. Nothing is changed, but that a ledger of an
older release is brought up to date.

A ledger that is older than it should be, such as a backup, is whole, too: what
it does not have is seen by the sites: amieusage reconcile.

FAILED counts all records that failed when they were loaded, also those that were
cleared or came again since.

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
