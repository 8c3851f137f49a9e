package httpapi_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"

	"github.com/amieusage/amieusage/internal/httpapi"
	"github.com/amieusage/amieusage/usageclient"
)

// A running server is one whose Run is under way.
type running struct {
	address string
	stop    context.CancelFunc
	ended   chan error
}

// run starts a server with the bench's handler; configure changes its
// configuration, or is nil.
func (b *bench) run(t *testing.T, configure func(*httpapi.ServerConfig)) *running {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config := httpapi.ServerConfig{Listener: listener, Handler: b.checked, Logger: b.logger, OnStop: b.handler.Stop}
	if configure != nil {
		configure(&config)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{address: listener.Addr().String(), stop: cancel, ended: make(chan error, 1)}
	done := make(chan struct{})
	go func() {
		r.ended <- httpapi.NewServer(config).Run(ctx)
		close(done)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return r
}

// A request that is in flight when the server stops is answered, and stored.
func TestStopFinishesWhatIsInFlight(t *testing.T) {
	b := newBench(t)
	accepted, stopping := make(chan struct{}), make(chan struct{})
	server := b.run(t, func(c *httpapi.ServerConfig) {
		c.OnStop = func() {
			b.handler.Stop()
			close(stopping)
		}
	})
	body, rest := io.Pipe()
	answer := make(chan reply, 1)
	go func() {
		// The server asks for the body when it has let the request in.
		r := request(t, "POST", "http://"+server.address+"/api/v1/usage/", body, "Expect", "100-continue")
		r = r.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got100Continue: func() { close(accepted) },
		}))
		answer <- do(t, http.DefaultClient, r)
	}()
	<-accepted
	server.stop()
	<-stopping
	if _, err := io.WriteString(rest, message("x", 3)); err != nil {
		t.Fatal(err)
	}
	rest.Close()
	var got struct{ Message string }
	(<-answer).into(t, &got)
	if got.Message != "3 records have been queued for loading, 0 records failed." {
		t.Errorf("message %q", got.Message)
	}
	if err := <-server.ended; err != nil {
		t.Errorf("Run returned %v", err)
	}
	if counts := b.counts(t); counts.Queued != 3 {
		t.Errorf("%+v, want 3 queued", counts)
	}
	if conn, err := net.Dial("tcp", server.address); err == nil {
		conn.Close()
		t.Error("the stopped server still listens")
	}
}

// A request that does not end does not keep the server from stopping.
func TestStopHasADeadline(t *testing.T) {
	b := newBench(t)
	entered, leave := make(chan struct{}), make(chan struct{})
	defer close(leave)
	b.store.status = func() error {
		close(entered)
		<-leave
		return nil
	}
	server := b.run(t, func(c *httpapi.ServerConfig) { c.DrainTimeout = 50 * time.Millisecond })
	go func() {
		r := request(t, "GET", "http://"+server.address+"/api/v1/usage/status", nil)
		if response, err := http.DefaultClient.Do(r); err == nil {
			response.Body.Close()
		}
	}()
	<-entered
	server.stop()
	if err := <-server.ended; err != nil {
		t.Errorf("Run returned %v", err)
	}
	if !strings.Contains(b.log.String(), "they get no answer") {
		t.Errorf("not a word in the log:\n%s", b.log)
	}
}

func TestRunReportsAListenerThatFails(t *testing.T) {
	b := newBench(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	server := httpapi.NewServer(httpapi.ServerConfig{Listener: listener, Handler: b.checked, Logger: b.logger})
	if err := server.Run(t.Context()); err == nil {
		t.Error("Run returned nil")
	}
}

// dial sends text on a new connection, and returns what is answered.
func dial(t *testing.T, address, text string) *http.Response {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response
}

func postHeader(length int) string {
	return fmt.Sprintf("POST /api/v1/usage/ HTTP/1.1\r\nHost: localhost\r\nXA-SITE: %s\r\nXA-API-KEY: %s\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n", site, key, length)
}

func TestSlowBody(t *testing.T) {
	b := newBench(t)
	server := b.run(t, func(c *httpapi.ServerConfig) { c.ReadTimeout = 100 * time.Millisecond })
	response := dial(t, server.address, postHeader(5000)+`{"UsageType":`)
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	reply{response.StatusCode, response.Header, body}.problem(t, http.StatusRequestTimeout)
}

// What takes too long is refused while its client still waits, and a slow body
// before the work that it would begin.
func TestTimesFitTogether(t *testing.T) {
	if httpapi.DefaultRequestTimeout > usageclient.DefaultTimeout*3/4 {
		t.Errorf("the service works for %v on a request whose client waits for %v", httpapi.DefaultRequestTimeout, usageclient.DefaultTimeout)
	}
	if httpapi.DefaultReadTimeout >= httpapi.DefaultRequestTimeout {
		t.Errorf("a body may take %v, and the whole request %v", httpapi.DefaultReadTimeout, httpapi.DefaultRequestTimeout)
	}
}

// A body that ends before its length is refused as a whole.
func TestTruncatedBody(t *testing.T) {
	b := newBench(t)
	server := b.run(t, nil)
	conn, err := net.Dial("tcp", server.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := message("x", 1)
	if _, err := io.WriteString(conn, postHeader(len(body)+1)+body); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != 400 {
		t.Errorf("answer %s, want 400", response.Status)
	}
	if counts := b.counts(t); counts.Accepted != 0 {
		t.Errorf("%+v, want nothing accepted", counts)
	}
}

// A slow header is not waited for.
func TestSlowHeader(t *testing.T) {
	b := newBench(t)
	server := b.run(t, func(c *httpapi.ServerConfig) { c.ReadHeaderTimeout = 100 * time.Millisecond })
	conn, err := net.Dial("tcp", server.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: "); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(conn); err != nil {
		t.Errorf("the connection is still open: %v", err)
	}
}

// A long header is served up to its limit.
func TestHeaderLimit(t *testing.T) {
	b := newBench(t)
	server := b.run(t, nil)
	for _, tt := range []struct{ length, status int }{{64 << 10, 400}, {200 << 10, 431}} {
		path := "/api/v1/usage/failed/" + strings.Repeat("x", tt.length)
		if got := do(t, http.DefaultClient, request(t, "DELETE", "http://"+server.address+path, nil)).status; got != tt.status {
			t.Errorf("a path of %d bytes: %d, want %d", tt.length, got, tt.status)
		}
	}
}

// Ten thousand ids fit in one request.
func TestClearMany(t *testing.T) {
	b := newBench(t)
	server := b.run(t, nil)
	b.failing(t, 3)
	var ids strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&ids, ",%d", i+1)
	}
	r := request(t, "DELETE", "http://"+server.address+"/api/v1/usage/failed/"+ids.String()[1:], nil)
	e := do(t, http.DefaultClient, r).problem(t, 404)
	if !strings.Contains(e.Error, "the id 4, 5, ") || !strings.Contains(e.Error, "and 9977 more; nothing was cleared") {
		t.Errorf("unknown ids: %s", e.Error)
	}
}

// over returns a client for a TLS server.
func over(config *tls.Config) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, DisableKeepAlives: true}}
}
