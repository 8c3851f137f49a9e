package main

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/amieusage/amieusage/internal/nettest"
)

// A networkFault is what is wrong with the network in one round. A round must
// deliver everything, unless it says otherwise.
type networkFault struct {
	name    string
	toxics  []nettest.Toxic
	answer  func(x *crossing) // of an HTTP proxy between agent and service
	down    time.Duration     // the time for which connections are refused
	fails   string            // the error of a round that must fail
	mayFail bool              // the round may fail
	garbles bool              // the service may see requests that are none
}

// A crossing is one request at the HTTP proxy.
type crossing struct {
	front   *front
	request *http.Request
	body    []byte
	w       http.ResponseWriter
	random  *rand.Rand
	nth     int // of the round's requests, from 1
}

// A front is an HTTP proxy before the service.
type front struct {
	*httptest.Server
	t       *testing.T
	service http.Handler
	mu      sync.Mutex
	nth     int
	answers map[string]*httptest.ResponseRecorder // the last one of each method
}

func newFront(t *testing.T, service string, random *rand.Rand, fault *networkFault) *front {
	t.Helper()
	target, err := url.Parse(service)
	if err != nil {
		t.Fatal(err)
	}
	f := &front{t: t, answers: map[string]*httptest.ResponseRecorder{}, service: &httputil.ReverseProxy{
		Rewrite:  func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host },
		ErrorLog: log.New(io.Discard, "", 0),
	}}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.nth++
		fault.answer(&crossing{f, r, body, w, random, f.nth})
	}))
	t.Cleanup(f.Close)
	return f
}

// forward asks the service.
func (x *crossing) forward() *httptest.ResponseRecorder {
	answer := httptest.NewRecorder()
	r := x.request.Clone(x.request.Context())
	r.Body = io.NopCloser(bytes.NewReader(x.body))
	x.front.service.ServeHTTP(answer, r)
	return answer
}

// pass answers what the service answers.
func (x *crossing) pass() {
	answer := x.forward()
	x.front.answers[x.request.Method] = answer
	x.give(answer)
}

func (x *crossing) give(answer *httptest.ResponseRecorder) {
	maps.Copy(x.w.Header(), answer.Header())
	x.w.WriteHeader(answer.Code)
	_, _ = x.w.Write(answer.Body.Bytes())
}

// page answers with a page of the proxy's own.
func (x *crossing) page(status int) {
	x.w.Header().Set("Content-Type", "text/html")
	x.w.WriteHeader(status)
	fmt.Fprintf(x.w, "<html><head><title>%d %s</title></head><body><hr>nginx</body></html>", status, http.StatusText(status))
}

// redirect sends the agent to another server.
func (x *crossing) redirect(status int) {
	thief := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		x.front.t.Errorf("the agent followed a redirect to another server, with %v", r.Header)
	}))
	x.front.t.Cleanup(thief.Close)
	http.Redirect(x.w, x.request, thief.URL+x.request.URL.Path, status)
}

