package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/agent"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/sqlite"
)

// A reconcileCommand is one run of reconcile.
type reconcileCommand struct {
	siteCommand
	dumps   dumpFlags
	flagged periodFlags
	period  agent.Period
	refunds map[amieusage.Identity]amieusage.Charge // of jobs, on any resource
}

func (p *program) reconcileCommand() *cobra.Command {
	r := &reconcileCommand{siteCommand: siteCommand{program: p}}
	cmd := &cobra.Command{
		Use:     "reconcile --config site.yaml {--since TIME [--until TIME] | --month MONTH} [--from-file DUMP...]",
		GroupID: "site",
		Short:   "Compare the accounting, the outbox and the service, record by record",
		Long: `Compare what the scheduler's accounting, the outbox and the service have of a
period, record by record, and list what differs, each with what helps:

  missing    the accounting has it and the outbox does not, or the outbox says
             that it is loaded and the service does not have it
  extra      a job on a resource of site.yaml that the accounting does not have
  different  its charge or content is not the same everywhere
  pending, queued, failed, rejected
             the outbox has not delivered it

Jobs are compared at the rates that charged them, and with the decisions about them.
If much of a period is missing from the accounting, the accounting looks incomplete:
do not give anything back for that.

A job belongs to the period in which it ended. Storage records and adjustments belong
to the period of their usage; only the outbox and the service have them. A record that
only the service has belongs to the period of its submit time.

Without --from-file the accounting is asked for all jobs from the start of the period
until now. Dumps must cover the period, including jobs that were submitted in it and
ended later. Nothing is changed. Memory does not grow with the period: the comparison
uses a temporary file (TMPDIR).

Exit status: 0 no difference, 1 there are some or some rows cannot be read, 2
bad usage or configuration, or it could not be compared, 3 the service was not
reached.`,
		Example: `  amieusage reconcile --config site.yaml --month 2026-10
  amieusage reconcile --config site.yaml --since 2026-10-01 --from-file dump.psv -o csv > differences.csv`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 && len(r.dumps.files) == 0 {
				return fmt.Errorf("unexpected argument %q: dumps are named with --from-file", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			r.dumps.files = append(r.dumps.files, args...)
			config, err := r.flags.load()
			if err != nil {
				return err
			}
			if err := r.check(config.Zone); err != nil {
				return err
			}
			if !config.HasState() {
				return usageError("there is no outbox %s yet: nothing was collected", config.State)
			}
			err = r.run(cmd.Context(), needRules|needService, func(a *agent.Agent) error { return r.reconcile(cmd.Context(), a) })
			if err != nil && !errors.Is(err, errTold) && exitStatus(err) == exitRefused {
				return &statusError{exitUsage, err} // 1 is that of a difference
			}
			return err
		},
	}
	r.add(cmd)
	flag := cmd.Flags().Lookup("output")
	flag.Value, flag.Usage = csvFlag{&r.output}, "form of the output: table, csv or json"
	r.dumps.add(cmd)
	r.flagged.add(cmd, "since", "until", "jobs that ended")
	cmd.MarkFlagsOneRequired("since", "month")
	return cmd
}

// outputCSV is comma-separated values, for what can be a long list.
const outputCSV outputFlag = "csv"

// A csvFlag is an outputFlag that may be csv, too.
type csvFlag struct{ *outputFlag }

// Set makes it a flag's value.
func (f csvFlag) Set(s string) error {
	if s == string(outputCSV) {
		*f.outputFlag = outputCSV
		return nil
	}
	if f.outputFlag.Set(s) != nil {
		return fmt.Errorf("%q is not one of table, csv, json", s)
	}
	return nil
}

func (r *reconcileCommand) check(zone *time.Location) (err error) {
	now := r.clock()
	if r.period.Since, r.period.Until, err = r.flagged.past(zone, now); err != nil {
		return err
	}
	if r.period.Until.IsZero() {
		r.period.Until = now
	}
	return checkFiles(r.dumps.files)
}

func (r *reconcileCommand) reconcile(ctx context.Context, a *agent.Agent) (err error) {
	var sources []scheduler.Source
	for _, name := range r.dumps.files {
		reader, in, err := r.readDump(name, r.config, &r.dumps)
		if err != nil {
			return err
		}
		defer in.Close()
		sources = append(sources, jobsOf(reader))
	}
	if len(r.dumps.files) == 0 {
		// What only the service has may have ended since the period.
		until := r.period.Until
		if now := r.clock(); now.After(until) {
			until = now
		}
		all, err := r.accountings()
		if err != nil {
			return err
		}
		for i := range all {
			sources = append(sources, scheduler.SourceFunc(func(ctx context.Context) iter.Seq2[*scheduler.Job, error] {
				return all[i].Ended(ctx, r.period.Since, until)
			}))
		}
	}
	comparison, err := sqlite.OpenComparison()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, comparison.Close()) }()
	how, err := a.Reconcile(ctx, r.period, sources, comparison)
	if a.Progress != nil {
		fmt.Fprint(r.stderr, "\r\x1b[K")
	}
	if err != nil {
		return err
	}
	if err := r.readRefunds(ctx); err != nil {
		return err
	}
	sum := &agent.Reconciled{Since: r.period.Since.UTC(), Until: r.period.Until.UTC(), Bad: a.Summary.Bad}
	if err := r.printDifferences(ctx, how, comparison, sum); err != nil {
		return err
	}
	if len(sum.Kinds) > 0 || sum.Bad > 0 {
		return errTold
	}
	return nil
}

