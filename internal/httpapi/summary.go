package httpapi

import (
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
	body, err := s.CSV()
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
