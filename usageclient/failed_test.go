package usageclient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/amieusage/amieusage"
)

// A failedList serves usage/failed as the service does: in pages, and clearing
// all ids of a request or none.
type failedList struct {
	mu       sync.Mutex
	open     []int64
	page     int // records in a page; 0: all
	requests []string
	// before may answer in place of the service, and after spoil its answer.
	before, after func(n int, w http.ResponseWriter, r *http.Request) bool
}

func (l *failedList) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests = append(l.requests, r.Method+" "+r.RequestURI)
	n := len(l.requests)
	if l.before != nil && l.before(n, w, r) {
		return
	}
	if r.Method == http.MethodDelete {
		ids := strings.Split(strings.TrimPrefix(r.URL.Path, basePath+"/usage/failed/"), ",")
		left := slices.DeleteFunc(slices.Clone(l.open), func(id int64) bool {
			return slices.Contains(ids, strconv.FormatInt(id, 10))
		})
		if len(left) != len(l.open)-len(ids) {
			problem(404, "unknown ids", "not_found")(w)
			return
		}
		l.open = left
		if l.after != nil && l.after(n, w, r) {
			return
		}
		_, _ = w.Write([]byte(`{"Message": "cleared"}`))
		return
	}
	after, _ := strconv.ParseInt(r.URL.Query().Get("After"), 10, 64)
	var list amieusage.FailedRecords
	for _, id := range l.open {
		if id > after && (l.page == 0 || len(list) < l.page) {
			list = append(list, amieusage.FailedRecord{UsageType: amieusage.Compute, Error: "unknown user", FailedRecordID: id, Record: compute(int(id))})
		}
	}
	if l.page > 0 && len(list) == l.page {
		w.Header().Set("Link", fmt.Sprintf(`<?After=%d&Limit=%d>; rel="next"`, list[len(list)-1].FailedRecordID, l.page))
	}
	body, _ := list.MarshalJSON()
	_, _ = w.Write(body)
}

func ids(n int) []int64 {
	list := make([]int64, n)
	for i := range list {
		list[i] = int64(1_000_000 + i)
	}
	return list
}

func TestFailedRecords(t *testing.T) {
	for _, body := range []string{
		`{"FailedRecords": [%s]}`,
		`{"ValidationFailedRecords": [%s]}`,
		`{"FailedRecords": [%[1]s], "ValidationFailedRecords": [%[1]s]}`,
	} {
		const list = `{"UsageType": "Compute", "LocalRecordID": "1", "Error": "unknown user", "FailedRecordID": 7},
			{"UsageType": "storage", "LocalRecordID": 2, "CollectionTime": "2026-10-02", "Error": "no allocation", "FailedRecordID": "8"},
			{"UsageType": "Compute", "SubmitTime": "yesterday", "Error": "bad time", "FailedRecordID": 9},
			"what is this"`
		c := serve(t, &answerer{status: 200, body: fmt.Sprintf(body, list)})
		failed, err := c.ListFailed(context.Background())
		if err != nil || len(failed) != 4 {
			t.Fatalf("%v, error %v", failed, err)
		}
		for i, want := range []struct {
			id  int64
			err string
		}{{7, "unknown user"}, {8, "no allocation"}, {9, "bad time"}, {0, ""}} {
			if failed[i].FailedRecordID != want.id || failed[i].Error != want.err {
				t.Errorf("record %d is %v", i, failed[i])
			}
		}
		if failed[1].Record.UsageType() != amieusage.Storage || failed[2].Problem == nil || failed[3].Problem == nil {
			t.Errorf("records are %v", failed)
		}
	}
}

func TestFailedRecordsOverPages(t *testing.T) {
	for _, page := range []int{0, 1, 4, 10, 11} {
		l := &failedList{open: ids(10), page: page}
		failed, err := serve(t, l).ListFailed(context.Background())
		var got []int64
		for _, f := range failed {
			got = append(got, f.FailedRecordID)
		}
		if err != nil || !slices.Equal(got, l.open) {
			t.Errorf("by %d: %v, error %v", page, got, err)
		}
	}
	for _, link := range []string{`<?After=5>; rel="next"`, `<?After=x>; rel="next"`} {
		server := &answerer{status: 200, body: `{"FailedRecords": [{"FailedRecordID": 5}]}`, header: http.Header{"Link": {link}}}
		if _, err := serve(t, server).ListFailed(context.Background()); !errors.Is(err, ErrUnavailable) || server.requests() > 2 {
			t.Errorf("a circle of pages gave error %v after %d requests", err, server.requests())
		}
	}
}

