package httpapi_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/amieusage/amieusage/internal/httpapi"
	"github.com/amieusage/amieusage/internal/ledger"
)

// Keys that are guessed are limited, by address and by site; one line of the
// log begins a spree and one ends it; and the right key is let in all the
// while.
func TestGuessedKeys(t *testing.T) {
	var seconds atomic.Int64
	b := newBench(t, func(c *httpapi.Config, _ *ledger.Config) {
		c.Clock = func() time.Time { return testTime.Add(time.Duration(seconds.Load()) * time.Second) }
		c.GuessDelay = time.Millisecond
	})
	guess := func() reply { return b.call(t, "GET", "/api/v1/usage/status", "", "XA-API-KEY", "wrong") }
	for range 20 {
		guess().problem(t, http.StatusUnauthorized)
	}
	for range 50 {
		answer := guess()
		answer.problem(t, http.StatusTooManyRequests)
		if got := answer.header.Get("Retry-After"); got != "10" {
			t.Errorf("Retry-After %q, want 10", got)
		}
		b.call(t, "GET", "/api/v1/usage/status", "").into(t, &[]struct{}{})
	}
	// Another site's name is guessed from the same address.
	b.call(t, "GET", "/api/v1/usage/status", "", "XA-SITE", "SDSC").problem(t, http.StatusTooManyRequests)
	seconds.Add(10)
	guess().problem(t, http.StatusUnauthorized)
	guess().problem(t, http.StatusTooManyRequests)
	count := func(text string) int { return strings.Count(b.log.String(), text) }
	if began, ended := count("API keys are guessed"), count("API keys were guessed"); began != 2 || ended != 0 {
		t.Errorf("%d sprees began, %d ended; want 2 and 0", began, ended)
	}
	seconds.Add(70)
	b.call(t, "GET", "/healthz", "")
	if ended := count("API keys were guessed"); ended != 2 {
		t.Errorf("%d sprees ended, want 2", ended)
	}
	for _, text := range []string{`"from":"127.0.0.1","refused":73`, `"site":"PSC","refused":72`} {
		if count(text) != 1 {
			t.Errorf("the log has %s %d times", text, count(text))
		}
	}
	if refused := strings.Count(b.log.String(), `"level":"INFO","msg":"request","request_id":"test-request","method":"GET","path":"/api/v1/usage/status","status":4`); refused != 21 {
		t.Errorf("%d refused keys are logged one by one, want 21", refused)
	}
}

// A stopping handler ends the sprees in the log. More names than are told
// apart share one place.
func TestGuessedSites(t *testing.T) {
	b := newBench(t, func(c *httpapi.Config, _ *ledger.Config) { c.GuessDelay = time.Nanosecond })
	for i := range 5000 {
		r := httpRequest(t, "GET", "/api/v1/usage/status", "XA-SITE", fmt.Sprint("site", i))
		b.handler.ServeHTTP(discard{http.Header{}}, r)
	}
	b.handler.Stop()
	began, ended := strings.Count(b.log.String(), "API keys are guessed"), strings.Count(b.log.String(), "API keys were guessed")
	if began != 2 || ended != 2 {
		t.Errorf("%d sprees began, %d ended; want 2: one of an address, one of all names beyond", began, ended)
	}
}

func httpRequest(t *testing.T, method, path string, headers ...string) *http.Request {
	r := request(t, method, path, http.NoBody, headers...)
	r.RemoteAddr = "[2001:db8::1%eth0]:4711"
	return r
}

// discard is a http.ResponseWriter that keeps nothing.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

