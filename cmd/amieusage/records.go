package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/user"
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
	since, until            string

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
	cmd.Flags().StringVar(&f.since, "since", "", "only usage since this time (2026-10-01)")
	cmd.Flags().StringVar(&f.until, "until", "", "only usage before this time")
}

func (f *recordFilter) isSet() bool {
	return len(f.states) > 0 || f.user+f.project+f.resource+f.since+f.until != ""
}

func (f *recordFilter) parse() (err error) {
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
	for _, t := range []struct {
		flag, text string
		to         *time.Time
	}{{"since", f.since, &f.from}, {"until", f.until, &f.till}} {
		if t.text != "" {
			if *t.to, err = amieusage.ParseTime(t.text); err != nil {
				return usageError("--%s %w", t.flag, err)
			}
		}
	}
	return nil
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
  amieusage records list --config site.yaml --project p.abc123456.000 --since 2026-10-01 -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.parse(); err != nil {
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
			return nil, usageError("%q is no record's number (see: amieusage records list)", arg)
		}
		e, err := s.queue.Get(ctx, outbox.ID(id))
		if known, ok := errors.AsType[*amieusage.Error](err); ok && known.Code == amieusage.CodeNotFound {
			return nil, usageError("there is no record %s (see: amieusage records list)", arg)
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
	if err := d.filter.parse(); err != nil {
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
		_, err = client.ClearFailedRecords(ctx, ids...)
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
			if err := d.filter.parse(); err != nil {
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
