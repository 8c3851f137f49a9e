package usageclient

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/nettest"
)

// serveThrough is serve with a proxy between client and server.
func serveThrough(t *testing.T, handler http.Handler, faults []nettest.Toxic, opts ...Option) (*Client, *toxiproxy.Proxy) {
	t.Helper()
	server := httptest.NewServer(handler)
	proxy := nettest.NewProxy(t, server.Listener.Addr().String(), faults...)
	c := newClient(t, "http://"+proxy.Listen+basePath,
		append([]Option{WithRetry(quickly), WithTimeout(patience)}, opts...)...)
	t.Cleanup(func() {
		c.CloseIdleConnections()
		proxy.Stop()
		server.Close()
	})
	return c, proxy
}

// patience is the time-out of an attempt: more than any answer takes that comes.
const patience = 500 * time.Millisecond

// echoing answers with the id of the request, as this project's service does.
func echoing(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(amieusage.HeaderRequestID, r.Header.Get(amieusage.HeaderRequestID))
		handler.ServeHTTP(w, r)
	})
}

// network is a random source whose seed is logged.
func network(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func slow(kind string, attributes nettest.Attributes) []nettest.Toxic {
	return []nettest.Toxic{
		{Type: kind, Stream: nettest.Upstream, Attributes: attributes},
		{Type: kind, Stream: nettest.Downstream, Attributes: attributes},
	}
}

// TestSendThroughFaults sends a stream through faults that each connection has
// anew, so that some requests get through: in the end all do.
func TestSendThroughFaults(t *testing.T) {
	random := network(t)
	const records = 200
	// A request of ten records has some 4,000 bytes, and its answer some 300.
	upBytes, downBytes := 5000+random.Int64N(20_000), 700+random.Int64N(1500)
	for _, test := range []struct {
		name   string
		faults []nettest.Toxic
		broken bool // the service sees requests that are none
	}{
		{"latency and jitter", slow("latency", nettest.Attributes{"latency": 5, "jitter": 4}), false},
		{"tiny packets", slow("slicer", nettest.Attributes{"average_size": 20, "size_variation": 10}), false},
		{"little bandwidth", slow("bandwidth", nettest.Attributes{"rate": 500}), false},
		{"slow close", slow("slow_close", nettest.Attributes{"delay": 200}), false},
		{"reset in a request", nettest.Reset(nettest.Upstream, upBytes), true},
		{"close in a request", nettest.Cut(nettest.Upstream, upBytes), true},
		{"reset in an answer", nettest.Reset(nettest.Downstream, downBytes), false},
		{"close in an answer", nettest.Cut(nettest.Downstream, downBytes), false},
		{"answers twice", slow("duplicate", nil)[1:], false},
		{"requests twice", slow("duplicate", nil)[:1], true},
		{"old answers", slow("stale", nil)[1:], false},
	} {
		t.Run(test.name, func(t *testing.T) {
			// Some requests hold a record that is refused: their answers differ.
			s := &service{t: t, refuse: func(r amieusage.Record) string {
				if strings.HasSuffix(r.Common().LocalRecordID, "23") {
					return "no such user"
				}
				return ""
			}}
			if test.broken {
				s.t = new(quiet)
			}
			c, _ := serveThrough(t, echoing(s), test.faults, WithMaxRequestRecords(10))
			result := &SendResult{Outcomes: make([]Outcome, records)}
			taken := 0
			err := c.SendStream(t.Context(), streamOf(computes(records), &taken, nil), func(part *SendResult) error {
				for _, o := range part.Outcomes {
					result.Outcomes[o.Index] = o
				}
				return nil
			})
			if err != nil && test.name != "requests twice" {
				t.Error(err)
			}
			wantHonest(t, s, result, err == nil)
			t.Log(result)
		})
	}
}

// A quiet takes no complaints.
type quiet struct{}

func (*quiet) Errorf(string, ...any) {}

// wantHonest checks that what the result calls accepted was accepted, and that
// it calls nothing refused or, where all is to be sent, unsent without reason.
func wantHonest(t *testing.T, s *service, result *SendResult, all bool) {
	t.Helper()
	s.mu.Lock() // a request whose answer was not waited for may still be served
	defer s.mu.Unlock()
	accepted := map[amieusage.Identity]bool{}
	for _, r := range s.accepted {
		accepted[r.Identity()] = true
	}
	for i, o := range result.Outcomes {
		if o.Record == nil {
			continue // the stream ended before
		}
		there := accepted[o.Record.Identity()]
		if o.State == Accepted && !there || o.State == Refused && (there || s.refuse(o.Record) == "") || all && o.State == Unsent {
			t.Errorf("record %d is %v; the service has it: %t", i, o.State, there)
		}
	}
}

// TestSendThroughFailure sends where no request of some size can succeed: where
// none does, the error is that of an unavailable service, and no record counts as
// accepted that is not.
func TestSendThroughFailure(t *testing.T) {
	random := network(t)
	// The head of an answer has some 170 bytes and its body some 500.
	downBytes, bodyBytes := 1+random.Int64N(150), 200+random.Int64N(300)
	for _, test := range []struct {
		name   string
		faults []nettest.Toxic
		want   string // in the error
	}{
		{"reset in each request", nettest.Reset(nettest.Upstream, 1+random.Int64N(3000)), "no answer"},
		{"close in each request", nettest.Cut(nettest.Upstream, 1+random.Int64N(3000)), "no answer"},
		{"reset in each answer", nettest.Reset(nettest.Downstream, downBytes), "no answer"},
		{"close in each answer", nettest.Cut(nettest.Downstream, downBytes), "no answer"},
		{"close in each answer's body", nettest.Cut(nettest.Downstream, bodyBytes), "no answer"},
		{"requests vanish", []nettest.Toxic{{Type: "timeout", Stream: nettest.Upstream}}, "no answer within 500ms"},
		{"half of a request vanishes", []nettest.Toxic{{Type: "vanish", Stream: nettest.Upstream,
			Attributes: nettest.Attributes{"bytes": 2000}}}, "no answer within 500ms"},
		{"answers vanish", []nettest.Toxic{{Type: "timeout", Stream: nettest.Downstream}}, "no answer within 500ms"},
		{"half of an answer vanishes", []nettest.Toxic{{Type: "vanish", Stream: nettest.Downstream,
			Attributes: nettest.Attributes{"bytes": downBytes}}}, "no answer within 500ms"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := &service{t: new(quiet), refuse: func(r amieusage.Record) string {
				if strings.HasSuffix(r.Common().LocalRecordID, "5") {
					return "no such user"
				}
				return ""
			}}
			c, _ := serveThrough(t, echoing(s), test.faults, WithMaxRequestRecords(10),
				WithRetry(RetryPolicy{MaxAttempts: 2, FirstDelay: time.Millisecond}))
			result, err := c.Send(t.Context(), computes(30)...)
			// What is small enough to get through is sent in parts.
			if unsent := len(result.Unsent()); (err == nil) != (unsent == 0) || unsent > 0 && !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, error %v", result, err)
			}
			if len(result.Unsent()) == 30 {
				wantUnavailable(t, err)
			}
			wantHonest(t, s, result, false)
		})
	}
}

