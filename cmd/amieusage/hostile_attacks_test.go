package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/httpapi"
)

// TestHostileClients attacks a real process over real sockets, in one way after
// another. Each time the answers are the documented ones, the process stays
// small, and another site goes on.
func TestHostileClients(t *testing.T) {
	// The other site's clock must not wait for attackers of the same process.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(16))
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) { withstandAll(t, newAttacked(t, engine)) })
	}
}

func withstandAll(t *testing.T, s *attacked) {
	client := clientFrom(attackerAddress)
	t.Cleanup(client.CloseIdleConnections)
	for _, attack := range []struct {
		name string
		run  func(t *testing.T, s *attacked, client *http.Client)
	}{
		{"slow headers and bodies", attackSlowly},
		{"endless headers", attackByHeaders},
		{"endless bodies", attackByLength},
		{"compressed bodies", attackByCompression},
		{"deep JSON", attackByDepth},
		{"tiny records", attackByTinyRecords},
		{"tiny messages", attackByTinyMessages},
		{"large pages, read slowly", attackByPages},
		{"guessed keys", attackKeys},
		{"idle connections", attackByIdling},
		{"numbers", attackByNumbers},
		{"texts", attackByTexts},
		{"paths, parameters and headers", attackByPaths},
		{"another site", attackAnotherSite},
		{"requests within requests", attackBySmuggling},
		{"logs, terminals and spreadsheets", attackReaders},
	} {
		t.Run(attack.name, func(t *testing.T) { attack.run(t, s, client) })
	}
	s.stop(t)
	s.admin(t, "verify")
	log := s.lines.String()
	for _, unwanted := range []string{"level=ERROR", "panic", s.key, s.otherKey} {
		if strings.Contains(log, unwanted) {
			t.Errorf("the log holds %q:\n%.4000s", unwanted, log)
		}
	}
	began, ended := strings.Count(log, "API keys are guessed"), strings.Count(log, "API keys were guessed")
	if began != ended || began > 20 {
		t.Errorf("%d sprees of guessing began in the log, %d ended", began, ended)
	}
}

// postStart is the header of a send, up to what follows it.
func (s *attacked) postStart(key string) string {
	return "POST /api/v1/usage/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" +
		"XA-SITE: PSC\r\nXA-API-KEY: " + key + "\r\n"
}

// attackSlowly sends headers and bodies byte by byte.
func attackSlowly(t *testing.T, s *attacked, _ *http.Client) {
	s.withstand(t, func() {
		conns := s.manyDials(t, 200, "GET /api/v1/usage/status HTTP/1.1\r\nHost: x\r\nX-Slow: ")
		for _, key := range []string{s.key, "wrong"} {
			conns = append(conns, s.manyDials(t, 200, s.postStart(key)+"Content-Length: 1000000\r\n\r\n{")...)
		}
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for range 20 {
			<-tick.C
			for _, conn := range conns {
				_, _ = conn.Write([]byte(" "))
			}
		}
	})
}

// attackByHeaders sends headers of many short lines, which take much more room
// when they are parsed; and one that is too long.
func attackByHeaders(t *testing.T, s *attacked, _ *http.Client) {
	// No byte more than the service reads: its answer is not lost by a reset.
	start := "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: "
	conn := s.manyDials(t, 1, start+strings.Repeat("x", 128<<10+4096-len(start)))[0]
	if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || response.StatusCode != 431 {
		t.Errorf("a header that is too long: %v, %v; want 431", response, err)
	}
	var lines strings.Builder
	for i := range 100 << 10 / 6 {
		fmt.Fprintf(&lines, "%c%c%c:\r\n", 'a'+i%26, 'a'+i/26%26, 'a'+i/26/26%26)
	}
	s.withstand(t, func() {
		// As fast as a network of 1 Gbit/s carries them.
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for range 3000 {
			s.manyDials(t, 1, "GET /healthz HTTP/1.1\r\nHost: x\r\n"+lines.String())
			<-tick.C
		}
		// These are whole, and held while the body does not come.
		s.manyDials(t, 300, s.postStart("wrong")+lines.String()+"Content-Length: 1000\r\n\r\n")
	})
}

