package httpapi

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/amieusage/amieusage/internal/ledger"
)

const (
	// maxHeldHeaders is about how many bytes of requests' headers a server holds
	// at a time. What they are parsed into takes some twenty times that.
	maxHeldHeaders = 4 << 20
	// smallHeader is the length up to which a header is read even then: what is
	// read at once, in which there may be some of the body, too.
	smallHeader = 4 << 10
	// headerRate is how many bytes a second are read of the headers of an
	// address, after headerBurst of them. It is that of thousands of requests:
	// what they are made into takes work, for which no key has to be shown.
	headerRate, headerBurst = 4 << 20, 1 << 20
	// maxPaced bounds the addresses that are told apart. Those beyond share one
	// place.
	maxPaced = 4096
)

// connections is a listener that bounds what all its connections take
// together: their number, and the bytes of headers of the requests that have
// no answer yet.
//
// Where there is too much, connections from the busiest address are closed:
// one address cannot shut out the others, and whoever has just been served is
// not shut out by silent ones. A connection with a request gives way to none as
// long as one is idle, be it of another address.
type connections struct {
	net.Listener
	max int
	// headerTimeout is how long a header may take, and how long a connection has
	// been idle that may be closed though its address has few.
	headerTimeout time.Duration
	log           *slog.Logger

	mu      sync.Mutex
	open    map[*connection]bool
	headers int // bytes of headers held, over all connections
	// paces are of the addresses whose headers were read of late.
	paces map[netip.Addr]*rate.Limiter
	swept time.Time // when paces that limit nothing were last forgotten
	// What was closed since that was logged, because of the number of
	// connections and because of their headers.
	tooMany, tooLong closings
}

// closings are connections that were closed for one reason.
type closings struct {
	count  int
	logged time.Time
}

// A connection is one of a server, from its being accepted to its end.
type connection struct {
	net.Conn
	all     *connections
	address netip.Addr
	closed  chan struct{} // is closed with it

	// Guarded by all.mu.
	since  time.Time // of the last change of its state
	active bool      // it has a request whose header is read
	header int       // bytes of this header
}

var errHeldHeaders = errors.New("the service holds as many headers as it can")

// Accept waits for the next connection.
func (s *connections) Accept() (net.Conn, error) {
	conn, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &connection{Conn: conn, all: s, address: addressOf(conn.RemoteAddr().String()), closed: make(chan struct{}), since: time.Now()}
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
	address, err := netip.ParseAddr(remote) // a trusted proxy's word
	if err != nil {
		p, err := netip.ParseAddrPort(remote)
		if err != nil {
			return netip.Addr{}
		}
		address = p.Addr()
	}
	address = address.Unmap().WithZone("")
	if address.Is6() {
		network, _ := address.Prefix(64) // which every such address has
		address = network.Addr()
	}
	return address
}

// makeRoom closes some idle connections, so that this is not done anew for each
// one that comes: of the addresses that have most, or else those that have long
// been idle. Only where there are none, one is closed that has a request.
func (s *connections) makeRoom() {
	count := map[netip.Addr]int{}
	most := 0
	for c := range s.open {
		count[c.address]++
		most = max(most, count[c.address])
	}
	now := time.Now()
	var idle, long, active []*connection
	for c := range s.open {
		ofMost := count[c.address] == most
		switch {
		case ofMost && c.active:
			active = append(active, c)
		case ofMost:
			idle = append(idle, c)
		case !c.active && now.Sub(c.since) > s.headerTimeout:
			long = append(long, c)
		}
	}
	victims, n := idle, 1+s.max/64
	if len(victims) == 0 {
		victims = long
	}
	if len(victims) == 0 {
		victims, n = active, 1
	}
	slices.SortFunc(victims, func(a, b *connection) int { return a.since.Compare(b.since) })
	for _, c := range victims[:min(len(victims), n)] {
		s.drop(c, &s.tooMany)
	}
	s.tell(&s.tooMany, victims[0], "as many connections as may be open: those idle longest are closed, from the busiest address first")
}

