package main

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"
)

func (p *program) skippedCommand() *cobra.Command {
	s := &siteCommand{program: p}
	cmd := &cobra.Command{
		Use:     "skipped --config site.yaml",
		GroupID: "site",
		Short:   "Show what the last reading of the accounting left out, and why",
		Long: `Show what the last reading of the accounting left out: by account, partition and
reason, with the number of jobs and the hours they ran, the largest first. An
account that a mistyped include leaves out is easy to see.`,
		Example: `  amieusage skipped --config site.yaml
  amieusage skipped --config site.yaml -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.look(cmd.Context(), func(ctx context.Context) error {
				skips, err := s.queue.Skips(ctx)
				if err != nil {
					return err
				}
				type view struct {
					Account   string `json:"account"`
					Partition string `json:"partition"`
					Reason    string `json:"reason"`
					Jobs      int64  `json:"jobs"`
					Seconds   int64  `json:"elapsed_seconds"`
				}
				out := newRowWriter(p, s.output, "ACCOUNT", "PARTITION", "REASON", "JOBS", "HOURS")
				for _, k := range skips {
					hours := strconv.FormatInt(k.Seconds/3600, 10) + "." + strconv.FormatInt(k.Seconds%3600*10/3600, 10)
					if err := out.write(view(k), k.Account, k.Partition, k.Reason, strconv.FormatInt(k.Jobs, 10), hours); err != nil {
						return err
					}
				}
				return out.close()
			})
		},
	}
	s.add(cmd)
	return cmd
}
