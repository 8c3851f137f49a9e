package postgres

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

const (
	// acceptedChannel is notified, with the number of a site, when something is
	// accepted of which nothing was queued.
	acceptedChannel = "amieusage_accepted"
	// knock is notified, in the place of a site, to hear whether anything is
	// heard.
	knock = "knock"
	// knockInterval is how long it may be quiet before a replica knocks: who
	// hears another's knock need not.
	knockInterval = 30 * time.Second
	// knockTimeout is how soon a knock must be heard.
	knockTimeout = 5 * time.Second
	// deafPoll is how often a replica that does not hear looks for itself.
	deafPoll = 2 * time.Second
)

// errDeaf says that a connection listens and hears nothing.
var errDeaf = &amieusage.Error{Code: amieusage.CodeUnavailable, Message: "the connection that listens gets no notifications",
	Hint: "a pooler that lends connections by transaction passes none on: give the server's own URL as --db-listen"}

// Listen hears what other replicas accept, and calls wake for it, until ctx
// ends; it returns nil then. While it does not hear, it calls wake every two
// seconds, so that who loads looks for itself.
func (l *Ledger) Listen(ctx context.Context, wake func()) error {
	var hears atomic.Bool
	deaf := make(chan struct{})
	go func() {
		defer close(deaf)
		tick := time.NewTicker(deafPoll)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if !hears.Load() {
					wake()
				}
			}
		}
	}()
	retry := backoff.NewExponentialBackOff()
	retry.MaxInterval = knockInterval
	warned := false
	for ctx.Err() == nil {
		err := l.hearAll(ctx, wake, func() {
			hears.Store(true)
			retry.Reset()
			if warned {
				l.log.Info("hearing from other replicas again")
				warned = false
			}
		})
		hears.Store(false)
		if ctx.Err() != nil {
			break
		}
		level := slog.LevelWarn
		if warned { // once is enough
			level = slog.LevelDebug
		}
		warned = true
		wait := retry.NextBackOff()
		l.log.Log(ctx, level, "not hearing from other replicas; looking for what they accept instead", "error", err, "retry_in", wait)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
	<-deaf
	return nil
}

// hearAll calls wake for what is heard, until an error. Before that, it calls
// heard once it is certain that it hears.
func (l *Ledger) hearAll(ctx context.Context, wake, heard func()) error {
	conn, err := pgx.ConnectConfig(ctx, l.listen)
	if err != nil {
		return err
	}
	defer func() {
		// A server that does not answer is left alone.
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectTimeout)
		defer cancel()
		_ = conn.Close(closing)
	}()
	if err := listenOn(ctx, conn); err != nil {
		return err
	}
	for first, wait := true, time.Duration(0); ; first, wait = false, knockInterval {
		notification, err := hear(ctx, conn, wait)
		if err == nil && notification == nil {
			if err := l.notify(ctx, knock); err != nil {
				return err
			}
			if notification, err = hear(ctx, conn, knockTimeout); err == nil && notification == nil {
				return errDeaf
			}
		}
		if err != nil {
			return err
		}
		if first {
			heard()
			wake() // what was accepted while nobody listened
		}
		if site, err := strconv.ParseInt(notification.Payload, 10, 64); err == nil {
			l.turns.add(ledger.SiteID(site))
			wake()
		}
	}
}

func listenOn(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	_, err := conn.Exec(ctx, "LISTEN "+acceptedChannel)
	return err
}

// hear returns the next notification, or nil where there is none within the
// time.
func hear(ctx context.Context, conn *pgx.Conn, wait time.Duration) (*pgconn.Notification, error) {
	quiet, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	notification, err := conn.WaitForNotification(quiet)
	if err != nil && errors.Is(quiet.Err(), context.DeadlineExceeded) && !conn.IsClosed() {
		return nil, nil
	}
	return notification, err
}

// notify tells all that listen, this replica too.
func (l *Ledger) notify(ctx context.Context, what string) error {
	return l.db.write(ctx, "notify", func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `SELECT pg_notify($1, $2)`, acceptedChannel, what)
		return err
	})
}