func TestClearFailedRecords(t *testing.T) {
	ctx := context.Background()
	t.Run("any number", func(t *testing.T) {
		for _, n := range []int{0, 1, 2, 249, 5000} {
			l := &failedList{open: ids(5000)}
			c := serve(t, l)
			given := ids(n)
			cleared, err := c.ClearFailedIDs(ctx, append(given, given...)...)
			if err != nil || !slices.Equal(cleared, given) || len(l.open) != 5000-n {
				t.Errorf("%d cleared, %d left, error %v", len(cleared), len(l.open), err)
			}
			for _, r := range l.requests {
				if length := len(c.base) - len(basePath) + len(r) - len("DELETE "); length > maxURLBytes {
					t.Errorf("a URL has %d bytes", length)
				}
			}
			if most := n/230 + 1; len(l.requests) > most {
				t.Errorf("%d requests for %d ids", len(l.requests), n)
			}
		}
	})
	t.Run("long base URL", func(t *testing.T) {
		l := &failedList{open: ids(3), before: func(_ int, w http.ResponseWriter, r *http.Request) bool { return true }}
		c := serve(t, l)
		c.base += strings.Repeat("/gateway", 300)
		if _, err := c.ClearFailedIDs(ctx, l.open...); err != nil || len(l.requests) != 3 {
			t.Errorf("%d requests, error %v", len(l.requests), err)
		}
	})
	t.Run("records", func(t *testing.T) {
		l := &failedList{open: ids(3)}
		c := serve(t, l)
		failed, err := c.ListFailed(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if cleared, err := c.ClearFailed(ctx, failed[0], failed[2]); err != nil || !slices.Equal(cleared, []int64{1_000_000, 1_000_002}) || !slices.Equal(l.open, []int64{1_000_001}) {
			t.Errorf("%v cleared, %v left, error %v", cleared, l.open, err)
		}
		n := len(l.requests)
		if _, err := c.ClearFailed(ctx, failed[1], amieusage.FailedRecord{}); amieusage.CodeOf(err) != amieusage.CodeInvalid || len(l.requests) != n {
			t.Errorf("%d requests more, error %v", len(l.requests)-n, err)
		}
	})
	t.Run("bad ids", func(t *testing.T) {
		l := &failedList{}
		c := serve(t, l)
		for _, id := range []int64{0, -1} {
			cleared, err := c.ClearFailedIDs(ctx, 5, id)
			if e, ok := errors.AsType[*amieusage.Error](err); !ok || e.Code != amieusage.CodeInvalid || cleared != nil || len(l.requests) > 0 {
				t.Errorf("%v cleared, error %v", cleared, err)
			}
		}
	})
	t.Run("a later request fails", func(t *testing.T) {
		l := &failedList{open: ids(5000), before: func(n int, w http.ResponseWriter, _ *http.Request) bool {
			if n == 3 {
				w.WriteHeader(500)
			}
			return n == 3
		}}
		cleared, err := serve(t, l).ClearFailedIDs(ctx, ids(5000)...)
		if e, ok := errors.AsType[*Error](err); !ok || e.Status != 500 || len(l.requests) != 3 || len(cleared)+len(l.open) != 5000 || len(cleared) == 0 {
			t.Errorf("%d cleared, %d left, error %v", len(cleared), len(l.open), err)
		}
	})
	t.Run("unknown id", func(t *testing.T) {
		l := &failedList{open: ids(2)}
		cleared, err := serve(t, l).ClearFailedIDs(ctx, 7)
		if e, ok := errors.AsType[*amieusage.Error](err); !ok || e.Code != amieusage.CodeNotFound || len(cleared) > 0 || len(l.requests) != 1 {
			t.Errorf("%v cleared, error %v", cleared, err)
		}
	})
	t.Run("the answer was lost", func(t *testing.T) {
		hangUp := func(n int, _ http.ResponseWriter, _ *http.Request) bool {
			if n == 1 {
				panic(http.ErrAbortHandler)
			}
			return false
		}
		l := &failedList{open: ids(3), after: hangUp}
		cleared, err := serve(t, l).ClearFailedIDs(ctx, l.open[:2]...)
		if err != nil || len(cleared) != 2 || len(l.requests) != 3 {
			t.Errorf("%v cleared, error %v after %q", cleared, err, l.requests)
		}
		// The request was lost, and one of the ids was unknown all the time.
		l = &failedList{open: ids(3), before: hangUp}
		cleared, err = serve(t, l).ClearFailedIDs(ctx, l.open[0], 7)
		if e, ok := errors.AsType[*Error](err); !ok || e.Status != 404 || len(cleared) > 0 {
			t.Errorf("%v cleared, error %v", cleared, err)
		}
	})
	t.Run("any JSON will do, and nothing else", func(t *testing.T) {
		for body, ok := range map[string]bool{"": true, "{}": true, `"cleared"`: true, "null": true, "<html>log in</html>": false} {
			cleared, err := serve(t, &answerer{status: 200, body: body}).ClearFailedIDs(ctx, 7)
			if (err == nil) != ok || (len(cleared) == 1) != ok {
				t.Errorf("%q: %v cleared, error %v", body, cleared, err)
			}
		}
	})
}
