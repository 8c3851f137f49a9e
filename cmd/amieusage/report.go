package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/agent"
	"github.com/amieusage/amieusage/internal/counted"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/siteconfig"
)

// A collectFlags say where jobs come from.
type collectFlags struct {
	dumpFlags
	period   periodFlags
	dryRun   bool
	from, to time.Time // the period, once checked

	acceptMissing bool
	// preview is called with what would be enqueued, and nothing is.
	preview func(outbox.Item)
}

func (f *collectFlags) add(cmd *cobra.Command) {
	f.dumpFlags.add(cmd)
	f.period.add(cmd, "since", "until", "collect jobs that ended")
	cmd.Flags().BoolVar(&f.acceptMissing, "accept-missing", false, "treat jobs that the accounting no longer shows as purged: they keep their charge")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "show what would be sent, and change nothing")
}

// dumpFlags say what dumps are read, and how.
type dumpFlags struct {
	files     []string
	delimiter string
	columns   []string
}

func (f *dumpFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&f.files, "from-file", "f", nil, "read this dump of sacct, accounting log or history, compressed or not, instead of asking the scheduler; - is standard input (may be repeated)")
	f.addForm(cmd)
}

func (f *dumpFlags) addForm(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.delimiter, "delimiter", "", "the character between a dump's fields (default: found in its first line)")
	cmd.Flags().StringSliceVar(&f.columns, "columns", nil, "the columns of a dump that has no header: JobIDRaw,JobID,User,…")
}

// A dumpError says that a dump cannot be read.
type dumpError struct{ err error }

func (e *dumpError) Error() string { return e.err.Error() }
func (e *dumpError) Unwrap() error { return e.err }

// jobsOf yields the jobs of a dump; an error that ends it is a *dumpError.
func jobsOf(reader scheduler.Reader) scheduler.Source {
	return scheduler.SourceFunc(func(ctx context.Context) iter.Seq2[*scheduler.Job, error] {
		return func(yield func(*scheduler.Job, error) bool) {
			for job, err := range reader.Jobs(ctx) {
				if _, row := errors.AsType[*scheduler.RowError](err); err != nil && !row && ctx.Err() == nil {
					err = &dumpError{err}
				}
				if !yield(job, err) {
					return
				}
			}
		}
	})
}

// dumpArguments lets further dumps stand behind --from-file.
func (f *collectFlags) dumpArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 && len(f.files) == 0 {
		return fmt.Errorf("unexpected argument %q: dumps are named with --from-file", args[0])
	}
	return nil
}

// check checks the flags before anything is done.
func (s *siteCommand) check(f *collectFlags) error {
	if f.period.isSet() && len(f.files) > 0 {
		return usageError("--since, --until and --month are for accounting that is asked: a dump is read as a whole")
	}
	if err := s.checkTimes(f); err != nil {
		return err
	}
	return checkFiles(f.files)
}

func (s *siteCommand) checkTimes(f *collectFlags) error {
	if !f.period.isSet() {
		return nil
	}
	config, err := s.flags.load()
	if err != nil {
		return err
	}
	f.from, f.to, err = f.period.past(config.Zone, s.clock())
	return err
}

func (p *program) reportCommand() *cobra.Command {
	s := &siteCommand{program: p}
	var f collectFlags
	var wait time.Duration
	var reprice, yes, adopt bool
	cmd := &cobra.Command{
		Use:     "report --config site.yaml [--from-file DUMP...]",
		GroupID: "site",
		Short:   "Report finished jobs: collect, convert, enqueue, send, confirm",
		Long: `Report finished jobs: collect them from sacct or from dumps, convert them by the
site's rules, enqueue the records in the outbox, send what is pending, and
confirm what the service has loaded. It is meant for a timer; each run also
delivers what earlier ones could not.

Every job is reported once, however often it is read: a job that is known
already changes nothing, and one whose accounting has changed is sent again as
a correction, at the rate that it was charged by. Rules do not reach back: jobs
that would cost otherwise by today's site.yaml are counted, and --reprice sends
them. What was never charged follows today's rules at once.

Without --from-file the scheduler's accounting is asked for the jobs that ended since
the last run, and for a look-back before it, because jobs may appear late. --since,
--until and --month ask for another period, as for a back-fill.

` + exitTable,
		Example: `  amieusage report --config site.yaml
  amieusage report --config site.yaml --from-file dump.psv
  amieusage report --config site.yaml --since 2026-01-01
  amieusage report --config site.yaml --adopt
  amieusage report --config site.yaml --reprice --month 2026-10
  zcat dump.psv.gz | amieusage report --config site.yaml --from-file - --dry-run`,
		Args: f.dumpArguments,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			f.files = append(f.files, args...)
			if err := s.check(&f); err != nil {
				return err
			}
			if reprice && slices.Contains(f.files, "-") {
				return usageError("--reprice reads a dump twice: write standard input to a file first")
			}
			if f.dryRun {
				return s.dryRunOf(ctx, &f)
			}
			return s.run(ctx, needRules|needService|needLock, func(a *agent.Agent) error {
				if !cmd.Flags().Changed("wait") {
					wait = s.config.ConfirmWait
				}
				if adopt {
					if err := a.Adopt(ctx, s.noteNow("")); err != nil {
						return s.finish(ctx, err)
					}
				}
				if reprice {
					if err := s.askReprice(ctx, &f, yes); err != nil {
						return err
					}
				}
				// What cannot be read does not keep what is pending from the
				// service.
				err, sendErr := a.Deliver(ctx, func() error { return s.collect(ctx, &f) })
				if _, config := errors.AsType[*statusError](err); !config && ctx.Err() == nil {
					if sendErr == nil {
						sendErr = a.Send(ctx)
					}
					if sendErr == nil {
						sendErr = a.Confirm(ctx, wait)
					}
					err = errors.Join(err, sendErr)
				}
				return s.finish(ctx, err)
			})
		},
	}
	s.add(cmd)
	f.add(cmd)
	cmd.Flags().BoolVar(&reprice, "reprice", false, "charge the collected jobs by today's rules, including those already charged; shows the difference and asks first")
	cmd.Flags().BoolVar(&adopt, "adopt", false, "treat what the service has already loaded from another outbox or program as reported")
	cmd.Flags().BoolVar(&yes, "yes", false, "with --reprice: do not ask")
	cmd.Flags().DurationVar(&wait, "wait", siteconfig.DefaultConfirmWait, "how long to wait for the service to load what was sent (confirm_wait in site.yaml)")
	return cmd
}

