package storage

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/textfile"
)

// xdmod reads XDMoD's storage files. Sizes are in bytes.
func (r *reading) xdmod() error {
	r.From = FromPI
	var rows []struct {
		Resource   string       `json:"resource"`
		Mountpoint string       `json:"mountpoint"`
		User       string       `json:"user"`
		PI         string       `json:"pi"`
		DT         string       `json:"dt"`
		Files      *json.Number `json:"file_count"`
		Bytes      *json.Number `json:"logical_usage"`
	}
	if err := json.Unmarshal(r.data, &rows); err != nil {
		return fmt.Errorf("%s: this is no list of XDMoD's storage JSON, or was cut off: %w", scheduler.Place{File: r.name}, err)
	}
	for i, x := range rows {
		place := scheduler.Place{File: r.name, Record: i + 1}
		if x.Files == nil || x.Bytes == nil || x.User == "" || x.PI == "" || x.Mountpoint == "" || x.DT == "" {
			return fmt.Errorf("%s: mountpoint, user, pi, dt, file_count and logical_usage are needed", place)
		}
		at, err := time.Parse(time.RFC3339, x.DT)
		if err != nil {
			return fmt.Errorf("%s: dt %q is no time in UTC such as 2026-01-31T05:00:00Z", place, textfile.Clip(x.DT, 80))
		}
		bytes, err1 := x.Bytes.Int64()
		files, err2 := x.Files.Int64()
		if err1 != nil || err2 != nil || bytes < 0 || files < 0 {
			return fmt.Errorf("%s: file_count and logical_usage must be whole numbers, from 0 on", place)
		}
		r.Rows = append(r.Rows, Row{Place: place, FileSystem: x.Mountpoint, PI: x.PI, User: x.User, Bytes: bytes, Files: files, At: at.UTC()})
	}
	return nil
}
