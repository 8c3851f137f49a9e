package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage/internal/agent"
)

func (p *program) backupCommand() *cobra.Command {
	s := &siteCommand{program: p}
	cmd := &cobra.Command{
		Use:     "backup --config site.yaml FILE",
		GroupID: "site",
		Short:   "Copy the site's file, while it is used",
		Long: `Copy the site's file, with all that was collected, charged and decided, while runs
may use it. To restore it, put the copy in the place of the file that state: in
site.yaml names, while no run is under way. The first run finds at the service what was
sent since, sends none of it and exits with 1; report --adopt takes it as
reported.`,
		Example: `  amieusage backup --config site.yaml /var/backups/amieusage.db`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := os.Lstat(args[0]); !errors.Is(err, fs.ErrNotExist) {
				return usageError("%s is there already: name a new file", args[0])
			}
			config, err := s.flags.load()
			if err != nil {
				return err
			}
			if !config.HasState() {
				return usageError("there is no outbox %s yet: nothing was collected", config.State)
			}
			return s.run(cmd.Context(), 0, func(*agent.Agent) error {
				if err := s.queue.Backup(cmd.Context(), args[0]); err != nil {
					return err
				}
				fmt.Fprintf(s.stdout, "copied to %s\n", args[0])
				return nil
			})
		},
	}
	s.add(cmd)
	return cmd
}
