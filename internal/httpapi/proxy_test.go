package httpapi

import (
	"net/http"
	"net/netip"
	"testing"
)

func TestClientAddress(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	for _, test := range []struct {
		remote    string
		forwarded []string
		want      string
	}{
		{"127.0.0.1:4711", nil, "127.0.0.1:4711"},
		{"127.0.0.1:4711", []string{"192.0.2.7"}, "192.0.2.7"},
		{"127.0.0.1:4711", []string{"203.0.113.1, 192.0.2.7, 10.1.1.1"}, "192.0.2.7"}, // the first was made up
		{"127.0.0.1:4711", []string{"203.0.113.1", "192.0.2.7"}, "192.0.2.7"},
		{"127.0.0.1:4711", []string{"10.1.1.1"}, "10.1.1.1"}, // a client of the proxies' own network
		{"127.0.0.1:4711", []string{"192.0.2.7, x"}, "127.0.0.1:4711"},
		{"127.0.0.1:4711", []string{"\x1b[31m"}, "127.0.0.1:4711"},
		{"127.0.0.1:4711", []string{""}, "127.0.0.1:4711"},
		{"127.0.0.1:4711", []string{"192.0.2.7:80"}, "127.0.0.1:4711"},
		{"[::ffff:127.0.0.1]:4711", []string{"192.0.2.7"}, "192.0.2.7"},
		{"[2001:db8::1]:4711", []string{"2001:db9::7"}, "2001:db9::7"},
		{"192.0.2.9:4711", []string{"192.0.2.7"}, "192.0.2.9:4711"}, // not trusted
		{"@", []string{"192.0.2.7"}, "@"},
	} {
		r := &http.Request{RemoteAddr: test.remote, Header: http.Header{"X-Forwarded-For": test.forwarded}}
		if got := clientAddress(r, trusted); got != test.want {
			t.Errorf("from %s, forwarded for %q: %s, want %s", test.remote, test.forwarded, got, test.want)
		}
	}
	r := &http.Request{RemoteAddr: "127.0.0.1:4711", Header: http.Header{"X-Forwarded-For": {"192.0.2.7"}}}
	if got := clientAddress(r, nil); got != r.RemoteAddr {
		t.Errorf("without trusted proxies: %s", got)
	}
	if a, b := addressOf("192.0.2.7"), addressOf("192.0.2.7:4711"); a != b || !a.IsValid() {
		t.Errorf("addresses without and with a port: %s, %s", a, b)
	}
}
