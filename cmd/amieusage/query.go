package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/agent"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/usageclient"
)

// A queryCommand is what the commands that only ask the service have in
// common.
type queryCommand struct {
	siteCommand
}

// ask reads the configuration and runs work with a client of the service.
func (q *queryCommand) ask(ctx context.Context, work func(ctx context.Context, client *usageclient.Client) error) error {
	config, err := q.flags.load()
	if err != nil {
		return err
	}
	q.config = config
	client, err := clientOf(config, q.log())
	if err != nil {
		return err
	}
	return work(ctx, client)
}

func (p *program) statusCommand() *cobra.Command {
	q := &queryCommand{siteCommand{program: p}}
	var period periodFlags
	cmd := &cobra.Command{
		Use:     "status --config site.yaml",
		GroupID: "api",
		Short:   "Show what the service has loaded, and what failed",
		Long: `Show, for each resource, how many records the service has loaded, their charge,
and what failed, grouped by reason. Without times: the last 30 days, by time of
loading.`,
		Example: `  amieusage status --config site.yaml
  amieusage status --config site.yaml --month 2026-10
  amieusage status --config config.ini --section PSC --from 2026-10-01 --to 2026-11-01 -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return q.ask(cmd.Context(), func(ctx context.Context, client *usageclient.Client) error {
				from, to, err := period.times(q.config.Zone)
				if err != nil {
					return err
				}
				status, err := client.Status(ctx, amieusage.StatusQuery{From: from, To: to})
				if err != nil {
					return err
				}
				var rows [][]string
				for _, r := range status {
					rows = append(rows, []string{r.Resource, strconv.FormatInt(r.LoadedRecordCount, 10),
						strconv.FormatInt(r.FailedJobCount, 10), r.TotalCharge.String()})
				}
				if err := q.print(q.output, status, []string{"RESOURCE", "LOADED", "FAILED", "CHARGE"}, rows); err != nil || q.output == outputJSON {
					return err
				}
				for _, r := range status {
					for _, e := range r.Errors {
						fmt.Fprintf(q.stdout, "\n%s: %s\n", printable(r.Resource), printable(e.Error))
						for _, f := range e.Records {
							fmt.Fprintf(q.stdout, "  %s\n", printable(failedLine(f)))
						}
					}
				}
				return q.tellHere(ctx)
			})
		},
	}
	q.add(cmd)
	period.add(cmd, "from", "to", "only what was loaded")
	return cmd
}

// tellHere tells what waits for somebody at the site, where it has an outbox: of
// this the service does not know.
func (q *queryCommand) tellHere(ctx context.Context) error {
	if !q.config.HasState() {
		return nil
	}
	return q.run(ctx, 0, func(*agent.Agent) error {
		counts, err := q.queue.Counts(ctx)
		if err != nil {
			return err
		}
		rows, err := q.queue.BadRows(ctx)
		if err != nil {
			return err
		}
		here := map[string]int64{badState: int64(len(rows))}
		for _, c := range counts {
			here[string(c.State)] += c.Entries
		}
		for _, w := range []struct{ state, what string }{
			{badState, "rows of the accounting could not be used"},
			{string(outbox.Rejected), "records were refused at once"},
			{string(outbox.Held), "records are held"},
			{string(outbox.Waiting), "records wait until the job's record on another resource is at 0"},
		} {
			if n := here[w.state]; n > 0 {
				fmt.Fprintf(q.stdout, "\nat this site: %d %s (see: %s)\n", n, w.what, q.flags.again("records list --state "+w.state))
			}
		}
		return nil
	})
}

// failedLine is a failed record without its reason.
func failedLine(f amieusage.FailedRecord) string {
	id := strconv.FormatInt(f.FailedRecordID, 10)
	if f.Record == nil {
		return id + ": " + string(f.Raw)
	}
	return id + ": " + f.Record.String()
}

func (p *program) loadedCommand() *cobra.Command {
	q := &queryCommand{siteCommand{program: p}}
	var query amieusage.LoadedQuery
	var period periodFlags
	var since string
	var limit int
	cmd := &cobra.Command{
		Use:     "loaded --config site.yaml",
		GroupID: "api",
		Short:   "List the records in the service's ledger",
		Long: `List the records in the service's ledger, each in its newest revision, in order of
loading. --user, --project, --from, --to and --month are for amieusage's own
service: others do not say whose record it is.`,
		Example: `  amieusage loaded --config site.yaml --since 2026-10-01
  amieusage loaded --config site.yaml --project p.abc123456.000 --user mira --month 2026-10
  amieusage loaded --config site.yaml --record 4711 -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return q.ask(cmd.Context(), func(ctx context.Context, client *usageclient.Client) (err error) {
				if query.MinLoadedTime, err = timeFlag("since", since, q.config.Zone); err != nil {
					return err
				}
				if query.From, query.To, err = period.times(q.config.Zone); err != nil {
					return err
				}
				out := newRowWriter(q.program, q.output, "NUMBER", "TYPE", "RECORD", "RESOURCE", "SUBMITTED", "LOADED", "CHARGE")
				n := 0
				for r, err := range client.AllLoaded(ctx, query) {
					if err != nil {
						return err
					}
					if limit > 0 && n == limit {
						break
					}
					n++
					err := out.write(r, strconv.FormatInt(r.AccountingDbRecordID, 10), string(r.UsageType), r.LocalRecordID, r.Resource,
						amieusage.FormatTime(r.SubmitTime), amieusage.FormatTime(r.LoadedTime), r.Charge.String())
					if err != nil {
						return err
					}
				}
				return out.close()
			})
		},
	}
	q.add(cmd)
	cmd.Flags().StringVar(&since, "since", "", "only records loaded at or after this time")
	cmd.Flags().StringVar(&query.LocalRecordID, "record", "", "only records of this LocalRecordID")
	cmd.Flags().StringVar(&query.Username, "user", "", "only records of this user")
	cmd.Flags().StringVar(&query.LocalProjectID, "project", "", "only records of this project")
	period.add(cmd, "from", "to", "only usage")
	cmd.Flags().IntVar(&limit, "limit", 0, "at most this many records; 0: all")
	return cmd
}

