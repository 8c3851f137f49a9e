package storage

import (
	"net/url"
	"strings"

	"github.com/amieusage/amieusage/internal/textfile"
)

// gpfs reads mmrepquota -Y: rows by the names of its header, which comes again for each file system. Sizes are in KiB.
func (r *reading) gpfs() error {
	r.From = FromFileset
	var names map[string]int
	width := 0
	return r.lines(func(line string) error {
		fields := strings.Split(line, ":")
		if fields[0] != "mmrepquota" || len(fields) < 3 {
			if strings.HasPrefix(line, "***") {
				return nil
			}
			return r.errorf("this is no row of mmrepquota -Y: %q", textfile.Clip(line, 80))
		}
		if fields[2] == "HEADER" || fields[1] == "HEADER" {
			names = map[string]int{}
			for i, name := range fields {
				names[name] = i
			}
			width = len(fields)
			for _, name := range []string{"filesystemName", "quotaType", "id", "name", "blockUsage", "filesUsage"} {
				if _, ok := names[name]; !ok {
					return r.errorf("the header has no %s: is this mmrepquota -Y?", name)
				}
			}
			return nil
		}
		if names == nil {
			return r.errorf("there is no header above this row")
		}
		if len(fields) < width-1 {
			return r.errorf("the row has %d fields and the header %d: it was cut off", len(fields), width)
		}
		get := func(name string) string {
			i, ok := names[name]
			if !ok || i >= len(fields) {
				return ""
			}
			text, err := url.PathUnescape(fields[i])
			if err != nil {
				return fields[i]
			}
			return text
		}
		row := Row{Place: r.place(), FileSystem: get("filesystemName")}
		var err error
		if row.Bytes, err = r.amount("blockUsage", get("blockUsage"), kibi); err != nil {
			return err
		}
		if row.Files, err = r.amount("filesUsage", get("filesUsage"), 1); err != nil {
			return err
		}
		switch get("quotaType") {
		case "FILESET":
			row.Fileset = get("name")
		case "USR":
			row.Fileset, row.User = get("filesetname"), get("name")
		case "GRP":
			row.Group = get("name")
		default:
			return r.errorf("quotaType %q is not one of FILESET, USR, GRP", textfile.Clip(get("quotaType"), 80))
		}
		r.Rows = append(r.Rows, row)
		return nil
	})
}