// makeHeaderRoom makes room for the header of c: of the address that holds most
// bytes of headers, the longest give way that are not read to their end, or else
// those of the longest requests. That is c itself where it is of this address:
// who holds as much as may be held cannot make the service read ever more.
func (s *connections) makeHeaderRoom(c *connection) {
	held := map[netip.Addr]int{}
	for c := range s.open {
		held[c.address] += c.header
	}
	most := c.address
	for address, n := range held {
		if n > held[most] {
			most = address
		}
	}
	of := []*connection{c}
	if most != c.address {
		of = s.longest(most)
	}
	for _, c := range of {
		if s.drop(c, &s.tooLong); s.headers <= maxHeldHeaders {
			break
		}
	}
	s.tell(&s.tooLong, of[0], "as many bytes of headers as may be held: connections with long ones are closed, from the busiest address first")
}

// longest returns an address' connections that hold headers: those first that
// are not read to their end, and the longest of each.
func (s *connections) longest(address netip.Addr) (of []*connection) {
	for c := range s.open {
		if c.address == address && c.header > 0 {
			of = append(of, c)
		}
	}
	slices.SortFunc(of, func(a, b *connection) int {
		switch {
		case a.active == b.active:
			return cmp.Compare(b.header, a.header)
		case a.active:
			return 1
		}
		return -1
	})
	return of
}

// drop closes a connection. A write that is under way is cut off; nothing waits.
func (s *connections) drop(c *connection, because *closings) {
	s.forget(c)
	because.count++
	_ = c.Conn.Close()
}

// tell logs, once a minute, that connections such as c were closed.
func (s *connections) tell(because *closings, c *connection, why string) {
	now := time.Now()
	if now.Sub(because.logged) < time.Minute {
		return
	}
	s.log.Warn(why, "open", len(s.open), "address", c.address, "closed", because.count)
	*because = closings{logged: now}
}

func (s *connections) forget(c *connection) {
	if !s.open[c] {
		return
	}
	s.headers -= c.header
	c.header = 0
	delete(s.open, c)
	close(c.closed)
}

func connectionOf(conn net.Conn) (c *connection, ok bool) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	c, ok = conn.(*connection)
	return c, ok
}

// awaited is the ConnContext of a http.Server: what is accepted on the
// connection is accepted only while its client waits.
func awaited(ctx context.Context, conn net.Conn) context.Context {
	if c, ok := connectionOf(conn); ok {
		return ledger.WithHangUp(ctx, c.hungUp)
	}
	return ctx
}

// changed notes a connection's new state, as a http.Server tells it: active
// when a request's header is read, idle when the request is answered.
func (s *connections) changed(conn net.Conn, state http.ConnState) {
	c, ok := connectionOf(conn)
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

// Read reads, and counts what belongs to a header, which waits for its turn
// where many of its address were read.
func (c *connection) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	turn, countErr := c.count(n)
	if countErr != nil {
		return 0, countErr
	}
	if turn > 0 {
		timer := time.NewTimer(turn)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.closed:
			return 0, net.ErrClosed
		}
	}
	return n, err
}

// count counts n bytes that were read, where they belong to a header, and
// returns how long they have to wait.
func (c *connection) count(n int) (turn time.Duration, err error) {
	s := c.all
	s.mu.Lock()
	defer s.mu.Unlock()
	if n == 0 || c.active || !s.open[c] {
		return 0, nil
	}
	c.header += n
	s.headers += n
	if s.headers > maxHeldHeaders && c.header > smallHeader {
		if s.makeHeaderRoom(c); !s.open[c] {
			return 0, errHeldHeaders
		}
	}
	now := time.Now()
	reserved := s.pace(c.address, now).ReserveN(now, n)
	if turn = reserved.DelayFrom(now); turn > s.headerTimeout {
		reserved.CancelAt(now)
		s.drop(c, &s.tooLong)
		s.tell(&s.tooLong, c, "as many bytes of headers as are read in time of one address: its connections with more are closed")
		return 0, errHeldHeaders
	}
	return turn, nil
}

// pace limits how fast the headers of an address are read.
func (s *connections) pace(address netip.Addr, now time.Time) *rate.Limiter {
	if now.Sub(s.swept) > time.Second {
		s.swept = now
		maps.DeleteFunc(s.paces, func(_ netip.Addr, l *rate.Limiter) bool { return l.TokensAt(now) >= headerBurst })
	}
	l := s.paces[address]
	if l == nil && len(s.paces) >= maxPaced {
		address = netip.Addr{}
		l = s.paces[address]
	}
	if l == nil {
		l = rate.NewLimiter(headerRate, headerBurst)
		s.paces[address] = l
	}
	return l
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
