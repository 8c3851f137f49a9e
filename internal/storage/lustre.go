package storage

import (
	"fmt"
	"strings"

	"github.com/amieusage/amieusage/internal/textfile"
)

// lustre reads what lfs quota prints for projects, users and groups, one after the other. Sizes are in KiB.
func (r *reading) lustre() error {
	var row *Row // whose figures are waited for
	header := false
	path := ""
	done := func() error {
		if row != nil {
			return r.errorf("the quota of %s has no figures: it was cut off", row.ProjectID+row.User+row.Group)
		}
		return nil
	}
	err := r.lines(func(line string) error {
		words := strings.Fields(line)
		switch {
		case strings.HasPrefix(strings.TrimSpace(line), "Disk quotas for "):
			if err := done(); err != nil {
				return err
			}
			if len(words) < 5 {
				return r.errorf("whose quota this is cannot be read: %q", textfile.Clip(line, 80))
			}
			row, header, path = &Row{Place: r.place()}, false, ""
			name := words[4]
			switch words[3] {
			case "prj", "project":
				row.ProjectID = name
				r.From = FromProjectID
			case "usr", "user":
				row.User = name
				r.From = FromUser
			case "grp", "group":
				row.Group = name
				r.From = FromGroup
			default:
				return r.errorf("whose quota this is cannot be read: %q", textfile.Clip(line, 80))
			}
			return nil
		case words[0] == "Filesystem":
			header = true
			if len(words) < 6 || words[1] != "kbytes" && words[1] != "used" {
				return r.errorf("the sizes are not in KiB: export them without -h")
			}
			return nil
		case row == nil || !header:
			return nil // a trailer, or a greeting
		}
		// The path and the figures, or, behind a long path, on the next line, the figures alone.
		if len(words) == 1 {
			path = words[0]
			return nil
		}
		if path == "" {
			path, words = words[0], words[1:]
		}
		if len(words) < 8 {
			return r.errorf("the row has %d figures, of 8: it was cut off", len(words))
		}
		for _, word := range [...]string{words[0], words[4]} {
			if strings.Contains(word, "[") {
				return r.errorf("%s is in brackets: a server did not answer, and the figure is wrong", word)
			}
		}
		var err error
		if row.Bytes, err = r.amount("kbytes", strings.TrimSuffix(words[0], "*"), kibi); err != nil {
			return fmt.Errorf("%w (with -h sizes are rounded: export them without)", err)
		}
		if row.Files, err = r.amount("files", strings.TrimSuffix(words[4], "*"), 1); err != nil {
			return err
		}
		row.FileSystem = path
		if row.ProjectID != "0" { // the default of the whole file system
			r.Rows = append(r.Rows, *row)
		}
		row, header, path = nil, false, ""
		return nil
	})
	if err == nil {
		err = done()
	}
	return err
}
