package httpapi

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/time/rate"
)

// Limits of a [Server] that is told no others.
const (
	// DefaultMaxConnections is the number of its connections.
	DefaultMaxConnections = 2048
	// DefaultReadTimeout is less than [DefaultRequestTimeout], so that a slow
	// body is answered as such.
	DefaultReadTimeout = 40 * time.Second
)

// maxHeaderBytes leaves room for the ids of thousands of failed records in the
// path of one request.
const maxHeaderBytes = 128 << 10

// A ServerConfig is what a [Server] is made of. Listener, Handler and Logger
// must be set; a time of 0 is the default that is given with it.
type ServerConfig struct {
	Listener net.Listener
	Handler  http.Handler
	// TLS is how connections are encrypted; nil: not at all.
	TLS    *tls.Config
	Logger *slog.Logger
	// OnStop is called when the server begins to stop, before anything else;
	// nil: nothing. It is the place of [Handler.Stop].
	OnStop func()
	// MaxConnections is how many connections are open at a time: one more
	// closes those that have been idle longest, from the busiest address first, and
	// one that has a request only where none is idle.
	// 0: [DefaultMaxConnections].
	MaxConnections int

	ReadHeaderTimeout time.Duration // 10 s: until a request's header is there
	ReadTimeout       time.Duration // [DefaultReadTimeout]: until its body is there too
	WriteTimeout      time.Duration // 150 s: until its answer is read
	IdleTimeout       time.Duration // 120 s: between two requests of a connection
	DrainTimeout      time.Duration // 30 s: for requests in flight when the server stops
}

// A Server serves a handler on a listener over HTTP/1, with limits on
// everything. HTTP/2 would let one connection have many requests, each with a
// header of its own.
type Server struct {
	http     *http.Server
	listener *connections
	log      *slog.Logger
	onStop   func()
	drain    time.Duration
}

// NewServer returns a server; its Run serves.
func NewServer(c ServerConfig) *Server {
	or := func(d, standard time.Duration) time.Duration {
		if d == 0 {
			return standard
		}
		return d
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = DefaultMaxConnections
	}
	headerTimeout := or(c.ReadHeaderTimeout, 10*time.Second)
	listener := &connections{
		Listener: c.Listener, max: c.MaxConnections, headerTimeout: headerTimeout, log: c.Logger,
		open: map[*connection]bool{}, paces: map[netip.Addr]*rate.Limiter{},
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &Server{
		http: &http.Server{
			Protocols:         &protocols,
			ConnState:         listener.changed,
			ConnContext:       awaited,
			Handler:           c.Handler,
			TLSConfig:         c.TLS,
			ReadHeaderTimeout: headerTimeout,
			ReadTimeout:       or(c.ReadTimeout, DefaultReadTimeout),
			WriteTimeout:      or(c.WriteTimeout, 150*time.Second),
			IdleTimeout:       or(c.IdleTimeout, 120*time.Second),
			MaxHeaderBytes:    maxHeaderBytes,
			ErrorLog:          slog.NewLogLogger(c.Logger.Handler(), slog.LevelInfo),
		},
		listener: listener,
		log:      c.Logger,
		onStop:   c.OnStop,
		drain:    or(c.DrainTimeout, 30*time.Second),
	}
}

// Run serves until ctx ends. It then takes no more connections, finishes the
// requests in flight as far as they are done in time, and returns nil. Another
// end, such as a listener that fails, is an error.
func (s *Server) Run(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() {
		if s.http.TLSConfig != nil {
			ended <- s.http.ServeTLS(s.listener, "", "")
		} else {
			ended <- s.http.Serve(s.listener)
		}
	}()
	select {
	case err := <-ended:
		return errors.Join(err, s.http.Close())
	case <-ctx.Done():
	}
	if s.onStop != nil {
		s.onStop()
	}
	s.log.Info("stopping: finishing the requests in flight")
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.drain)
	defer cancel()
	if err := s.http.Shutdown(deadline); err != nil {
		s.log.Warn("stopping with requests in flight: they get no answer", "error", err)
		// Its error is that of a listener which is closed already.
		_ = s.http.Close()
	}
	<-ended
	return nil
}
