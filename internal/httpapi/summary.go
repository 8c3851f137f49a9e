package httpapi

import (
	"bytes"
	"encoding/csv"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/amieusage/amieusage"
)

// summary serves GET usage/summary, as JSON or as CSV: the parameter Format
// says which, or else the Accept header.
func (h *Handler) summary(x *exchange) (*answer, error) {
	v, err := x.parameters("GroupBy", "FromTime", "ToTime", "Format")
	if err != nil {
		return nil, err
	}
	q, err := amieusage.ParseSummaryQuery(v)
	if err != nil {
		return nil, err
	}
	asCSV := false
	switch format := v.Get("Format"); strings.ToLower(format) {
	case "csv":
		asCSV = true
	case "json":
	case "":
		asCSV = prefersCSV(x.Header.Values("Accept"))
	default:
		return nil, &amieusage.Error{
			Code:    amieusage.CodeInvalid,
			Message: "parameter Format must be json or csv, not " + strconv.Quote(cut(format, 64)),
		}
	}
	s, err := h.service.Summary(x.Context(), x.who, q)
	if err != nil {
		return nil, err
	}
	if !asCSV {
		return jsonAnswer(s)
	}
	body, err := summaryCSV(s)
	if err != nil {
		return nil, err
	}
	return &answer{status: http.StatusOK, contentType: "text/csv; charset=utf-8", body: body}, nil
}

// prefersCSV reports whether an Accept header asks for CSV, and not rather for
// JSON.
func prefersCSV(accept []string) bool {
	quality := map[string]float64{}
	for item := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		mediaType, parameters, err := mime.ParseMediaType(item)
		if err != nil {
			continue
		}
		q := 1.0
		if text, ok := parameters["q"]; ok {
			if q, err = strconv.ParseFloat(text, 64); err != nil {
				continue
			}
		}
		quality[mediaType] = max(quality[mediaType], q)
	}
	return quality["text/csv"] > quality["application/json"]
}

// summaryColumns are the columns of the CSV, which are the same however it is
// grouped. Those that begin with Project are the project's balance over all
// time, where a row is a project or a project on a resource.
var summaryColumns = []string{
	"Resource", "LocalProjectID", "Username", "Day", "Month", "UsageType",
	"RecordCount", "Deducted", "GivenBack", "Charge",
	"ProjectAllocated", "ProjectUsed", "ProjectGivenBack", "ProjectRemaining",
}

func summaryCSV(s *amieusage.Summary) ([]byte, error) {
	var out bytes.Buffer
	w := csv.NewWriter(&out)
	if err := w.Write(summaryColumns); err != nil {
		return nil, err
	}
	for _, row := range s.Rows {
		cells := row.Group(amieusage.GroupKeys)
		for i := range cells {
			cells[i] = plainCell(cells[i])
		}
		cells = append(cells, strconv.FormatInt(row.RecordCount, 10),
			row.Deducted.String(), row.GivenBack.String(), row.Charge.String())
		var b amieusage.Balance
		if row.Balance != nil {
			b = *row.Balance
		}
		cells = append(cells, b.Allocated.String(), b.Used.String(), b.GivenBack.String(), b.Remaining.String())
		if err := w.Write(cells); err != nil {
			return nil, err
		}
	}
	w.Flush()
	return out.Bytes(), w.Error()
}

// plainCell puts an apostrophe before a text that a spreadsheet would take for
// a formula.
func plainCell(s string) string {
	if s != "" && strings.IndexByte("=+-@\t\r", s[0]) >= 0 {
		return "'" + s
	}
	return s
}
