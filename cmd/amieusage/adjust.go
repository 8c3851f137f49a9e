package main

import (
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/agent"
	"github.com/amieusage/amieusage/internal/outbox"
)

// An adjustCommand is one run of adjust.
type adjustCommand struct {
	siteCommand
	record       amieusage.AdjustmentRecord
	charge, time string
	dryRun       bool
}

// adjustments are the types that adjust makes; refunds have a command of their
// own.
var adjustments = []struct {
	kind  amieusage.AdjustmentType
	short string
}{
	{amieusage.Credit, "Give units back to a project"},
	{amieusage.Debit, "Charge units to a project"},
	{amieusage.Reservation, "Charge a reservation to a project"},
	{amieusage.StorageCredit, "Give storage back to a project"},
	{amieusage.StorageDebit, "Charge storage to a project"},
}

func (p *program) adjustCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "adjust credit|debit|reservation|storage-credit|storage-debit",
		GroupID: "site",
		Short:   "Give units back to a project, or charge them, by hand",
		Long: `Give units back to a project, or charge them, by hand: an adjustment record is
sent as any other. The charge of a job is given back with refund.

An adjustment has an id, which makes it one: the same id again is a correction
of it, not another. Without --id it is made of the rest, so that the same command
given twice adjusts once.`,
		Example: `  amieusage adjust credit --config site.yaml --project p.abc123456.000 --user mira --resource cluster-cpu \
    --charge 250 --time 2026-10-01 --comment "two days without the file system"
  amieusage adjust reservation --config site.yaml --project p.abc123456.000 --user mira --resource cluster-cpu \
    --charge 4096 --time 2026-11-02T08:00:00Z --id reservation-workshop`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, a := range adjustments {
		cmd.AddCommand(p.adjustTypeCommand(a.kind, a.short))
	}
	return cmd
}

func (p *program) adjustTypeCommand(kind amieusage.AdjustmentType, short string) *cobra.Command {
	a := &adjustCommand{siteCommand: siteCommand{program: p}}
	cmd := &cobra.Command{
		Use:   string(kind) + " --config site.yaml --project ID --user NAME --resource NAME --charge UNITS --time TIME",
		Short: short,
		Example: `  amieusage adjust ` + string(kind) + ` --config site.yaml --project p.abc123456.000 --user mira \
    --resource cluster-cpu --charge 250 --time 2026-10-01 --comment "why"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a.record.AdjustmentType = kind
			if err := a.parse(); err != nil {
				return err
			}
			item := outbox.Item{Record: &a.record, Place: "adjust " + string(kind)}
			items := func(yield func(outbox.Item, error) bool) { yield(item, nil) }
			ctx := cmd.Context()
			if a.dryRun {
				return a.siteCommand.dryRun(ctx, 0, func(preview func(outbox.Item)) error {
					return a.agent.Enqueue(ctx, items, preview)
				})
			}
			return a.run(ctx, needService|needLock, func(agent *agent.Agent) error {
				err := agent.Enqueue(ctx, items, nil)
				if err == nil {
					err = agent.Send(ctx)
				}
				if err == nil {
					err = agent.Confirm(ctx, a.config.ConfirmWait)
				}
				return a.finish(ctx, err)
			})
		},
	}
	a.add(cmd)
	flags := cmd.Flags()
	flags.StringVar(&a.record.LocalProjectID, "project", "", "the project's id (required)")
	flags.StringVar(&a.record.Username, "user", "", "the user's name, as in AMIE (required)")
	flags.StringVar(&a.record.Resource, "resource", "", "the resource's name, as in AMIE (required)")
	flags.StringVar(&a.charge, "charge", "", "how many units, not negative (required)")
	flags.StringVar(&a.time, "time", "", "the time that it is for, which decides the allocation: 2026-10-01, in the site's time zone (required)")
	flags.StringVar(&a.record.LocalRecordID, "id", "", "the adjustment's own id; made of the rest unless given")
	flags.StringVar(&a.record.Comment, "comment", "", "why: it is sent with the record")
	flags.BoolVar(&a.dryRun, "dry-run", false, "show what would be sent, and change nothing")
	for _, name := range []string{"project", "user", "resource", "charge", "time"} {
		markRequired(cmd, name)
	}
	return cmd
}

// parse checks the flags and completes the record.
func (a *adjustCommand) parse() (err error) {
	config, err := a.flags.load()
	if err != nil {
		return err
	}
	if a.record.Charge, err = amieusage.ParseCharge(a.charge); err != nil {
		return usageError("--charge %w", err)
	}
	if a.record.LocalRecordID == "" {
		// Of the time as it was written: who edits time_zone, and gives the command
		// again, corrects the adjustment, and does not make another.
		if a.record.StartTime, err = timeFlag("time", a.time, time.UTC); err != nil {
			return err
		}
		sum := sha256.Sum256(a.record.AppendJSON(nil))
		a.record.LocalRecordID = "adjust-" + hex.EncodeToString(sum[:8])
	}
	if a.record.StartTime, err = timeFlag("time", a.time, config.Zone); err != nil {
		return err
	}
	if err := a.record.Validate(); err != nil {
		return &statusError{exitUsage, err}
	}
	return nil
}
