package usageclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/amieusage/amieusage"
)

func TestErrorAnswers(t *testing.T) {
	const html = "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
	for _, test := range []struct {
		name        string
		status      int
		body        string
		header      http.Header
		code        amieusage.Code
		message     string
		hint        string
		requestID   string
		requests    int
		unavailable bool
	}{
		{name: "error text", status: 400, body: `{"error": "no such resource"}`,
			code: amieusage.CodeInvalid, message: "no such resource", requests: 1},
		{name: "problem of this project's service", status: 404,
			body: `{"error": "unknown id 7 (see usage/failed)", "detail": "unknown id 7 (see usage/failed)", "title": "Not Found",
			        "code": "not_found", "hint": "see usage/failed", "request_id": "r-1"}`,
			code: amieusage.CodeNotFound, message: "unknown id 7", hint: "see usage/failed", requestID: "r-1", requests: 1},
		{name: "problem without error", status: 409, body: `{"title": "Conflict", "detail": "two at once"}`,
			code: amieusage.CodeConflict, message: "two at once", requests: 1},
		{name: "code beats status", status: 400, body: `{"error": "x", "code": "forbidden"}`,
			code: amieusage.CodeForbidden, message: "x", requests: 1},
		{name: "unknown code", status: 403, body: `{"error": "x", "code": "E17"}`,
			code: amieusage.CodeForbidden, message: "x", hint: "check the site name", requests: 1},
		{name: "members of other types", status: 400, body: `{"error": {"why": 7}, "code": 12, "hint": [], "request_id": 5}`,
			code: amieusage.CodeInvalid, message: `{"why": 7}`, requests: 1},
		{name: "wrong key", status: 401, body: `{"error": "who are you"}`, header: http.Header{"X-Request-Id": {"r-2"}},
			code: amieusage.CodeUnauthorized, message: "who are you", hint: "check the site name", requestID: "r-2", requests: 1},
		{name: "HTML not found", status: 404, body: html,
			code: amieusage.CodeNotFound, message: "404 Not Found with a text that is not JSON", hint: "base URL", requests: 1},
		{name: "nothing", status: 405, code: amieusage.CodeMethodNotAllowed, message: "405 Method Not Allowed", requests: 1},
		{name: "internal", status: 500, body: html, code: amieusage.CodeInternal, message: "500", requests: 1},
		{name: "not implemented", status: 501, body: `{"error": "later"}`, code: amieusage.CodeInternal, message: "later", requests: 1},
		{name: "unfollowable redirect", status: 304, code: amieusage.CodeInternal, message: "304", requests: 1},
		{name: "teapot", status: 418, code: amieusage.CodeInvalid, message: "418", requests: 1},
		{name: "HTML bad gateway", status: 502, body: html,
			code: amieusage.CodeBadGateway, message: "502 Bad Gateway", requests: 6, unavailable: true},
		{name: "slow upload", status: 408, body: `{"error": "the body did not arrive", "code": "timeout"}`,
			code: amieusage.CodeTimeout, message: "the body did not arrive", requests: 6, unavailable: true},
		{name: "busy", status: 429, body: `{"error": "queue is deep", "code": "too_many_requests"}`,
			code: amieusage.CodeTooManyRequests, message: "queue is deep", requests: 6, unavailable: true},
		{name: "stopping", status: 503, body: `{"error": "stopping"}`,
			code: amieusage.CodeUnavailable, message: "stopping", requests: 6, unavailable: true},
		{name: "gateway time-out", status: 504, code: amieusage.CodeGatewayTimeout, message: "504", requests: 6, unavailable: true},
		{name: "login to the network", status: 511, body: html,
			code: amieusage.CodeBadGateway, message: "511", hint: "the network before it", requests: 6, unavailable: true},
		{name: "content network", status: 522, body: html,
			code: amieusage.CodeBadGateway, message: "522", hint: "the network before it", requests: 6, unavailable: true},
		{name: "endless error", status: 400, body: strings.Repeat("x", 4*maxErrorBytes),
			code: amieusage.CodeInvalid, message: "not JSON", requests: 1},
		{name: "captive portal", status: 200, body: "<html>please log in</html>",
			code: amieusage.CodeBadGateway, message: "not that of a Usage API", hint: "login page", requests: 1, unavailable: true},
		{name: "other JSON", status: 200, body: `{"status": "login required"}`,
			code: amieusage.CodeBadGateway, message: "not that of a Usage API", hint: "base URL", requests: 1, unavailable: true},
		{name: "cut JSON", status: 200, body: `{"FailedRecords": [{"Username": "al`,
			code: amieusage.CodeBadGateway, message: "not that of a Usage API", hint: "base URL", requests: 1, unavailable: true},
		{name: "list of another type", status: 200, body: `{"FailedRecords": 7}`,
			code: amieusage.CodeBadGateway, message: "not that of a Usage API", hint: "base URL", requests: 1, unavailable: true},
		{name: "no content", status: 204,
			code: amieusage.CodeBadGateway, message: "not that of a Usage API", hint: "base URL", requests: 1, unavailable: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := &answerer{status: test.status, body: test.body, header: test.header}
			c := serve(t, server)
			_, err := c.ListFailed(context.Background())
			e, ok := errors.AsType[*Error](err)
			if !ok {
				t.Fatalf("error is %T: %v", err, err)
			}
			if e.Status != test.status || e.Code != test.code || e.RequestID != test.requestID ||
				e.Method != "GET" || e.URL != c.base+"/usage/failed" || e.Attempts != test.requests {
				t.Errorf("error is %+v", *e)
			}
			if !strings.Contains(e.Message, test.message) || !strings.Contains(e.Hint, test.hint) || (e.Hint == "") != (test.hint == "") {
				t.Errorf("message %q, hint %q", e.Message, e.Hint)
			}
			if plain, ok := errors.AsType[*amieusage.Error](err); !ok || plain.Code != test.code {
				t.Errorf("in it is %#v", plain)
			}
			if server.requests() != test.requests || errors.Is(err, ErrUnavailable) != test.unavailable {
				t.Errorf("%d requests, unavailable %t", server.requests(), errors.Is(err, ErrUnavailable))
			}
			if len(err.Error()) > 1000 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

func TestErrorText(t *testing.T) {
	server := &answerer{status: 503, body: `{"error": "the service is stopping", "hint": "try again", "request_id": "8f3a"}`}
	c := serve(t, server, WithRetry(RetryPolicy{MaxAttempts: 2, FirstDelay: 1}))
	_, err := c.Status(context.Background(), amieusage.StatusQuery{})
	want := "GET " + c.base + "/usage/status: the service is stopping (try again) [status 503, request 8f3a, 2 attempts]"
	if err == nil || err.Error() != want {
		t.Errorf("error %v\nwant  %s", err, want)
	}
}

func TestCompressionRefused(t *testing.T) {
	c := serve(t, &answerer{status: 415, body: `{"error": "what is gzip"}`}, WithCompression())
	_, err := c.Send(context.Background(), compute(1))
	if e, ok := errors.AsType[*Error](err); !ok || !strings.Contains(e.Hint, "WithCompression") {
		t.Errorf("error %v", err)
	}
}

// rawServer answers every connection with the same bytes, whatever was asked.
func rawServer(t *testing.T, answer func(request []byte) []byte) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 64<<10)
			n, _ := conn.Read(buf)
			_, _ = conn.Write(answer(buf[:n]))
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return "http://" + l.Addr().String()
}

func TestBrokenAnswers(t *testing.T) {
	for _, test := range []struct {
		name, answer string
		attempts     int
	}{
		{"nothing", "", 6},
		{"no HTTP", "220 mail.example.org ESMTP\r\n", 6},
		{"body cut short", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"FailedRecords\": [", 6},
		{"chunks cut short", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13\r\n{\"FailedRecords\": [", 6},
		{"error text cut short", "HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\n<html>", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newClient(t, rawServer(t, func([]byte) []byte { return []byte(test.answer) }), WithRetry(quickly))
			_, err := c.ListFailed(context.Background())
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Attempts != test.attempts || errors.Is(err, ErrUnavailable) != (test.attempts > 1) {
				t.Errorf("error %v", err)
			}
		})
	}
	t.Run("echo", func(t *testing.T) {
		// The transport's error quotes the header line that it cannot read.
		c := newClient(t, rawServer(t, func(request []byte) []byte {
			_, line, _ := bytes.Cut(request, []byte("Xa-Api-Key: "))
			return append([]byte("HTTP/1.1 200 OK\r\nno header "), line...)
		}), WithRetry(quickly))
		_, err := c.ListFailed(context.Background())
		if err == nil || strings.Contains(err.Error(), testKey) || !strings.Contains(err.Error(), "[API key]") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("endless answer", func(t *testing.T) {
		c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			chunk := bytes.Repeat([]byte(" "), 1<<20)
			for r.Context().Err() == nil {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}))
		_, err := c.ListFailed(context.Background())
		if err == nil || !strings.Contains(err.Error(), "longer than 67108864 bytes") {
			t.Errorf("error %v", err)
		}
	})
}

func TestNothingListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	c := newClient(t, "http://"+address, WithRetry(quickly))
	_, err = c.Status(context.Background(), amieusage.StatusQuery{})
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Status != 0 || e.Attempts != 6 || e.Code != amieusage.CodeUnavailable || !errors.Is(err, ErrUnavailable) {
		t.Fatalf("error %v", err)
	}
	if _, ok := errors.AsType[*net.OpError](err); !ok {
		t.Errorf("error %v does not hold its cause", err)
	}
}