func wantUnavailable(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, ErrUnavailable) {
		t.Errorf("the error is not that of an unavailable service: %v", err)
	}
}

// TestAnswerOfAnotherRequest answers a send with what belongs to another one.
func TestAnswerOfAnotherRequest(t *testing.T) {
	for _, test := range []struct {
		name, id, body string
		want           string // in the error; "": the answer is the request's own
	}{
		{"another attempt's id", ownIDs + strings.Repeat("A", 26), queued(2), "another request"},
		{"a gateway's id", "8f3a", queued(2), ""},
		{"no id", "", queued(2), ""},
		{"more records", "", queued(3), "it is about 3 records, and 2 were sent"},
		{"fewer records", "", queued(1), "it is about 1 records, and 2 were sent"},
		{"no number", "", `{"Message": "thank you"}`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := &answerer{status: 200, body: test.body, header: http.Header{amieusage.HeaderRequestID: {test.id}}}
			result, err := serve(t, server).Send(t.Context(), computes(2)...)
			if test.want == "" {
				if err != nil || states(result) != "aa" {
					t.Errorf("%v, error %v", result, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) || states(result) != "uu" {
				t.Errorf("%v, error %v", result, err)
			}
			wantUnavailable(t, err)
		})
	}
}

// TestAnswerWithItsIDRewritten answers with the request's id in another form, as
// services and proxies on the way give it.
func TestAnswerWithItsIDRewritten(t *testing.T) {
	for _, rewrite := range []func(id string) string{
		strings.ToLower,
		func(id string) string { return id + ", " + id },
		func(id string) string { return id + "-1" },
		func(id string) string { return id[:32] },
	} {
		server := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set(amieusage.HeaderRequestID, rewrite(r.Header.Get(amieusage.HeaderRequestID)))
			_, _ = io.WriteString(w, queued(2))
		})
		if result, err := serve(t, server).Send(t.Context(), computes(2)...); err != nil || states(result) != "aa" {
			t.Errorf("answered with %s: %v, error %v", rewrite(ownIDs+strings.Repeat("A", 26)), result, err)
		}
	}
}

