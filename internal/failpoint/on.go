//go:build failpoint

package failpoint

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The variables of the environment by which a test tells the process what to
// do; each may be missing.
const (
	// killVariable is when the process ends itself with SIGKILL: "3 load:
	// committed" is at the third hit of that point.
	killVariable = "AMIEUSAGE_FAILPOINT"
	// seenVariable names a file that the process appends a line to for each
	// point that it comes to, with its name, when it comes to it first.
	seenVariable = "AMIEUSAGE_FAILPOINTS_SEEN"
	// clockVariable names a file that says by how much the clock is off: "-2h30m".
	// It is read each time that the clock is.
	clockVariable = "AMIEUSAGE_CLOCK_OFFSET"
)

var (
	killAt, killAfter = killPoint(os.Getenv(killVariable))
	hits              atomic.Int64 // of killAt
	seen              sync.Map
	seenFile          = os.Getenv(seenVariable)
	clockFile         = os.Getenv(clockVariable)
)

func killPoint(text string) (name string, nth int64) {
	if text == "" {
		return "", 0
	}
	number, name, _ := strings.Cut(text, " ")
	if _, err := fmt.Sscan(number, &nth); err != nil || name == "" {
		fmt.Fprintf(os.Stderr, "%s=%q is not a number and a point\n", killVariable, text)
		os.Exit(2)
	}
	return name, nth
}

// Hit is one of the instants: a moment of what is being done. The point is
// named "WHAT: MOMENT".
func Hit(what, moment string) {
	name := what + ": " + moment
	if _, before := seen.LoadOrStore(name, true); !before && seenFile != "" {
		note(name)
	}
	if name == killAt && hits.Add(1) == killAfter {
		// It is gone before this returns.
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
}

func note(name string) {
	f, err := os.OpenFile(seenFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(name + "\n")
		_ = f.Close() // one short line: it was written, or not
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "failpoint:", err)
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
	return now.Add(off).Round(0) // a clock that steps is no monotonic one
}
