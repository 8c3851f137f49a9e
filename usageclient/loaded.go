package usageclient

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/amieusage/amieusage"
)

// usualPage is the length of a page of loaded records that is asked for where
// the query does not say.
const usualPage = 10_000

// AllLoaded returns the loaded records that the query selects, over all pages:
// PageSize is only the length of one (GET {base}/usage/loaded). Pages are read as
// the loop goes on; one is held at a time. An error ends the sequence
// and is its last element.
//
// Where the service gives a cursor, in the header Link: <…>; rel="next", the
// pages follow it, and its absence ends them. Services differ in the rest, and
// nobody has published what they do: the list may stand in an object; pages may
// be shorter than was asked for, and are counted by Offset up to an empty one, or
// one that is the same again; parameters that are refused with status 400 are
// left out; and what the query does not select is left out here as well. A query by
// project, user or time of usage is an error of [amieusage.CodeInvalid] where the
// service is not amieusage's own: a record does not say whose it is. Where pages
// are counted, a record may come twice or not at all when others are loaded
// meanwhile.
func (c *Client) AllLoaded(ctx context.Context, q amieusage.LoadedQuery) iter.Seq2[amieusage.LoadedRecord, error] {
	if q.PageSize == 0 {
		q.PageSize = usualPage
	}
	return func(yield func(amieusage.LoadedRecord, error) bool) {
		c.eachLoaded(ctx, q, yield)
	}
}

// ListLoaded returns one page of the loaded records that the query selects (GET
// {base}/usage/loaded), and the cursor of the page behind it, for the query's
// Cursor: "" where the page is the last one, or the service gives no cursors.
// [Client.AllLoaded] says in what services differ.
func (c *Client) ListLoaded(ctx context.Context, q amieusage.LoadedQuery) (records amieusage.LoadedRecords, next string, err error) {
	page, err := c.loadedPage(ctx, q, true)
	if err != nil {
		return nil, "", err
	}
	return slices.DeleteFunc(page.records, func(r amieusage.LoadedRecord) bool { return !q.Selects(r) }), page.next, nil
}

// A loadedPage is a page as the service has given it.
type loadedPage struct {
	records amieusage.LoadedRecords
	next    string // the cursor of the page behind it
	request *request
	answer  *answer
}

// A paramSet says which parameters are sent for loaded records.
type paramSet int32

const (
	allParams  paramSet = iota
	withoutMax          // without Limit
	onlyPage            // only Limit and Offset
	noParams
)

// values returns the parameters of a query that are in the set.
func (p paramSet) values(q amieusage.LoadedQuery) url.Values {
	switch p {
	case withoutMax:
		q.PageSize = 0
	case onlyPage:
		q = amieusage.LoadedQuery{PageSize: q.PageSize, Offset: q.Offset, Cursor: q.Cursor}
	case noParams:
		q = amieusage.LoadedQuery{}
	}
	return q.Values()
}

// loadedPage asks for a page. A service that refuses the parameters of the
// first one, and does not say which in a code of its own, is asked with fewer.
func (c *Client) loadedPage(ctx context.Context, q amieusage.LoadedQuery, first bool) (*loadedPage, error) {
	for p := paramSet(c.met.loadedParams.Load()); ; p++ {
		r := &request{method: http.MethodGet, path: "/usage/loaded", query: p.values(q)}
		a, err := c.do(ctx, r)
		e, ok := err.(*Error)
		if ok && first && p < noParams && refusesParams(e) {
			continue
		}
		if err != nil {
			return nil, err
		}
		c.met.loadedParams.Store(int32(p))
		if q.OnlyServiceKnows() && (p > withoutMax || !c.IsAmieusage()) {
			e := c.newError(r, amieusage.CodeInvalid)
			e.Status = a.status
			e.Message = "this service does not choose loaded records by project, user or time of usage"
			e.Hint = "ask for all of them, or by LocalRecordID or time of loading"
			return nil, e
		}
		page := &loadedPage{next: nextPage(a.header).Get("Cursor"), request: r, answer: a}
		return page, c.decode(r, a, 0, &page.records)
	}
}

// refusesParams tells an answer by which a service may refuse parameters that it
// does not know. One that says more in a code of its own means something else.
func refusesParams(e *Error) bool {
	return !e.coded && (e.Status == http.StatusBadRequest || e.Status == http.StatusUnprocessableEntity)
}

func (c *Client) eachLoaded(ctx context.Context, q amieusage.LoadedQuery, yield func(amieusage.LoadedRecord, error) bool) {
	fail := func(err error) { yield(amieusage.LoadedRecord{}, err) }
	var head, last *amieusage.LoadedRecord // of the page before
	for first := true; ; first = false {
		answer, err := c.loadedPage(ctx, q, first)
		if e, ok := err.(*Error); ok && !first && q.Cursor == "" && refusesParams(e) {
			c.log.WarnContext(ctx, "the service does not page its loaded records by Offset: only what it lists at once is known", "error", err)
			return
		}
		if err != nil {
			fail(err)
			return
		}
		page := answer.records
		if len(page) == 0 {
			return
		}
		if head != nil && isSame(page[0], *head) && isSame(page[len(page)-1], *last) {
			if q.Cursor != "" || len(page) == q.PageSize {
				// There may be more, and it would go on so for ever.
				fail(c.unusable(answer.request, answer.answer, errors.New("it is the same page again")))
			}
			return // all of it is on the one page, whatever was asked for
		}
		head, last = new(page[0]), new(page[len(page)-1])
		for _, record := range page {
			if q.Selects(record) && !yield(record, nil) {
				return
			}
		}
		switch {
		case answer.next != "":
			q.Cursor, q.Offset = answer.next, 0
		case q.Cursor != "" || c.met.ours.Load() && len(page) < q.PageSize || paramSet(c.met.loadedParams.Load()) == noParams:
			return
		default:
			q.Offset += int64(len(page))
		}
	}
}

func isSame(a, b amieusage.LoadedRecord) bool {
	return a.AccountingDbRecordID == b.AccountingDbRecordID && a.Identity() == b.Identity()
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