// TestPagesThroughFaults reads lists whose pages are cut off: what comes is
// each record once, in order.
func TestPagesThroughFaults(t *testing.T) {
	random := network(t)
	const records, page = 400, 25
	loaded := func(c *Client) (ids []string, err error) {
		for r, err := range c.AllLoaded(t.Context(), amieusage.LoadedQuery{PageSize: page}) {
			if err != nil {
				return ids, err
			}
			ids = append(ids, r.LocalRecordID)
		}
		return ids, nil
	}
	failed := func(c *Client) (ids []string, err error) {
		list, err := c.ListFailed(t.Context())
		for _, f := range list {
			ids = append(ids, fmt.Sprint(f.FailedRecordID))
		}
		return ids, err
	}
	// A page has some 5,000 or 22,000 bytes.
	bytes := 25_000 + random.Int64N(20_000)
	for _, fault := range []struct {
		name   string
		faults []nettest.Toxic
	}{
		{"reset", nettest.Reset(nettest.Downstream, bytes)},
		{"close", nettest.Cut(nettest.Downstream, bytes)},
		{"vanish", []nettest.Toxic{{Type: "vanish", Stream: nettest.Downstream, Attributes: nettest.Attributes{"bytes": 2 * bytes}}}},
		{"old answers", slow("stale", nil)[1:]},
	} {
		for _, list := range []struct {
			name    string
			handler http.Handler
			read    func(*Client) ([]string, error)
		}{
			{"loaded by cursor", loadedServer(records, true, new([]url.Values)), loaded},
			{"loaded by offset", loadedServer(records, false, new([]url.Values)), loaded},
			{"failed", &failedList{open: ids(records), page: page}, failed},
		} {
			t.Run(fmt.Sprintf("%s, %s, %d bytes", list.name, fault.name, bytes), func(t *testing.T) {
				t.Parallel()
				want, err := list.read(serve(t, list.handler))
				if err != nil || len(want) != records {
					t.Fatal(len(want), err)
				}
				c, _ := serveThrough(t, echoing(list.handler), fault.faults)
				got, err := list.read(c)
				if fault.name == "old answers" && errors.Is(err, ErrUnavailable) {
					// An answer of several packets is torn: then it is no answer.
					want = want[:len(got)]
				} else if err != nil {
					t.Error(err)
				}
				if !slices.Equal(got, want) {
					t.Errorf("%d records: %v", len(got), got)
				}
			})
		}
	}
}

// TestClearThroughFaults loses the answer to a request that took effect.
func TestClearThroughFaults(t *testing.T) {
	for _, test := range []struct {
		name string
		lose func(w http.ResponseWriter, proxy *toxiproxy.Proxy)
	}{
		{"all connections end", func(_ http.ResponseWriter, proxy *toxiproxy.Proxy) {
			proxy.Stop()
			if err := proxy.Start(); err != nil {
				t.Error(err)
			}
		}},
		{"bad gateway", func(w http.ResponseWriter, _ *toxiproxy.Proxy) { w.WriteHeader(http.StatusBadGateway) }},
		{"gateway time-out", func(w http.ResponseWriter, _ *toxiproxy.Proxy) { w.WriteHeader(http.StatusGatewayTimeout) }},
		{"unavailable", func(w http.ResponseWriter, _ *toxiproxy.Proxy) { w.WriteHeader(http.StatusServiceUnavailable) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			list := &failedList{open: ids(5)}
			var proxy *toxiproxy.Proxy
			deletes := 0
			handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodDelete {
					if deletes++; deletes == 1 {
						list.ServeHTTP(httptest.NewRecorder(), r)
						test.lose(w, proxy)
						return
					}
				}
				list.ServeHTTP(w, r)
			})
			var c *Client
			c, proxy = serveThrough(t, handler, nil)
			given := ids(3)
			cleared, err := c.ClearFailedIDs(t.Context(), given...)
			if err != nil || !slices.Equal(cleared, given) || len(list.open) != 2 || deletes != 2 {
				t.Errorf("cleared %v in %d requests, left %v, error %v", cleared, deletes, list.open, err)
			}
		})
	}
}

// TestHalfOpenHTTP2 loses the rest of a connection that many requests share:
// the next attempt goes over another one.
func TestHalfOpenHTTP2(t *testing.T) {
	const pageBytes = 20_000
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("the request came by %s", r.Proto)
		}
		_, _ = w.Write([]byte("[" + strings.Repeat(" ", pageBytes) + "]"))
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	proxy := nettest.NewProxy(t, server.Listener.Addr().String(),
		nettest.Toxic{Type: "vanish", Stream: nettest.Downstream, Attributes: nettest.Attributes{"bytes": 5 * pageBytes / 2}})
	defer proxy.Stop()
	roots := server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	c := newClient(t, "https://"+proxy.Listen, WithTimeout(time.Second), WithRetry(RetryPolicy{MaxAttempts: 2, FirstDelay: time.Millisecond}),
		WithTLSConfig(&tls.Config{RootCAs: roots}))
	defer c.CloseIdleConnections()
	for i := range 6 {
		if _, err := c.Status(t.Context(), amieusage.StatusQuery{}); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
	}
}
