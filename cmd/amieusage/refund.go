package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/cockroachdb/apd/v3"
	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/agent"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/slurm"
)

// A refundCommand is one run of refund.
type refundCommand struct {
	decideCommand
	percent, amount    string
	capHours           string
	states             []string
	nodes, reservation string
	collect            collectFlags
	dryRun             bool
	refund             outbox.Refund
	affected           map[string]bool // nodes
}

func (p *program) refundCommand() *cobra.Command {
	r := &refundCommand{decideCommand: decideCommand{siteCommand: siteCommand{program: p}, one: true}}
	cmd := &cobra.Command{
		Use:     "refund --config site.yaml JOB... | --state STATE | --nodes NODES | --reservation NAME",
		GroupID: "site",
		Short:   "Give the charges of jobs back, or a part of them",
		Long: `Give the charges of jobs back, or a part of them: as adjustments at the jobs'
submit times, so that the right allocation is credited. Jobs are named by their
ids, or asked of sacct by state, by nodes or by reservation, with --since and
--until.

A job has one refund: to refund it twice is to refund it once. A percentage
follows the job's charge when that is corrected; an amount is never more than
it. refund undo takes refunds back.`,
		Example: `  amieusage refund --config site.yaml 4711 --comment "node n17 failed"
  amieusage refund --config site.yaml --state NODE_FAIL --since 2026-10-01 --until 2026-10-08 --dry-run
  amieusage refund --config site.yaml --nodes 'n[1-4]' --since 2026-10-03 --cap-hours 4
  amieusage refund --config site.yaml 4711 --percent 50
  amieusage refund undo --config site.yaml 4711`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := r.parse(args); err != nil {
				return err
			}
			return r.work(cmd.Context(), args, outbox.Note{Kind: "refund", Value: r.value()})
		},
	}
	r.decideCommand.add(cmd)
	cmd.Flags().StringVar(&r.percent, "percent", "100", "the part of the charge that is given back")
	cmd.Flags().StringVar(&r.amount, "amount", "", "give back so many units of each job instead, at most its charge")
	cmd.Flags().StringVar(&r.capHours, "cap-hours", "", "give back at most so many hours of each job's run time")
	cmd.Flags().StringSliceVar(&r.states, "state", nil, "jobs that ended in these states, such as NODE_FAIL")
	cmd.Flags().StringVar(&r.nodes, "nodes", "", "jobs that ran on any of these nodes: n[1-4,7]")
	cmd.Flags().StringVar(&r.reservation, "reservation", "", "jobs that ran in this reservation")
	r.collect.period.add(cmd, "since", "until", "jobs that ended")
	r.collect.dumpFlags.add(cmd)
	cmd.Flags().BoolVar(&r.dryRun, "dry-run", false, "show what would be given back, and change nothing")
	cmd.AddCommand(p.refundUndoCommand())
	return cmd
}

func (p *program) refundUndoCommand() *cobra.Command {
	r := &refundCommand{decideCommand: decideCommand{siteCommand: siteCommand{program: p}, one: true}, refund: outbox.Refund{Undone: true}}
	cmd := &cobra.Command{
		Use:     "undo --config site.yaml JOB...",
		Short:   "Take refunds back: the jobs are charged again",
		Example: `  amieusage refund undo --config site.yaml 4711 --comment "it was another node"`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.work(cmd.Context(), args, outbox.Note{Kind: "undo refund"})
		},
	}
	r.decideCommand.add(cmd)
	cmd.Flags().BoolVar(&r.dryRun, "dry-run", false, "show what would change, and change nothing")
	return cmd
}

// parse checks the flags.
func (r *refundCommand) parse(args []string) error {
	if err := checkFiles(r.collect.files); err != nil {
		return err
	}
	asked := len(r.states) > 0 || r.nodes != "" || r.reservation != ""
	if asked == (len(args) > 0) {
		return usageError("name jobs by their ids, or select them with --state, --nodes or --reservation")
	}
	if asked && !r.collect.period.isSet() && len(r.collect.files) == 0 {
		return usageError("--state, --nodes and --reservation need --since or --month, for sacct is asked for the jobs that ended since then, or a dump with --from-file")
	}
	if err := r.checkTimes(&r.collect); err != nil {
		return err
	}
	r.refund.Percent = r.percent
	percent, _, err := apd.NewFromString(r.percent)
	if err != nil || percent.Negative || percent.IsZero() || percent.Cmp(apd.New(100, 0)) > 0 {
		return usageError("--percent %q is not a number above 0, and up to 100", r.percent)
	}
	if r.amount != "" {
		if r.refund.Amount, err = amieusage.ParseCharge(r.amount); err != nil {
			return usageError("--amount %w", err)
		}
		r.refund.Percent = ""
	}
	if r.capHours != "" {
		hours, _, err := apd.NewFromString(r.capHours)
		if err == nil {
			_, err = apd.BaseContext.WithPrecision(30).Mul(hours, hours, apd.New(3600, 0))
		}
		var seconds int64
		if err == nil {
			var whole apd.Decimal
			_, err = apd.BaseContext.WithPrecision(30).RoundToIntegralValue(&whole, hours)
			seconds, _ = whole.Int64()
		}
		if err != nil || seconds <= 0 {
			return usageError("--cap-hours %q is not a number of hours above 0", r.capHours)
		}
		r.refund.CapSeconds = seconds
	}
	if r.nodes != "" {
		if r.affected, err = slurm.Nodes(r.nodes); err != nil {
			return usageError("--nodes %w", err)
		}
	}
	return nil
}

