package htcondor_test

import (
	"bytes"
	"io"
	"os"
	"testing"
	"time"

	"github.com/amieusage/amieusage/internal/htcondor"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/schedulertest"
)

func clock() time.Time { return time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC) }

func open(in io.Reader, growing bool) scheduler.Reader {
	return htcondor.NewReader(in, "log", htcondor.Options{Growing: growing, Clock: clock})
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
	for name, shuffled := range map[string]string{"history": "history-shuffled", "history.json": "history-shuffled.json", "long": ""} {
		t.Run(name, func(t *testing.T) {
			suite := schedulertest.Suite{Open: open, Text: fixture(t, name), Rows: 8}
			if shuffled != "" {
				suite.Shuffled = fixture(t, shuffled)
			}
			// A job that stands alone, without anything behind it, may be whole.
			suite.Header = bytes.Index(suite.Text, []byte("\n\n")) + 2
			if name == "history.json" {
				suite.CutIsFinal, suite.CannotGrow, suite.Header = true, true, 2
			} else if name == "history" {
				suite.Header = bytes.Index(suite.Text, []byte("\nGlobal"))
			} else {
				suite.CannotGrow = true
			}
			schedulertest.Run(t, suite)
		})
	}
}
