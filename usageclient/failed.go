package usageclient

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/amieusage/amieusage"
)

const failedPath = "/usage/failed"

// maxURLBytes is the length of the longest URL that any server takes.
const maxURLBytes = 2000

// ListFailed returns all failed records of the site that were neither
// cleared nor superseded (GET {base}/usage/failed). A record in it that cannot
// be read has its Problem set, and is no error.
func (c *Client) ListFailed(ctx context.Context) (amieusage.FailedRecords, error) {
	var all amieusage.FailedRecords
	for f, err := range c.AllFailed(ctx) {
		if err != nil {
			return all, err
		}
		all = append(all, f)
	}
	return all, nil
}

// AllFailed returns what [Client.ListFailed] does, page by page as the loop
// goes on: one is held at a time. An error ends the sequence and is its last
// element.
func (c *Client) AllFailed(ctx context.Context) iter.Seq2[amieusage.FailedRecord, error] {
	return func(yield func(amieusage.FailedRecord, error) bool) {
		c.eachFailed(ctx, yield)
	}
}

func (c *Client) eachFailed(ctx context.Context, yield func(amieusage.FailedRecord, error) bool) {
	fail := func(err error) { yield(amieusage.FailedRecord{}, err) }
	query := url.Values{}
	for after := int64(0); ; {
		var lists struct {
			FailedRecords, ValidationFailedRecords json.RawMessage
		}
		var page amieusage.FailedRecords
		r := &request{method: http.MethodGet, path: failedPath, query: query}
		a, err := c.do(ctx, r)
		if err != nil {
			fail(err)
			return
		}
		if err := c.decode(r, a, '{', &lists); err != nil {
			fail(err)
			return
		}
		if lists.FailedRecords == nil && lists.ValidationFailedRecords == nil {
			fail(c.unusable(r, a, errors.New("it has no list of failed records")))
			return
		}
		if err := c.decode(r, a, '{', &page); err != nil {
			fail(err)
			return
		}
		for _, f := range page {
			if !yield(f, nil) {
				return
			}
		}
		next := nextPage(a.header)
		if !next.Has("After") || len(page) == 0 {
			return
		}
		n, err := strconv.ParseInt(next.Get("After"), 10, 64)
		if err != nil || n <= after {
			fail(c.unusable(r, a, errors.New("its next page is not behind this one")))
			return
		}
		after = n
		query = url.Values{"After": {next.Get("After")}}
		if next.Has("Limit") {
			query.Set("Limit", next.Get("Limit"))
		}
	}
}

// ClearFailed takes failed records off the site's list, as [Client.ClearFailedIDs]
// does with their FailedRecordIDs. Records that were refused at once have none,
// and are an error.
func (c *Client) ClearFailed(ctx context.Context, records ...amieusage.FailedRecord) (cleared []int64, err error) {
	ids := make([]int64, len(records))
	for i, r := range records {
		ids[i] = r.FailedRecordID
	}
	return c.ClearFailedIDs(ctx, ids...)
}

// ClearFailedIDs takes failed records off the site's list, by the
// FailedRecordID of each (DELETE {base}/usage/failed/{id},{id}). Any number of
// ids may be given; they go in as many requests as keep the URLs short. The
// service clears all ids of a request or none.
//
// It returns the ids that are cleared, which are all of them, each once, if and
// only if there is no error: the first failing request ends it. The error is an
// [*amieusage.Error] with [amieusage.CodeInvalid], and nothing was sent, where
// an id is not above 0; and one with [amieusage.CodeNotFound] where the service
// knows no such failed record.
func (c *Client) ClearFailedIDs(ctx context.Context, ids ...int64) (cleared []int64, err error) {
	seen := make(map[int64]bool, len(ids))
	var rest []int64
	for _, id := range ids {
		if id <= 0 {
			return nil, invalid(strconv.FormatInt(id, 10)+" is not the id of a failed record",
				"use the FailedRecordID that ListFailed gives; records that were refused at once have none")
		}
		if !seen[id] {
			seen[id] = true
			rest = append(rest, id)
		}
	}
	for len(rest) > 0 {
		path := failedPath + "/"
		n := 0
		for ; n < len(rest); n++ {
			next := strconv.FormatInt(rest[n], 10)
			if n > 0 {
				next = "," + next
			}
			if n > 0 && len(c.base)+len(path)+len(next) > maxURLBytes {
				break
			}
			path += next
		}
		if err := c.clear(ctx, path, rest[:n]); err != nil {
			return cleared, err
		}
		cleared = append(cleared, rest[:n]...)
		rest = rest[n:]
	}
	return cleared, nil
}

// clear makes one request that clears the ids.
func (c *Client) clear(ctx context.Context, path string, ids []int64) error {
	r := &request{method: http.MethodDelete, path: path}
	a, err := c.do(ctx, r)
	if err == nil {
		if len(a.body) > 0 && !json.Valid(a.body) {
			return c.unusable(r, a, nil)
		}
		return nil
	}
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Status != http.StatusNotFound || !e.uncertain {
		return err
	}
	// An earlier attempt, whose answer was lost, may have cleared them.
	open, listErr := c.ListFailed(ctx)
	if listErr != nil || slices.ContainsFunc(open, func(f amieusage.FailedRecord) bool {
		return slices.Contains(ids, f.FailedRecordID)
	}) {
		return err
	}
	return nil
}
