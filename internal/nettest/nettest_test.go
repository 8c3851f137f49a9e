package nettest

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// echo answers each line of four bytes with it, on one connection.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		line := make([]byte, 4)
		for {
			if _, err := io.ReadFull(conn, line); err != nil {
				return
			}
			if _, err := conn.Write(line); err != nil {
				return
			}
		}
	}()
	return l.Addr().String()
}

func TestToxics(t *testing.T) {
	for _, test := range []struct {
		name    string
		toxics  []Toxic
		answers []string // to "one\n", "two\n" and "six\n", as many as are sent; "" if none comes
		want    error    // of reading on
	}{
		{"none", nil, []string{"one\n", "two\n", "six\n"}, os.ErrDeadlineExceeded},
		{"vanish", []Toxic{{Type: "vanish", Stream: Downstream, Attributes: Attributes{"bytes": 6}}},
			[]string{"one\n", "tw", ""}, os.ErrDeadlineExceeded},
		{"duplicate", []Toxic{{Type: "duplicate", Stream: Downstream}},
			[]string{"one\none\n", "two\ntwo\n", "six\nsix\n"}, os.ErrDeadlineExceeded},
		{"stale", []Toxic{{Type: "stale", Stream: Downstream}},
			[]string{"one\n", "one\ntwo\n", "two\nsix\n"}, os.ErrDeadlineExceeded},
		{"stall", []Toxic{{Type: "stall", Stream: Downstream}}, []string{""}, os.ErrDeadlineExceeded},
		{"close before", []Toxic{{Type: "close_at", Stream: Upstream, Attributes: Attributes{"text": "two", "nth": 1}}},
			[]string{"one\n", ""}, io.EOF},
		// A third line could come to the closed socket, which answers with a reset.
		{"close behind", []Toxic{{Type: "close_at", Stream: Downstream, Attributes: Attributes{"text": "o", "nth": 2, "behind": true}}},
			[]string{"one\n", "two\n"}, io.EOF},
		{"cut", Cut(Upstream, 6), []string{"one\n", ""}, io.EOF},
		{"reset", Reset(Upstream, 6), []string{"one\n", ""}, syscall.ECONNRESET},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", NewProxy(t, echo(t), test.toxics...).Listen)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			lines := []string{"one\n", "two\n", "six\n"}
			for i, want := range test.answers {
				line := lines[i]
				if _, err := io.WriteString(conn, line); err != nil {
					t.Fatal(err)
				}
				answer := make([]byte, len(want))
				_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
				if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != want {
					t.Fatalf("the answer to %q is %q, error %v", line, answer, err)
				}
			}
			_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			if n, err := conn.Read(make([]byte, 1)); n > 0 || !errors.Is(err, test.want) {
				t.Errorf("%d bytes more, error %v, want %v", n, err, test.want)
			}
		})
	}
}
