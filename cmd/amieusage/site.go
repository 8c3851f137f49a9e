package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/agent"
	"github.com/amieusage/amieusage/internal/decimal"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/siteconfig"
	"github.com/amieusage/amieusage/internal/sqlite"
	"github.com/amieusage/amieusage/usageclient"
)

// A siteCommand is what the commands of a site's agent have in common.
type siteCommand struct {
	*program
	flags   configFlags
	output  outputFlag
	verbose bool

	config *siteconfig.Site
	queue  *sqlite.Outbox
	agent  *agent.Agent
	trial  bool // nothing is changed
}

func (s *siteCommand) add(cmd *cobra.Command) {
	s.flags.add(cmd)
	s.output.add(cmd)
	cmd.Flags().BoolVarP(&s.verbose, "verbose", "v", false, "log requests and retries on standard error")
}

// log returns the logger of a site's commands: warnings on standard error.
func (s *siteCommand) log() *slog.Logger {
	level := slog.LevelWarn
	if s.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(s.stderr, &slog.HandlerOptions{Level: level}))
}

// What a run of the agent needs.
const (
	needRules   = 1 << iota // which jobs count
	needService             // the service's address and the key
	needLock                // nobody else works on the outbox
)

// run reads the configuration, opens the outbox, and runs work with the agent.
func (s *siteCommand) run(ctx context.Context, needs int, work func(a *agent.Agent) error) (err error) {
	if s.config, err = s.flags.load(); err != nil {
		return err
	}
	a := &agent.Agent{Rules: &s.config.Rules, Clusters: s.config.ClusterNames(), Clock: s.clock, Log: s.log(), Progress: s.progress(), Bad: s.bad}
	if needs&needRules != 0 {
		if err := checkResources(s.config); err != nil {
			return err
		}
	}
	if needs&needService != 0 {
		if a.Client, err = clientOf(s.config, a.Log); err != nil {
			return err
		}
	}
	if s.queue, err = sqlite.OpenOutbox(ctx, s.config.State, s.clock); err != nil {
		return &statusError{exitUsage, err}
	}
	defer func() { err = errors.Join(err, s.queue.Close()) }()
	if needs&needLock != 0 {
		unlock, lockErr := s.queue.Lock()
		if busy, ok := errors.AsType[*amieusage.Error](lockErr); ok && busy.Code == amieusage.CodeConflict {
			return &statusError{exitBusy, lockErr}
		}
		if lockErr != nil {
			return lockErr
		}
		defer func() { err = errors.Join(err, unlock()) }()
	}
	a.Queue = s.queue
	s.agent = a
	return work(a)
}

