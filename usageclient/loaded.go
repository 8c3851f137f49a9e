package usageclient

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"net/url"
	"strings"

	"github.com/amieusage/amieusage"
)

// loadedPage is the length of a page of loaded records that is asked for where
// the query does not say.
const loadedPage = 10_000

// Loaded returns the loaded records that the query selects, over all pages: the
// query's Limit is only the length of one (GET {base}/usage/loaded). Pages are
// read as the loop goes on; one is held at a time. An error ends the sequence
// and is its last element.
//
// Where the service gives a cursor, in the header Link: <…>; rel="next", the
// pages follow it, and its absence ends them. Otherwise they are counted by
// Offset and end with one that is shorter than Limit: then a record may come
// twice or not at all when others are loaded meanwhile.
func (c *Client) Loaded(ctx context.Context, q amieusage.LoadedQuery) iter.Seq2[amieusage.LoadedRecord, error] {
	if q.Limit == 0 {
		q.Limit = loadedPage
	}
	return func(yield func(amieusage.LoadedRecord, error) bool) {
		c.eachLoaded(ctx, q, yield)
	}
}

func (c *Client) eachLoaded(ctx context.Context, q amieusage.LoadedQuery, yield func(amieusage.LoadedRecord, error) bool) {
	fail := func(err error) { yield(amieusage.LoadedRecord{}, err) }
	var first amieusage.LoadedRecord // of the page before
	for {
		r := &request{method: http.MethodGet, path: "/usage/loaded", query: q.Values()}
		a, err := c.do(ctx, r)
		if err != nil {
			fail(err)
			return
		}
		var page amieusage.LoadedRecords
		if err := c.decode(r, a, '[', &page); err != nil {
			fail(err)
			return
		}
		if len(page) == 0 {
			return
		}
		if page[0].AccountingDbRecordID == first.AccountingDbRecordID && page[0].Identity() == first.Identity() {
			// A service that does not know the parameters would do so for ever.
			fail(c.unusable(r, a, errors.New("it is the same page again")))
			return
		}
		first = page[0]
		for _, record := range page {
			if !yield(record, nil) {
				return
			}
		}
		cursor := nextPage(a.header).Get("Cursor")
		switch {
		case cursor != "":
			q.Cursor, q.Offset = cursor, 0
		case q.Cursor != "" || len(page) < q.Limit:
			return
		default:
			q.Offset += int64(len(page))
		}
	}
}

// nextPage returns the query of the link to the next page, or none. The rest of
// the link is not looked at: no link leads a client to another place.
func nextPage(h http.Header) url.Values {
	for _, link := range h.Values("Link") {
		for link != "" {
			_, rest, ok := strings.Cut(link, "<")
			if !ok {
				break
			}
			target, parameters, ok := strings.Cut(rest, ">")
			if !ok {
				break
			}
			// The parameters end where the next link begins.
			parameters, link = cutLink(parameters)
			if !isNext(parameters) {
				continue
			}
			if u, err := url.Parse(target); err == nil {
				return u.Query()
			}
		}
	}
	return url.Values{}
}

// cutLink parts the parameters of one link from the links behind them.
func cutLink(s string) (parameters, rest string) {
	quoted := false
	for i := range len(s) {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ',' && !quoted:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

// isNext reports whether a link's parameters say rel="next".
func isNext(parameters string) bool {
	for p := range strings.SplitSeq(parameters, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(name, "rel") {
			for rel := range strings.FieldsSeq(strings.Trim(value, `"`)) {
				if strings.EqualFold(rel, "next") {
					return true
				}
			}
		}
	}
	return false
}
