package usageclient

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amieusage/amieusage"
)

func TestSendMixedKinds(t *testing.T) {
	s := &service{t: t, refuse: func(r amieusage.Record) string {
		if r.Common().LocalRecordID == "st-3" {
			return "unknown project"
		}
		return ""
	}}
	c := serve(t, s)
	invalidRecord := compute(2)
	invalidRecord.Username, invalidRecord.EndTime = "", time.Time{}
	records := []amieusage.Record{compute(1), storage(1), invalidRecord, nil, storage(3), (*amieusage.ComputeRecord)(nil), compute(4)}
	result, err := c.Send(context.Background(), records...)
	if err != nil || states(result) != "aarrrra" || s.requests != 2 {
		t.Fatalf("%d requests, %s, error %v", s.requests, states(result), err)
	}
	if result.String() != "3 accepted, 4 refused, 0 unsent" {
		t.Errorf("result is %v", result)
	}
	var answers []string
	for _, r := range result.Responses {
		answers = append(answers, r.Message)
	}
	if want := []string{amieusage.QueuedMessage(2, 0), amieusage.QueuedMessage(1, 1)}; !slices.Equal(answers, want) {
		t.Errorf("the service's answers are %q, want %q", answers, want)
	}
	for i, o := range result.Outcomes {
		if o.Index != i || o.Record != records[i] || (o.Err == nil) != (o.State == Accepted) {
			t.Errorf("outcome %d is %+v", i, o)
		}
	}
	if e, ok := errors.AsType[*amieusage.ValidationError](result.Outcomes[2].Err); !ok || len(e.Fields) != 2 {
		t.Errorf("the invalid record is refused for %v", result.Outcomes[2].Err)
	}
	if err := result.Outcomes[4].Err; err.Error() != "unknown project" {
		t.Errorf("the unknown project is refused for %v", err)
	}
	if got := len(result.Accepted()) + 10*len(result.Refused()) + 100*len(result.Unsent()); got != 43 {
		t.Errorf("lists are of other lengths: %d", got)
	}
}

func TestSendNothing(t *testing.T) {
	s := &service{t: t}
	c := serve(t, s)
	result, err := c.Send(context.Background())
	if err != nil || len(result.Outcomes) != 0 || s.requests != 0 {
		t.Errorf("%d requests, %v, error %v", s.requests, result, err)
	}
}

func TestWithoutValidation(t *testing.T) {
	s := &service{t: t}
	c := serve(t, s, WithoutValidation())
	r := compute(1)
	r.Username = ""
	result, err := c.Send(context.Background(), compute(0), r, compute(2))
	if err != nil || states(result) != "ara" || s.requests != 1 || result.Outcomes[1].Err.Error() != "Username is required" {
		t.Errorf("%d requests, %+v, error %v", s.requests, result, err)
	}
}

func TestSendMessage(t *testing.T) {
	s := &service{t: t}
	c := serve(t, s)
	m, err := amieusage.NewMessage(storage(1), storage(2))
	if err != nil {
		t.Fatal(err)
	}
	if result, err := c.SendMessage(context.Background(), m); err != nil || states(result) != "aa" {
		t.Errorf("%v, error %v", result, err)
	}
	for _, bad := range []*amieusage.Message{nil, {UsageType: amieusage.Compute, Records: []amieusage.Record{compute(1), storage(1)}}} {
		if _, err := c.SendMessage(context.Background(), bad); err == nil || s.requests != 1 {
			t.Errorf("message %v gave error %v after %d requests", bad, err, s.requests)
		}
	}
}

func TestRequestsAreCapped(t *testing.T) {
	for _, test := range []struct {
		name     string
		opts     []Option
		maxBytes int
		records  int
	}{
		{"default", nil, 786_432, 0},
		{"bytes", []Option{WithMaxRequestBytes(5000)}, 5000, 0},
		{"records", []Option{WithMaxRequestRecords(7)}, 786_432, 7},
		{"compressed", []Option{WithMaxRequestBytes(5000), WithCompression()}, 5000, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &service{t: t}
			c := serve(t, s, test.opts...)
			records := computes(2600)
			result, err := c.Send(context.Background(), records...)
			if err != nil || len(result.Accepted()) != len(records) {
				t.Fatalf("%v, error %v", result, err)
			}
			one := len(compute(2599).AppendJSON(nil)) + 1
			for i, size := range s.sizes[:len(s.sizes)-1] {
				full := size > test.maxBytes-one
				if test.records > 0 {
					full = s.records[i] == test.records
				}
				if size > test.maxBytes || !full {
					t.Errorf("request %d of %d bytes and %d records", i, size, s.records[i])
				}
			}
			if !sameRecords(records, s.accepted) {
				t.Error("the service has other records, or in another order")
			}
		})
	}
}

