package main

import (
	"context"
	"fmt"
	"os/user"

	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/agent"
	"github.com/amieusage/amieusage/internal/outbox"
)

// A decideCommand is a command that decides about records.
type decideCommand struct {
	siteCommand
	filter  recordFilter
	comment string
	one     bool // one record each time, and no filter
}

func (d *decideCommand) add(cmd *cobra.Command) {
	d.siteCommand.add(cmd)
	if !d.one {
		d.filter.add(cmd)
	}
	cmd.Flags().StringVar(&d.comment, "comment", "", "why: it is kept with the decision")
}

// note is the note of a decision made now.
func (d *decideCommand) note() outbox.Note { return d.noteNow(d.comment) }

func (p *program) noteNow(comment string) outbox.Note {
	who := "unknown"
	if u, err := user.Current(); err == nil {
		who = u.Username
	}
	return outbox.Note{Comment: comment, Who: who, At: p.clock()}
}

// decide applies a decision to the records that are named or filtered. It
// returns those that were decided about, as they were.
func (d *decideCommand) decide(ctx context.Context, args []string, rule func(e outbox.Entry) (outbox.Write, bool, error)) ([]outbox.Entry, error) {
	if err := d.filter.parse(&d.flags); err != nil {
		return nil, err
	}
	if len(args) == 0 && !d.filter.isSet() {
		return nil, usageError("name jobs by their ids, records as '#3', or select them with --state, --user, --project, --resource, --since, --until")
	}
	var entries []outbox.Entry
	for _, arg := range args {
		e, err := d.siteCommand.one(ctx, arg)
		if err != nil {
			return nil, err
		}
		if e.Superseded {
			return nil, &statusError{exitUsage, d.superseded(ctx, &e)}
		}
		entries = append(entries, e)
	}
	if d.filter.isSet() {
		for e, err := range outbox.All(ctx, d.queue, outbox.Filter{States: d.filter.parsed}) {
			if err != nil {
				return nil, err
			}
			if d.filter.selects(&e) && !e.Superseded && !(d.filter.bad && len(d.filter.parsed) == 0) {
				entries = append(entries, e)
			}
		}
	}
	var writes []outbox.Write
	var decided []outbox.Entry
	for _, e := range entries {
		w, ok, err := rule(e)
		if err != nil {
			return nil, err
		}
		if ok {
			writes, decided = append(writes, w), append(decided, e)
		}
	}
	if _, err := d.queue.Apply(ctx, writes, nil); err != nil {
		return nil, err
	}
	return decided, nil
}

// superseded says what stands for an entry that was superseded.
func (s *siteCommand) superseded(ctx context.Context, old *outbox.Entry) error {
	known, err := s.queue.List(ctx, outbox.Filter{LocalRecordID: old.Record.Common().LocalRecordID})
	if err != nil {
		return err
	}
	id := old.Record.Identity()
	for _, e := range known {
		if now := e.Record.Identity(); !e.Superseded && now.UsageType == id.UsageType && now.KeyTime.Equal(id.KeyTime) {
			return fmt.Errorf("record #%d is superseded: its job is charged on %s, as record #%d; decide about that one", old.ID, now.Resource, e.ID)
		}
	}
	return fmt.Errorf("record #%d is superseded: its job is not charged by it any more", old.ID)
}

// tell prints how many records were decided about.
func (d *decideCommand) tell(key string, decided []outbox.Entry, format string) error {
	if d.output == outputJSON {
		ids := []outbox.ID{}
		for _, e := range decided {
			ids = append(ids, e.ID)
		}
		return d.printJSON(map[string]any{key: len(decided), "ids": ids})
	}
	fmt.Fprintf(d.stdout, format+"\n", len(decided))
	return nil
}

