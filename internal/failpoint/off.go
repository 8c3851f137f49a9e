//go:build !failpoint

package failpoint

import "time"

// Hit is one of the instants: a moment of what is being done. It does nothing.
func Hit(what, moment string) {}

// Now is time.Now.
func Now() time.Time { return time.Now() }
