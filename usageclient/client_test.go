package usageclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
)

func TestNewRefuses(t *testing.T) {
	const local = "http://127.0.0.1:8642/api/v1"
	for _, test := range []struct {
		name, site, key string
		opts            []Option
		want            []string
	}{
		{"no site", "", "k", nil, []string{"the site name is empty"}},
		{"no key", "PSC", "", nil, []string{"the API key is empty"}},
		{"all at once", "", "", []Option{WithTimeout(0)}, []string{"site name", "API key", "WithTimeout"}},
		{"key with a line break in it", "PSC", "sec\nret", nil, []string{"the API key"}},
		{"site with line break", "PSC\n", "secret", nil, []string{"the site name has white space", "trim"}},
		{"header injection", "PSC\r\nX-Evil: 1", "k", nil, []string{"the site name has a character"}},
		{"key not ASCII", "PSC", "clé", nil, []string{"the API key has a character"}},
		{"relative URL", "PSC", "k", []Option{WithBaseURL("usage.example.org/api")}, []string{"absolute"}},
		{"no host", "PSC", "k", []Option{WithBaseURL("https:///api")}, []string{"absolute"}},
		{"other scheme", "PSC", "k", []Option{WithBaseURL("ftp://usage.example.org")}, []string{"http or https"}},
		{"unparsable URL", "PSC", "k", []Option{WithBaseURL("https://h:port/")}, []string{"cannot be parsed"}},
		{"password in URL", "PSC", "k", []Option{WithBaseURL("https://a:hidden@h/")}, []string{"user name or password"}},
		{"query in URL", "PSC", "k", []Option{WithBaseURL("https://h/?a=b")}, []string{"query"}},
		{"fragment in URL", "PSC", "k", []Option{WithBaseURL("https://h/#a")}, []string{"fragment"}},
		{"clear text", "PSC", "k", []Option{WithBaseURL("http://usage.example.org/api")}, []string{"clear text", "WithInsecureHTTP"}},
		{"clear text, looks local", "PSC", "k", []Option{WithBaseURL("http://127.0.0.1.example.org")}, []string{"clear text"}},
		{"time-out", "PSC", "k", []Option{WithTimeout(-time.Second)}, []string{"-1s"}},
		{"retries", "PSC", "k", []Option{WithRetry(RetryPolicy{MaxAttempts: -1})}, []string{"negative"}},
		{"request bytes", "PSC", "k", []Option{WithMaxRequestBytes(0)}, []string{"WithMaxRequestBytes"}},
		{"request records", "PSC", "k", []Option{WithMaxRequestRecords(-3)}, []string{"WithMaxRequestRecords"}},
		{"user agent", "PSC", "k", []Option{WithUserAgent("a\nb")}, []string{"user agent"}},
		{"nil HTTP client", "PSC", "k", []Option{WithHTTPClient(nil)}, []string{"WithHTTPClient"}},
		{"nil TLS", "PSC", "k", []Option{WithTLSConfig(nil)}, []string{"WithTLSConfig"}},
		{"nil logger", "PSC", "k", []Option{WithLogger(nil)}, []string{"WithLogger"}},
		{"two HTTP clients", "PSC", "k",
			[]Option{WithBaseURL(local), WithHTTPClient(http.DefaultClient), WithTLSConfig(&tls.Config{})}, []string{"exclude each other"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := New(test.site, test.key, test.opts...)
			if err == nil || c != nil {
				t.Fatalf("New gave %v, %v", c, err)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
			for _, secret := range []string{"secret", "hidden"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("error %q shows %q", err, secret)
				}
			}
			if e, ok := errors.AsType[*amieusage.Error](err); !ok || e.Code != amieusage.CodeInvalid {
				t.Errorf("error %v has no code %q", err, amieusage.CodeInvalid)
			}
		})
	}
}

