package httpapi

import (
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// maxClearIDs is the number of ids that one request may clear.
const maxClearIDs = 10_000

// failed serves GET usage/failed. Limit and After page through the records;
// where there are more, the Link header names the next page.
func (h *Handler) failed(x *exchange) (*answer, error) {
	v, err := x.parameters("Limit", "After")
	if err != nil {
		return nil, err
	}
	limit, err := wholeNumber(v, "Limit", 1)
	if err != nil {
		return nil, err
	}
	after, err := wholeNumber(v, "After", 0)
	if err != nil {
		return nil, err
	}
	q := ledger.FailedQuery{After: after, Limit: int(min(limit, amieusage.MaxLoadedPage))}
	records, next, err := h.service.Failed(x.Context(), x.who, q)
	if err != nil {
		return nil, err
	}
	a, err := jsonAnswer(amieusage.FailedRecords(records))
	if err == nil && next != 0 {
		page := url.Values{"After": {strconv.FormatInt(next, 10)}}
		if q.Limit > 0 {
			page.Set("Limit", strconv.Itoa(q.Limit))
		}
		a.linkNext(page)
	}
	return a, err
}

// clear serves DELETE usage/failed/{ids}: all of them or, where one is not
// the site's, none.
func (h *Handler) clear(x *exchange) (*answer, error) {
	ids, err := parseIDs(x.PathValue("ids"))
	if err != nil {
		return nil, err
	}
	ctx := ledger.WithActor(x.Context(), ledger.Actor{From: addressOf(x.RemoteAddr).String()})
	if err := h.service.Clear(ctx, x.who, ids); err != nil {
		return nil, err
	}
	return jsonAnswer(struct{ Message string }{strconv.Itoa(len(ids)) + " failed records have been cleared."})
}

// parseIDs reads failed record ids that are joined by commas, and returns each
// once.
func parseIDs(list string) ([]int64, error) {
	ids := map[int64]bool{}
	var bad []string
	for text := range strings.SplitSeq(list, ",") {
		text = strings.TrimSpace(text)
		id, err := strconv.ParseInt(text, 10, 64)
		switch {
		case err != nil || id <= 0 || text[0] == '+':
			bad = append(bad, strconv.Quote(cut(text, 32)))
		default:
			ids[id] = true
		}
	}
	switch {
	case len(bad) > 20:
		bad = append(bad[:20], "and "+strconv.Itoa(len(bad)-20)+" more")
		fallthrough
	case len(bad) > 0:
		return nil, &amieusage.Error{
			Code:    amieusage.CodeInvalid,
			Message: "no FailedRecordID: " + strings.Join(bad, ", ") + "; nothing was cleared",
			Hint:    "name the numbers joined by commas, as in " + Prefix + "/usage/failed/17,18",
		}
	case len(ids) > maxClearIDs:
		return nil, &amieusage.Error{
			Code:    amieusage.CodeInvalid,
			Message: strconv.Itoa(len(ids)) + " ids are too many for one request; nothing was cleared",
			Hint:    "name at most " + strconv.Itoa(maxClearIDs),
		}
	}
	return slices.Sorted(maps.Keys(ids)), nil
}
