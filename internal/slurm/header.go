package slurm

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/amieusage/amieusage/internal/scheduler"
)

// column is a field of sacct that is used here.
type column int

const (
	colCluster column = iota
	colJobIDRaw
	colJobID
	colUser
	colAccount
	colPartition
	colQOS
	colState
	colSubmit
	colStart
	colEnd
	colElapsedRaw
	colElapsed
	colNNodes
	colAllocNodes
	colNCPUS
	colAllocCPUS
	colReqMem
	colAllocTRES
	colUID
	colReservation
	colNodeList
	colDBIndex
	colJobName
	columns
)

// columnNames spells the columns as `sacct --helpformat` does; letter case does not matter.
var columnNames = [columns]string{"Cluster", "JobIDRaw", "JobID", "User", "Account", "Partition", "QOS", "State", "Submit",
	"Start", "End", "ElapsedRaw", "Elapsed", "NNodes", "AllocNodes", "NCPUS", "AllocCPUS", "ReqMem", "AllocTRES", "UID",
	"Reservation", "NodeList", "DBIndex", "JobName"}

// optional lists the facts that a dump may lack, by the column that holds each.
var optional = map[column]scheduler.Facts{
	colCluster: scheduler.FactCluster, colUID: scheduler.FactUID, colQOS: scheduler.FactQOS, colJobName: scheduler.FactName,
	colReqMem: scheduler.FactReqMem, colReservation: scheduler.FactReservation, colNodeList: scheduler.FactNodeList,
	colDBIndex: scheduler.FactDBIndex, colAllocTRES: scheduler.FactTRES,
}

// neverGiven are the facts that Slurm does not keep of a job.
const neverGiven = scheduler.FactGroup | scheduler.FactProject

// allOptional are the facts of which a JSON that names no member for them says nothing.
const allOptional = neverGiven | scheduler.FactCluster | scheduler.FactUID | scheduler.FactQOS | scheduler.FactName | scheduler.FactReqMem |
	scheduler.FactReservation | scheduler.FactNodeList | scheduler.FactDBIndex | scheduler.FactTRES

func (c column) String() string { return columnNames[c] }

// needed lists the columns without which no job can be made: of each row, all of one alternative.
var needed = [][][]column{
	{{colJobIDRaw}, {colJobID}},
	{{colUser}}, {{colAccount}}, {{colPartition}}, {{colState}}, {{colSubmit}}, {{colStart}}, {{colEnd}},
	{{colElapsedRaw}, {colElapsed}},
	{{colAllocTRES}, {colNNodes, colNCPUS}, {colNNodes, colAllocCPUS}, {colAllocNodes, colNCPUS}, {colAllocNodes, colAllocCPUS}},
}

// freeText lists, in lower case, the columns that may hold anything, the delimiter and line breaks too.
var freeText = []string{"jobname", "comment", "admincomment", "systemcomment", "submitline", "workdir", "extra",
	"constraints", "container", "stdin", "stdout", "stderr"}

// header says how a row of text is laid out.
type header struct {
	line     string
	sep      string
	trailing bool         // each row ends with sep (sacct --parsable)
	width    int          // columns in a row
	at       [columns]int // index of each column in a row; -1: absent
	id       int          // index of the first column that holds a job's id
	free     int          // index of the only column of free text; -1: none, or several
	lastFree bool         // the last column is free text
	freeText bool         // any is
	lacks    scheduler.Facts
}

// complete is how many delimiters make a line a row of its own, and not a part of one.
func (h *header) complete() int {
	if h.trailing && !h.lastFree {
		return h.width
	}
	return h.width - 1
}

// parseHeader reads the first line of sacct's text. delimiter may be empty: then it is what stands between the first two
// names.
func parseHeader(line, delimiter string) (*header, error) {
	h := &header{line: line, sep: delimiter, id: -1, free: -1}
	if h.sep == "" {
		rest := strings.TrimLeftFunc(line, isNameRune)
		if end := strings.IndexFunc(rest, isNameRune); end > 0 {
			rest = rest[:end]
		}
		h.sep = rest
	}
	names := []string{line}
	if h.sep != "" {
		names = strings.Split(line, h.sep)
	}
	if len(names) > 1 && names[len(names)-1] == "" {
		h.trailing = true
		names = names[:len(names)-1]
	}
	h.width = len(names)
	for i := range h.at {
		h.at[i] = -1
	}
	known, freeColumns := 0, 0
	for i, name := range names {
		for c := range columns {
			if strings.EqualFold(strings.TrimSpace(name), columnNames[c]) && h.at[c] < 0 {
				h.at[c] = i
				known++
			}
		}
		h.lastFree = slices.Contains(freeText, strings.ToLower(name))
		if h.lastFree {
			h.free = i
			freeColumns++
		}
	}
	if known == 0 || strings.Trim(h.sep, " ") == "" && 2*known < len(names) { // a sentence may hold the name of one
		return nil, errNoHeader
	}
	if h.sep != "" && strings.TrimSpace(h.sep) == "" && !strings.Contains(h.sep, "\t") {
		return nil, errors.New("the columns are aligned with spaces and may be cut off")
	}
	if missing := missingColumns(func(c column) bool { return h.at[c] >= 0 }); len(missing) > 0 {
		return nil, fmt.Errorf("the header has no column %s", strings.Join(missing, ", "))
	}
	if strings.TrimFunc(h.sep, isValueRune) == "" {
		return nil, fmt.Errorf("the delimiter %q occurs within fields", h.sep)
	}
	h.lacks = neverGiven
	for c, fact := range optional {
		if h.at[c] < 0 {
			h.lacks |= fact
		}
	}
	h.freeText = freeColumns > 0
	if freeColumns > 1 {
		h.free = -1
	}
	h.id = h.at[colJobIDRaw]
	if other := h.at[colJobID]; h.id < 0 || other >= 0 && other < h.id {
		h.id = other
	}
	return h, nil
}

// errNoHeader says that a line names no column.
var errNoHeader = errors.New("the first line is not the header that sacct prints")

// headerOf returns the header that a text without one would have, by its first row.
func headerOf(columns []string, row, delimiter string) (*header, error) {
	if delimiter == "" {
		for _, d := range []string{"\x1f", "|", "\t", "^", ";", "!"} {
			if n := strings.Count(row, d); n == len(columns)-1 || n == len(columns) && strings.HasSuffix(row, d) {
				delimiter = d
				break
			}
		}
		if delimiter == "" {
			return nil, fmt.Errorf("the row does not have the %d columns that --columns names; state what parts them with --delimiter", len(columns))
		}
	}
	line := strings.Join(columns, delimiter)
	if strings.Count(row, delimiter) == len(columns) && strings.HasSuffix(row, delimiter) {
		line += delimiter
	}
	h, err := parseHeader(line, delimiter)
	if err != nil {
		err = fmt.Errorf("--columns: %w", err)
	}
	return h, err
}

// missingColumns names what is needed and absent.
func missingColumns(present func(column) bool) []string {
	var missing []string
	for _, alternatives := range needed {
		if slices.ContainsFunc(alternatives, func(all []column) bool {
			return !slices.ContainsFunc(all, func(c column) bool { return !present(c) })
		}) {
			continue
		}
		missing = append(missing, alternatives[0][0].String())
	}
	return missing
}

// isNameRune tells whether r may stand in a column's name.
func isNameRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '_'
}

// isValueRune tells whether r stands in values that sacct itself makes, such as times, node lists and AllocTRES.
func isValueRune(r rune) bool { return isNameRune(r) || strings.ContainsRune(" ,=:/._+%[]()-", r) }
