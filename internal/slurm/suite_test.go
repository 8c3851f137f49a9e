package slurm_test

import (
	"bytes"
	"io"
	"os"
	"testing"

	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/schedulertest"
	"github.com/amieusage/amieusage/internal/slurm"
)

// TestSuite is what every reader of accounting must pass.
func TestSuite(t *testing.T) {
	text, err := os.ReadFile(fixtures + "sacct-epoch.psv")
	if err != nil {
		t.Fatal(err)
	}
	schedulertest.Run(t, schedulertest.Suite{
		Open:       func(in io.Reader, _ bool) scheduler.Reader { return slurm.NewReader(in, "dump", slurm.Options{}) },
		Text:       text,
		Rows:       int64(bytes.Count(text, []byte("\n")) - 1),
		Header:     bytes.IndexByte(text, '\n') + 1,
		CannotGrow: true,
		NameIsLast: true,
	})
}
