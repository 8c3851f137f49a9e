package httpapi

import (
	"cmp"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// maxHeldHeaders is about how many bytes of requests' headers a server holds
	// at a time. What they are parsed into takes some ten times that.
	maxHeldHeaders = 4 << 20
	// smallHeader is the length up to which a header is read even then.
	smallHeader = 2 << 10
)

// connections is a listener that bounds what all its connections take
// together: their number, and the bytes of headers of the requests that have
// no answer yet.
//
// Where there are too many, those are closed that have been idle longest, of
// the address that has most: one address cannot shut out the others, and
// whoever has just been served is not shut out by silent ones.
type connections struct {
	net.Listener
	max int
	log *slog.Logger

	mu      sync.Mutex
	open    map[*connection]bool
	headers int // bytes of headers held, over all connections
	closed  int // connections closed to make room, since that was logged
	logged  time.Time
}

// A connection is one of a server, from its being accepted to its end.
type connection struct {
	net.Conn
	all     *connections
	address netip.Addr

	// Guarded by all.mu.
	since  time.Time // of the last change of its state
	active bool      // it has a request whose header is read
	header int       // bytes of this header
}

var errHeldHeaders = errors.New("the service holds as many headers as it can")

func newConnections(l net.Listener, most int, log *slog.Logger) *connections {
	return &connections{Listener: l, max: most, log: log, open: map[*connection]bool{}}
}

// Accept waits for the next connection.
func (s *connections) Accept() (net.Conn, error) {
	conn, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &connection{Conn: conn, all: s, address: addressOf(conn.RemoteAddr().String()), since: time.Now()}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) >= s.max {
		s.makeRoom()
	}
	s.open[c] = true
	return c, nil
}

// addressOf returns the address of a client, without its port. Of IPv6 it is
// the network of 64 bits, in which one client has as many addresses as it
// likes.
func addressOf(remote string) netip.Addr {
	p, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	address := p.Addr().Unmap().WithZone("")
	if address.Is6() {
		network, _ := address.Prefix(64) // which every such address has
		address = network.Addr()
	}
	return address
}

// makeRoom closes some connections, so that this is not done anew for each one
// that comes.
func (s *connections) makeRoom() {
	byAddress := map[netip.Addr][]*connection{}
	var most []*connection
	for c := range s.open {
		of := append(byAddress[c.address], c)
		byAddress[c.address] = of
		if len(of) > len(most) {
			most = of
		}
	}
	slices.SortFunc(most, func(a, b *connection) int {
		if a.active != b.active {
			if b.active {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.since.UnixNano(), b.since.UnixNano())
	})
	for _, c := range most[:min(len(most), 1+s.max/64)] {
		s.forget(c)
		// A write that is under way is cut off; nothing waits.
		_ = c.Conn.Close()
		s.closed++
	}
	if time.Since(s.logged) > time.Minute {
		s.logged = time.Now()
		s.log.Warn("as many connections as may be open: those idle longest are closed, of the address that has most",
			"open", len(s.open), "address", most[0].address, "closed", s.closed)
		s.closed = 0
	}
}

func (s *connections) forget(c *connection) {
	s.headers -= c.header
	c.header = 0
	delete(s.open, c)
}

// changed notes a connection's new state, as a http.Server tells it: active
// when a request's header is read, idle when the request is answered.
func (s *connections) changed(conn net.Conn, state http.ConnState) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	c, ok := conn.(*connection)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.since, c.active = time.Now(), state == http.StateActive
	if !c.active {
		s.headers -= c.header
		c.header = 0
	}
}

// Read reads, and counts what belongs to a header.
func (c *connection) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	s := c.all
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.active || !s.open[c] {
		return n, err
	}
	c.header += n
	s.headers += n
	if s.headers > maxHeldHeaders && c.header > smallHeader {
		s.forget(c)
		_ = c.Conn.Close()
		return 0, errHeldHeaders
	}
	return n, err
}

// Close closes the connection.
func (c *connection) Close() error {
	c.all.mu.Lock()
	c.all.forget(c)
	c.all.mu.Unlock()
	return c.Conn.Close()
}

// CloseWrite ends what is written, so that a client that still writes can read
// an answer to the end.
func (c *connection) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
