//go:build !unix

package httpapi

// hungUp is not known here.
func (c *connection) hungUp() bool { return false }