func TestNewTakes(t *testing.T) {
	for _, test := range []struct {
		url  string
		opts []Option
		want string
	}{
		{amieusage.DefaultURL, nil, "https://usage.access-ci.org/api/v1"},
		{"https://h/api/v1///", nil, "https://h/api/v1"},
		{"https://h", nil, "https://h"},
		{"https://h/a%2Fb/", nil, "https://h/a%2Fb"},
		{"http://localhost:8642/", nil, "http://localhost:8642"},
		{"http://127.8.9.1/x", nil, "http://127.8.9.1/x"},
		{"http://[::1]:8642/x", nil, "http://[::1]:8642/x"},
		{"http://usage.example.org/x", []Option{WithInsecureHTTP()}, "http://usage.example.org/x"},
		{"https://h/x", []Option{nil}, "https://h/x"},
	} {
		if got := newClient(t, test.url, test.opts...).base; got != test.want {
			t.Errorf("base of %q is %q, want %q", test.url, got, test.want)
		}
	}
	c, err := New(testSite, testKey)
	if err != nil || c.base != amieusage.DefaultURL {
		t.Errorf("New gave %v, %v", c, err)
	}
}

func TestDefaultTransportHasLimits(t *testing.T) {
	transport := newClient(t, amieusage.DefaultURL).http.Transport.(*http.Transport)
	if transport.TLSHandshakeTimeout == 0 || transport.HTTP2.SendPingTimeout == 0 ||
		transport.IdleConnTimeout == 0 || transport.Proxy == nil {
		t.Errorf("transport without limits: %+v", transport)
	}
}

func TestKeyIsNeverShown(t *testing.T) {
	// The server does its worst: it gives back what it was sent.
	var log bytes.Buffer
	var body string
	status := http.StatusBadRequest
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get(amieusage.HeaderAPIKey)
		if key != testKey {
			t.Errorf("the key came as %q", key)
		}
		w.Header().Set(amieusage.HeaderRequestID, "id-"+key)
		w.WriteHeader(status)
		fmt.Fprintf(w, body, key)
	})
	c := serve(t, handler, WithLogger(slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))))
	hidden := func(what, text string) {
		t.Helper()
		if strings.Contains(text, testKey) {
			t.Errorf("%s shows the key: %s", what, text)
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		hidden(verb, fmt.Sprintf(verb, c))
		hidden(verb+" of the struct", fmt.Sprintf(verb, *c))
		hidden(verb+" inside", fmt.Sprintf(verb, struct{ c Client }{*c}))
	}
	data, err := json.Marshal(map[string]any{"client": c})
	hidden("JSON", string(data)+fmt.Sprint(err))
	hidden("reflection", cmp.Diff(c, (*Client)(nil), cmp.Exporter(func(reflect.Type) bool { return true })))
	slog.New(slog.NewTextHandler(&log, nil)).Info("client", "client", c)

	for _, test := range []struct {
		status int
		body   string
	}{
		{400, `{"error": "bad key %[1]s", "hint": "not %[1]s", "request_id": "%[1]s"}`},
		{401, "<html>%s</html>"},
		{503, `{"error": {"key": "%s"}}`},
		{200, "<html>%s</html>"},
		{200, `{"Message": "%[1]s", "FailedRecords": "%[1]s"}`},
		{200, `{"Message": "m", "FailedRecords": [{"Error": "the key %s"}]}`},
	} {
		status, body = test.status, test.body
		result, err := c.Send(context.Background(), compute(1))
		hidden("error", fmt.Sprintf("%v %+v %#v", err, err, err))
		for _, o := range result.Outcomes {
			hidden("outcome", fmt.Sprintf("%v %+v %#v", o.Err, o.Err, o.Err))
		}
		for e := err; e != nil; e = errors.Unwrap(e) {
			hidden("cause", e.Error())
		}
	}
	hidden("log", log.String())
	if !strings.Contains(log.String(), "/usage/") {
		t.Errorf("nothing was logged: %s", log.String())
	}
}
