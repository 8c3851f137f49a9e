package gridengine_test

import (
	"io"
	"os"
	"testing"
	"time"

	"github.com/amieusage/amieusage/internal/gridengine"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/schedulertest"
)

func clock() time.Time { return time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC) }

func open(in io.Reader, growing bool) scheduler.Reader {
	return gridengine.NewReader(in, "log", gridengine.Options{GPU: "gpu", Growing: growing, Clock: clock})
}

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestSuite(t *testing.T) {
	for name, rows := range map[string]int64{"accounting": 7, "accounting-univa": 2} {
		t.Run(name, func(t *testing.T) {
			schedulertest.Run(t, schedulertest.Suite{Open: open, Text: fixture(t, name), Rows: rows})
		})
	}
}
