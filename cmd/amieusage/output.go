package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/spf13/cobra"
)

// An outputFlag is the flag -o: a table for people, or JSON for programs.
type outputFlag string

const (
	outputTable outputFlag = "table"
	outputJSON  outputFlag = "json"
)

// add gives a command the flag.
func (o *outputFlag) add(cmd *cobra.Command) {
	*o = outputTable
	cmd.Flags().VarP(o, "output", "o", "form of the output: table or json")
	completeValues(cmd, "output", string(outputTable), string(outputJSON))
}

// completeValues lets a shell complete the values of a flag.
func completeValues(cmd *cobra.Command, flag string, values ...string) {
	// It fails only for a flag that is not there.
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		cmd.Println(err)
	}
}

// String, Set and Type make it a flag's value.
func (o *outputFlag) String() string { return string(*o) }

func (o *outputFlag) Type() string { return "form" }

func (o *outputFlag) Set(s string) error {
	switch outputFlag(s) {
	case outputTable, outputJSON:
		*o = outputFlag(s)
		return nil
	}
	return fmt.Errorf("%q is not one of table, json", s)
}

// print writes value as JSON, or the rows as a table.
func (p *program) print(form outputFlag, value any, header []string, rows [][]string) error {
	if form == outputJSON {
		return p.printJSON(value)
	}
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(header, "\t"))
	for _, row := range rows {
		for i, cell := range row {
			row[i] = printable(cell)
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

func (p *program) printJSON(value any) error {
	encoder := json.NewEncoder(p.stdout)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}

// printable keeps what comes from outside from breaking a table, or a
// terminal: what controls it, ends a line or turns the direction of the text
// becomes a space.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp, unicode.Bidi_Control) {
			return ' '
		}
		return r
	}, s)
}

// A rowWriter writes rows as they come, in constant memory: as a table, or as
// a JSON list.
type rowWriter struct {
	*program
	form  outputFlag
	out   *bufio.Writer
	table *tabwriter.Writer
	rows  int
}

func newRowWriter(p *program, form outputFlag, header ...string) *rowWriter {
	w := &rowWriter{program: p, form: form, out: newBufferedOutput(p.stdout)}
	w.table = tabwriter.NewWriter(w.out, 0, 0, 2, ' ', 0)
	if form == outputTable {
		fmt.Fprintln(w.table, strings.Join(header, "\t"))
	}
	return w
}

// tableRows is after how many rows the columns of a table may change their
// width.
const tableRows = 1000

func (w *rowWriter) write(value any, cells ...string) error {
	w.rows++
	if w.form == outputTable {
		for i, cell := range cells {
			cells[i] = printable(cell)
		}
		_, err := fmt.Fprintln(w.table, strings.Join(cells, "\t"))
		if err == nil && w.rows%tableRows == 0 {
			err = w.table.Flush()
		}
		return err
	}
	separator := ",\n  "
	if w.rows == 1 {
		separator = "[\n  "
	}
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	_, err = w.out.WriteString(separator + string(data))
	return err
}

func (w *rowWriter) close() error {
	if w.form == outputJSON {
		end := "\n]\n"
		if w.rows == 0 {
			end = "[]\n"
		}
		if _, err := w.out.WriteString(end); err != nil {
			return err
		}
	} else if err := w.table.Flush(); err != nil {
		return err
	}
	return w.out.Flush()
}