func (p *program) recordsHoldCommand() *cobra.Command {
	d := &decideCommand{siteCommand: siteCommand{program: p}}
	cmd := &cobra.Command{
		Use:   "hold --config site.yaml JOB|'#ID'...",
		Short: "Hold records: they are not sent until they are released",
		Example: `  amieusage records hold --config site.yaml 4711 --comment "waits for the committee"
  amieusage records hold --config site.yaml --state pending --project p.abc123456.000`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return d.run(cmd.Context(), needLock, func(*agent.Agent) error {
				held, err := d.decide(cmd.Context(), args, func(e outbox.Entry) (outbox.Write, bool, error) {
					return outbox.Hold(e, d.note()), true, nil
				})
				if err != nil {
					return err
				}
				return d.tell("held", held, "%d records are held")
			})
		},
	}
	d.add(cmd)
	return cmd
}

func (p *program) recordsDropCommand() *cobra.Command {
	d := &decideCommand{siteCommand: siteCommand{program: p}}
	var withdraw bool
	cmd := &cobra.Command{
		Use:   "drop --config site.yaml JOB|'#ID'...",
		Short: "Never send records again, for good",
		Long: `Never send records again. What the service has loaded of them keeps its charge,
or goes to 0 with --withdraw. A failed record is taken off the service's list,
too: failed clear is the same decision. Rows that could not be used are dropped
by their job's id.`,
		Example: `  amieusage records drop --config site.yaml 4711 --comment "a test of ours"
  amieusage records drop --config site.yaml 4711 --withdraw
  amieusage records drop --config site.yaml --state failed --project p.old`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return d.run(ctx, needLock, func(*agent.Agent) error {
				args, rows, err := d.dropBad(ctx, args)
				if err != nil {
					return err
				}
				var dropped []outbox.Entry
				if len(args) > 0 || len(d.filter.states) > 0 || d.filter.isSet() {
					if dropped, err = d.decide(ctx, args, func(e outbox.Entry) (outbox.Write, bool, error) {
						return outbox.Drop(e, withdraw, d.note()), true, nil
					}); err != nil {
						return err
					}
				}
				if rows > 0 {
					fmt.Fprintf(d.stderr, "%d bad rows are dropped\n", rows)
				}
				if err := d.tell("dropped", dropped, "%d records are dropped"); err != nil {
					return err
				}
				return d.clear(ctx, dropped)
			})
		},
	}
	d.add(cmd)
	cmd.Flags().BoolVar(&withdraw, "withdraw", false, "bring what was loaded to a charge of 0")
	return cmd
}

// dropBad drops the bad rows of jobs that have no record, and returns the other
// arguments.
func (d *decideCommand) dropBad(ctx context.Context, args []string) (rest []string, dropped int, err error) {
	rows, err := d.queue.BadRows(ctx)
	if err != nil {
		return nil, 0, err
	}
	bad := map[string]int{}
	for _, r := range rows {
		bad[r.JobID]++
	}
	var ids []string
	for _, arg := range args {
		if bad[arg] > 0 {
			if _, err := d.find(ctx, arg); err != nil {
				ids, dropped = append(ids, arg), dropped+bad[arg]
				continue
			}
		}
		rest = append(rest, arg)
	}
	if len(ids) > 0 {
		err = d.queue.ReadWell(ctx, ids)
	}
	return rest, dropped, err
}

