package storage

import (
	"fmt"
	"strings"

	"github.com/amieusage/amieusage/internal/textfile"
)

// xfs reads xfs_quota's report without its header: blocks, and inodes where they are there. Sizes are in KiB.
func (r *reading) xfs() error {
	r.From = FromProjectID
	return r.lines(func(line string) error {
		words := strings.Fields(line)
		lower := strings.ToLower(line)
		switch {
		case strings.HasPrefix(lower, "user quota on"):
			r.From = FromUser
			return nil
		case strings.HasPrefix(lower, "group quota on"):
			r.From = FromGroup
			return nil
		case strings.HasPrefix(lower, "project quota on"):
			r.From = FromProjectID
			return nil
		case strings.HasPrefix(words[0], "---"), len(words) > 1 && (words[1] == "ID" || words[0] == "Blocks" || words[0] == "Project" && words[1] == "ID"), words[0] == "Blocks":
			return nil // a header
		}
		if len(words) < 6 || !strings.HasPrefix(words[5], "[") {
			return r.errorf("this is no row of xfs_quota's report: %q", textfile.Clip(line, 80))
		}
		row := Row{Place: r.place()}
		var err error
		if row.Bytes, err = r.amount("blocks", words[1], kibi); err != nil {
			return fmt.Errorf("%w (with -h sizes are rounded: export them without)", err)
		}
		rest := words[5:]
		for len(rest) > 0 && !strings.HasSuffix(rest[0], "]") { // [7 days]
			rest = rest[1:]
		}
		if len(rest) > 1 {
			if row.Files, err = r.amount("inodes", rest[1], 1); err != nil {
				return err
			}
		}
		return r.owned(&row, strings.TrimPrefix(words[0], "#"))
	})
}
