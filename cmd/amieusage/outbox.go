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
)

func (p *program) outboxCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "outbox",
		GroupID: "site",
		Short:   "See what is in the outbox, and send it again",
		Long: `The outbox keeps every record that was ever collected, and how far it has come:

  pending    to be sent
  queued     accepted by the service, not yet known to be loaded
  loaded     in the service's ledger
  failed     accepted, but refused when the service loaded it
  rejected   refused at once when it was sent`,
		Example: `  amieusage outbox list --config site.yaml --state rejected,failed
  amieusage outbox retry --config site.yaml --state rejected`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(p.outboxListCommand(), p.outboxShowCommand(), p.outboxRetryCommand())
	return cmd
}

// An entryView is an entry as programs see it.
type entryView struct {
	ID             outbox.ID           `json:"id"`
	State          outbox.State        `json:"state"`
	Reason         string              `json:"reason,omitempty"`
	Revision       int64               `json:"revision"`
	Attempts       int64               `json:"attempts"`
	FailedRecordID int64               `json:"failed_record_id,omitempty"`
	Place          string              `json:"place,omitempty"`
	EnqueuedAt     time.Time           `json:"enqueued_at"`
	SentAt         time.Time           `json:"sent_at,omitzero"`
	LoadedAt       time.Time           `json:"loaded_at,omitzero"`
	UsageType      amieusage.UsageType `json:"usage_type"`
	Record         amieusage.Record    `json:"record"`
}

func viewOf(e outbox.Entry) entryView {
	return entryView{
		ID: e.ID, State: e.State, Reason: e.Reason, Revision: e.Revision, Attempts: e.Attempts,
		FailedRecordID: e.FailedRecordID, Place: e.Place, EnqueuedAt: e.EnqueuedAt, SentAt: e.SentAt,
		LoadedAt: e.LoadedAt, UsageType: e.Record.UsageType(), Record: e.Record,
	}
}

func (p *program) outboxListCommand() *cobra.Command {
	s := &siteCommand{program: p}
	var states []string
	cmd := &cobra.Command{
		Use:   "list --config site.yaml",
		Short: "List entries",
		Example: `  amieusage outbox list --config site.yaml --state rejected,failed
  amieusage outbox list --config site.yaml -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter := outbox.Filter{}
			var err error
			if filter.States, err = parseStates(states); err != nil {
				return err
			}
			return s.look(cmd.Context(), func(ctx context.Context) error {
				out := newRowWriter(p, s.output, "ID", "STATE", "TYPE", "RECORD", "RESOURCE", "PROJECT", "USER", "CHARGE", "REASON")
				for e, err := range outbox.All(ctx, s.queue, filter) {
					if err != nil {
						return err
					}
					c := e.Record.Common()
					err := out.write(viewOf(e), strconv.FormatInt(int64(e.ID), 10), string(e.State), string(e.Record.UsageType()),
						c.LocalRecordID, c.Resource, c.LocalProjectID, c.Username, c.Charge.String(), e.Reason)
					if err != nil {
						return err
					}
				}
				return out.close()
			})
		},
	}
	s.add(cmd)
	cmd.Flags().StringSliceVar(&states, "state", nil, "only entries in these states: pending, queued, loaded, failed, rejected")
	completeStates(cmd)
	return cmd
}

func completeStates(cmd *cobra.Command) {
	var names []string
	for _, state := range outbox.States {
		names = append(names, string(state))
	}
	completeValues(cmd, "state", names...)
}

func parseStates(names []string) (states []outbox.State, err error) {
	for _, name := range names {
		state, err := outbox.ParseState(name)
		if err != nil {
			return nil, usageError("--state %q: %w", name, err)
		}
		states = append(states, state)
	}
	return states, nil
}

// look runs work with the outbox, which must be there already.
func (s *siteCommand) look(ctx context.Context, work func(ctx context.Context) error) error {
	config, err := s.flags.load()
	if err != nil {
		return err
	}
	if !config.HasState() {
		return usageError("there is no outbox %s yet: nothing was collected", config.State)
	}
	return s.run(ctx, 0, func(*agent.Agent) error { return work(ctx) })
}

func (p *program) outboxShowCommand() *cobra.Command {
	s := &siteCommand{program: p}
	cmd := &cobra.Command{
		Use:   "show --config site.yaml ID|RECORD...",
		Short: "Show entries with their records",
		Long: `Show entries, by their ids in the list or by the LocalRecordIDs of their records
(which are the job's ids).`,
		Example: `  amieusage outbox show --config site.yaml 17
  amieusage outbox show --config site.yaml 4711 -o json`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.look(cmd.Context(), func(ctx context.Context) error {
				views := []entryView{}
				for _, arg := range args {
					found, err := s.find(ctx, arg)
					if err != nil {
						return err
					}
					for _, e := range found {
						views = append(views, viewOf(e))
					}
				}
				if s.output == outputJSON {
					return s.printJSON(views)
				}
				for i, v := range views {
					if i > 0 {
						fmt.Fprintln(s.stdout)
					}
					s.show(v)
				}
				return nil
			})
		},
	}
	s.add(cmd)
	return cmd
}