func TestRequestSizeToTheByte(t *testing.T) {
	records := computes(6)
	m, err := amieusage.NewMessage(records[:3]...)
	if err != nil {
		t.Fatal(err)
	}
	three, err := m.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	one, err := (&amieusage.Message{UsageType: amieusage.Compute, Records: records[:1]}).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		limit int
		want  []int
	}{{len(three), []int{3, 3}}, {len(three) - 1, []int{2, 2, 2}}, {len(one), []int{1, 1, 1, 1, 1, 1}}, {len(one) - 1, nil}} {
		s := &service{t: t}
		c := serve(t, s, WithMaxRequestBytes(test.limit))
		if _, err := c.Send(context.Background(), records...); err != nil {
			t.Error(err)
		}
		if !slices.Equal(s.records, test.want) {
			t.Errorf("with %d bytes the requests have %v records, want %v", test.limit, s.records, test.want)
		}
	}
}

func sameRecords(a, b []amieusage.Record) bool {
	return slices.EqualFunc(a, b, func(x, y amieusage.Record) bool {
		return amieusage.ContentDigest(x) == amieusage.ContentDigest(y)
	})
}

func TestTooLarge(t *testing.T) {
	long := compute(500)
	long.JobName = strings.Repeat("j", 4000)
	withLong := computes(1000)
	withLong[500] = long
	foreign := func(text string) func(http.ResponseWriter) { return problem(400, text, "") }
	for _, test := range []struct {
		name     string
		service  *service
		opts     []Option
		records  []amieusage.Record
		refused  []int
		unsent   bool
		requests int // most
		wasted   int // most requests larger than the service takes
	}{
		{name: "413", service: &service{maxBytes: 100_000}, records: computes(1000), requests: 10, wasted: 3},
		{name: "413 for the number of records", service: &service{maxRecords: 100}, records: computes(1000), requests: 30, wasted: 4},
		{name: "400 with a code", service: &service{maxBytes: 100_000, tooLarge: problem(400, "no", "too_large")},
			records: computes(1000), requests: 10, wasted: 3},
		{name: "413 in HTML", service: &service{maxBytes: 100_000, tooLarge: func(w http.ResponseWriter) { w.WriteHeader(413) }},
			records: computes(1000), requests: 10, wasted: 3},
		{name: "400 in words", service: &service{maxBytes: 100_000, tooLarge: foreign("Request body is too large.")},
			records: computes(1000), requests: 10, wasted: 3},
		{name: "400 in other words", service: &service{maxRecords: 100, tooLarge: foreign("The request exceeds 100 records")},
			records: computes(1000), requests: 30, wasted: 4},
		{name: "one record is too large for the service", service: &service{maxBytes: 3000}, records: withLong,
			refused: []int{500}, requests: 400, wasted: 20},
		{name: "one record is too large for a request", opts: []Option{WithMaxRequestBytes(3000)}, records: withLong,
			refused: []int{500}, requests: 180},
		{name: "all records are too large", service: &service{maxBytes: 10}, records: computes(4),
			refused: []int{0, 1, 2, 3}, requests: 7, wasted: 7},
		{name: "400 about something else", service: &service{maxBytes: 10, tooLarge: foreign("Charge of record 3 is too large")},
			records: computes(1000), unsent: true, requests: 3, wasted: 3},
		{name: "400 with another code", service: &service{maxBytes: 10, tooLarge: problem(400, "the request is too large", "invalid")},
			records: computes(1000), unsent: true, requests: 1, wasted: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := cmp.Or(test.service, new(service))
			s.t = t
			c := serve(t, s, test.opts...)
			result, err := c.Send(context.Background(), test.records...)
			if (err != nil) != test.unsent || (len(result.Unsent()) > 0) != test.unsent {
				t.Errorf("%v, error %v", result, err)
			}
			var refused []int
			for _, o := range result.Refused() {
				refused = append(refused, o.Index)
				if e, ok := errors.AsType[*amieusage.Error](o.Err); !ok || e.Code != amieusage.CodeTooLarge {
					t.Errorf("record %d is refused for %v", o.Index, o.Err)
				}
			}
			if !slices.Equal(refused, test.refused) {
				t.Errorf("refused are %v", refused)
			}
			wasted := 0
			for i := range s.sizes {
				if s.maxBytes > 0 && s.sizes[i] > s.maxBytes || s.maxRecords > 0 && s.records[i] > s.maxRecords {
					wasted++
				}
			}
			if s.requests > test.requests || wasted > test.wasted {
				t.Errorf("%d requests, of which %d too large", s.requests, wasted)
			}
			var want []amieusage.Record
			for _, o := range result.Accepted() {
				want = append(want, o.Record)
			}
			if !sameRecords(want, s.accepted) {
				t.Error("the service has other records, or in another order")
			}
		})
	}
}