// attackByLength sends bodies that are too long, by their own word or in truth.
func attackByLength(t *testing.T, s *attacked, client *http.Client) {
	zeros := bytes.Repeat([]byte("0"), 32<<10)
	s.withstand(t, func() {
		everyOne(32, 16, func(i int) {
			switch i % 2 {
			case 0:
				s.ask(t, client, "POST", "/api/v1/usage/", io.LimitReader(neverending(' '), 2<<20)).problem(t, "2 MiB in chunks", 413)
			case 1:
				conn := s.manyDials(t, 1, s.postStart(s.key)+"Transfer-Encoding: chunked\r\n\r\n")[0]
				_ = conn.SetWriteDeadline(time.Now().Add(bystanderPatience))
				sent := 0
				for ; sent < 64<<20; sent += len(zeros) {
					if _, err := fmt.Fprintf(conn, "%x\r\n%s\r\n", len(zeros), zeros); err != nil {
						break
					}
				}
				if sent >= 64<<20 {
					t.Error("64 MiB of a body without end were taken")
				}
			}
		})
	})
	conn := s.manyDials(t, 1, s.postStart(s.key)+"Content-Length: 9000000000000000000\r\n\r\n{")[0]
	if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || response.StatusCode != 413 {
		t.Errorf("a body of 9 EB: %v, %v", response, err)
	}
}

// A neverending reader gives one byte for ever.
type neverending byte

func (b neverending) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(b)
	}
	return len(p), nil
}

// gzipBomb is 100 MiB, compressed, which the race detector makes slow.
var gzipBomb = sync.OnceValues(func() ([]byte, error) {
	var bomb bytes.Buffer
	w := gzip.NewWriter(&bomb)
	_, err := io.Copy(w, io.LimitReader(neverending(' '), 100<<20))
	err = errors.Join(err, w.Close())
	return bomb.Bytes(), err
})

func attackByCompression(t *testing.T, s *attacked, client *http.Client) {
	bomb := must[[]byte](t)(gzipBomb())
	s.withstand(t, func() {
		everyOne(32, 16, func(int) {
			s.ask(t, client, "POST", "/api/v1/usage/", bytes.NewReader(bomb), "Content-Encoding", "gzip").problem(t, "a bomb", 413)
		})
	})
	for _, coding := range []string{"deflate", "br", "zstd", "gzip, gzip", "gzip,identity", "x", "\xff"} {
		got := s.ask(t, client, "POST", "/api/v1/usage/", bytes.NewReader(bomb), "Content-Encoding", coding)
		got.problem(t, coding, 415)
		if got.header.Get("Accept-Encoding") != "gzip, identity" {
			t.Errorf("%s: Accept-Encoding %q", coding, got.header.Get("Accept-Encoding"))
		}
	}
}

func attackByDepth(t *testing.T, s *attacked, client *http.Client) {
	nest := func(open, close string, n int) string { return strings.Repeat(open, n) + strings.Repeat(close, n) }
	bodies := map[string]int{
		strings.Repeat("[", 10<<20):                                        413,
		strings.Repeat("[", 1<<20):                                         400,
		messageJSON(strings.Repeat("[", 1<<19)):                            400,
		messageJSON(nest(`{"a":`, `}`, 100_000)):                           400,
		messageJSON(computeJSON("alice", "x", "") + nest("[", "]", 9_000)): 400,
	}
	s.withstand(t, func() {
		everyOne(48, 8, func(int) {
			for body, status := range bodies {
				s.ask(t, client, "POST", "/api/v1/usage/", strings.NewReader(body)).problem(t, body[:min(len(body), 60)], status)
			}
		})
	})
	got := s.ask(t, client, "POST", "/api/v1/usage/", strings.NewReader(messageJSON(computeJSON("alice", "deep", `,"a":`+nest("[", "]", 5_000)))))
	if got.status != 200 || !strings.Contains(got.body, `"0 records have been queued`) || !strings.Contains(got.body, "must not be nested deeper") {
		t.Errorf("a record that is too deep: %d %.300s", got.status, got.body)
	}
}

// attackByTinyRecords sends messages whose records are small to send and large
// to refuse.
func attackByTinyRecords(t *testing.T, s *attacked, client *http.Client) {
	records := func(record string, n int) string {
		return messageJSON(strings.Repeat(record+",", n-1) + record)
	}
	most, tooMany, allowed := records("0", 500_000), records("{}", 10_001), records("{}", 10_000)
	s.withstand(t, func() {
		everyOne(16, 8, func(int) {
			s.ask(t, client, "POST", "/api/v1/usage/", strings.NewReader(most)).problem(t, "half a million", 413)
			s.ask(t, client, "POST", "/api/v1/usage/", strings.NewReader(tooMany)).problem(t, "one too many", 413)
			got := s.ask(t, client, "POST", "/api/v1/usage/", strings.NewReader(allowed))
			if got.status != 200 || !strings.Contains(got.body, `"0 records have been queued`) || !strings.Contains(got.body, "Username is required") {
				t.Errorf("10,000 bad records: %d %.300s", got.status, got.body)
			}
		})
	})
	s.ask(t, client, "POST", "/api/v1/usage/", strings.NewReader(records("0", 3_000_000))).problem(t, "three million", 413)
}