// networkFaults returns every fault, with sizes and places drawn.
func networkFaults(random *rand.Rand) []networkFault {
	between := func(least, most int64) int64 { return least + random.Int64N(most-least+1) }
	both := func(kind string, attributes nettest.Attributes) []nettest.Toxic {
		return []nettest.Toxic{
			{Type: kind, Stream: nettest.Upstream, Attributes: attributes},
			{Type: kind, Stream: nettest.Downstream, Attributes: attributes},
		}
	}
	one := func(kind, stream string, attributes nettest.Attributes) []nettest.Toxic {
		return []nettest.Toxic{{Type: kind, Stream: stream, Attributes: attributes}}
	}
	const up, down = nettest.Upstream, nettest.Downstream
	const noAnswer, noTime = `no answer: `, `no answer within .*request_timeout`
	// A request has some 6,000 bytes. Its answer has a head of 250 to 450, and
	// with the rejected records a body of more than 1,000. What is cut off
	// behind them is a later one of the same connection.
	faults := []networkFault{
		{name: "latency and jitter", toxics: both("latency", nettest.Attributes{"latency": 15, "jitter": 10})},
		{name: "bandwidth", toxics: both("bandwidth", nettest.Attributes{"rate": between(200, 400)})},
		{name: "bandwidth that is too little", toxics: one("bandwidth", up, nettest.Attributes{"rate": 1}), fails: noTime},
		{name: "tiny packets", toxics: both("slicer", nettest.Attributes{"average_size": 100, "size_variation": 90})},
		{name: "slow close", toxics: both("slow_close", nettest.Attributes{"delay": 300})},
		{name: "reset in the first request", toxics: nettest.Reset(up, between(1, 2000)), fails: noAnswer},
		{name: "reset in a later request", toxics: nettest.Reset(up, between(6500, 20_000)), mayFail: true},
		{name: "close in the first request", toxics: nettest.Cut(up, between(1, 2000)), fails: noAnswer},
		{name: "close in a later request", toxics: nettest.Cut(up, between(6500, 20_000)), mayFail: true},
		{name: "reset in an answer's head", toxics: nettest.Reset(down, between(1, 200)), fails: noAnswer},
		{name: "reset in an answer's body", toxics: nettest.Reset(down, between(450, 1000)), fails: noAnswer},
		{name: "reset in a later answer", toxics: nettest.Reset(down, between(3000, 10_000)), mayFail: true},
		{name: "answer cut off in its head", toxics: nettest.Cut(down, between(1, 200)), fails: noAnswer},
		{name: "answer cut off in its body", toxics: nettest.Cut(down, between(450, 1000)), fails: noAnswer},
		{name: "later answer cut off", toxics: nettest.Cut(down, between(3000, 10_000)), mayFail: true},
		{name: "requests vanish", toxics: one("timeout", up, nil), fails: noTime},
		{name: "answers vanish", toxics: one("timeout", down, nil), fails: noTime},
		{name: "half of a request vanishes", toxics: one("vanish", up, nettest.Attributes{"bytes": between(1, 2000)}), fails: noTime},
		{name: "half of an answer vanishes", toxics: one("vanish", down, nettest.Attributes{"bytes": between(1, 100)}), fails: noTime},
		{name: "answers twice", toxics: one("duplicate", down, nil), mayFail: true},
		{name: "requests twice", toxics: one("duplicate", up, nil), mayFail: true, garbles: true},
		{name: "old answers", toxics: one("stale", down, nil), mayFail: true},
		{name: "refused", down: time.Hour, fails: noAnswer},
		{name: "refused for a while", down: 400 * time.Millisecond},
		{name: "requests twice, answered once", answer: func(x *crossing) {
			x.forward()
			x.pass()
		}},
		{name: "answer of the request before", mayFail: true, answer: func(x *crossing) {
			last := x.front.answers[x.request.Method]
			if last == nil || x.random.IntN(3) == 0 {
				x.pass()
				return
			}
			if x.random.IntN(2) == 0 {
				x.forward()
			}
			x.give(last)
		}},
		{name: "502 in between", answer: func(x *crossing) {
			// Not twice in a row, so that each request has its chance.
			if x.nth%2 == 0 || x.random.IntN(3) > 0 {
				x.pass()
				return
			}
			if x.random.IntN(2) == 0 {
				x.forward()
			}
			x.page(http.StatusBadGateway)
		}},
		{name: "too many requests", answer: func(x *crossing) {
			if x.nth%5 != 1 {
				x.pass()
				return
			}
			x.w.Header().Set("Retry-After", "1")
			x.page(http.StatusTooManyRequests)
		}},
		{name: "too many requests for an hour", fails: "429", answer: func(x *crossing) {
			x.w.Header().Set("Retry-After", "3600")
			x.page(http.StatusTooManyRequests)
		}},
		{name: "captive portal", fails: "not that of a Usage API.*login page", answer: func(x *crossing) { x.page(http.StatusOK) }},
		{name: "captive portal in between", mayFail: true, answer: func(x *crossing) {
			if x.random.IntN(2) == 0 {
				x.page(http.StatusOK)
			} else {
				x.pass()
			}
		}},
		{name: "login to the network", fails: "511", answer: func(x *crossing) { x.page(http.StatusNetworkAuthenticationRequired) }},
	}
	for _, status := range []int{http.StatusFound, http.StatusTemporaryRedirect} {
		faults = append(faults, networkFault{name: fmt.Sprint("redirect ", status), fails: "redirects .*API key is not sent there",
			answer: func(x *crossing) { x.redirect(status) }})
	}
	for _, status := range []int{http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout} {
		title := fmt.Sprint(status, " ", http.StatusText(status))
		faults = append(faults,
			networkFault{name: title + " before the service", fails: title, answer: func(x *crossing) { x.page(status) }},
			networkFault{name: title + " behind the service", fails: title, answer: func(x *crossing) {
				x.forward()
				x.page(status)
			}})
	}
	return faults
}