func (p *program) collectCommand() *cobra.Command {
	s := &siteCommand{program: p}
	var f collectFlags
	cmd := &cobra.Command{
		Use:     "collect --config site.yaml [--from-file DUMP...]",
		GroupID: "site",
		Short:   "Collect finished jobs into the outbox, without sending",
		Example: `  amieusage collect --config site.yaml
  amieusage collect --config site.yaml --from-file dump.psv`,
		Args: f.dumpArguments,
		RunE: func(cmd *cobra.Command, args []string) error {
			f.files = append(f.files, args...)
			if err := s.check(&f); err != nil {
				return err
			}
			if f.dryRun {
				return s.dryRunOf(cmd.Context(), &f)
			}
			return s.run(cmd.Context(), needRules|needLock, func(*agent.Agent) error {
				return s.finish(cmd.Context(), s.collect(cmd.Context(), &f))
			})
		},
	}
	s.add(cmd)
	f.add(cmd)
	return cmd
}

// dryRunOf shows what would be sent of the accounting.
func (s *siteCommand) dryRunOf(ctx context.Context, f *collectFlags) error {
	return s.dryRun(ctx, needRules, func(preview func(outbox.Item)) error {
		f.preview = preview
		return s.collect(ctx, f)
	})
}

// dryRun shows what would be sent: what read shows, as the outbox does not have
// it, and what is pending in it.
func (s *siteCommand) dryRun(ctx context.Context, needs int, read func(preview func(outbox.Item)) error) error {
	return s.tryOut(ctx, needs, func(a *agent.Agent) error {
		show := func(r amieusage.Record, note string) {
			if s.output == outputTable {
				fmt.Fprintln(s.stdout, printable(r.String())+note)
			} else {
				// The form of a line that amieusage send takes.
				object := append([]byte(`{"UsageType":"`+string(r.UsageType())+`",`), r.AppendJSON(nil)[1:]...)
				a.Summary.WouldSend = append(a.Summary.WouldSend, object)
			}
		}
		// What is pending is shown with its newest content only.
		pending := map[amieusage.Identity]bool{}
		isPending := outbox.Filter{States: []outbox.State{outbox.Pending}}
		for e, err := range outbox.All(ctx, a.Queue, isPending) {
			if err != nil {
				return err
			}
			pending[e.Record.Identity()] = true
		}
		err := read(func(item outbox.Item) {
			delete(pending, item.Record.Identity())
			show(item.Record, "")
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		for e, listErr := range outbox.All(ctx, a.Queue, isPending) {
			if listErr != nil {
				return errors.Join(err, listErr)
			}
			if pending[e.Record.Identity()] {
				show(e.Record, " (pending since an earlier run)")
			}
		}
		return s.finish(ctx, err)
	})
}

// askReprice shows what charging the jobs anew comes to, and asks. All that is
// collected from then on is charged by today's rules.
func (s *siteCommand) askReprice(ctx context.Context, f *collectFlags, yes bool) error {
	look := *f
	look.preview = func(outbox.Item) {}
	bad := s.agent.Bad
	s.agent.Bad = nil // they are told when they are read again
	if err := s.collect(ctx, &look); err != nil {
		return err
	}
	costly := s.agent.Summary.Costly
	s.agent.Summary, s.agent.Bad, s.agent.Reprice = agent.Summary{}, bad, true
	if costly.Jobs == 0 {
		fmt.Fprintln(s.stderr, "no job that was charged before would cost otherwise")
		return nil
	}
	table := tabwriter.NewWriter(s.stderr, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "RESOURCE\tPROJECT\tJOBS\tWAS\tWOULD BE")
	for _, t := range costly.By() {
		fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%s\n", printable(t.Resource), printable(t.Project), t.Jobs, t.Was, t.Would)
	}
	fmt.Fprintf(table, "in all\t\t%d\t%s\t%s\n", costly.Jobs, costly.Was, costly.Would)
	if err := table.Flush(); err != nil {
		return err
	}
	if yes {
		return nil
	}
	in, ok := s.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return usageError("nothing was changed: confirm with --yes")
	}
	fmt.Fprint(s.stderr, "send these charges? (yes/no) ")
	var answer string
	if _, err := fmt.Fscanln(in, &answer); err != nil || answer != "yes" && answer != "y" {
		return usageError("nothing was changed")
	}
	return nil
}

// collect collects from the dumps, or else from the site's accountings.
func (s *siteCommand) collect(ctx context.Context, f *collectFlags) error {
	if len(f.files) == 0 {
		return s.collectWindow(ctx, f)
	}
	var failures []error
	for _, name := range f.files {
		reader, in, err := s.readDump(name, s.config, &f.dumpFlags)
		if err != nil {
			return err
		}
		if table, ok := reader.(*counted.Reader); ok {
			err = s.agent.CollectCounted(ctx, jobsOf(reader), s.restating(table, f), f.preview)
		} else {
			err = s.agent.Collect(ctx, jobsOf(reader), nil, f.preview)
		}
		s.countRows(reader.Stats())
		if closeErr := in.Close(); err == nil {
			err = closeErr
		}
		failures = append(failures, err)
	}
	return errors.Join(failures...)
}

// restating says of which days a table tells all that there is.
func (s *siteCommand) restating(table *counted.Reader, f *collectFlags) agent.Restating {
	zone := s.config.Counted.Columns.Zone
	if zone == nil {
		zone = time.UTC
	}
	year, month, day := s.clock().In(zone).Date()
	since := time.Date(year, month, day, 0, 0, 0, 0, zone).Add(-s.config.Counted.Restate).AddDate(0, 0, 1)
	return agent.Restating{Source: counted.Source, Since: since, AcceptMissing: f.acceptMissing, Days: func() (first, last time.Time) {
		days := table.Days()
		if days.First.IsZero() {
			return days.First, days.Last
		}
		return days.First.AddDate(0, 0, 1), days.Last.AddDate(0, 0, 1) // a day's use ends with it
	}}
}

// countRows counts the rows that were no jobs, so that what was read is what
// was skipped, bad, new, changed and unchanged.
func (s *siteCommand) countRows(rows scheduler.Stats) {
	s.agent.Count(func(sum *agent.Summary) {
		sum.Read += rows.Steps + rows.Bad
		sum.Skip("job step", rows.Steps)
	})
}

func (p *program) convertCommand() *cobra.Command {
	var flags configFlags
	var form dumpFlags
	cmd := &cobra.Command{
		Use:     "convert --config site.yaml DUMP...",
		GroupID: "site",
		Short:   "Print the records that dumps give, one JSON a line",
		Long: `Print the records that the site's rules make of dumps, one JSON object a line,
without touching the outbox or the service. Rows that cannot be used are named on
standard error. - is standard input.`,
		Example: `  amieusage convert --config site.yaml dump.psv
  sacct --json -a -D -S 2026-10-01 -E now | amieusage convert --config site.yaml - | amieusage validate -`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := flags.load()
			if err != nil {
				return err
			}
			if err := checkResources(config); err != nil {
				return err
			}
			if err := checkFiles(args); err != nil {
				return err
			}
			bad := false
			for _, name := range args {
				ok, err := p.convert(cmd.Context(), config, name, &form)
				if err != nil {
					return err
				}
				bad = bad || !ok
			}
			if bad {
				return errTold
			}
			return nil
		},
	}
	flags.add(cmd)
	form.addForm(cmd)
	return cmd
}

// convert prints the records of one dump, and reports whether all its rows
// could be used.
func (p *program) convert(ctx context.Context, config *siteconfig.Site, name string, form *dumpFlags) (ok bool, err error) {
	reader, in, err := p.readDump(name, config, form)
	if err != nil {
		return false, err
	}
	defer in.Close()
	out := newBufferedOutput(p.stdout)
	defer func() { err = errors.Join(err, out.Flush()) }()
	ok = true
	var line []byte
	for job, err := range jobsOf(reader).Jobs(ctx) {
		var record amieusage.Record
		if err == nil {
			var r *amieusage.ComputeRecord
			if r, _, err = config.Rules.Convert(job); r != nil {
				record = r
			}
		}
		if _, row := errors.AsType[*scheduler.RowError](err); row {
			ok = false
			fmt.Fprintln(p.stderr, printable(err.Error()))
			continue
		}
		if err != nil {
			return false, err
		}
		if record == nil {
			continue
		}
		line = append(record.AppendJSON(line[:0]), '\n')
		if _, err := out.Write(line); err != nil {
			return false, err
		}
	}
	return ok, nil
}