func TestLearntLimitIsKept(t *testing.T) {
	s := &service{t: t, maxBytes: 100_000}
	c := serve(t, s)
	if _, err := c.Send(context.Background(), computes(8000)...); err != nil {
		t.Fatal(err)
	}
	wasted := 0
	for _, size := range s.sizes {
		if size > s.maxBytes {
			wasted++
		}
	}
	if wasted != 3 { // 768, 384, 192 KiB
		t.Errorf("%d requests of %d were too large", wasted, s.requests)
	}
}

func TestWordsAboutSizeAreDoubted(t *testing.T) {
	// A service that finds fault with one record, in words that read as if the
	// request were too large, must not have all requests sent one by one.
	s := &service{t: t}
	s.tooLarge = problem(400, "message has a job name that is too long", "")
	s.before = func(n int, w http.ResponseWriter) bool {
		if s.records[n-1] > 1 && n%3 == 0 {
			s.tooLarge(w)
			return true
		}
		return false
	}
	c := serve(t, s, WithMaxRequestRecords(100))
	result, err := c.Send(context.Background(), computes(2000)...)
	if s.requests > 100 || err != nil || len(result.Accepted()) != 2000 {
		t.Errorf("%d requests, %v, error %v", s.requests, result, err)
	}
}

func TestSaysTooLarge(t *testing.T) {
	for text, want := range map[string]bool{
		"Request Entity Too Large":                      true,
		"request body too large":                        true,
		"The payload exceeds the maximum of 256 KB":     true,
		"Too many records":                              true,
		"too large a request":                           true,
		"Content length is larger than 262144":          true,
		"Charge is too large":                           false,
		"Unknown resource in request":                   false,
		"JobName too long":                              false,
		"Request must name a project":                   false,
		"the request was refused: no such limitless p.": false,
	} {
		if got := saysTooLarge.MatchString(text); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
}

func TestEarlyAnswerLeavesTheBodyAlone(t *testing.T) {
	// The service answers before it has read the body, so that the transport
	// may still be reading it while the halves are made: the race detector
	// looks on.
	n := 0
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n++; n < 4 {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		_, _ = w.Write([]byte(`{"Message": "thank you"}`))
	}))
	result, err := c.Send(context.Background(), computes(4000)...)
	if len(result.Accepted()) == 0 || (err != nil && !errors.Is(err, ErrUnavailable)) {
		t.Errorf("%v, error %v", result, err)
	}
}

func TestNoGoroutineIsLeft(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("", func(t *testing.T) {
		s := &service{t: t, maxBytes: 20_000, before: func(n int, w http.ResponseWriter) bool {
			if n%4 == 1 {
				w.WriteHeader(503)
			}
			return n%4 == 1
		}}
		c := serve(t, s, WithTimeout(10*time.Second))
		for range 5 {
			if _, err := c.Send(context.Background(), computes(200)...); err != nil {
				t.Error(err)
			}
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, _ = c.Send(ctx, compute(1))
	})
	deadline := time.Now().Add(5 * time.Second)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines before, %d after", before, runtime.NumGoroutine())
		}
		runtime.Gosched()
	}
}
