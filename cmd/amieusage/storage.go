package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage/internal/agent"
	"github.com/amieusage/amieusage/internal/command"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/siteconfig"
	"github.com/amieusage/amieusage/internal/storage"
)

// A storageCommand is one run of storage.
type storageCommand struct {
	siteCommand
	files      []string
	fileSystem string
	format     string
	at         string
	accept     bool
	reprice    bool
	jsonl      bool
	readAt     time.Time
}

func (p *program) storageCommand() *cobra.Command {
	c := &storageCommand{siteCommand: siteCommand{program: p, output: outputTable}}
	var dryRun bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use:     "storage --config site.yaml [--from-file REPORT...]",
		GroupID: "site",
		Short:   "Report storage: collect, charge, send, confirm",
		Long: `Report what projects store: run each file system's command of site.yaml, or read
reports from files, charge what is held by project and user, send the records and
confirm them.

Reports of mmrepquota -Y (GPFS), lfs quota (Lustre), XDMoD's storage JSON, repquota
-O csv, zfs userspace -Hp, xfs_quota -c 'report -p -n -N', beegfs-ctl --getquota
--csv and tables with declared columns are recognised by their content.

A reading counts for its tick (storage: every: 1d): read again on the same day, it
overwrites what was read before. A reading that looks wrong (cut off, empty,
figures in brackets, a change by more than storage: plausible:) sends nothing, and
what was charged stands; --accept accepts it, after you have checked it. Rules do not reach back: a
tick keeps the rate that charged it; --reprice charges it by today's.

` + exitTable,
		Example: `  amieusage storage --config site.yaml --dry-run
  amieusage storage --config site.yaml
  amieusage storage --config site.yaml --filesystem scratch --from-file quota.txt --at 2026-10-01T04:00:00Z
  amieusage storage --config site.yaml --dry-run -o jsonl > storage.jsonl`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			if err := c.parse(dryRun); err != nil {
				return err
			}
			if dryRun {
				return c.tryOut(ctx, 0, func(*agent.Agent) error { return c.show(ctx) })
			}
			return c.run(ctx, needService|needLock, func(a *agent.Agent) error {
				if !cmd.Flags().Changed("wait") {
					wait = c.config.ConfirmWait
				}
				// What cannot be read does not keep what is pending from the service.
				err := c.collect(ctx, nil)
				if _, config := errors.AsType[*statusError](err); !config && ctx.Err() == nil {
					sendErr := a.Send(ctx)
					if sendErr == nil {
						sendErr = a.Confirm(ctx, wait)
					}
					err = errors.Join(err, sendErr)
				}
				return c.finish(ctx, err)
			})
		},
	}
	c.flags.add(cmd)
	cmd.Flags().VarP(&storageOutput{&c.output, &c.jsonl}, "output", "o", "the form of the output: table, json, or, with --dry-run, jsonl")
	cmd.Flags().BoolVarP(&c.verbose, "verbose", "v", false, "log requests and retries on standard error")
	cmd.Flags().StringArrayVarP(&c.files, "from-file", "f", nil, "read this report instead of running the file system's command; - is standard input (may be repeated)")
	cmd.Flags().StringVar(&c.fileSystem, "filesystem", "", "collect only this file system of site.yaml")
	cmd.Flags().StringVar(&c.format, "format", "", "the form of the report: gpfs, lustre, xdmod, repquota, zfs, xfs, beegfs, csv (default: recognised by its content)")
	cmd.Flags().StringVar(&c.at, "at", "", "when the report was made, if it does not say: 2026-10-01T04:00, in the site's time zone (default: now)")
	cmd.Flags().BoolVar(&c.accept, "accept", false, "accept a reading that looks wrong, after you have checked it")
	cmd.Flags().BoolVar(&c.reprice, "reprice", false, "charge again, by today's site.yaml, what was charged before")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would be sent, and change nothing")
	cmd.Flags().DurationVar(&wait, "wait", siteconfig.DefaultConfirmWait, "how long to wait for the service to load what was sent (confirm_wait in site.yaml)")
	return cmd
}

// A storageOutput is an output flag that takes jsonl as well.
type storageOutput struct {
	output *outputFlag
	jsonl  *bool
}

func (o *storageOutput) String() string { return string(outputTable) }
func (o *storageOutput) Type() string   { return "string" }

// Set takes a form.
func (o *storageOutput) Set(text string) error {
	if *o.jsonl = text == "jsonl"; *o.jsonl {
		return nil
	}
	return o.output.Set(text)
}

func (c *storageCommand) parse(dryRun bool) (err error) {
	if err := checkFiles(c.files); err != nil {
		return err
	}
	if c.jsonl && !dryRun {
		return usageError("-o jsonl is for --dry-run")
	}
	if c.at != "" {
		if len(c.files) == 0 {
			return usageError("--at says when a report was made, and needs --from-file")
		}
		config, err := c.flags.load()
		if err != nil {
			return err
		}
		if c.readAt, err = timeFlag("at", c.at, config.Zone); err != nil {
			return err
		}
		if c.readAt.After(c.clock().Add(24 * time.Hour)) {
			return usageError("--at %s has not come yet", c.at)
		}
	}
	return nil
}

