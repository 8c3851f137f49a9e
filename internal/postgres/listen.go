package postgres

import (
	"context"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5"

	"github.com/amieusage/amieusage/internal/ledger"
)

const (
	// acceptedChannel is notified, with the number of a site, when something is
	// accepted of which nothing was queued.
	acceptedChannel = "amieusage_accepted"
	// listenCheck is how often a connection that hears nothing is tried.
	listenCheck = 30 * time.Second
)

// Listen hears what other replicas accept, and calls wake for it, until ctx
// ends; it returns nil then. While it is not connected, sites are still found
// by looking for them.
func (l *Ledger) Listen(ctx context.Context, wake func()) error {
	retry := backoff.NewExponentialBackOff()
	retry.MaxInterval = listenCheck
	for ctx.Err() == nil {
		err := l.listen(ctx, wake, retry.Reset)
		if ctx.Err() != nil {
			break
		}
		wait := retry.NextBackOff()
		l.log.Warn("not hearing from other replicas; looking for what they accept instead", "error", err, "retry_in", wait)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

func (l *Ledger) listen(ctx context.Context, wake, connected func()) error {
	config, err := pgx.ParseConfig(l.listenURL)
	if err != nil {
		return urlError(err)
	}
	prepare(config)
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "LISTEN "+acceptedChannel); err != nil {
		return err
	}
	connected()
	wake() // what was accepted while nobody listened
	for {
		quiet, cancel := context.WithTimeout(ctx, listenCheck)
		notification, err := conn.WaitForNotification(quiet)
		cancel()
		if err != nil {
			if ctx.Err() != nil || quiet.Err() == nil {
				return err
			}
			// Nothing was heard: is there still a server?
			alive, cancel := context.WithTimeout(ctx, connectTimeout)
			err := conn.Ping(alive)
			cancel()
			if err != nil {
				return err
			}
			continue
		}
		if site, err := strconv.ParseInt(notification.Payload, 10, 64); err == nil {
			l.turns.add(ledger.SiteID(site))
			wake()
		}
	}
}