func TestRedirects(t *testing.T) {
	for _, test := range []struct {
		name    string
		status  int
		to      string // "" : another server
		call    string
		wantErr string
	}{
		{"GET within the service", 301, "/elsewhere", "GET", ""},
		{"GET within the service, temporary", 302, basePath + "/elsewhere", "GET", ""},
		{"POST keeps its body, 307", 307, "/elsewhere", "POST", ""},
		{"POST keeps its body, 308", 308, "/elsewhere", "POST", ""},
		{"POST would become GET, 301", 301, "/elsewhere", "POST", "makes it a GET"},
		{"POST would become GET, 302", 302, "/elsewhere", "POST", "makes it a GET"},
		{"POST would become GET, 303", 303, "/elsewhere", "POST", "makes it a GET"},
		{"DELETE would become GET", 302, "/elsewhere", "DELETE", "makes it a GET"},
		{"GET to another port", 302, "", "GET", "another origin"},
		{"POST to another port", 307, "", "POST", "another origin"},
		{"GET to another host", 307, "http://localhost./elsewhere", "GET", "another origin"},
		{"GET to another scheme", 307, "https://127.0.0.1/elsewhere", "GET", "another origin"},
		{"DELETE to another host", 307, "http://usage.example.org/elsewhere", "DELETE", "another origin"},
		{"circle", 307, basePath + "/usage/failed", "GET", "in a circle"},
	} {
		t.Run(test.name, func(t *testing.T) {
			thief := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				t.Error("the redirect was followed to another origin")
			}))
			defer thief.Close()
			to := test.to
			if to == "" {
				to = thief.URL
			}
			arrived := 0
			c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if !strings.HasSuffix(r.URL.Path, "/elsewhere") {
					w.Header().Set("Location", to)
					w.WriteHeader(test.status)
					return
				}
				arrived++
				if r.Method != test.call || r.Header.Get(amieusage.HeaderAPIKey) != testKey ||
					(test.call == "POST") != bytes.Contains(body, []byte(`"UsageType":"Compute"`)) {
					t.Errorf("%s arrived with %q", r.Method, body)
				}
				_, _ = io.WriteString(w, `{"Message": "", "FailedRecords": []}`)
			}))
			var err error
			switch test.call {
			case "POST":
				var result *SendResult
				result, err = c.Send(context.Background(), compute(1))
				if want := map[bool]State{true: Accepted, false: Unsent}[test.wantErr == ""]; result.Outcomes[0].State != want {
					t.Errorf("the record is %v", result.Outcomes[0].State)
				}
			case "DELETE":
				_, err = c.ClearFailedIDs(context.Background(), 17)
			default:
				_, err = c.ListFailed(context.Background())
			}
			if test.wantErr == "" {
				if err != nil || arrived != 1 {
					t.Errorf("%d arrived, error %v", arrived, err)
				}
				return
			}
			e, ok := errors.AsType[*Error](err)
			if !ok || !strings.Contains(e.Message, test.wantErr) || e.Status != test.status || e.Attempts != 1 || arrived > 0 || !errors.Is(err, ErrUnavailable) {
				t.Errorf("%d arrived, error %v", arrived, err)
			}
		})
	}
}

