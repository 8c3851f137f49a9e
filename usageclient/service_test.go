package usageclient

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"

	"github.com/amieusage/amieusage"
)

// A complainer is told what is wrong with a request.
type complainer interface {
	Errorf(format string, args ...any)
}

// A service takes messages as the Usage API does, and keeps what it accepted.
// Its fields say in what it differs.
type service struct {
	t          complainer
	maxBytes   int // 0: no limit
	maxRecords int
	tooLarge   func(w http.ResponseWriter) // how it says so; nil: 413 as the API does
	// refuse returns the reason to refuse a record, or "".
	refuse func(r amieusage.Record) string
	// echo writes a refused record into the answer; nil: as the API does.
	echo func(f amieusage.FailedRecord) string
	// before may answer in place of the service.
	before func(n int, w http.ResponseWriter) bool
	// loses reports whether the answer gets lost.
	loses func(n int) bool

	mu       sync.Mutex
	requests int
	sizes    []int              // of all bodies
	records  []int              // in all bodies
	accepted []amieusage.Record // in the order of acceptance
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Method == http.MethodGet && r.URL.Path == basePath+failedPath {
		// A client asks whether the service lives that does not answer to a record.
		fmt.Fprint(w, `{"FailedRecords": []}`)
		return
	}
	s.requests++
	reader := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(r.Body)
		if err != nil {
			s.t.Errorf("%v", err)
			return
		}
		reader = unzipped
	}
	body, err := io.ReadAll(reader)
	if err != nil || r.Method != http.MethodPost || r.URL.Path != basePath+"/usage/" {
		s.t.Errorf("%s %s: %v", r.Method, r.URL, err)
	}
	t, items, err := amieusage.DecodeMessage(body)
	if err != nil {
		s.t.Errorf("%v in %s", err, body)
	}
	s.sizes, s.records = append(s.sizes, len(body)), append(s.records, len(items))
	if s.before != nil && s.before(s.requests, w) {
		return
	}
	if s.maxBytes > 0 && len(body) > s.maxBytes || s.maxRecords > 0 && len(items) > s.maxRecords {
		if s.tooLarge == nil {
			problem(http.StatusRequestEntityTooLarge, "the body is too large", "too_large")(w)
		} else {
			s.tooLarge(w)
		}
		return
	}
	failed := []json.RawMessage{}
	for _, item := range items {
		record, err := amieusage.CheckRecord(t, item)
		reason := ""
		if err != nil {
			reason = err.Error()
		} else if s.refuse != nil {
			reason = s.refuse(record)
		}
		if reason == "" {
			s.accepted = append(s.accepted, record)
			continue
		}
		f := amieusage.FailedRecord{UsageType: t, Error: reason, Record: record, Problem: err, Raw: json.RawMessage(item)}
		if s.echo == nil {
			failed = append(failed, f.AppendJSON(nil))
		} else if text := s.echo(f); text != "" {
			failed = append(failed, json.RawMessage(text))
		}
	}
	if s.loses != nil && s.loses(s.requests) {
		panic(http.ErrAbortHandler)
	}
	list, err := json.Marshal(failed)
	if err != nil {
		s.t.Errorf("%v", err)
	}
	fmt.Fprintf(w, `{"Message": %q, "FailedRecords": %s}`, amieusage.QueuedMessage(len(items)-len(failed), len(failed)), list)
}

// problem answers with an error; without a code as foreign services do.
func problem(status int, text, code string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.WriteHeader(status)
		body := map[string]string{"error": text}
		if code != "" {
			body["code"] = code
		}
		_ = json.NewEncoder(w).Encode(body)
	}
}

// states spells the states of a result: a, r or u for each record.
func states(r *SendResult) string {
	var b strings.Builder
	for _, o := range r.Outcomes {
		b.WriteByte(o.State.String()[0])
	}
	return b.String()
}
