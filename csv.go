package amieusage

import (
	"bytes"
	"encoding/csv"
	"strconv"
	"strings"
	"unicode/utf8"
)

// SummaryColumns are the columns of [Summary.CSV], which are the same however
// it is grouped. Those that begin with Project are the project's balance over
// all time, where a row is a project or a project on a resource.
var SummaryColumns = []string{
	"Resource", "LocalProjectID", "Username", "Day", "Month", "UsageType",
	"RecordCount", "Deducted", "GivenBack", "Charge",
	"ProjectAllocated", "ProjectUsed", "ProjectGivenBack", "ProjectRemaining",
}

// Cells returns the row in the order of [SummaryColumns].
func (r SummaryRow) Cells() []string {
	var b Balance
	if r.Balance != nil {
		b = *r.Balance
	}
	return append(r.Group(GroupKeys), strconv.FormatInt(r.RecordCount, 10),
		r.Deducted.String(), r.GivenBack.String(), r.Charge.String(),
		b.Allocated.String(), b.Used.String(), b.GivenBack.String(), b.Remaining.String())
}

// CSV returns the summary as comma-separated values under a line of
// [SummaryColumns]. Names are as [CSVText] writes them; charges are numbers.
func (s *Summary) CSV() ([]byte, error) {
	var out bytes.Buffer
	w := csv.NewWriter(&out)
	if err := w.Write(SummaryColumns); err != nil {
		return nil, err
	}
	for _, row := range s.Rows {
		cells := row.Cells()
		for i := range GroupKeys {
			cells[i] = CSVText(cells[i])
		}
		if err := w.Write(cells); err != nil {
			return nil, err
		}
	}
	w.Flush()
	return out.Bytes(), w.Error()
}

// CSVText returns a text as it may stand in a cell of CSV: with an apostrophe
// before it where a spreadsheet would take it for a formula, which it does
// where it begins with one of = + - @, as wide ones too, a tab, or the end of a
// line. It is for texts only: a negative number is a number.
func CSVText(s string) string {
	first, _ := utf8.DecodeRuneInString(s)
	if s != "" && strings.ContainsRune("=+-@\t\r\n＝＋－＠", first) {
		return "'" + s
	}
	return s
}
