package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/agent"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/siteconfig"
	"github.com/amieusage/amieusage/usageclient"
)

func (p *program) failedCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "failed",
		GroupID: "api",
		Short:   "List, clear and retry the records that the service could not load",
		Example: `  amieusage failed list --config site.yaml
  amieusage failed retry --config site.yaml --all`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(p.failedListCommand(), p.failedClearCommand(), p.failedRetryCommand())
	return cmd
}

func (p *program) failedListCommand() *cobra.Command {
	q := &queryCommand{siteCommand{program: p}}
	cmd := &cobra.Command{
		Use:   "list --config site.yaml",
		Short: "List the failed records, with their reasons",
		Example: `  amieusage failed list --config site.yaml
  amieusage failed list --config site.yaml -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return q.ask(cmd.Context(), func(ctx context.Context, client *usageclient.Client) error {
				failed, err := client.ListFailed(ctx)
				if err != nil {
					return err
				}
				rows := [][]string{}
				for _, f := range failed {
					var c amieusage.Common
					if f.Record != nil {
						c = f.Record.Common()
					}
					rows = append(rows, []string{strconv.FormatInt(f.FailedRecordID, 10), string(f.UsageType), c.LocalRecordID,
						c.Resource, c.LocalProjectID, c.Username, c.Charge.String(), f.Error})
				}
				return q.print(q.output, append([]amieusage.FailedRecord{}, failed...),
					[]string{"ID", "TYPE", "RECORD", "RESOURCE", "PROJECT", "USER", "CHARGE", "REASON"}, rows)
			})
		},
	}
	q.add(cmd)
	return cmd
}

// failedIDs reads the ids of failed records, or --all.
func failedIDs(args []string, all bool) ([]int64, error) {
	if all == (len(args) > 0) {
		return nil, usageError("name failed records by their ids, or all of them with --all (see: amieusage failed list)")
	}
	ids := make([]int64, len(args))
	for i, arg := range args {
		var err error
		if ids[i], err = strconv.ParseInt(arg, 10, 64); err != nil || ids[i] <= 0 {
			return nil, usageError("%q is not the id of a failed record (see: amieusage failed list)", arg)
		}
	}
	return ids, nil
}

func (p *program) failedClearCommand() *cobra.Command {
	q := &queryCommand{siteCommand{program: p}}
	var all bool
	var comment string
	cmd := &cobra.Command{
		Use:   "clear --config site.yaml ID... | --all",
		Short: "Take failed records off the service's list, for good",
		Long: `Take failed records off the service's list. Their usage is not charged: do so
with what is not to be reported after all. What is to be reported is repaired
and retried; it leaves the list by itself when it is loaded.

It is the same decision as records drop: no later run sends them again.`,
		Example: `  amieusage failed clear --config site.yaml 17 18
  amieusage failed clear --config site.yaml --all`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := failedIDs(args, all)
			if err != nil {
				return err
			}
			return q.ask(cmd.Context(), func(ctx context.Context, client *usageclient.Client) error {
				if all {
					failed, err := client.ListFailed(ctx)
					if err != nil {
						return err
					}
					for _, f := range failed {
						ids = append(ids, f.FailedRecordID)
					}
				}
				// What is cleared is not to be charged: that stands here first, so that
				// no run sends it again whatever becomes of this one.
				if err := q.dropFailed(ctx, ids, comment); err != nil {
					return err
				}
				cleared, err := client.ClearFailedIDs(ctx, ids...)
				if q.output == outputJSON {
					if cleared == nil {
						cleared = []int64{}
					}
					err = errors.Join(err, q.printJSON(map[string][]int64{"cleared": cleared}))
				} else if err == nil || len(cleared) > 0 {
					fmt.Fprintf(q.stdout, "cleared %d failed records\n", len(cleared))
				}
				return err
			})
		},
	}
	q.add(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "all failed records")
	cmd.Flags().StringVar(&comment, "comment", "", "why: it is kept with the decision")
	return cmd
}

// dropFailed drops the records that failed with these numbers, where the site
// has an outbox that knows them.
func (q *queryCommand) dropFailed(ctx context.Context, ids []int64, comment string) error {
	config, err := q.flags.load()
	if err != nil {
		return err
	}
	if !config.HasState() {
		return nil
	}
	failed := map[int64]bool{}
	for _, id := range ids {
		failed[id] = true
	}
	d := &decideCommand{siteCommand: siteCommand{program: q.program, flags: q.flags, output: q.output, verbose: q.verbose}, comment: comment}
	return d.run(ctx, needLock, func(*agent.Agent) error {
		d.filter.states = []string{string(outbox.Failed)}
		_, err := d.decide(ctx, nil, func(e outbox.Entry) (outbox.Write, bool, error) {
			return outbox.Drop(e, false, d.note()), failed[e.FailedRecordID], nil
		})
		if err != nil {
			return err
		}
		for e, err := range outbox.All(ctx, d.queue, outbox.Filter{States: []outbox.State{outbox.Failed, outbox.Dropped}}) {
			switch {
			case err != nil:
				return err
			case !e.Superseded || !failed[e.FailedRecordID]:
			case e.State == outbox.Failed:
				fmt.Fprintf(q.stderr, "failed record %d: %v\nIt was to bring the job's charge on %s to 0, and still is: amieusage records resend '#%d'\n",
					e.FailedRecordID, printable(d.superseded(ctx, &e).Error()), printable(e.Record.Common().Resource), e.ID)
			default:
				fmt.Fprintf(q.stderr, "failed record %d: %v\n", e.FailedRecordID, printable(d.superseded(ctx, &e).Error()))
			}
		}
		return nil
	})
}

func (p *program) failedRetryCommand() *cobra.Command {
	s := &siteCommand{program: p}
	var all bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "retry --config site.yaml ID... | --all",
		Short: "Send failed records again, after their cause was mended",
		Long: `Send failed records again: when the service has learnt of the project, the user
or the allocation. A failed record leaves the list when it is loaded. To send a
record with other content, collect or send it anew.

Records that this site's outbox holds go through it, so that it knows how they
ended.`,
		Example: `  amieusage failed retry --config site.yaml 17 18
  amieusage failed retry --config site.yaml --all`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := failedIDs(args, all)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			return s.run(ctx, needService|needLock, func(a *agent.Agent) error {
				if !cmd.Flags().Changed("wait") {
					wait = s.config.ConfirmWait
				}
				err := s.retryFailed(ctx, ids)
				if err == nil {
					err = a.Send(ctx)
				}
				if err == nil {
					err = a.Confirm(ctx, wait)
				}
				return s.finish(ctx, err)
			})
		},
	}
	s.add(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "all failed records")
	cmd.Flags().DurationVar(&wait, "wait", siteconfig.DefaultConfirmWait, "how long to wait for the service to load what was sent (confirm_wait in site.yaml)")
	return cmd
}

// retryFailed makes the failed records of the ids (none: all) pending in the
// outbox. Those that it does not hold are taken in.
func (s *siteCommand) retryFailed(ctx context.Context, ids []int64) error {
	failed, err := s.agent.Client.ListFailed(ctx)
	if err != nil {
		return err
	}
	wanted := map[int64]bool{}
	for _, id := range ids {
		wanted[id] = true
	}
	var items []outbox.Item
	for _, f := range failed {
		if len(ids) > 0 && !wanted[f.FailedRecordID] {
			continue
		}
		delete(wanted, f.FailedRecordID)
		problem := f.Problem
		if problem == nil && f.Record == nil {
			problem = errors.New("the service lists it without its record")
		} else if problem == nil {
			problem = f.Record.Validate()
		}
		if problem != nil {
			s.agent.Summary.Bad++
			fmt.Fprintf(s.stderr, "failed record %d cannot be sent and is left: %s\n", f.FailedRecordID, printable(problem.Error()))
			continue
		}
		known, err := s.queue.List(ctx, outbox.Filter{LocalRecordID: f.Record.Common().LocalRecordID})
		if err != nil {
			return err
		}
		if former := outbox.FormerOf(known, f.Record); former != nil {
			// Its job is charged on another resource: this former content would charge it
			// twice.
			fmt.Fprintf(s.stderr, "failed record %d is left: %s\n", f.FailedRecordID, printable(s.superseded(ctx, former).Error()))
			continue
		}
		items = append(items, outbox.Item{Record: f.Record, Place: "failed record " + strconv.FormatInt(f.FailedRecordID, 10)})
	}
	for id := range wanted {
		return fmt.Errorf("there is no failed record %d (see: %s)", id, s.flags.again("failed list"))
	}
	// What failed is learnt first, so that the failure is not taken for a new
	// one after the retry.
	const chunk = 2000
	if _, err := s.queue.Failed(ctx, failed); err != nil {
		return err
	}
	for len(items) > 0 {
		n := min(chunk, len(items))
		outcomes, err := s.queue.Enqueue(ctx, items[:n], nil)
		if err != nil {
			return err
		}
		var again outbox.Selection
		for _, o := range outcomes {
			if o.Change == outbox.Unchanged {
				again.IDs = append(again.IDs, o.ID)
			}
		}
		if _, err := s.queue.Retry(ctx, again); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}
