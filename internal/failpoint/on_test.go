//go:build failpoint

package failpoint

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestNow steps the clock: what time it is changes, and how much time passes
// does not.
func TestNow(t *testing.T) {
	clockFile = filepath.Join(t.TempDir(), "clock")
	for _, off := range []time.Duration{0, 5 * time.Hour, -30 * time.Hour} {
		before := time.Now()
		if err := os.WriteFile(clockFile, []byte(off.String()+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		now := Now()
		if d := now.Sub(before); d < 0 || d > time.Minute {
			t.Errorf("off by %v, it took %v", off, d)
		}
		if d := now.Round(0).Sub(before.Round(0)) - off; d < 0 || d > time.Minute {
			t.Errorf("off by %v, it is %v later", off, d)
		}
	}
}
