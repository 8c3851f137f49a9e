package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/scheduler"
)

func (p *program) validateCommand() *cobra.Command {
	var output outputFlag
	cmd := &cobra.Command{
		Use:     "validate FILE...",
		GroupID: "api",
		Short:   "Check records or messages in files, without sending them",
		Long: `Check records (as JSON, one a line) or messages in files, as the service checks
them when they are sent. Every bad field of every record is named. Whether the
service knows the resource, the project and the user is not checked. A field that
is none of the record's is told: it may be misspelt, and nothing is charged by it.
- is standard input; files may be compressed.`,
		Example: `  amieusage validate records.jsonl
  amieusage convert --config site.yaml dump.psv | amieusage validate -`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			result := struct {
				Valid    int64    `json:"valid"`
				Invalid  int64    `json:"invalid"`
				Problems []string `json:"problems"`
				Warnings []string `json:"warnings"`
			}{Problems: []string{}, Warnings: []string{}}
			tell := func(list *[]string, text string) {
				if output == outputJSON {
					*list = append(*list, text)
				} else {
					fmt.Fprintln(p.stdout, printable(text))
				}
			}
			if err := checkFiles(args); err != nil {
				return err
			}
			for _, name := range args {
				in, err := p.open(name)
				if err != nil {
					return &statusError{exitUsage, err}
				}
				defer in.Close()
				for item, err := range readRecords(name, in) {
					if err == nil {
						result.Valid++
						for _, field := range amieusage.UnknownFields(item.Record) {
							tell(&result.Warnings, fmt.Sprintf("%s: warning: %s records have no field %s: nothing is charged by it", item.Place, item.Record.UsageType(), field))
						}
						continue
					}
					result.Invalid++
					tell(&result.Problems, err.Error())
					if _, row := errors.AsType[*scheduler.RowError](err); !row {
						break
					}
				}
			}
			if output == outputJSON {
				if err := p.printJSON(result); err != nil {
					return err
				}
			} else {
				fmt.Fprintf(p.stdout, "%d valid, %d not valid\n", result.Valid, result.Invalid)
			}
			if result.Invalid > 0 {
				return errTold
			}
			return nil
		},
	}
	output.add(cmd)
	return cmd
}
