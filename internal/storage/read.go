package storage

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"net/url"
	"strconv"
	"strings"
	"time"

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

// CSV says what the columns of a table are, by their names in its header or by their numbers from 1.
type CSV struct {
	Path, ProjectID, Fileset, Group, PI, User, Files, Bytes string
	Unit                                                    int64 // bytes of one in the column Bytes; 0: not stated
	Delimiter                                               rune
}

// IsStated reports whether there are columns.
func (c *CSV) IsStated() bool { return c.Bytes != "" }

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
