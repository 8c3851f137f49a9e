package storage

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"strconv"
	"strings"

	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/textfile"
)

// A Format is the form of a report.
type Format string

// The formats.
const (
	GPFS     Format = "gpfs"     // mmrepquota -Y
	Lustre   Format = "lustre"   // lfs quota
	XDMoD    Format = "xdmod"    // XDMoD's storage files, JSON
	Repquota Format = "repquota" // repquota -O csv
	ZFS      Format = "zfs"      // zfs userspace|groupspace|projectspace -Hp
	XFS      Format = "xfs"      // xfs_quota -x -c 'report …'
	BeeGFS   Format = "beegfs"   // beegfs-ctl --getquota --csv
	CSVTable Format = "csv"      // columns that site.yaml declares
)

// Formats are all formats.
var Formats = []Format{GPFS, Lustre, XDMoD, Repquota, ZFS, XFS, BeeGFS, CSVTable}

// maxReport bounds the size of a report, in bytes.
const maxReport = 1 << 30

// A Report is what was read.
type Report struct {
	Format Format
	From   From // whose the rows are, unless site.yaml says otherwise
	Rows   []Row
}

// Read reads a report, compressed or not. A report that is empty, cut off, or of which a row cannot be read is an error: half of
// one would take something away from somebody.
func Read(in io.Reader, name string, format Format, columns *CSV) (*Report, error) {
	text, done, err := textfile.Plain(bufio.NewReaderSize(in, textfile.BufferSize))
	defer done()
	var data []byte
	if err == nil {
		data, err = io.ReadAll(io.LimitReader(text, maxReport+1))
	}
	file := scheduler.Place{File: name}
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", file, err)
	case len(data) > maxReport:
		return nil, fmt.Errorf("%s: the report is larger than %d bytes", file, maxReport)
	case len(bytes.TrimSpace(data)) == 0:
		return nil, fmt.Errorf("%s: the report is empty", file)
	}
	if format == "" {
		if format = formatOf(data, columns); format == "" {
			return nil, fmt.Errorf("%s: it is not known which program has made this: state format: in site.yaml, or --format", file)
		}
	}
	r := &reading{name: name, Report: Report{Format: format}, data: data, columns: columns}
	switch format {
	case GPFS:
		err = r.gpfs()
	case Lustre:
		err = r.lustre()
	case XDMoD:
		err = r.xdmod()
	case Repquota:
		err = r.repquota()
	case ZFS:
		err = r.zfs()
	case XFS:
		err = r.xfs()
	case BeeGFS:
		err = r.beegfs()
	case CSVTable:
		err = r.table()
	default:
		err = fmt.Errorf("%s: format %q is not one of gpfs, lustre, xdmod, repquota, zfs, xfs, beegfs, csv", file, format)
	}
	if err != nil {
		return nil, err
	}
	if len(r.Rows) == 0 {
		return nil, fmt.Errorf("%s: there is no row of usage in the report", file)
	}
	return &r.Report, nil
}

// formatOf finds out which program has made a report.
func formatOf(data []byte, columns *CSV) Format {
	head := strings.ToLower(string(data[:min(len(data), 64<<10)]))
	trimmed := strings.TrimSpace(head)
	switch {
	case strings.Contains(head, "mmrepquota:") && strings.Contains(head, ":header:"):
		return GPFS
	case strings.Contains(head, "disk quotas for "):
		return Lustre
	case trimmed[0] == '[' || trimmed[0] == '{':
		if strings.Contains(head, `"logical_usage"`) {
			return XDMoD
		}
		return BeeGFS // the newer form, which is refused by name
	case strings.Contains(head, "blockstatus,") || strings.Contains(head, "spacestatus,"):
		return Repquota
	case strings.HasPrefix(trimmed, "name,id,size,"):
		return BeeGFS
	case columns != nil && columns.IsStated():
		return CSVTable
	case strings.Contains(head, "[--") || strings.Contains(head, "project quota on ") || strings.Contains(head, "user quota on "):
		return XFS
	case strings.Contains(head, "\t"):
		return ZFS
	}
	return ""
}

// reading is one run of Read.
type reading struct {
	Report
	name    string
	data    []byte
	columns *CSV
	line    int
}

func (r *reading) place() scheduler.Place { return scheduler.Place{File: r.name, Line: r.line} }

func (r *reading) errorf(format string, args ...any) error {
	return fmt.Errorf("%s: %w", r.place(), fmt.Errorf(format, args...))
}

// lines yields the lines with their numbers; the last must have its line feed.
func (r *reading) lines(each func(line string) error) error {
	for line := range strings.Lines(string(r.data)) {
		r.line++
		text, ended := strings.CutSuffix(line, "\n")
		if !ended {
			return r.errorf("the report ends within the line: it was cut off")
		}
		text = strings.TrimSuffix(text, "\r")
		if strings.TrimSpace(text) == "" {
			continue
		}
		if err := each(text); err != nil {
			return err
		}
	}
	return nil
}

// amount reads a whole number, times a unit.
func (r *reading) amount(what, text string, unit int64) (int64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	high, low := bits.Mul64(n, uint64(unit))
	if err != nil || high != 0 || low > math.MaxInt64 {
		return 0, r.errorf("%s is %q, and no whole number that can be", what, textfile.Clip(text, 80))
	}
	return int64(low), nil
}

const kibi = 1024

// owned adds a row of which the report has one name.
func (r *reading) owned(row *Row, name string) error {
	switch r.From {
	case FromUser:
		row.User = name
	case FromGroup:
		row.Group = name
	case FromProjectID:
		if name == "0" {
			return nil // the default of the whole file system
		}
		row.ProjectID = name
	}
	r.Rows = append(r.Rows, *row)
	return nil
}

// csvRows yields the rows of CSV.
func (r *reading) csvRows(delimiter rune, each func(fields []string) error) error {
	if len(r.data) > 0 && r.data[len(r.data)-1] != '\n' {
		return fmt.Errorf("%s: the report ends within a line: it was cut off", scheduler.Place{File: r.name})
	}
	rows := csv.NewReader(bytes.NewReader(r.data))
	rows.FieldsPerRecord, rows.Comma, rows.Comment = -1, delimiter, 0
	for {
		fields, err := rows.Read()
		if err == io.EOF {
			return nil
		}
		if wrong, ok := errors.AsType[*csv.ParseError](err); ok {
			r.line = wrong.Line
			return r.errorf("this is no CSV: %w", wrong.Err)
		}
		if err != nil {
			return err
		}
		r.line, _ = rows.FieldPos(0)
		if len(fields) == 1 && strings.TrimSpace(fields[0]) == "" || strings.HasPrefix(fields[0], "***") {
			continue
		}
		if err := each(fields); err != nil {
			return err
		}
	}
}
