//go:build unix

package httpapi

import (
	"errors"
	"syscall"
)

// hungUp reports whether the client has closed its end of the connection, which
// is known here as soon as its system has told ours, before anybody has read up
// to it. Over TLS a client says so in bytes first, which cannot be told from
// others: they hide its end until they are read.
func (c *connection) hungUp() bool {
	socket, ok := c.Conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return true // it is closed here
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		var next [1]byte
		n, _, err := syscall.Recvfrom(int(fd), next[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		gone = err == nil && n == 0 || errors.Is(err, syscall.ECONNRESET)
	})
	return gone || err != nil
}