// tryOut runs work as run does, for what changes nothing: where there is no
// outbox yet, it has an empty one that is not kept.
func (s *siteCommand) tryOut(ctx context.Context, needs int, work func(a *agent.Agent) error) error {
	s.trial = true
	config, err := s.flags.load()
	if err != nil {
		return err
	}
	if !config.HasState() {
		folder, err := os.MkdirTemp("", "amieusage-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(folder)
		s.flags.state = folder + "/" + siteconfig.DefaultState
	}
	return s.run(ctx, needs, work)
}

// progress returns what shows progress on a terminal; nil elsewhere.
func (s *siteCommand) progress() func(stage string, sum *agent.Summary) {
	file, ok := s.stderr.(*os.File)
	if !ok || s.output == outputJSON || !term.IsTerminal(int(file.Fd())) {
		return nil
	}
	var last time.Time
	return func(stage string, sum *agent.Summary) {
		now := s.clock()
		if now.Sub(last) < 200*time.Millisecond {
			return
		}
		last = now
		fmt.Fprintf(file, "\r\x1b[K%s: %d read, %d new, %d changed, %d sent, %d loaded\r",
			stage, sum.Read, sum.New, sum.Changed, sum.Sent, sum.Loaded)
	}
}

// finish prints the summary that closes a run, writes its metrics, and returns
// what the run's exit status follows from.
func (s *siteCommand) finish(ctx context.Context, runErr error) error {
	err := s.close(ctx, runErr)
	if s.config.MetricsFile == "" || s.trial {
		return err
	}
	if metricsErr := s.writeMetrics(context.WithoutCancel(ctx), &s.agent.Summary, err); metricsErr != nil {
		return errors.Join(err, fmt.Errorf("metrics_file: %w", metricsErr))
	}
	return err
}

// close prints the summary that closes a run.
func (s *siteCommand) close(ctx context.Context, runErr error) error {
	sum := &s.agent.Summary
	counts, err := s.queue.Counts(context.WithoutCancel(ctx))
	if err != nil {
		return errors.Join(runErr, err)
	}
	if sum.Skipped == nil {
		sum.Skipped = map[string]int64{}
	}
	if sum.Charge == nil {
		sum.Charge = map[string]agent.Charge{}
	}
	sum.Outbox = map[outbox.State]int64{}
	rows, err := s.queue.BadRows(context.WithoutCancel(ctx))
	if err != nil {
		return errors.Join(runErr, err)
	}
	sum.BadRows = int64(len(rows))
	if skips := sum.Skips(); len(skips) > 0 {
		if err := s.queue.Note(context.WithoutCancel(ctx), nil, skips); err != nil {
			return errors.Join(runErr, err)
		}
	}
	if err := s.waitingFor(context.WithoutCancel(ctx), sum); err != nil {
		return errors.Join(runErr, err)
	}
	for _, state := range outbox.States {
		sum.Outbox[state] = 0
	}
	for _, c := range counts {
		sum.Outbox[c.State] += c.Entries
	}
	if s.agent.Progress != nil {
		fmt.Fprint(s.stderr, "\r\x1b[K")
	}
	if s.output == outputJSON {
		err = s.printJSON(sum)
	} else {
		err = s.printSummary(sum)
	}
	switch {
	case runErr != nil && ctx.Err() != nil:
		return &statusError{exitInterrupted, errors.New("interrupted; what was read is kept")}
	case errors.Is(runErr, usageclient.ErrUnavailable):
		return fmt.Errorf("%w; nothing is lost: the next run goes on from here", runErr)
	case runErr != nil:
		return runErr
	case err != nil:
		return err
	case !sum.OK():
		return errTold
	}
	return nil
}

// waitingFor tells of the records that wait for another one to be at 0, which has
// failed.
func (s *siteCommand) waitingFor(ctx context.Context, sum *agent.Summary) error {
	for e, err := range outbox.All(ctx, s.queue, outbox.Filter{States: []outbox.State{outbox.Waiting}}) {
		if err != nil {
			return err
		}
		old, err := s.queue.Get(ctx, e.WaitsFor)
		if err != nil {
			return err
		}
		if old.State == outbox.Failed || old.State == outbox.Rejected {
			sum.Waiting++
			if sum.Waiting <= maxTold {
				fmt.Fprintf(s.stderr, "waiting: %s is not sent, as the job's record on %s cannot be brought to 0: %s\n",
					printable(e.Record.String()), printable(old.Record.Common().Resource), printable(old.Reason))
			}
		}
	}
	return nil
}

func (s *siteCommand) printSummary(sum *agent.Summary) error {
	var b strings.Builder
	line := func(name string, n int64, note string) {
		fmt.Fprintf(&b, "%-10s%10d", name, n)
		if note != "" {
			b.WriteString("   " + note)
		}
		b.WriteByte('\n')
	}
	var skipped int64
	var reasons []string
	for _, reason := range sum.SkipReasons() {
		skipped += sum.Skipped[reason]
		reasons = append(reasons, reason+" "+strconv.FormatInt(sum.Skipped[reason], 10))
	}
	line("read", sum.Read, "")
	line("skipped", skipped, strings.Join(reasons, ", "))
	line("bad", sum.Bad, "")
	line("new", sum.New, "")
	line("changed", sum.Changed, "")
	line("unchanged", sum.Unchanged, "")
	line("sent", sum.Sent, "")
	line("rejected", sum.Rejected, s.inAll(sum, outbox.Rejected, sum.Rejected))
	line("loaded", sum.Loaded, "")
	line("failed", sum.Failed, s.inAll(sum, outbox.Failed, sum.Failed))
	line("pending", sum.Outbox[outbox.Pending]+sum.Outbox[outbox.Queued]+sum.Outbox[outbox.Waiting], waiting(sum))
	for _, more := range []struct {
		name string
		n    int64
		note string
	}{
		{"accepted", sum.Outbox[outbox.Accepted], "this service cannot confirm them"},
		{"not sent", sum.Unsendable, "the service fails at them alone: they stay pending, and each is tried once a run"},
		{"held", sum.Outbox[outbox.Held], "see: " + s.flags.again("records list --state held")},
		{"at service", sum.AtService, "sent by another outbox or program: not sent (to take it as reported: " + s.flags.again("report --adopt") + ")"},
		{"adopted", sum.Adopted, "taken as reported, with the charges that the service has"},
		{"untracked", sum.Untracked, "none of the rated TRES was recorded: charged 0"},
		{"decided", sum.Decided, "stay as a person has decided"},
		{"would cost", sum.Costly.Jobs, fmt.Sprintf("%s instead of %s by today's rules (to send it: %s)", sum.Costly.Would, sum.Costly.Was, s.flags.again("report --reprice"))},
		{"bad rows", sum.BadRows, "in all (see: " + s.flags.again("records list --state bad") + ")"},
	} {
		if more.n > 0 {
			line(more.name, more.n, more.note)
		}
	}
	var resources []string
	for name := range sum.Charge {
		resources = append(resources, name)
	}
	sort.Strings(resources)
	for _, name := range resources {
		c := sum.Charge[name]
		total := decimal.Of(c.Total)
		total.Reduce(total)
		fmt.Fprintf(&b, "charge on %s: %s for %d records\n", name, total.Text('f'), c.Records)
	}
	_, err := s.stdout.Write([]byte(b.String()))
	told := 0
	for _, p := range sum.Problems {
		if p.Kind == "bad" {
			continue
		}
		if told++; told > maxTold {
			fmt.Fprintf(s.stderr, "and %d more (see: %s)\n",
				sum.Rejected+sum.Failed+sum.Held-maxTold, s.flags.again("records list --state rejected,failed"))
			break
		}
		record := printable(p.Record)
		if record != "" {
			record += ": "
		}
		fmt.Fprintf(s.stderr, "%s: %s%s\n", p.Kind, record, printable(p.Reason))
	}
	return err
}

// maxTold is how many rejected and failed records a summary shows: the outbox
// has them all.
const maxTold = 20

// bad shows a row that cannot be used, at once: nothing else keeps it.
func (s *siteCommand) bad(p agent.Problem) {
	if s.agent.Progress != nil {
		fmt.Fprint(s.stderr, "\r\x1b[K")
	}
	fmt.Fprintf(s.stderr, "bad: %s\n", printable(p.Reason))
}

// inAll tells how many entries are in the state from all runs.
func (s *siteCommand) inAll(sum *agent.Summary, state outbox.State, now int64) string {
	if all := sum.Outbox[state]; all != now {
		return fmt.Sprintf("%d in all (see: %s)", all, s.flags.again("records list --state "+string(state)))
	}
	return ""
}

func waiting(sum *agent.Summary) string {
	var parts []string
	if n := sum.Outbox[outbox.Pending]; n > 0 {
		parts = append(parts, fmt.Sprintf("%d to be sent", n))
	}
	if n := sum.Outbox[outbox.Queued]; n > 0 {
		parts = append(parts, fmt.Sprintf("%d accepted and not yet loaded", n))
	}
	if n := sum.Outbox[outbox.Waiting]; n > 0 {
		parts = append(parts, fmt.Sprintf("%d wait until the job's record on another resource is at 0", n))
	}
	return strings.Join(parts, ", ")
}