// value says what the refund is, for the note.
func (r *refundCommand) value() string {
	s := r.refund.Percent + "%"
	if r.refund.Percent == "" {
		s = "up to " + r.refund.Amount.String()
	}
	if r.refund.CapSeconds > 0 {
		s += ", of at most " + r.capHours + " hours"
	}
	return s
}

func (r *refundCommand) work(ctx context.Context, args []string, note outbox.Note) error {
	needs := needService | needLock
	if r.dryRun {
		needs = needLock
	}
	return r.run(ctx, needs, func(a *agent.Agent) error {
		jobs, err := r.jobs(ctx, args)
		if err != nil {
			return err
		}
		var refunds []outbox.Refund
		for i := range jobs {
			refund := r.refund
			refund.Job, refund.Comment = jobs[i].ID, r.comment
			refunds = append(refunds, refund)
		}
		if r.dryRun {
			return r.preview(jobs, refunds)
		}
		if len(refunds) == 0 {
			fmt.Fprintln(r.stderr, "no job that was charged is meant: nothing was changed")
			return nil
		}
		note.Who = r.note().Who
		if err := a.Queue.Refund(ctx, refunds, note); err != nil {
			return err
		}
		err = a.FollowRefunds(ctx)
		if err == nil {
			err = a.Send(ctx)
		}
		if err == nil && a.Summary.Adopted > 0 {
			// A refund that the service had before is known now, and can be corrected.
			if err = a.FollowRefunds(ctx); err == nil {
				err = a.Send(ctx)
			}
		}
		if err == nil {
			err = a.Confirm(ctx, r.config.ConfirmWait)
		}
		return r.finish(ctx, err)
	})
}

// preview shows what each job would get back.
func (r *refundCommand) preview(jobs []outbox.Entry, refunds []outbox.Refund) error {
	type view struct {
		Job    string                      `json:"job"`
		Charge amieusage.Charge            `json:"charge"`
		Record *amieusage.AdjustmentRecord `json:"record"`
	}
	views := []view{}
	for i := range jobs {
		views = append(views, view{jobs[i].Record.Common().LocalRecordID, jobs[i].Record.Common().Charge, refunds[i].Record(&jobs[i])})
	}
	if r.output == outputJSON {
		return r.printJSON(views)
	}
	w := tabwriter.NewWriter(r.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "JOB\tRESOURCE\tPROJECT\tUSER\tCHARGE\tGIVEN BACK")
	for _, v := range views {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", printable(v.Job), printable(v.Record.Resource), printable(v.Record.LocalProjectID),
			printable(v.Record.Username), v.Charge, v.Record.Charge)
	}
	return w.Flush()
}

// jobs returns the entries of the jobs that are named, or that sacct finds.
func (r *refundCommand) jobs(ctx context.Context, args []string) (jobs []outbox.Entry, err error) {
	for _, arg := range args {
		e, err := r.siteCommand.one(ctx, arg)
		if err != nil {
			return nil, err
		}
		if e.Record.UsageType() != amieusage.Compute {
			return nil, usageError("%s is no job: it is %s", arg, printable(e.Record.String()))
		}
		if !e.MayBeCharged() {
			return nil, usageError("job %s was not charged, so nothing is given back (it is %s)", arg, e.State)
		}
		jobs = append(jobs, e)
	}
	if len(args) > 0 {
		return jobs, nil
	}
	until := r.collect.to
	if until.IsZero() {
		until = r.clock().Add(24 * time.Hour)
	}
	seen := map[outbox.ID]bool{}
	for job, err := range r.accounting(ctx, &r.collect.dumpFlags, r.collect.from, until) {
		if _, bad := errors.AsType[*scheduler.RowError](err); bad {
			continue // it was never charged
		}
		if err != nil {
			return nil, err
		}
		if !job.Finished() || job.End.Before(r.collect.from) || !job.End.Before(until) || !r.selects(job) {
			continue
		}
		id, err := r.config.Rules.RecordIDOf(job)
		if err != nil {
			continue
		}
		known, err := r.queue.Known(ctx, []outbox.Names{{RecordID: id}})
		if err != nil {
			return nil, err
		}
		for _, e := range known[0] {
			if e.Record.Identity().KeyTime.Equal(job.Submit) && !e.Superseded && e.MayBeCharged() && !seen[e.ID] {
				seen[e.ID] = true
				jobs = append(jobs, e)
			}
		}
	}
	return jobs, nil
}

func (r *refundCommand) selects(job *scheduler.Job) bool {
	if len(r.states) > 0 {
		found := false
		for _, s := range r.states {
			found = found || strings.EqualFold(s, job.State)
		}
		if !found {
			return false
		}
	}
	if r.reservation != "" && job.Reservation != r.reservation {
		return false
	}
	if r.affected == nil {
		return true
	}
	nodes, err := slurm.Nodes(job.NodeList)
	if err != nil {
		return false
	}
	for n := range nodes {
		if r.affected[n] {
			return true
		}
	}
	return false
}
