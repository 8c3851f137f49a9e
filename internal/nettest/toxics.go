package nettest

import (
	"bytes"
	"slices"
	"time"

	"github.com/Shopify/toxiproxy/v2/stream"
	"github.com/Shopify/toxiproxy/v2/toxics"
)

// pipe passes what change makes of each chunk, until the stream ends.
func pipe(stub *toxics.ToxicStub, change func(data []byte) [][]byte) {
	for {
		select {
		case <-stub.Interrupt:
			return
		case chunk := <-stub.Input:
			if chunk == nil {
				stub.Close()
				return
			}
			for _, data := range change(chunk.Data) {
				if len(data) > 0 {
					// Who reads it may change it.
					stub.Output <- &stream.StreamChunk{Data: slices.Clone(data), Timestamp: time.Now()}
				}
			}
		}
	}
}

// A vanish lets so many bytes through; the rest is lost, and the connection
// stays open.
type vanish struct {
	Bytes int `json:"bytes"`
}

func (v *vanish) Pipe(stub *toxics.ToxicStub) {
	left := v.Bytes
	pipe(stub, func(data []byte) [][]byte {
		data = data[:min(left, len(data))]
		left -= len(data)
		return [][]byte{data}
	})
}

// A duplicate repeats each chunk; a short request or answer is one.
type duplicate struct{}

func (*duplicate) Pipe(stub *toxics.ToxicStub) {
	pipe(stub, func(data []byte) [][]byte { return [][]byte{data, data} })
}

// A stale repeats each chunk when the next one comes, before it: a client is
// given an old answer when it waits for a new one.
type stale struct{}

func (*stale) Pipe(stub *toxics.ToxicStub) {
	var last []byte
	pipe(stub, func(data []byte) [][]byte {
		both := [][]byte{last, data}
		last = slices.Clone(data)
		return both
	})
}

// A stall lets nothing pass, not even the end of a connection. When it is taken
// away, all comes, late.
type stall struct{}

func (*stall) Pipe(stub *toxics.ToxicStub) { <-stub.Interrupt }

// A closeAt closes a connection in order when a text comes for the nth time:
// before it is passed on, or behind it. A text that comes in parts is not seen.
type closeAt struct {
	Text   string `json:"text"`
	Nth    int    `json:"nth"`
	Behind bool   `json:"behind"`
}

func (c *closeAt) Pipe(stub *toxics.ToxicStub) {
	for seen := 0; ; {
		select {
		case <-stub.Interrupt:
			return
		case chunk := <-stub.Input:
			if chunk != nil && bytes.Contains(chunk.Data, []byte(c.Text)) {
				seen++
			}
			ends := chunk == nil || seen == c.Nth
			if chunk != nil && (!ends || c.Behind) {
				stub.Output <- chunk
			}
			if ends {
				stub.Close()
				return
			}
		}
	}
}