func (p *program) summaryCommand() *cobra.Command {
	q := &queryCommand{siteCommand{program: p}}
	var period periodFlags
	var by string
	var asCSV, across bool
	cmd := &cobra.Command{
		Use:     "summary --config site.yaml",
		GroupID: "api",
		Short:   "Sum up usage by resource, project, user, day, month or type",
		Long: `Sum up the usage in the service's ledger, grouped by any of resource, project,
user, day, month and usage-type, by time of usage. Resources have rows of their own
even where --by does not name them: a unit of one may be a core-hour and of another
a GPU-hour. --across-resources adds them up, where their units are the same.

The rows of a project also show its allocation, and what remains of it over all time.
Days and months are in UTC; with --by day or month, so are the dates of flags. With
--csv, a name that a spreadsheet would take for a formula gets an apostrophe before
it.`,
		Example: `  amieusage summary --config site.yaml --by project --month 2026-11
  amieusage summary --config site.yaml --by resource,month --from 2026-01-01
  amieusage summary --config site.yaml --by project,user --csv > usage.csv`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			keys, err := amieusage.ParseGroupKeys(by)
			if err != nil {
				return &statusError{exitUsage, err}
			}
			if !across && !slices.Contains(keys, amieusage.ByResource) {
				keys = append(keys, amieusage.ByResource)
			}
			return q.ask(cmd.Context(), func(ctx context.Context, client *usageclient.Client) error {
				zone := q.config.Zone
				if slices.Contains(keys, amieusage.ByDay) || slices.Contains(keys, amieusage.ByMonth) {
					zone = time.UTC // as the rows are
				}
				from, to, err := period.times(zone)
				if err != nil {
					return err
				}
				summary, err := client.Summary(ctx, amieusage.SummaryQuery{GroupBy: keys, From: from, To: to})
				if err != nil {
					return err
				}
				if asCSV {
					data, err := summary.CSV()
					if err == nil {
						_, err = q.stdout.Write(data)
					}
					return err
				}
				header, rows := summaryTable(summary)
				return q.print(q.output, summary, header, rows)
			})
		},
	}
	q.add(cmd)
	period.add(cmd, "from", "to", "only what was used")
	cmd.Flags().StringVar(&by, "by", string(amieusage.ByResource), "what to group by, joined by commas: resource, project, user, day, month, usage-type")
	cmd.Flags().BoolVar(&across, "across-resources", false, "add up the charges of all resources: only where their units are the same")
	cmd.Flags().BoolVar(&asCSV, "csv", false, "comma-separated values instead")
	cmd.MarkFlagsMutuallyExclusive("csv", "output")
	completeValues(cmd, "by", "resource", "project", "user", "day", "month", "usage-type")
	return cmd
}

func summaryTable(s *amieusage.Summary) (header []string, rows [][]string) {
	balances := false
	for _, r := range s.Rows {
		balances = balances || r.Balance != nil
	}
	for _, k := range s.GroupBy {
		header = append(header, strings.ToUpper(string(k)))
	}
	header = append(header, "RECORDS", "DEDUCTED", "GIVEN BACK", "CHARGE")
	if balances {
		header = append(header, "ALLOCATED", "USED IN ALL", "GIVEN BACK IN ALL", "REMAINING")
	}
	for _, r := range s.Rows {
		cells := append(r.Group(s.GroupBy), strconv.FormatInt(r.RecordCount, 10),
			r.Deducted.String(), r.GivenBack.String(), r.Charge.String())
		if b := r.Balance; b != nil {
			cells = append(cells, b.Allocated.String(), b.Used.String(), b.GivenBack.String(), b.Remaining.String())
		}
		rows = append(rows, cells)
	}
	return header, rows
}
