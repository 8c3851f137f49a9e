package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/agent"
	"github.com/amieusage/amieusage/internal/outbox"
)

func (p *program) recordsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "records",
		GroupID: "site",
		Short:   "See what was collected, and decide what becomes of it",
		Long: `Every record that was ever collected is kept, with how far it has come:

  pending    to be sent
  queued     accepted by the service, not yet known to be loaded
  loaded     in the service's ledger
  failed     accepted, but refused when the service loaded it
  rejected   refused at once when it was sent
  held       not sent until it is released
  dropped    not sent any more
  waiting    to be sent when the job's record on another resource is at 0
  accepted   accepted by a service that cannot say whether it is loaded

What a person decides stands: neither the accounting, nor site.yaml, nor a
restore overrules it. Each decision is kept with its comment, its time and who
made it (see: amieusage explain).

A bare number is a job's id, as users know it; '#3' is record 3.`,
		Example: `  amieusage records list --config site.yaml --state rejected,failed
  amieusage records resend --config site.yaml --state rejected
  amieusage records drop --config site.yaml 4711 --comment "a test of ours"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(p.recordsListCommand(), p.recordsShowCommand(), p.recordsHoldCommand(), p.recordsDropCommand(),
		p.recordsReleaseCommand(), p.recordsResendCommand(), p.recordsSetCommand())
	return cmd
}

// An entryView is an entry as programs see it.
type entryView struct {
	ID             outbox.ID           `json:"id"`
	State          outbox.State        `json:"state"`
	Decision       outbox.Decision     `json:"decision,omitempty"`
	Reason         string              `json:"reason,omitempty"`
	Revision       int64               `json:"revision"`
	Attempts       int64               `json:"attempts"`
	FailedRecordID int64               `json:"failed_record_id,omitempty"`
	Place          string              `json:"place,omitempty"`
	EnqueuedAt     time.Time           `json:"enqueued_at"`
	SentAt         time.Time           `json:"sent_at,omitzero"`
	LoadedAt       time.Time           `json:"loaded_at,omitzero"`
	Superseded     bool                `json:"superseded,omitempty"`
	WaitsFor       outbox.ID           `json:"waits_for,omitempty"`
	UsageType      amieusage.UsageType `json:"usage_type"`
	Record         amieusage.Record    `json:"record"`
}

func viewOf(e outbox.Entry) entryView {
	return entryView{
		ID: e.ID, State: e.State, Decision: e.Decision, Reason: e.Reason, Revision: e.Revision, Attempts: e.Attempts,
		FailedRecordID: e.FailedRecordID, Place: e.Place, EnqueuedAt: e.EnqueuedAt, SentAt: e.SentAt,
		LoadedAt: e.LoadedAt, Superseded: e.Superseded, WaitsFor: e.WaitsFor, UsageType: e.Record.UsageType(), Record: e.Record,
	}
}

// badState is the state by which bad rows are listed, which are no records yet.
const badState = "bad"

// A recordFilter selects records for people.
type recordFilter struct {
	states                  []string
	user, project, resource string
	period                  periodFlags

	parsed     []outbox.State
	bad        bool
	from, till time.Time
}

func (f *recordFilter) add(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&f.states, "state", nil, "only records in these states: pending, queued, loaded, failed, rejected, held, dropped, waiting, accepted; or bad, for rows that could not be used")
	names := []string{badState}
	for _, state := range outbox.States {
		names = append(names, string(state))
	}
	completeValues(cmd, "state", names...)
	cmd.Flags().StringVar(&f.user, "user", "", "only records of this user")
	cmd.Flags().StringVar(&f.project, "project", "", "only records of this project")
	cmd.Flags().StringVar(&f.resource, "resource", "", "only records on this resource")
	f.period.add(cmd, "since", "until", "only usage")
}

func (f *recordFilter) isSet() bool {
	return len(f.states) > 0 || f.user+f.project+f.resource != "" || f.period.isSet()
}

func (f *recordFilter) parse(flags *configFlags) (err error) {
	for _, name := range f.states {
		if name == badState {
			f.bad = true
			continue
		}
		state, err := outbox.ParseState(name)
		if err != nil {
			return usageError("--state %q: %w", name, err)
		}
		f.parsed = append(f.parsed, state)
	}
	if !f.period.isSet() {
		return nil
	}
	config, err := flags.load()
	if err != nil {
		return err
	}
	f.from, f.till, err = f.period.times(config.Zone)
	return err
}

func (f *recordFilter) selects(e *outbox.Entry) bool {
	c, at := e.Record.Common(), e.Record.UsageTime()
	return (f.user == "" || c.Username == f.user) && (f.project == "" || c.LocalProjectID == f.project) &&
		(f.resource == "" || c.Resource == f.resource) && (f.from.IsZero() || !at.Before(f.from)) && (f.till.IsZero() || at.Before(f.till))
}

func (p *program) recordsListCommand() *cobra.Command {
	s := &siteCommand{program: p}
	var f recordFilter
	cmd := &cobra.Command{
		Use:   "list --config site.yaml",
		Short: "List records",
		Example: `  amieusage records list --config site.yaml --state rejected,failed
  amieusage records list --config site.yaml --state bad
  amieusage records list --config site.yaml --project p.abc123456.000 --month 2026-10 -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.parse(&s.flags); err != nil {
				return err
			}
			return s.look(cmd.Context(), func(ctx context.Context) error {
				if f.bad {
					if err := s.listBad(ctx); err != nil || len(f.parsed) == 0 {
						return err
					}
				}
				out := newRowWriter(p, s.output, "ID", "STATE", "TYPE", "RECORD", "RESOURCE", "PROJECT", "USER", "CHARGE", "REASON")
				for e, err := range outbox.All(ctx, s.queue, outbox.Filter{States: f.parsed}) {
					if err != nil {
						return err
					}
					if !f.selects(&e) {
						continue
					}
					c := e.Record.Common()
					reason := e.Reason
					if e.Decision.Binds() && reason == "" {
						reason = "decided: " + string(e.Decision)
					}
					err := out.write(viewOf(e), strconv.FormatInt(int64(e.ID), 10), string(e.State), string(e.Record.UsageType()),
						c.LocalRecordID, c.Resource, c.LocalProjectID, c.Username, c.Charge.String(), reason)
					if err != nil {
						return err
					}
				}
				return out.close()
			})
		},
	}
	s.add(cmd)
	f.add(cmd)
	return cmd
}

