package httpapi_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/httpapi"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/storetest"
)

// TestModel drives the service over HTTP, with the sites' keys, and compares
// every answer with a model; see storetest.
func TestModel(t *testing.T) {
	server := &handlers{}
	listener := httptest.NewServer(server)
	defer listener.Close()
	storetest.TestService(t, openReplicas[*testing.T], func(service *ledger.Service, secret func(ledger.Caller) string) storetest.API {
		h := httpapi.New(httpapi.Config{
			Service: service, Logger: slog.New(slog.DiscardHandler), Clock: time.Now, Random: rand.Reader,
		})
		return &overHTTP{url: listener.URL + server.add(h) + httpapi.Prefix + "/usage/", secret: secret}
	})
}

// handlers serves any number of handlers, each below a path of its own.
type handlers struct {
	mu  sync.RWMutex
	all []http.Handler
}

// add returns the path below which h is served.
func (s *handlers) add(h http.Handler) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := "/" + strconv.Itoa(len(s.all))
	s.all = append(s.all, http.StripPrefix(path, h))
	return path
}

func (s *handlers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	number, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	s.mu.RLock()
	i, err := strconv.Atoi(number)
	if err != nil || i >= len(s.all) {
		s.mu.RUnlock()
		http.NotFound(w, r)
		return
	}
	h := s.all[i]
	s.mu.RUnlock()
	h.ServeHTTP(w, r)
}

// overHTTP is a service as it answers over HTTP.
type overHTTP struct {
	url    string
	secret func(who ledger.Caller) string
}

// call reads an answer that is 200 into v, and returns its header. Another
// answer is an *amieusage.Error of the body's code, which must be the status's.
func (o *overHTTP) call(ctx context.Context, who ledger.Caller, method, path string, query url.Values, body []byte, v any) (http.Header, error) {
	answer, header, err := o.get(ctx, who, method, path, query, body)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(answer, v); err != nil {
		return nil, fmt.Errorf("%s %s: %w in %s", method, path, err, answer)
	}
	return header, nil
}

func (o *overHTTP) get(ctx context.Context, who ledger.Caller, method, path string, query url.Values, body []byte) ([]byte, http.Header, error) {
	r, err := http.NewRequestWithContext(ctx, method, o.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	r.URL.RawQuery = query.Encode()
	r.Header.Set(amieusage.HeaderSite, who.Name)
	r.Header.Set(amieusage.HeaderAPIKey, o.secret(who))
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, nil, err
	}
	if response.StatusCode == http.StatusOK {
		return answer, response.Header, nil
	}
	var problem struct {
		Error, Hint string
		Code        amieusage.Code
	}
	if err := json.Unmarshal(answer, &problem); err != nil || problem.Code.HTTPStatus() != response.StatusCode {
		return nil, nil, fmt.Errorf("%s %s: answer %d, %w: %s", method, path, response.StatusCode, err, answer)
	}
	message := strings.TrimSuffix(problem.Error, " ("+problem.Hint+")")
	return nil, nil, &amieusage.Error{Code: problem.Code, Message: message, Hint: problem.Hint}
}

// next returns the query of the next page, by the Link header.
func next(header http.Header) (url.Values, error) {
	link, _, _ := strings.Cut(strings.TrimPrefix(header.Get("Link"), "<?"), ">")
	return url.ParseQuery(link)
}

func (o *overHTTP) Accept(ctx context.Context, who ledger.Caller, _ map[string]bool, message []byte) (*amieusage.SendResponse, error) {
	answer := &amieusage.SendResponse{}
	_, err := o.call(ctx, who, http.MethodPost, "", nil, message, answer)
	return answer, err
}

func (o *overHTTP) Status(ctx context.Context, who ledger.Caller, q amieusage.StatusQuery) (status amieusage.Status, err error) {
	_, err = o.call(ctx, who, http.MethodGet, "status", q.Values(), nil, &status)
	return status, err
}

func (o *overHTTP) Failed(ctx context.Context, who ledger.Caller, q ledger.FailedQuery) ([]amieusage.FailedRecord, int64, error) {
	query := url.Values{"Limit": {strconv.Itoa(q.Limit)}, "After": {strconv.FormatInt(q.After, 10)}}
	var page amieusage.FailedRecords
	header, err := o.call(ctx, who, http.MethodGet, "failed", query, nil, &page)
	if err != nil {
		return nil, 0, err
	}
	query, err = next(header)
	if err != nil || len(query) == 0 {
		return page, 0, err
	}
	if limit := query.Get("Limit"); limit != strconv.Itoa(q.Limit) {
		return nil, 0, fmt.Errorf("the next page has Limit=%s, not %d", limit, q.Limit)
	}
	after, err := strconv.ParseInt(query.Get("After"), 10, 64)
	return page, after, err
}

func (o *overHTTP) Clear(ctx context.Context, who ledger.Caller, ids []int64) error {
	path := "failed/"
	for i, id := range ids {
		if i > 0 {
			path += ","
		}
		path += strconv.FormatInt(id, 10)
	}
	var answer struct{ Message string }
	if _, err := o.call(ctx, who, http.MethodDelete, path, nil, nil, &answer); err != nil {
		return err
	}
	different := slices.Compact(slices.Sorted(slices.Values(ids)))
	if want := fmt.Sprintf("%d failed records have been cleared.", len(different)); answer.Message != want {
		return fmt.Errorf("message %q, want %q", answer.Message, want)
	}
	return nil
}

func (o *overHTTP) Loaded(ctx context.Context, who ledger.Caller, q amieusage.LoadedQuery) (page ledger.LoadedPage, err error) {
	header, err := o.call(ctx, who, http.MethodGet, "loaded", q.Values(), nil, &page.Records)
	if err != nil {
		return page, err
	}
	query, err := next(header)
	if page.Next = query.Get("Cursor"); err != nil || page.Next == "" {
		return page, err
	}
	// The other parameters are those of this page.
	q.Offset, q.Cursor = 0, page.Next
	if want := q.Values().Encode(); query.Encode() != want {
		return page, fmt.Errorf("the next page is %s, want %s", query.Encode(), want)
	}
	return page, nil
}

func (o *overHTTP) Summary(ctx context.Context, who ledger.Caller, q amieusage.SummaryQuery) (*amieusage.Summary, error) {
	summary := &amieusage.Summary{}
	query := q.Values()
	_, err := o.call(ctx, who, http.MethodGet, "summary", query, nil, summary)
	return summary, err
}
