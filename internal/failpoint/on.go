//go:build failpoint

package failpoint

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// The variables of the environment by which a test tells the process what to
// do; each may be missing.
const (
	// killVariable names a file that says when the process ends itself with
	// SIGKILL: "3 load: committed" is at the third hit of that point from when
	// the file says so. It is read at each hit, and may be missing.
	killVariable = "AMIEUSAGE_FAILPOINT"
	// clockVariable names a file that says by how much the clock is off, in whole
	// seconds: "-2h30m". It is read each time that the clock is.
	clockVariable = "AMIEUSAGE_CLOCK_OFFSET"
)

var (
	killFile, clockFile = os.Getenv(killVariable), os.Getenv(clockVariable)

	mu    sync.Mutex
	armed string // what killFile says
	hits  int    // since then, of its point
)

// Hit is one of the instants: a moment of what is being done. The point is
// named "WHAT: MOMENT".
func Hit(what, moment string) {
	if killFile == "" {
		return
	}
	text, err := os.ReadFile(killFile)
	if err != nil {
		return
	}
	mu.Lock()
	defer mu.Unlock()
	if string(text) != armed {
		armed, hits = string(text), 0
	}
	nth, point, _ := strings.Cut(armed, " ")
	if point != what+": "+moment {
		return
	}
	if hits++; strconv.Itoa(hits) == nth {
		// It is gone before this returns.
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
}

// Now is the clock, which is off by what the test says.
func Now() time.Time {
	now := time.Now()
	if clockFile == "" {
		return now
	}
	text, err := os.ReadFile(clockFile)
	if err != nil {
		return now
	}
	off, err := time.ParseDuration(strings.TrimSpace(string(text)))
	if err != nil {
		return now
	}
	return stepped(now, off)
}

// stepped returns the time as it is when the clock has been set: the wall clock
// is another one, and the monotonic reading, by which time that passes is
// measured, is not. Only whole seconds count.
func stepped(now time.Time, off time.Duration) time.Time {
	// The layout of a time.Time that has a monotonic reading: from bit 30 of the
	// first word on are seconds.
	(*struct {
		wall uint64
		ext  int64
		loc  *time.Location
	})(unsafe.Pointer(&now)).wall += uint64(off/time.Second) << 30
	return now
}