// find returns the entries of a LocalRecordID, or else the one of an id.
func (s *siteCommand) find(ctx context.Context, arg string) ([]outbox.Entry, error) {
	entries, err := s.queue.List(ctx, outbox.Filter{LocalRecordID: arg})
	if err != nil {
		return nil, err
	}
	if id, parseErr := strconv.ParseInt(arg, 10, 64); parseErr == nil {
		e, err := s.queue.Get(ctx, outbox.ID(id))
		if known, ok := errors.AsType[*amieusage.Error](err); ok && known.Code == amieusage.CodeNotFound {
			err = nil
		} else if err == nil && e.Record.Common().LocalRecordID != arg {
			entries = append(entries, e)
		}
		if err != nil {
			return nil, err
		}
	}
	if len(entries) == 0 {
		return nil, usageError("the outbox has no entry with the id %s, and no record with this LocalRecordID", arg)
	}
	return entries, nil
}

func (s *siteCommand) show(v entryView) {
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(s.stdout, "%-10s %s\n", name, printable(value))
		}
	}
	line("id", strconv.FormatInt(int64(v.ID), 10))
	line("state", string(v.State))
	line("reason", v.Reason)
	line("revision", strconv.FormatInt(v.Revision, 10))
	line("read from", v.Place)
	for _, t := range []struct {
		name string
		at   time.Time
	}{{"enqueued", v.EnqueuedAt}, {"sent", v.SentAt}, {"loaded", v.LoadedAt}} {
		if !t.at.IsZero() {
			line(t.name, amieusage.FormatTime(t.at.UTC()))
		}
	}
	fmt.Fprintf(s.stdout, "%s record\n%s\n", v.UsageType, amieusage.Indent(v.Record))
}

func (p *program) outboxRetryCommand() *cobra.Command {
	s := &siteCommand{program: p}
	var states []string
	cmd := &cobra.Command{
		Use:   "retry --config site.yaml ID... | --state STATE",
		Short: "Make entries pending again, to be sent by the next run",
		Long: `Make entries pending again, to be sent by the next run.

What the service has already counts once, however often it is sent. So, when its
ledger was restored from a backup, it gets all that it has not by

  amieusage outbox retry --config site.yaml --state queued,loaded,failed
  amieusage report --config site.yaml`,
		Example: `  amieusage outbox retry --config site.yaml 17 18
  amieusage outbox retry --config site.yaml --state rejected,failed`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			var which outbox.Selection
			var err error
			if which.States, err = parseStates(states); err != nil {
				return err
			}
			for _, arg := range args {
				id, err := strconv.ParseInt(arg, 10, 64)
				if err != nil {
					return usageError("%q is no entry's id (see: amieusage outbox list)", arg)
				}
				which.IDs = append(which.IDs, outbox.ID(id))
			}
			if len(which.IDs)+len(which.States) == 0 {
				return usageError("name entries by their ids, or states with --state")
			}
			return s.run(cmd.Context(), needLock, func(a *agent.Agent) error {
				n, err := a.Queue.Retry(cmd.Context(), which)
				if err != nil {
					return err
				}
				if s.output == outputJSON {
					return s.printJSON(map[string]int{"pending": n})
				}
				fmt.Fprintf(s.stdout, "%d entries are pending now: the next run sends them\n", n)
				return nil
			})
		},
	}
	s.add(cmd)
	cmd.Flags().StringSliceVar(&states, "state", nil, "all entries in these states")
	completeStates(cmd)
	return cmd
}
