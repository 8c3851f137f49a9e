package storage

import (
	"strings"

	"github.com/amieusage/amieusage/internal/textfile"
)

// zfs reads zfs userspace, groupspace and projectspace -Hp. Sizes are in bytes.
func (r *reading) zfs() error {
	return r.lines(func(line string) error {
		fields := strings.Split(line, "\t")
		row := Row{Place: r.place()}
		var name string
		switch {
		case len(fields) >= 4 && strings.HasSuffix(fields[0], " User"):
			r.From, name, fields = FromUser, fields[1], fields[2:]
		case len(fields) >= 4 && strings.HasSuffix(fields[0], " Group"):
			r.From, name, fields = FromGroup, fields[1], fields[2:]
		case len(fields) >= 3:
			r.From, name, fields = FromProjectID, fields[0], fields[1:]
		default:
			return r.errorf("this is no row of zfs userspace, groupspace or projectspace -Hp: %q", textfile.Clip(line, 80))
		}
		number := func(what, text string) (int64, error) {
			if text == "-" || text == "none" {
				return 0, nil
			}
			return r.amount(what, text, 1)
		}
		var err error
		if row.Bytes, err = number("used", fields[0]); err != nil {
			return err
		}
		if len(fields) > 2 {
			if row.Files, err = number("objused", fields[2]); err != nil {
				return err
			}
		}
		return r.owned(&row, name)
	})
}
