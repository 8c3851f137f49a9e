package httpapi_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/amieusage/amieusage"
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

// A peer is one connection from an address.
type peer struct {
	net.Conn
	in *bufio.Reader
}

// dialFrom opens a connection that is closed at the end of the test.
func (r *running) dialFrom(t *testing.T, address string) *peer {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	conn, err := dialer.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return &peer{conn, bufio.NewReader(conn)}
}

// write sends text, as far as the connection is open.
func (p *peer) write(text string) { _, _ = io.WriteString(p, text) }

// answer reads an answer, and returns its status; 0: the connection is closed.
func (p *peer) answer() int {
	response, err := http.ReadResponse(p.in, nil)
	if err == nil {
		_, err = io.Copy(io.Discard, response.Body)
	}
	if err != nil {
		return 0
	}
	return response.StatusCode
}

// closed reports whether the service has closed the connection.
func (p *peer) closed(t *testing.T) bool {
	t.Helper()
	if err := p.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, err := p.in.Peek(1)
	if err := p.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

func (p *peer) ask() int {
	p.write("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	return p.answer()
}

// begin sends a request but for its body, and returns when the service waits
// for it.
func (p *peer) begin(t *testing.T) {
	t.Helper()
	p.write(strings.Replace(postHeader(3), "\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n", 1))
	if response, err := http.ReadResponse(p.in, nil); err != nil || response.StatusCode != http.StatusContinue {
		t.Fatalf("no go-ahead: %v, %v", response, err)
	}
}

// end sends the body, which is no message.
func (p *peer) end() int {
	p.write("{}x")
	return p.answer()
}

// Connections beyond the limit take the places of those idle longest, from
// the busiest address first.
func TestConnectionLimit(t *testing.T) {
	b := newBench(t)
	server := b.run(t, func(c *httpapi.ServerConfig) { c.MaxConnections = 4 })
	quiet := server.dialFrom(t, "127.0.0.2")
	if quiet.ask() != 200 {
		t.Fatal("the first connection is closed")
	}
	var last *peer
	for range 20 {
		last = server.dialFrom(t, "127.0.0.3")
		if last.ask() != 200 {
			t.Fatal("a new connection is closed")
		}
	}
	if last.ask() != 200 {
		t.Error("the newest connection is closed")
	}
	if quiet.ask() != 200 {
		t.Error("the only connection of another address is closed")
	}
	if n := strings.Count(b.log.String(), "as many connections as may be open"); n != 1 {
		t.Errorf("the log has %d lines of it, want 1", n)
	}
}

// A connection with a request is not closed for others while one is idle: of
// the same address, of as many others, or, where it is idle for long, of any.
func TestConnectionLimitSparesRequests(t *testing.T) {
	t.Run("of one address", func(t *testing.T) {
		server := newBench(t).run(t, func(c *httpapi.ServerConfig) { c.MaxConnections = 128 })
		var busy []*peer
		for range 8 {
			p := server.dialFrom(t, "127.0.0.3")
			p.begin(t)
			busy = append(busy, p)
		}
		for range 2 * 128 {
			if server.dialFrom(t, "127.0.0.3").ask() != 200 {
				t.Fatal("a new connection is closed")
			}
		}
		for _, p := range busy {
			if got := p.end(); got != 400 {
				t.Errorf("a connection with a request is closed: %d", got)
			}
		}
	})
	t.Run("the last idle one", func(t *testing.T) {
		// Two at a time are closed where there are 64.
		begun, end := make(chan struct{}), make(chan struct{})
		server := newBench(t).run(t, func(c *httpapi.ServerConfig) {
			c.MaxConnections = 64
			c.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				begun <- struct{}{}
				<-end
			})
		})
		var busy []*peer
		for i := range 64 {
			p := server.dialFrom(t, "127.0.0.3")
			if i == 0 {
				continue // idle
			}
			p.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			<-begun
			busy = append(busy, p)
		}
		last := server.dialFrom(t, "127.0.0.3")
		last.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		<-begun
		close(end)
		for i, p := range append(busy, last) {
			if p.answer() != 200 {
				t.Errorf("connection %d, which has a request, is closed", i)
			}
		}
	})
	t.Run("of many addresses", func(t *testing.T) {
		// Of many, since one that was just answered has a request for a moment more.
		server := newBench(t).run(t, func(c *httpapi.ServerConfig) { c.MaxConnections = 64 })
		busy := server.dialFrom(t, "127.0.0.3")
		busy.begin(t)
		for i := range 128 {
			if server.dialFrom(t, fmt.Sprint("127.0.1.", i+1)).ask() != 200 {
				t.Fatal("a new connection is closed")
			}
		}
		if got := busy.end(); got != 400 {
			t.Errorf("a connection with a request is closed: %d", got)
		}
	})
	t.Run("of another address", func(t *testing.T) {
		server := newBench(t).run(t, func(c *httpapi.ServerConfig) {
			c.MaxConnections = 4
			c.ReadHeaderTimeout = time.Second
		})
		idle := server.dialFrom(t, "127.0.0.4")
		if idle.ask() != 200 {
			t.Fatal("the first connection is closed")
		}
		answered := time.Now()
		eventually(t, "it is idle for long", func() bool { return time.Since(answered) > 2*time.Second })
		var busy []*peer
		for range 4 {
			p := server.dialFrom(t, "127.0.0.3")
			p.begin(t)
			busy = append(busy, p)
		}
		for _, p := range busy {
			if got := p.end(); got != 400 {
				t.Errorf("a connection with a request is closed: %d", got)
			}
		}
		if idle.ask() != 0 {
			t.Error("five connections are open, of at most four")
		}
	})
}

