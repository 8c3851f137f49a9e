package usageclient

import (
	"context"

	"github.com/amieusage/amieusage"
)

// Status returns, for each resource, what was loaded in the time asked for and
// what failed, grouped by reason (GET {base}/usage/status).
func (c *Client) Status(ctx context.Context, q amieusage.StatusQuery) (amieusage.Status, error) {
	var status amieusage.Status
	err := c.get(ctx, "/usage/status", q.Values(), '[', &status)
	return status, err
}