// attackByTinyMessages sends as fast as it can.
func attackByTinyMessages(t *testing.T, s *attacked, client *http.Client) {
	var refused atomic.Int64
	s.withstand(t, func() {
		everyOne(1500, 64, func(i int) {
			got := s.ask(t, client, "POST", "/api/v1/usage/", strings.NewReader(messageJSON(computeJSON("alice", fmt.Sprint("t", i), ""))))
			switch got.status {
			case http.StatusOK:
			case http.StatusTooManyRequests:
				refused.Add(1)
				got.problem(t, "one of too many", 429)
			default:
				t.Errorf("message %d: %d %s", i, got.status, got.body)
			}
		})
	})
	t.Logf("%d of 1500 messages were asked to wait", refused.Load())
}

// attackByPages asks for more than the service should hold, and does not read
// it.
func attackByPages(t *testing.T, s *attacked, client *http.Client) {
	const large = 40
	note := `,"Note":"` + strings.Repeat("x", 1_000_000) + `"`
	for i := range large {
		if got := s.ask(t, client, "POST", "/api/v1/usage/", strings.NewReader(messageJSON(computeJSON("eve", fmt.Sprint("large", i), note)))); got.status != 200 {
			t.Fatalf("%d %.300s", got.status, got.body)
		}
	}
	s.waitUntil(t, "all failed", func() bool {
		status, err := s.client(t).Status(t.Context(), amieusage.StatusQuery{})
		return err == nil && len(status) == 1 && status[0].FailedJobCount == large
	})
	s.withstand(t, func() {
		for _, path := range []string{"failed", "status", "failed"} {
			s.manyDials(t, 20, "GET /api/v1/usage/"+path+" HTTP/1.1\r\nHost: x\r\nXA-SITE: PSC\r\nXA-API-KEY: "+s.key+"\r\n\r\n")
		}
	})
}

// waitUntil polls until the condition holds.
func (s *attacked) waitUntil(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline, tick := time.After(patience), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never happened: %s", what)
		}
	}
}

// attackKeys guesses the keys of the bystander's site and of one that is not
// there, from a new address and from the bystander's own.
func attackKeys(t *testing.T, s *attacked, _ *http.Client) {
	from := len(s.lines.String())
	stranger, neighbour := clientFrom("127.0.0.4"), clientFrom(bystanderAddress)
	defer stranger.CloseIdleConnections()
	defer neighbour.CloseIdleConnections()
	var unauthorized, limited atomic.Int64
	s.withstand(t, func() {
		everyOne(300, 60, func(i int) {
			guesser := []*http.Client{stranger, neighbour}[i%2]
			got := s.ask(t, guesser, "GET", "/api/v1/usage/status", nil, "XA-SITE", []string{"SDSC", "NOBODY"}[i/2%2], "XA-API-KEY", fmt.Sprint("guess", i))
			switch got.status {
			case http.StatusUnauthorized:
				unauthorized.Add(1)
			default:
				limited.Add(1)
				got.problem(t, "a guess", http.StatusTooManyRequests)
				if got.header.Get("Retry-After") != "10" {
					t.Errorf("Retry-After %q, want 10", got.header.Get("Retry-After"))
				}
			}
		})
	})
	t.Logf("%d guesses had the answer 401, %d the answer 429", unauthorized.Load(), limited.Load())
	if unauthorized.Load() > 50 {
		t.Errorf("%d guesses had the answer 401", unauthorized.Load())
	}
	var began, logged int
	for line := range strings.Lines(s.lines.String()[from:]) {
		if strings.Contains(line, "API keys are guessed") {
			began++
		}
		if strings.Contains(line, "status=401") || strings.Contains(line, "status=429") {
			logged++
		}
	}
	if began != 4 || logged > 50 {
		t.Errorf("%d sprees began in the log, with %d lines of refused keys; want 4, with 50 at most", began, logged)
	}
}

// attackByIdling opens ten thousand connections, and leaves them. Some have
// been served once.
func attackByIdling(t *testing.T, s *attacked, _ *http.Client) {
	s.withstand(t, func() {
		conns := s.manyDials(t, 5000, "")
		conns = append(conns, s.manyDials(t, 5000, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")...)
		s.waitUntil(t, "no more are open than may be", func() bool {
			conns = slices.DeleteFunc(conns, func(conn net.Conn) bool {
				var answer [4096]byte
				_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
				_, err := conn.Read(answer[:])
				return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
			})
			return len(conns) <= httpapi.DefaultMaxConnections
		})
	})
	if !strings.Contains(s.lines.String(), "as many connections as may be open") {
		t.Error("not a word of it in the log")
	}
}