// readRefunds reads what was given back of jobs.
func (r *reconcileCommand) readRefunds(ctx context.Context) error {
	refunds, err := r.queue.Refunds(ctx)
	if err != nil {
		return err
	}
	r.refunds = map[amieusage.Identity]amieusage.Charge{}
	for i := range refunds {
		job, err := r.agent.JobOf(ctx, &refunds[i])
		if err != nil {
			return err
		}
		if charge := refunds[i].Charge(job); charge.IsSet() {
			r.refunds[job.Record.Identity()] = charge
		}
	}
	return nil
}

// A differenceView is a difference as programs see it. A source that does not
// have the record has no charge.
type differenceView struct {
	Kind           outbox.DifferenceKind `json:"kind"`
	UsageType      amieusage.UsageType   `json:"usage_type"`
	LocalRecordID  string                `json:"local_record_id"`
	Resource       string                `json:"resource"`
	SubmitTime     time.Time             `json:"submit_time,omitzero"`
	Accounting     *amieusage.Charge     `json:"accounting"`
	Outbox         *amieusage.Charge     `json:"outbox"`
	Service        *amieusage.Charge     `json:"service"`
	Refunded       *amieusage.Charge     `json:"refunded,omitempty"`
	State          outbox.State          `json:"state,omitempty"`
	Entry          outbox.ID             `json:"entry,omitempty"`
	FailedRecordID int64                 `json:"failed_record_id,omitempty"`
	Place          string                `json:"place,omitempty"`
	Difference     string                `json:"difference"`
	Remedy         string                `json:"remedy"`
}

var differenceColumns = []string{"KIND", "TYPE", "RECORD", "RESOURCE", "SUBMITTED", "ACCOUNTING", "OUTBOX", "STATE", "SERVICE", "DIFFERENCE", "REMEDY"}

func (r *reconcileCommand) differenceOf(d agent.ReconciledRecord) differenceView {
	id := d.Identity
	v := differenceView{Kind: d.Kind, UsageType: id.UsageType, LocalRecordID: id.LocalRecordID, Resource: id.Resource, SubmitTime: id.KeyTime,
		Difference: d.Text, Remedy: d.Remedy}
	charge := func(s *outbox.Side) *amieusage.Charge {
		if s == nil {
			return nil
		}
		c := amieusage.ChargeOfMillionths(s.Charge)
		return &c
	}
	if refunded, ok := r.refunds[id]; ok {
		v.Refunded = &refunded
		v.Difference += "; " + refunded.String() + " of it is given back by a refund"
	}
	v.Accounting, v.Outbox, v.Service = charge(d.Accounting), charge(d.Outbox), charge(d.Loaded)
	if d.Failed != nil {
		v.FailedRecordID = d.Failed.Number
	}
	if d.Outbox != nil {
		v.State, v.Entry, v.Place = d.Outbox.State, d.Outbox.Entry, d.Outbox.Place
	}
	if d.Accounting != nil {
		v.Place = d.Accounting.Place
	}
	return v
}

