package storage

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/amieusage/amieusage/internal/scheduler"
)

// CSV says what the columns of a table are, by their names in its header or by their numbers from 1.
type CSV struct {
	Path, ProjectID, Fileset, Group, PI, User, Files, Bytes string
	Unit                                                    int64 // bytes of one in the column Bytes; 0: not stated
	Delimiter                                               rune
}

// IsStated reports whether there are columns.
func (c *CSV) IsStated() bool { return c.Bytes != "" }

// table reads CSV with the columns that are declared. A user called total is no user: the row is a tree's total.
func (r *reading) table() error {
	c := r.columns
	if c == nil || !c.IsStated() || c.Unit == 0 {
		return fmt.Errorf("%s: state the columns and the unit in site.yaml, as in csv: {path: 2, user: 4, files: 5, bytes: 6, unit: KiB}", scheduler.Place{File: r.name})
	}
	delimiter := c.Delimiter
	if delimiter == 0 {
		delimiter = ','
	}
	columns := []struct{ what, name string }{{"path", c.Path}, {"project_id", c.ProjectID}, {"fileset", c.Fileset}, {"group", c.Group}, {"pi", c.PI},
		{"user", c.User}, {"files", c.Files}, {"bytes", c.Bytes}}
	for _, f := range []struct {
		from From
		name string
	}{{FromPath, c.Path}, {FromProjectID, c.ProjectID}, {FromFileset, c.Fileset}, {FromGroup, c.Group}, {FromPI, c.PI}, {FromUser, c.User}} {
		if f.name != "" {
			r.From = f.from
			break
		}
	}
	var at []int // of each column; -1: it is not declared
	named := false
	for _, col := range columns {
		if _, err := strconv.Atoi(col.name); col.name != "" && err != nil {
			named = true
		}
	}
	return r.csvRows(delimiter, func(fields []string) error {
		if at == nil {
			at = make([]int, len(columns))
			for i, col := range columns {
				n, err := strconv.Atoi(col.name)
				switch {
				case col.name == "":
					at[i] = -1
				case err == nil && n >= 1:
					at[i] = n - 1
				default:
					at[i] = -1
					for j, field := range fields {
						if strings.EqualFold(strings.TrimSpace(field), col.name) {
							at[i] = j
						}
					}
					if at[i] < 0 {
						return r.errorf("the header has no column %q (csv: %s: in site.yaml)", col.name, col.what)
					}
				}
			}
			if named {
				return nil
			}
			if bytes := at[len(at)-1]; bytes < len(fields) {
				if _, err := strconv.ParseUint(strings.TrimSpace(fields[bytes]), 10, 64); err != nil {
					return nil // a header, though columns are named by their numbers
				}
			}
		}
		get := func(i int) (string, error) {
			if at[i] < 0 {
				return "", nil
			}
			if at[i] >= len(fields) {
				return "", r.errorf("the row has %d fields, and %s is the %dth: it was cut off", len(fields), columns[i].what, at[i]+1)
			}
			return strings.TrimSpace(fields[at[i]]), nil
		}
		row := Row{Place: r.place()}
		var texts [8]string
		for i := range columns {
			var err error
			if texts[i], err = get(i); err != nil {
				return err
			}
		}
		row.Path, row.ProjectID, row.Fileset, row.Group, row.PI, row.User = texts[0], texts[1], texts[2], texts[3], texts[4], texts[5]
		if strings.EqualFold(row.User, "total") {
			row.User = ""
		}
		var err error
		if texts[6] != "" {
			if row.Files, err = r.amount("files", texts[6], 1); err != nil {
				return err
			}
		}
		if row.Bytes, err = r.amount("bytes", texts[7], c.Unit); err != nil {
			return err
		}
		r.Rows = append(r.Rows, row)
		return nil
	})
}