// Requests of one site that do not come to their end leave places for others.
func TestOneSiteTakesOnlyItsShare(t *testing.T) {
	b := newBench(t)
	server := b.run(t, nil)
	var conns []net.Conn
	open := func() net.Conn {
		conn, err := net.Dial("tcp", server.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		// The go-ahead says that the request has its place.
		header := strings.Replace(postHeader(5000), "\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n", 1)
		if _, err := io.WriteString(conn, header); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	goAhead := func(conn net.Conn) error {
		_, err := http.ReadResponse(bufio.NewReader(conn), nil)
		return err
	}
	for range 8 {
		conn := open()
		if err := goAhead(conn); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	ninth := open()
	url := "http://" + server.address + "/api/v1/usage/status"
	do(t, http.DefaultClient, request(t, "GET", url, nil, "XA-SITE", "SDSC", "XA-API-KEY", "other-k3y")).into(t, &[]struct{}{})
	if err := ninth.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if err := goAhead(ninth); err == nil {
		t.Error("a ninth request of the site is let in beside eight")
	}
	conns[0].Close() // its place is the ninth's
	conns[1].Close()
	do(t, http.DefaultClient, request(t, "GET", url, nil)).into(t, &[]struct{}{})
}

// Connections beyond the limit take the places of those idle longest, of the
// address that has most.
func TestConnectionLimit(t *testing.T) {
	b := newBench(t)
	server := b.run(t, func(c *httpapi.ServerConfig) { c.MaxConnections = 4 })
	dialFrom := func(address string) (net.Conn, *bufio.Reader) {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
		conn, err := dialer.Dial("tcp", server.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn, bufio.NewReader(conn)
	}
	ask := func(conn net.Conn, in *bufio.Reader) error {
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return err
		}
		response, err := http.ReadResponse(in, nil)
		if err == nil {
			_, err = io.Copy(io.Discard, response.Body)
		}
		return err
	}
	quiet, quietIn := dialFrom("127.0.0.2")
	if err := ask(quiet, quietIn); err != nil {
		t.Fatal(err)
	}
	var last net.Conn
	var lastIn *bufio.Reader
	for range 20 {
		last, lastIn = dialFrom("127.0.0.3")
		if err := ask(last, lastIn); err != nil {
			t.Fatalf("a new connection: %v", err)
		}
	}
	if err := ask(last, lastIn); err != nil {
		t.Errorf("the newest connection is closed: %v", err)
	}
	if err := ask(quiet, quietIn); err != nil {
		t.Errorf("the only connection of another address is closed: %v", err)
	}
	if n := strings.Count(b.log.String(), "as many connections as may be open"); n != 1 {
		t.Errorf("the log has %d lines of it, want 1", n)
	}
}

// Headers that are held come to no more than a bound; small ones are served
// even then.
func TestHeldHeaders(t *testing.T) {
	b := newBench(t)
	server := b.run(t, nil)
	hold := func(length int) {
		conn, err := net.Dial("tcp", server.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		// One that is too many is closed meanwhile.
		_, _ = io.WriteString(conn, "GET /healthz HTTP/1.1\r\nX: "+strings.Repeat("x", length))
	}
	for range 40 {
		hold(100 << 10)
	}
	large := func() error {
		conn, err := net.Dial("tcp", server.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", 8<<10)+"\r\n\r\n")
		_, err = http.ReadResponse(bufio.NewReader(conn), nil)
		return err
	}
	eventually(t, "a large header is refused", func() bool {
		hold(7 << 10)
		return large() != nil
	})
	if status := dial(t, server.address, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").StatusCode; status != 200 {
		t.Errorf("a small header: %d", status)
	}
}

// A header that is given twice may be read in two ways.
func TestHeadersOnce(t *testing.T) {
	b := newBench(t)
	for _, name := range []string{"XA-SITE", "XA-API-KEY"} {
		r := httpRequest(t, "GET", "/api/v1/usage/status")
		r.Header.Add(name, r.Header.Get(name))
		w := httptest.NewRecorder()
		b.handler.ServeHTTP(w, r) // the description cannot say it
		e := reply{w.Code, w.Header(), w.Body.Bytes()}.problem(t, 400)
		if !strings.Contains(e.Error, name+" is given more than once") {
			t.Errorf("error %q", e.Error)
		}
	}
}
