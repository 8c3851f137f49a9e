package sqlite_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/amieusage/amieusage/internal/sqlite"
	"github.com/amieusage/amieusage/internal/storetest"
)

func TestQueue(t *testing.T) {
	storetest.TestQueue(t, func(dir string, clock func() time.Time) (storetest.Queue, error) {
		return sqlite.OpenOutbox(context.Background(), filepath.Join(dir, "outbox.db"), clock)
	})
}