func TestRedirectFromHTTPSToHTTP(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the redirect was followed to clear text")
	}))
	defer plain.Close()
	server := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusTemporaryRedirect))
	defer server.Close()
	c := newClient(t, server.URL, WithHTTPClient(server.Client()))
	_, err := c.Send(context.Background(), compute(1))
	if err == nil || !strings.Contains(err.Error(), "another origin") {
		t.Errorf("error %v", err)
	}
}

func TestSameOrigin(t *testing.T) {
	for _, test := range []struct {
		a, b string
		same bool
	}{
		{"https://h/a", "https://h:443/b", true},
		{"http://h:80", "http://H/", true},
		{"https://h", "http://h", false},
		{"https://h", "https://h:8443", false},
		{"https://h", "https://h.example.org", false},
		{"http://h", "http://h:443", false},
	} {
		a, errA := http.NewRequest("GET", test.a, nil)
		b, errB := http.NewRequest("GET", test.b, nil)
		if err := errors.Join(errA, errB); err != nil {
			t.Fatal(err)
		}
		if got := checkRedirect(b, []*http.Request{a}) == nil; got != test.same {
			t.Errorf("%s and %s: same origin %t", test.a, test.b, got)
		}
	}
}

func TestTLS(t *testing.T) {
	server := httptest.NewUnstartedServer(&answerer{status: 200, body: "[]"})
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	ctx := context.Background()

	trusting := newClient(t, server.URL, WithTLSConfig(&tls.Config{RootCAs: roots, Certificates: server.TLS.Certificates}))
	defer trusting.CloseIdleConnections()
	if _, err := trusting.Status(ctx, amieusage.StatusQuery{}); err != nil {
		t.Error(err)
	}
	_, err := newClient(t, server.URL, WithRetry(quickly)).Status(ctx, amieusage.StatusQuery{})
	e, ok := errors.AsType[*Error](err)
	if !ok || !strings.Contains(e.Message, "certificate is not trusted") || e.Attempts != 1 || !errors.Is(err, ErrUnavailable) {
		t.Errorf("without the authority: %v", err)
	}
	_, err = newClient(t, server.URL, WithRetry(quickly), WithTLSConfig(&tls.Config{RootCAs: roots})).Status(ctx, amieusage.StatusQuery{})
	if e, ok := errors.AsType[*Error](err); !ok || e.Status != 0 {
		t.Errorf("without a client certificate: %v", err)
	}
}