// show prints what would be sent.
func (c *storageCommand) show(ctx context.Context) error {
	err := c.collect(ctx, func(item outbox.Item) {
		switch {
		case c.jsonl:
			fmt.Fprintf(c.stdout, `{"UsageType":"Storage",%s`+"\n", item.Record.AppendJSON(nil)[1:])
		case c.output == outputJSON:
			object := append([]byte(`{"UsageType":"Storage",`), item.Record.AppendJSON(nil)[1:]...)
			c.agent.Summary.WouldSend = append(c.agent.Summary.WouldSend, object)
		default:
			fmt.Fprintln(c.stdout, printable(item.Record.String())+" ("+printable(item.Place)+")")
		}
	})
	if c.jsonl {
		if err == nil && !c.agent.Summary.OK() {
			return errTold
		}
		return err
	}
	return c.finish(ctx, err)
}

// collect collects the file systems. One that cannot be read keeps none of the others.
func (c *storageCommand) collect(ctx context.Context, preview func(outbox.Item)) error {
	st := c.config.Storage
	if st == nil {
		return usageError("%s has no storage: section: state there which file systems are reported (see: amieusage storage --help)", c.config.File)
	}
	var failures []error
	found := false
	for i := range st.FileSystems {
		fs := &st.FileSystems[i]
		if c.fileSystem != "" && fs.Name != c.fileSystem {
			continue
		}
		found = true
		if len(c.files) > 0 && c.fileSystem == "" && len(st.FileSystems) > 1 {
			return usageError("say with --filesystem which of the %d file systems of %s the report is of", len(st.FileSystems), c.config.File)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.collectOne(ctx, fs, preview); err != nil {
			failures = append(failures, err)
		}
	}
	if !found {
		return usageError("%s has no file system %s", c.config.File, c.fileSystem)
	}
	return errors.Join(failures...)
}

func (c *storageCommand) collectOne(ctx context.Context, fs *storage.FileSystem, preview func(outbox.Item)) error {
	format := fs.Format
	if c.format != "" {
		format = storage.Format(c.format)
	}
	var reports []*storage.Report
	at := c.clock().UTC().Truncate(time.Second)
	if len(c.files) == 0 {
		report, err := c.runCommand(ctx, fs, format)
		if err != nil {
			return err
		}
		reports = append(reports, report)
	}
	for _, name := range c.files {
		in, err := c.open(name)
		if err != nil {
			return &statusError{exitUsage, err}
		}
		report, err := storage.Read(in, name, format, &fs.CSV)
		if err = errors.Join(err, in.Close()); err != nil {
			return &statusError{exitRefused, err}
		}
		reports = append(reports, report)
	}
	if !c.readAt.IsZero() {
		at = c.readAt.UTC()
	}
	var rows []storage.Row
	from := fs.From
	for _, report := range reports {
		if from == "" {
			from = report.From
		}
		for _, row := range report.Rows {
			if !c.readAt.IsZero() {
				row.At = time.Time{} // what is said by hand counts
			}
			rows = append(rows, row)
		}
	}
	var failures []error
	st := c.config.Storage
	for _, timed := range storage.ByTick(rows, at, st.Every, st.Zone) {
		if err := c.collectReading(ctx, fs, from, timed, preview); err != nil {
			failures = append(failures, &statusError{exitRefused, err})
		}
	}
	return errors.Join(failures...)
}

// collectReading collects what was read of a file system in one tick.
func (c *storageCommand) collectReading(ctx context.Context, fs *storage.FileSystem, from storage.From, timed storage.Timed, preview func(outbox.Item)) error {
	assigned := fs.Assign(timed.Rows, from, c.nameOf)
	assigned.At = timed.At
	for _, note := range assigned.Notes {
		fmt.Fprintln(c.stderr, printable(note))
	}
	for _, problem := range assigned.Problems {
		c.agent.Count(func(s *agent.Summary) { s.Bad++ })
		fmt.Fprintln(c.stderr, "bad: "+printable(problem))
	}
	if assigned.Counted == 0 {
		return fmt.Errorf("%s: none of the %d rows is of a project: see match: and projects: of the file system in %s", fs.Name, len(timed.Rows), c.config.File)
	}
	st := c.config.Storage
	return c.agent.CollectStorage(ctx, agent.StorageRun{
		FileSystem: fs, Every: st.Every, Zone: st.Zone, Carry: st.Carry, Plausible: st.Plausible, Accept: c.accept, Reprice: c.reprice,
	}, &assigned, preview)
}

// nameOf says what a user is called: a number without a name in site.yaml is of nobody.
func (c *storageCommand) nameOf(project, user string) (string, bool) {
	name := c.config.Rules.Users.NameOf(project, user)
	return name, !isNumber(name)
}

func isNumber(s string) bool {
	for _, r := range s {
		if r < '0' || r > '9' {
			return false
		}
	}
	return true
}

// runCommand runs a file system's command, in the folder of the configuration.
func (c *storageCommand) runCommand(ctx context.Context, fs *storage.FileSystem, format storage.Format) (report *storage.Report, err error) {
	if fs.Command == "" {
		return nil, usageError("file system %s of %s has no command: state it, or read a report with --from-file", fs.Name, c.config.File)
	}
	said, err := command.Read(ctx, fs.Timeout, "/bin/sh", []string{"-c", fs.Command}, func(out io.Reader) error {
		report, err = storage.Read(out, fs.Name, format, &fs.CSV)
		return err
	})
	for _, line := range said {
		fmt.Fprintf(c.stderr, "%s: %s\n", printable(fs.Name), printable(line))
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, &statusError{exitRefused, fmt.Errorf("%s: %s: %w", fs.Name, fs.Command, err)}
	}
	return report, nil
}
