package storage

import (
	"strings"

	"github.com/amieusage/amieusage/internal/textfile"
)

// repquota reads repquota -O csv of users, groups or projects. Sizes are in KiB.
func (r *reading) repquota() error {
	header := []string(nil)
	return r.csvRows(',', func(fields []string) error {
		if header == nil || fields[0] == "User" || fields[0] == "Group" || fields[0] == "Project" {
			switch fields[0] {
			case "User":
				r.From = FromUser
			case "Group":
				r.From = FromGroup
			case "Project":
				r.From = FromProjectID
			default:
				return r.errorf("the first column is %q, and none of User, Group, Project", textfile.Clip(fields[0], 80))
			}
			header = fields
			return nil
		}
		if len(fields) != len(header) {
			return r.errorf("the row has %d fields and the header %d: it was cut off", len(fields), len(header))
		}
		row := Row{Place: r.place()}
		var err error
		for i, name := range header {
			switch name {
			case "BlockUsed", "SpaceUsed":
				row.Bytes, err = r.amount(name, fields[i], kibi)
			case "FileUsed":
				row.Files, err = r.amount(name, fields[i], 1)
			}
			if err != nil {
				return err
			}
		}
		return r.owned(&row, strings.TrimPrefix(fields[0], "#"))
	})
}
