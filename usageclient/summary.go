package usageclient

import (
	"context"

	"github.com/amieusage/amieusage"
)

// Summary returns the usage in the time asked for, grouped as the query says
// (GET {base}/usage/summary, which not every service has).
func (c *Client) Summary(ctx context.Context, q amieusage.SummaryQuery) (*amieusage.Summary, error) {
	summary := new(amieusage.Summary)
	if err := c.get(ctx, "/usage/summary", q.Values(), '{', summary); err != nil {
		return nil, err
	}
	return summary, nil
}
