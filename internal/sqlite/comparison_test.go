package sqlite

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"

	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/outbox"
)

// A temporary folder that is full is an error that says what helps.
func TestComparisonWithoutRoom(t *testing.T) {
	c, err := OpenComparison()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := sqlitex.ExecuteTransient(c.conn, "PRAGMA max_page_count = 10", nil); err != nil {
		t.Fatal(err)
	}
	sides := make([]outbox.Side, 2000)
	for i := range sides {
		sides[i] = outbox.Side{Source: outbox.FromAccounting, Always: true,
			Identity: amieusage.Identity{UsageType: amieusage.Compute, LocalRecordID: strconv.Itoa(i), Resource: "rm"}}
	}
	err = c.Add(context.Background(), sides)
	if e, ok := errors.AsType[*amieusage.Error](err); !ok || !strings.Contains(e.Hint, "TMPDIR") {
		t.Errorf("error %v", err)
	}
}
