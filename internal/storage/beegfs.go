package storage

import (
	"bytes"
	"fmt"

	"github.com/amieusage/amieusage/internal/scheduler"
)

// beegfs reads beegfs-ctl --getquota --csv. Sizes are in bytes.
func (r *reading) beegfs() error {
	if c := bytes.TrimSpace(r.data)[0]; c == '{' || c == '[' || bytes.Contains(r.data, []byte("iB/")) {
		return fmt.Errorf("%s: BeeGFS 8 rounds the sizes in this form: export exact ones with beegfs quota list-usage --raw, as CSV, and declare its columns (csv:)", scheduler.Place{File: r.name})
	}
	r.From = FromUser
	header := false
	return r.csvRows(',', func(fields []string) error {
		if fields[0] == "name" {
			header = true
			return nil
		}
		if !header {
			return r.errorf("there is no header name,id,size,… above this row")
		}
		if len(fields) < 5 {
			return r.errorf("the row has %d fields, of 6: it was cut off", len(fields))
		}
		row := Row{Place: r.place()}
		var err error
		if row.Bytes, err = r.amount("size", fields[2], 1); err != nil {
			return err
		}
		if row.Files, err = r.amount("files", fields[4], 1); err != nil {
			return err
		}
		return r.owned(&row, fields[0])
	})
}
