// Package nettest puts a bad network between a client and a server in tests:
// TCP proxies of toxiproxy, with its toxics and a few more.
package nettest

import (
	"bytes"
	"encoding/json"
	"testing"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/rs/zerolog"
)

// The streams of a connection that a toxic works on.
const (
	Upstream   = "upstream"   // from the client to the server
	Downstream = "downstream" // from the server to the client
)

// Attributes are the settings of a toxic, by their names.
type Attributes map[string]any

// A Toxic is a fault of a proxy; each connection has it anew.
type Toxic struct {
	// Type is one of toxiproxy's types (latency, bandwidth, slow_close, timeout,
	// reset_peer, slicer, limit_data) or of this package's: vanish, duplicate,
	// stale, stall, close_at.
	Type       string     `json:"type"`
	Stream     string     `json:"stream"`
	Attributes Attributes `json:"attributes"`
}

// Reset ends a connection with a TCP reset, in both directions, once so many
// bytes went along the stream.
func Reset(stream string, bytes int64) []Toxic {
	return []Toxic{cutOff(stream, bytes), {Type: "linger", Stream: stream}}
}

// Cut closes a connection in order once so many bytes went along the stream.
func Cut(stream string, bytes int64) []Toxic { return []Toxic{cutOff(stream, bytes)} }

func cutOff(stream string, bytes int64) Toxic {
	return Toxic{Type: "limit_data", Stream: stream, Attributes: Attributes{"bytes": bytes}}
}

// NewProxy starts a proxy on a loopback port, and stops it when the test ends.
// The upstream is the server's host and port.
func NewProxy(t testing.TB, upstream string, faults ...Toxic) *toxiproxy.Proxy {
	t.Helper()
	toxics.Register("vanish", new(vanish))
	toxics.Register("duplicate", new(duplicate))
	toxics.Register("stale", new(stale))
	toxics.Register("stall", new(stall))
	toxics.Register("close_at", new(closeAt))
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	proxy := toxiproxy.NewProxy(server, t.Name(), "127.0.0.1:0", upstream)
	Worsen(t, proxy, faults...)
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Stop)
	return proxy
}

// Worsen adds faults to a proxy, also for the connections that it has. Its
// Toxics.ResetToxics takes all away.
func Worsen(t testing.TB, proxy *toxiproxy.Proxy, faults ...Toxic) {
	t.Helper()
	for _, fault := range faults {
		setting := map[string]any{"type": fault.Type, "stream": fault.Stream, "attributes": fault.Attributes}
		if fault.Type == "linger" {
			// The connections of a proxy with this toxic are closed with a reset;
			// it would also drop all data, unless it is never applied.
			setting["type"], setting["toxicity"] = "reset_peer", 0
		}
		text, err := json.Marshal(setting)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := proxy.Toxics.AddToxicJson(bytes.NewReader(text)); err != nil {
			t.Fatal(err)
		}
	}
}