// Headers that are held come to no more than a bound. The longest give way, of
// the address that holds most of them, and nobody else's; that address itself is
// served small ones.
func TestHeldHeaders(t *testing.T) {
	b := newBench(t)
	server := b.run(t, func(c *httpapi.ServerConfig) {
		c.Handler = b.handler // to check long paths takes long
		c.ReadHeaderTimeout = time.Minute
	})
	const length = 100 << 10
	var holding []*peer
	for range 60 {
		p := server.dialFrom(t, "127.0.0.2")
		p.write("GET /healthz HTTP/1.1\r\nX: " + strings.Repeat("x", length))
		holding = append(holding, p)
	}
	const most = 4 << 20 / length
	eventually(t, "no more are held than may be", func() bool {
		closed := 0
		for _, p := range holding {
			if p.closed(t) {
				closed++
			}
		}
		return len(holding)-closed <= most
	})
	send := func(address string) int {
		p := server.dialFrom(t, address)
		defer p.Close()
		p.write(postHeader(8<<10) + strings.Repeat(" ", 8<<10))
		return p.answer()
	}
	clear := func(address string) int {
		p := server.dialFrom(t, address)
		defer p.Close()
		p.write("DELETE /api/v1/usage/failed/1" + strings.Repeat(",1", length/2) + " HTTP/1.1\r\nHost: x\r\n" +
			"XA-SITE: " + site + "\r\nXA-API-KEY: " + key + "\r\n\r\n")
		return p.answer()
	}
	if got := send("127.0.0.2"); got != 400 {
		t.Errorf("a send of the same address: %d, want 400", got)
	}
	for range 3 {
		if got := send("127.0.0.3"); got != 400 {
			t.Errorf("a send of another address: %d, want 400", got)
		}
		if got := clear("127.0.0.3"); got != 404 {
			t.Errorf("a long header of another address: %d, want 404", got)
		}
	}
	open := 0
	for _, p := range holding {
		p.write("\r\nHost: x\r\n\r\n")
		if p.answer() != 0 {
			open++
		}
	}
	if open > most || open < most/2 {
		t.Errorf("%d headers of %d bytes are held, want about %d", open, length, most)
	}
	if n := strings.Count(b.log.String(), "as many bytes of headers as may be held"); n != 1 {
		t.Errorf("the log has %d lines of it, want 1", n)
	}
}

// Headers beyond a burst are read at a rate, of each address.
func TestHeaderRate(t *testing.T) {
	b := newBench(t)
	server := b.run(t, func(*httpapi.ServerConfig) {})
	const length, n = 100 << 10, 30 // 1 MiB at once, and 4 MiB/s
	start := time.Now()
	var peers []*peer
	for range n {
		p := server.dialFrom(t, "127.0.0.2")
		p.write("GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", length) + "\r\n\r\n")
		peers = append(peers, p)
	}
	if got := server.dialFrom(t, "127.0.0.3").ask(); got != 200 {
		t.Errorf("another address: %d, want 200", got)
	}
	for i, p := range peers {
		if got := p.answer(); got != 200 {
			t.Errorf("header %d: %d, want 200", i, got)
		}
	}
	if took := time.Since(start); took < (n*length-1<<20)*time.Second/(4<<20) {
		t.Errorf("%d bytes of headers were read in %v", n*length, took)
	}
}

// A large send of which little is stored keeps its place for a while; one of
// records does not.
func TestWaste(t *testing.T) {
	for _, test := range []struct {
		size            int64
		queued, refused int
		want            bool
	}{
		{64 << 10, 0, 0, false}, {64<<10 + 1, 0, 0, true}, {1 << 20, 0, 0, true}, {-1, 0, 0, false},
		{1 << 20, 239, 0, true}, {1 << 20, 240, 0, false}, {1 << 20, 10_000, 0, false},
		{20_000, 0, 100, false}, {20_000, 0, 101, true}, {1 << 20, 1_000, 1_100, false}, {1 << 20, 1_000, 1_101, true},
	} {
		response := &amieusage.SendResponse{
			Message: amieusage.QueuedMessage(test.queued, test.refused), FailedRecords: make([]amieusage.FailedRecord, test.refused),
		}
		if got := httpapi.Wasted(test.size, response); got != test.want {
			t.Errorf("%d bytes, %d records, %d refused: wasted %t, want %t", test.size, test.queued, test.refused, got, test.want)
		}
	}
	if !httpapi.Wasted(1<<20, nil) {
		t.Error("a send that failed is not wasted")
	}
	b := newBench(t)
	for name, body := range map[string]string{
		"bad records":  `{"UsageType":"Compute","Records":[` + strings.Repeat("0,", 100) + "0]}",
		"no message":   strings.Repeat("[", 100<<10),
		"mostly space": `{"UsageType":"Compute","Records":[]` + strings.Repeat(" ", 100<<10) + "}",
		"too large":    strings.Repeat(" ", 2<<20),
	} {
		start := time.Now()
		b.call(t, "POST", "/api/v1/usage/", body)
		if took := time.Since(start); took < 100*time.Millisecond {
			t.Errorf("%s: answered after %v, want at least 100ms", name, took)
		}
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
