package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage/internal/agent"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/siteconfig"
)

func (p *program) sendCommand() *cobra.Command {
	s := &siteCommand{program: p}
	var dryRun, adopt bool
	cmd := &cobra.Command{
		Use:     "send --config site.yaml [RECORDS...]",
		GroupID: "site",
		Short:   "Send what is pending in the outbox, and records from files",
		Long: `Send what is pending in the outbox. The records in files that you name are enqueued
first: usage messages, or records of any kind as JSON, one a line. Use it for
adjustments, and for records that another program makes. - is standard input.

A line without a UsageType is recognised by its fields. One record of each kind:

  {"UsageType": "Compute", "Username": "alice", "LocalProjectID": "p.abc123456.000", "LocalRecordID": "4711",
   "Resource": "rm.psc.access-ci.org", "SubmitTime": "2026-10-01T09:58:00Z", "StartTime": "2026-10-01T10:00:00Z",
   "EndTime": "2026-10-01T12:00:00Z", "Charge": "256", "Attributes": {"NodeCount": 1, "CpuCoreCount": 128}}
  {"UsageType": "Storage", "Username": "alice", "LocalProjectID": "p.abc123456.000", "LocalRecordID": "scratch-alice",
   "Resource": "ocean.psc.access-ci.org", "CollectionTime": "2026-10-01T00:00:00Z", "Charge": "1.5",
   "Attributes": {"BytesStored": 1500000000000, "FileCount": 120000, "MediaType": "Disk"}}
  {"UsageType": "Adjustment", "AdjustmentType": "refund", "Username": "alice", "LocalProjectID": "p.abc123456.000",
   "LocalRecordID": "refund-4711", "Resource": "rm.psc.access-ci.org", "StartTime": "2026-10-01T09:58:00Z", "Charge": "128",
   "Comment": "a node failed"}

In a file, each record stands on one line. Files may be compressed.`,
		Example: `  amieusage send --config site.yaml
  amieusage send --config site.yaml storage.jsonl refunds.jsonl
  amieusage send --config site.yaml --dry-run storage.jsonl`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkFiles(args); err != nil {
				return err
			}
			if dryRun {
				return s.dryRun(cmd.Context(), 0, func(preview func(outbox.Item)) error {
					return s.enqueue(cmd.Context(), args, preview)
				})
			}
			return s.run(cmd.Context(), needService|needLock, func(a *agent.Agent) error {
				err := s.enqueue(cmd.Context(), args, nil)
				if err == nil && adopt {
					err = a.Adopt(cmd.Context(), s.noteNow(""))
				}
				if err == nil {
					err = a.Send(cmd.Context())
				}
				return s.finish(cmd.Context(), err)
			})
		},
	}
	s.add(cmd)
	cmd.Flags().BoolVar(&adopt, "adopt", false, "take what the service has loaded already, sent by another outbox or program, as reported")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would be sent, and change nothing")
	return cmd
}

// enqueue enqueues the records of files; with preview it shows what would be
// sent instead.
func (s *siteCommand) enqueue(ctx context.Context, files []string, preview func(outbox.Item)) error {
	for _, name := range files {
		in, err := s.open(name)
		if err != nil {
			return &statusError{exitUsage, err}
		}
		items := readRecords(name, in)
		err = s.agent.Enqueue(ctx, items, preview)
		sum := &s.agent.Summary
		sum.Read = sum.New + sum.Changed + sum.Unchanged + sum.Bad
		if closeErr := in.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *program) confirmCommand() *cobra.Command {
	s := &siteCommand{program: p}
	var wait time.Duration
	cmd := &cobra.Command{
		Use:     "confirm --config site.yaml",
		GroupID: "site",
		Short:   "Ask the service what became of the records it accepted",
		Example: `  amieusage confirm --config site.yaml
  amieusage confirm --config site.yaml --wait 10m`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.run(cmd.Context(), needService|needLock, func(a *agent.Agent) error {
				if !cmd.Flags().Changed("wait") {
					wait = s.config.ConfirmWait
				}
				return s.finish(cmd.Context(), a.Confirm(cmd.Context(), wait))
			})
		},
	}
	s.add(cmd)
	cmd.Flags().DurationVar(&wait, "wait", siteconfig.DefaultConfirmWait, "how long to wait for the service to load what was sent (confirm_wait in site.yaml)")
	return cmd
}