// cells are the columns of a difference; absent stands for the charge of a
// source that does not have the record.
func (v *differenceView) cells(absent string) []string {
	submitted := ""
	if !v.SubmitTime.IsZero() {
		submitted = amieusage.FormatTime(v.SubmitTime)
	}
	cells := []string{string(v.Kind), string(v.UsageType), v.LocalRecordID, v.Resource, submitted}
	for _, c := range []*amieusage.Charge{v.Accounting, v.Outbox, v.Service} {
		text := absent
		if c != nil {
			text = c.String()
		}
		cells = append(cells, text)
	}
	return append(slices.Insert(cells, 7, string(v.State)), v.Difference, v.Remedy)
}

// printDifferences prints what differs as it comes, and then the sums.
func (r *reconcileCommand) printDifferences(ctx context.Context, how *outbox.Reconciling, comparison outbox.Comparison, sum *agent.Reconciled) error {
	differences := agent.Differences(ctx, how, comparison, sum)
	if r.output == outputCSV {
		w := csv.NewWriter(r.stdout)
		if err := w.Write(differenceColumns); err != nil {
			return err
		}
		for d, err := range differences {
			if err != nil {
				return err
			}
			v := r.differenceOf(d)
			cells := v.cells("")
			for i, cell := range cells {
				cells[i] = amieusage.CSVText(cell)
			}
			if err := w.Write(cells); err != nil {
				return err
			}
		}
		w.Flush()
		return errors.Join(w.Error(), printReconciled(r.stderr, sum))
	}
	if r.output == outputJSON {
		if _, err := io.WriteString(r.stdout, "{\"records\": "); err != nil {
			return err
		}
	}
	out := newRowWriter(r.program, r.output, differenceColumns...)
	for d, err := range differences {
		if err != nil {
			return err
		}
		v := r.differenceOf(d)
		if err := out.write(v, v.cells("-")...); err != nil {
			return err
		}
	}
	if err := out.close(); err != nil {
		return err
	}
	if r.output == outputTable {
		fmt.Fprintln(r.stdout)
		return printReconciled(r.stdout, sum)
	}
	if _, err := io.WriteString(r.stdout, ", \"summary\": "); err != nil {
		return err
	}
	if err := r.printJSON(sum); err != nil {
		return err
	}
	_, err := io.WriteString(r.stdout, "}\n")
	return err
}

// printReconciled prints the sums of a comparison.
func printReconciled(w io.Writer, sum *agent.Reconciled) error {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(out, "records from %s to %s\t%d\n", amieusage.FormatTime(sum.Since), amieusage.FormatTime(sum.Until), sum.Records)
	if sum.Bad > 0 {
		fmt.Fprintf(out, "rows that cannot be read\t%d\n", sum.Bad)
	}
	if sum.Incomplete {
		fmt.Fprintf(out, "the accounting looks incomplete: jobs that it lacks\t%d\n", sum.Lacking)
	}
	if len(sum.Kinds) == 0 {
		fmt.Fprintln(out, "no difference")
	}
	for _, kind := range slices.Sorted(maps.Keys(sum.Kinds)) {
		fmt.Fprintf(out, "%s\t%d\n", kind, sum.Kinds[kind])
	}
	if err := out.Flush(); err != nil {
		return err
	}
	if len(sum.Resources) == 0 {
		return nil
	}
	fmt.Fprintln(out, "\nRESOURCE\tACCOUNTING\tCHARGE\tOUTBOX\tCHARGE\tSERVICE\tCHARGE")
	for _, name := range slices.Sorted(maps.Keys(sum.Resources)) {
		s := sum.Resources[name]
		fmt.Fprint(out, printable(name))
		for _, t := range []agent.Total{s.Accounting, s.Outbox} {
			fmt.Fprint(out, "\t", t.Records, "\t", t.Charge)
		}
		if sum.Listed {
			fmt.Fprintf(out, "\t%s\t%s\n", strconv.FormatInt(s.Service.Records, 10), s.Service.Charge)
		} else {
			fmt.Fprint(out, "\t-\t-\n")
		}
	}
	return out.Flush()
}
