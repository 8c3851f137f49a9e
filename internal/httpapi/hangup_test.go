package httpapi_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/amieusage/amieusage/internal/httpapi"
	"github.com/amieusage/amieusage/internal/ledger"
)

// TestHungUp asks for a client that has hung up, as a store does before it
// accepts: a server that was stopped has not noticed it yet.
func TestHungUp(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked, proceed, answers := make(chan struct{}), make(chan struct{}), make(chan error)
	server := httpapi.NewServer(httpapi.ServerConfig{
		Listener: listener, Logger: slog.New(slog.DiscardHandler),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			// What the server notices by itself does not count here.
			ctx := context.WithoutCancel(r.Context())
			answers <- ledger.Awaited(ctx)
			asked <- struct{}{}
			<-proceed
			deadline := time.Now().Add(time.Minute)
			for err = nil; err == nil && time.Now().Before(deadline); {
				err = ledger.Awaited(ctx)
			}
			answers <- err
		}),
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")); err != nil {
		t.Fatal(err)
	}
	if err := <-answers; err != nil {
		t.Errorf("of a client that waits: %v", err)
	}
	<-asked
	conn.Close()
	close(proceed)
	if err := <-answers; err == nil {
		t.Error("a client that has hung up is waited for")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
