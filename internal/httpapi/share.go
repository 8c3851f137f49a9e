package httpapi

import (
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// What one site may use of the service at a time, so that there is always
// something left for the others.
const (
	// siteRequests is the number of its requests in flight: those whose bodies
	// and answers are held in memory.
	siteRequests = 8
	// siteReaders is the number of its other requests that are worked on or
	// whose answers are being read: these can be long.
	siteReaders = 2
	// siteWait is how long a request waits for a place among them.
	siteWait = 10 * time.Second

	// A send may be of spareBytes, and recordBytes for each record that is
	// stored of it, and as many records may be refused as are stored, and
	// spareRecords more: what is beyond is work for nothing, of which a site could
	// cause as much as its network carries. The place of such a send stays taken
	// for siteLinger.
	spareBytes   = 64 << 10
	recordBytes  = 4 << 10
	spareRecords = 100
	siteLinger   = 100 * time.Millisecond
)

// siteSenders is the number of its sends that are worked on: with half of the
// processors, a site that sends what takes long to refuse keeps no other waiting.
func siteSenders() int { return min(siteRequests, max(1, runtime.GOMAXPROCS(0)/2)) }

var errSiteBusy = &refusal{
	err: &amieusage.Error{
		Code:    amieusage.CodeTooManyRequests,
		Message: "this site has as many requests in flight as one site may have",
		Hint:    "let fewer clients send at a time; " + retryHint,
	},
	retryAfter: time.Second,
}

// A share is what one site uses: each channel holds one element for each
// request.
type share struct{ requests, senders, readers chan struct{} }

// shares are those of all sites that have ever asked.
type shares struct {
	mu sync.Mutex
	of map[ledger.SiteID]*share
}

func (s *shares) share(site ledger.SiteID) *share {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.of[site]
	if one == nil {
		one = &share{make(chan struct{}, siteRequests), make(chan struct{}, siteSenders()), make(chan struct{}, siteReaders)}
		s.of[site] = one
	}
	return one
}

// enter takes a place among a site's requests.
func (s *share) enter(ctx context.Context) error {
	select {
	case s.requests <- struct{}{}:
		return nil
	default:
	}
	patience := time.NewTimer(siteWait)
	defer patience.Stop()
	select {
	case s.requests <- struct{}{}:
		return nil
	case <-patience.C:
		return errSiteBusy
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *share) leave() { <-s.requests }

// take takes a place among the workers, which is given back by receiving.
func take(ctx context.Context, workers chan struct{}) error {
	select {
	case workers <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wasted tells whether too little was stored of a send of size bytes, which had
// a response, or nil.
func wasted(size int64, response *amieusage.SendResponse) bool {
	queued, refused := 0, 0
	if response != nil {
		queued, _ = response.Queued()
		refused = len(response.FailedRecords)
	}
	return size > spareBytes+recordBytes*int64(queued) || refused > spareRecords+queued
}

// linger keeps the request's place for siteLinger.
func (x *exchange) linger() {
	end := time.NewTimer(siteLinger)
	defer end.Stop()
	select {
	case <-end.C:
	case <-x.Context().Done():
	}
}