// clear takes dropped records off the service's list of failures.
func (d *decideCommand) clear(ctx context.Context, dropped []outbox.Entry) error {
	var ids []int64
	for _, e := range dropped {
		if e.State == outbox.Failed && e.FailedRecordID > 0 {
			ids = append(ids, e.FailedRecordID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	client, err := clientOf(d.config, d.log())
	if err == nil {
		_, err = client.ClearFailedIDs(ctx, ids...)
	}
	if err != nil {
		return fmt.Errorf("they are dropped here, and still on the service's list of failed records: %w; amieusage failed clear takes them off", err)
	}
	return nil
}

func (p *program) recordsReleaseCommand() *cobra.Command {
	d := &decideCommand{siteCommand: siteCommand{program: p}}
	cmd := &cobra.Command{
		Use:   "release --config site.yaml JOB|'#ID'...",
		Short: "Take back what was decided: send what is held or dropped",
		Long: `Take back what was decided about records, by a person or by a limit: what is held
or dropped is sent by the next run, and accounting and rules count again.`,
		Example: `  amieusage records release --config site.yaml 4711
  amieusage records release --config site.yaml --state held`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return d.run(cmd.Context(), needLock, func(*agent.Agent) error {
				released, err := d.decide(cmd.Context(), args, func(e outbox.Entry) (outbox.Write, bool, error) {
					return outbox.Release(e, d.note()), e.Decision != "" || e.State == outbox.Held || e.State == outbox.Dropped, nil
				})
				if err != nil {
					return err
				}
				return d.tell("released", released, "%d records are released: the next run sends them")
			})
		},
	}
	d.add(cmd)
	return cmd
}

func (p *program) recordsResendCommand() *cobra.Command {
	d := &decideCommand{siteCommand: siteCommand{program: p}}
	cmd := &cobra.Command{
		Use:   "resend --config site.yaml JOB|'#ID'... | --state STATE",
		Short: "Make records pending again, to be sent by the next run",
		Long: `Make records pending again, to be sent by the next run. What is held or dropped
stays so.

What the service has already counts once, however often it is sent. So, when its
ledger was restored from a backup, it gets all that it has not by

  amieusage records resend --config site.yaml --state queued,loaded,failed
  amieusage report --config site.yaml`,
		Example: `  amieusage records resend --config site.yaml 4711 '#18'
  amieusage records resend --config site.yaml --state rejected,failed`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if err := d.filter.parse(&d.flags); err != nil {
				return err
			}
			if len(args) == 0 && !d.filter.isSet() {
				return usageError("name jobs by their ids, records as '#3', or states with --state")
			}
			return d.run(ctx, needLock, func(a *agent.Agent) error {
				var which outbox.Selection
				for _, arg := range args {
					e, err := d.siteCommand.one(ctx, arg)
					if err != nil {
						return err
					}
					which.IDs = append(which.IDs, e.ID)
				}
				plain := d.filter
				plain.states = nil
				if !plain.isSet() {
					which.States = d.filter.parsed
				} else {
					for e, err := range outbox.All(ctx, d.queue, outbox.Filter{States: d.filter.parsed}) {
						if err != nil {
							return err
						}
						if d.filter.selects(&e) {
							which.IDs = append(which.IDs, e.ID)
						}
					}
				}
				n, err := a.Queue.Retry(ctx, which)
				if err != nil {
					return err
				}
				if d.output == outputJSON {
					return d.printJSON(map[string]int{"pending": n})
				}
				fmt.Fprintf(d.stdout, "%d records are pending now: the next run sends them\n", n)
				return nil
			})
		},
	}
	d.add(cmd)
	return cmd
}

func (p *program) recordsSetCommand() *cobra.Command {
	d := &decideCommand{siteCommand: siteCommand{program: p}, one: true}
	var text string
	cmd := &cobra.Command{
		Use:   "set --config site.yaml JOB|'#ID' --charge UNITS",
		Short: "Give a record another charge, by hand",
		Long: `Give a record another charge, by hand. It stands, whatever becomes of the
accounting and of site.yaml, until it is released.`,
		Example: `  amieusage records set --config site.yaml 4711 --charge 12.5 --comment "the node was slow"`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			charge, err := amieusage.ParseCharge(text)
			if err != nil {
				return usageError("--charge %w", err)
			}
			return d.run(cmd.Context(), needLock, func(*agent.Agent) error {
				set, err := d.decide(cmd.Context(), args, func(e outbox.Entry) (outbox.Write, bool, error) {
					w, err := outbox.SetCharge(e, charge, d.note())
					if err != nil {
						err = &statusError{exitUsage, err}
					}
					return w, true, err
				})
				if err != nil {
					return err
				}
				return d.tell("set", set, "%d record has the charge "+charge.String()+" now: the next run sends it")
			})
		},
	}
	d.add(cmd)
	cmd.Flags().StringVar(&text, "charge", "", "the charge, in allocation units (required)")
	markRequired(cmd, "charge")
	return cmd
}
