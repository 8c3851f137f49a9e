package httpapi

import "github.com/amieusage/amieusage"

// loaded serves GET usage/loaded. Where there are more records, the Link
// header names the next page.
func (h *Handler) loaded(x *exchange) (*answer, error) {
	v, err := x.parameters("MinLoadedTime", "LocalRecordID", "LocalProjectID", "Username", "FromTime", "ToTime", "Limit", "Offset", "Cursor")
	if err != nil {
		return nil, err
	}
	q, err := amieusage.ParseLoadedQuery(v)
	if err != nil {
		return nil, err
	}
	page, err := h.service.Loaded(x.Context(), x.who, q)
	if err != nil {
		return nil, err
	}
	a, err := jsonAnswer(amieusage.LoadedRecords(page.Records))
	if err == nil && page.Next != "" {
		q.Offset, q.Cursor = 0, page.Next
		a.linkNext(q.Values())
	}
	return a, err
}
