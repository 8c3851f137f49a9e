package sqlite_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/amieusage/amieusage/internal/sqlite"
)

// memoryFile tells the test binary that it is the process whose memory is
// measured.
const memoryFile = "AMIEUSAGE_TEST_MEMORY_OUTBOX"

// TestUnconfirmedMemory holds the memory that it takes to say what entries are
// queued to the same, however many there are. What the engine allocates is not
// Go's: processes are compared, each at its peak, with their page caches full.
func TestUnconfirmedMemory(t *testing.T) {
	if path := os.Getenv(memoryFile); path != "" {
		rows, err := openOutbox(t, path).Unconfirmed(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		_, peak, _ := strings.Cut(string(status), "VmHWM:")
		var entries int64
		for _, r := range rows {
			entries += r.Entries
		}
		fmt.Println("peak", len(rows), entries, peak)
		return
	}
	const few, many, most = 30_000, 180_000, 3 << 10 // KiB: 20 bytes an entry more
	peak := func(entries int64) (kib int64) {
		path := filepath.Join(t.TempDir(), "outbox.db")
		queueBehind(t, path, entries)
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestUnconfirmedMemory$")
		child.Env = append(os.Environ(), memoryFile+"="+path)
		child.Stderr = os.Stderr
		out, err := child.Output()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		var resources, counted int64
		if _, err := fmt.Sscanf(string(out), "peak %d %d %d kB", &resources, &counted, &kib); err != nil || resources != 2 || counted != entries {
			t.Fatalf("the child says %q: %v", out, err)
		}
		return kib
	}
	if one, other := peak(few), peak(many); other-one > most {
		t.Errorf("%d KiB for %d entries, %d KiB for %d", one, few, other, many)
	}
}

// queueBehind writes queued entries of two resources into an outbox behind its
// back, without records.
func queueBehind(t *testing.T, path string, entries int64) {
	q, err := sqlite.OpenOutbox(context.Background(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	execute(t, path, fmt.Sprintf(`
		INSERT INTO resources (resource_id, name) VALUES (1, 'rm.example.org'), (2, 'gpu.example.org');
		INSERT INTO entries (resource_id, usage_type, local_record_id, key_time, state, revision, digest, charge, enqueued_at, sent_at)
		WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < %d)
		SELECT 1 + n %% 2, 0, printf('%%09d', n), 1790000000000000000 + n, 3, 1, zeroblob(32), 1250000, 1790000000000000000, 1790000000000000000 + n
		FROM numbers;
		INSERT INTO counts (resource_id, state, entries) SELECT resource_id, 3, count(*) FROM entries GROUP BY resource_id;`, entries))
}
