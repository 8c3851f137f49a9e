package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

func (p *program) adminArchiveCommand() *cobra.Command {
	var before string
	var output outputFlag
	a := &ledger.Archiving{}
	cmd := p.withLedger(&cobra.Command{
		Use:   "archive --before DATE --to FOLDER --db DB",
		Short: "Move what was accepted long ago into files",
		Long: `Move what was accepted before a date out of the ledger into files. All totals
stay as they are: of each record the ledger keeps its newest revision, so that
what is sent again still counts once and corrections go on; failed records stay,
too. What goes is the JSON as it was sent, and the revisions that corrections
have replaced. Batches are archived when they are loaded, in order of
acceptance, up to the first that was accepted at or after the date.

Each file holds about 200,000 records of one site as JSON lines, compressed with
gzip, which DuckDB, pandas and Spark read:

  SELECT * FROM read_json('FOLDER/*.jsonl.gz')
  pandas.read_json('FOLDER/PSC-000000000001.jsonl.gz', lines=True)
  spark.read.json('FOLDER/*.jsonl.gz')

A line is a record that was sent, with the members
  site, batch, ordinal  its place: batches are numbered in order of acceptance
  accepted_at, key_id   when it was accepted, and the API key it was sent with
  usage_type            Compute, Storage or Adjustment
  outcome               loaded, unchanged (it was loaded already) or failed
  revision, newest      of what was loaded: from 1, and whether a correction had
                        replaced it when it was archived
  loaded_at, charge     of what was loaded; the charge as a decimal in a string
  failed_id, reason     of what failed
  record                the record as it was sent
Those that do not apply are null. Every record is in one line of one file.

A file is on stable storage under its name before what it holds is removed. Cut
off at any time, the same command goes on; a name that begins with a dot is of
an unfinished file. Keep the files: the ledger refers to them by their names. Give
each ledger a folder of its own.

The service may be running. The room that is freed is used for what comes next:
a SQLite file does not become smaller, and PostgreSQL's autovacuum sees to it.`,
		Example: `  amieusage admin archive --before 2025-01-01 --to /srv/archive --db ledger.db
  amieusage admin archive --before 2025-01-01 --to /srv/archive --site PSC --db ledger.db -o json`,
		Args: cobra.NoArgs,
	}, false, func(ctx context.Context, store ledgerStore, _ []string) (err error) {
		if a.Before, err = amieusage.ParseTime(before); err != nil {
			return usageError("--before %w", err)
		}
		views, rows := []archiveView{}, [][]string{}
		a.Done = func(a ledger.Archived) {
			fmt.Fprintf(p.stderr, "archived %d records of %s in %s\n", a.Records, printable(a.Site), a.File)
			views = append(views, archiveView(a))
			rows = append(rows, []string{a.Site, a.File, strconv.FormatInt(a.Batches, 10), strconv.FormatInt(a.Records, 10),
				strconv.FormatInt(a.Revisions, 10), strconv.FormatInt(a.Bytes, 10)})
		}
		err = ledger.Archive(ctx, store, *a, p.clock())
		if e, ok := errors.AsType[*amieusage.Error](err); ok && (e.Code == amieusage.CodeInvalid || e.Code == amieusage.CodeNotFound) {
			err = &statusError{exitUsage, err}
		}
		switch {
		case len(rows) > 0 || err == nil && output == outputJSON:
			printErr := p.print(output, views, []string{"SITE", "FILE", "BATCHES", "RECORDS", "REVISIONS REMOVED", "BYTES"}, rows)
			return errors.Join(err, printErr)
		case err == nil:
			fmt.Fprintln(p.stdout, "nothing to archive")
		}
		return err
	})
	cmd.Flags().StringVar(&before, "before", "", "archive what was accepted before this time: 2025-01-01, or with a time of day and offset (required)")
	cmd.Flags().StringVar(&a.Folder, "to", "", "the folder that the files go into (required)")
	cmd.Flags().StringVar(&a.Site, "site", "", "archive only this site")
	markRequired(cmd, "before")
	markRequired(cmd, "to")
	output.add(cmd)
	return cmd
}

// An archiveView is an archive as programs see it.
type archiveView struct {
	Site      string `json:"site"`
	File      string `json:"file"`
	Batches   int64  `json:"batches"`
	Records   int64  `json:"records"`
	Revisions int64  `json:"revisions_removed"`
	Bytes     int64  `json:"bytes"`
}
