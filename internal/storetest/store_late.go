package storetest

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/amieusage/amieusage/internal/ledger"
)

// A lateContext is that of a request whose deadline is over, in a process that
// was stopped until now: no timer has ended it yet.
type lateContext struct{ context.Context }

func (lateContext) Deadline() (time.Time, bool) { return time.Now().Add(-time.Second), true }

// testAcceptTooLate accepts what nobody waits for any more: it may have been
// sent again, and something newer behind it.
func testAcceptTooLate(m *storeModel) {
	s := m.site("PSC")
	m.send(s, job("1", "2"))
	before := m.view(s)
	gone := ledger.WithHangUp(context.Background(), func() bool { return true })
	for _, store := range m.stores {
		err := store.Accept(lateContext{context.Background()}, m.batch(s, job("1", "1")), math.MaxInt64)
		if !errors.Is(err, context.DeadlineExceeded) {
			m.t.Errorf("error %v, want that the deadline is over", err)
		}
		if err := store.Accept(gone, m.batch(s, job("1", "1")), math.MaxInt64); !errors.Is(err, context.Canceled) {
			m.t.Errorf("error %v, want that the client has hung up", err)
		}
	}
	m.equal("what is there", before, m.view(s))
}
