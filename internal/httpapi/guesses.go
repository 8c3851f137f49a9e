package httpapi

import (
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/amieusage/amieusage"
)

// Limits on refused keys, from each address and for each name of a site.
const (
	guessBurst    = 20
	guessInterval = 10 * time.Second // after which one more is free
	// spreePause is the time without a refused key that ends a spree.
	spreePause = time.Minute
	// maxGuessers bounds the addresses and names that are told apart. Those
	// beyond share one place.
	maxGuessers = 4096
	// DefaultGuessDelay is how long one who guesses keys waits for each answer,
	// where a [Config] says nothing else.
	DefaultGuessDelay = time.Second
)

// errGuessing is what a refused key is answered with where too many were
// refused before. It is no lock: a valid key is never refused for others'
// guesses. Keys are too long to be guessed; what is limited is the work, and
// the lines of the log.
var errGuessing = &refusal{
	err: &amieusage.Error{
		Code:    amieusage.CodeTooManyRequests,
		Message: "the site name or the API key is not valid, and too many were not valid before",
		Hint:    "send the headers " + amieusage.HeaderSite + " and " + amieusage.HeaderAPIKey + " with a valid key, which is always let in",
	},
	retryAfter: guessInterval,
}

// A guesser is an address that guesses keys, or a name of a site whose keys
// are guessed; the zero guesser stands for all those beyond maxGuessers.
type guesser struct {
	site bool
	name string
}

func (g guesser) attr() slog.Attr {
	switch {
	case g == guesser{}:
		return slog.String("from", "many addresses")
	case g.site:
		return slog.String("site", g.name)
	}
	return slog.String("from", g.name)
}

// A spree is what one guesser has done of late.
type spree struct {
	allowed *rate.Limiter
	began   time.Time // when too many keys were refused; zero: not yet
	last    time.Time
	refused int
}

// guesses counts refused keys, and logs two lines of each spree: where it
// begins, and how it was when it has ended.
type guesses struct {
	log *slog.Logger

	mu     sync.Mutex
	by     map[guesser]*spree
	looked time.Time // when ended sprees were last looked for
}

// refused counts a key that was refused, and reports whether there have been
// too many.
func (g *guesses) refused(now time.Time, remote, site string) (tooMany bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, who := range [...]guesser{{false, addressOf(remote).String()}, {true, cut(site, 64)}} {
		s := g.by[who]
		if s == nil {
			if len(g.by) >= maxGuessers {
				who = guesser{}
				s = g.by[who]
			}
			if s == nil {
				s = &spree{allowed: rate.NewLimiter(rate.Every(guessInterval), guessBurst)}
				g.by[who] = s
			}
		}
		s.last = now
		s.refused++
		if s.allowed.AllowN(now, 1) {
			continue
		}
		tooMany = true
		if s.began.IsZero() {
			s.began = now
			g.log.Warn("API keys are guessed; those that follow are answered slowly and not logged one by one",
				who.attr(), "refused", s.refused)
		}
	}
	return tooMany
}

// look ends the sprees that have ended: all of them, or those without a
// refused key of late. It is called with each request, and looks once in a
// while.
func (g *guesses) look(now time.Time, all bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !all && now.Sub(g.looked) < spreePause/4 {
		return
	}
	g.looked = now
	for who, s := range g.by {
		pause := spreePause
		if s.began.IsZero() {
			pause = guessBurst * guessInterval // all is forgotten, then
		}
		if !all && now.Sub(s.last) < pause {
			continue
		}
		if !s.began.IsZero() {
			g.log.Warn("API keys were guessed", who.attr(), "refused", s.refused, "duration", s.last.Sub(s.began))
		}
		delete(g.by, who)
	}
}
