package agent

import (
	"context"
	"errors"

	"github.com/amieusage/amieusage/usageclient"
)

// entriesAhead is how many entries are enqueued before Deliver sends them:
// enough for messages to be full and for answers to be stored many at a time.
const entriesAhead = 10_000

// Deliver runs collect, and meanwhile sends what is enqueued and confirms what
// is loaded, in one pass after the other: a record that changes is sent again
// only when its former content was answered. It returns collect's error. What
// came last, and all from the first pass that failed on, is left to Send and
// Confirm; but where collect had ended before a send found the service
// unavailable, that error is returned too: to send at once again would only take
// as long again.
func (a *Agent) Deliver(ctx context.Context, collect func() error) (err, unavailable error) {
	a.enqueued = make(chan struct{}, 1)
	defer func() { a.enqueued = nil }()
	a.ahead = newConfirmation(a)
	collected := make(chan error, 1)
	go func() { collected <- collect() }()
	for failed := false; ; {
		select {
		case err := <-collected:
			return err, nil
		case <-a.enqueued:
			if failed {
				continue
			}
			sendErr := a.Send(ctx)
			failed = sendErr != nil || a.ahead.pass(ctx) != nil
			if !errors.Is(sendErr, usageclient.ErrUnavailable) {
				continue
			}
			select {
			case err := <-collected:
				return err, sendErr
			default:
			}
		}
	}
}

// pass takes in what was loaded of what was sent. All that is sent has been
// answered: what is loaded from now on is loaded later than all that is seen.
func (c *confirmation) pass(ctx context.Context) error {
	if c.seenLoaded.IsZero() {
		if entries, err := c.open(ctx); err != nil || entries == 0 {
			return err
		}
	}
	return c.lookLoaded(ctx)
}