func (s *siteCommand) listBad(ctx context.Context) error {
	rows, err := s.queue.BadRows(ctx)
	if err != nil {
		return err
	}
	out := newRowWriter(s.program, s.output, "JOB", "READ FROM", "FIRST SEEN", "LAST SEEN", "REASON")
	for _, r := range rows {
		err := out.write(r, r.JobID, r.Place, r.FirstSeen.UTC().Format(time.RFC3339), r.LastSeen.UTC().Format(time.RFC3339), r.Reason)
		if err != nil {
			return err
		}
	}
	return out.close()
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

func (p *program) recordsShowCommand() *cobra.Command {
	s := &siteCommand{program: p}
	cmd := &cobra.Command{
		Use:   "show --config site.yaml JOB|'#ID'...",
		Short: "Show records as they are sent",
		Long: `Show records as they are sent, by the ids of jobs, by LocalRecordIDs, or by
their numbers in the list ('#17'). How a charge came about shows explain.`,
		Example: `  amieusage records show --config site.yaml 4711
  amieusage records show --config site.yaml '#17' -o json`,
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

// find returns the entries that a job's id, a LocalRecordID or #ID names.
func (s *siteCommand) find(ctx context.Context, arg string) ([]outbox.Entry, error) {
	if number, ok := strings.CutPrefix(arg, "#"); ok {
		id, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return nil, usageError("%q is no record's number (see: %s)", arg, s.flags.again("records list"))
		}
		e, err := s.queue.Get(ctx, outbox.ID(id))
		if known, ok := errors.AsType[*amieusage.Error](err); ok && known.Code == amieusage.CodeNotFound {
			return nil, usageError("there is no record %s (see: %s)", arg, s.flags.again("records list"))
		}
		return []outbox.Entry{e}, err
	}
	entries, err := s.queue.List(ctx, outbox.Filter{LocalRecordID: arg})
	if err != nil {
		return nil, err
	}
	// Records may have other ids than their jobs: the parts of one that was resized do.
	known, err := s.queue.Known(ctx, []outbox.Names{{RecordID: arg, ID: arg}})
	if err != nil {
		return nil, err
	}
	for _, e := range known[0] {
		if !slices.ContainsFunc(entries, func(o outbox.Entry) bool { return o.ID == e.ID }) {
			entries = append(entries, e)
		}
	}
	slices.SortFunc(entries, func(a, b outbox.Entry) int { return cmp.Compare(a.ID, b.ID) })
	if len(entries) == 0 {
		return nil, usageError("there is no record of a job %s, and none with this LocalRecordID; a record's number is written '#%s'", arg, arg)
	}
	return entries, nil
}

// one returns the one entry that a name is for: what was superseded is not
// meant, and where several jobs bear the name, it is refused.
func (s *siteCommand) one(ctx context.Context, arg string) (outbox.Entry, error) {
	found, err := s.find(ctx, arg)
	if err != nil {
		return outbox.Entry{}, err
	}
	var meant []outbox.Entry
	for _, e := range found {
		if !e.Superseded {
			meant = append(meant, e)
		}
	}
	if len(meant) == 0 {
		meant = found
	}
	if len(meant) == 1 {
		return meant[0], nil
	}
	var list strings.Builder
	for _, e := range meant {
		fmt.Fprintf(&list, "\n  '#%d'  %s  %s", e.ID, e.State, printable(e.Record.String()))
	}
	return outbox.Entry{}, usageError("%s is the name of several; name the one that is meant:%s", arg, list.String())
}

func (s *siteCommand) show(v entryView) {
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(s.stdout, "%-10s %s\n", name, printable(value))
		}
	}
	line("id", strconv.FormatInt(int64(v.ID), 10))
	line("state", string(v.State))
	line("decision", string(v.Decision))
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
