package main

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/amieusage/amieusage/internal/pgtest"
)

// TestReplicas has four clients send to four replicas on one PostgreSQL, and
// lets things happen meanwhile. Afterwards all is there that they were told
// is accepted, in its last revision, once.
func TestReplicas(t *testing.T) {
	program := buildProgram(t)
	seed := rand.Uint64()
	t.Logf("the seed is %d", seed)
	t.Run("PostgreSQL crashes", func(t *testing.T) {
		crashes := 5
		if testing.Short() {
			crashes = 1
		}
		server := pgtest.Start(t)
		f := newFleet(t, program, server.Database(t), 4, seed)
		f.underLoad(t, func() {
			f.goesWell(t, 5)
			for range crashes {
				server.Restart("immediate")
				since := time.Now()
				f.goesWell(t, 5)
				t.Logf("all went well %v after the server was ready", time.Since(since).Round(time.Millisecond))
			}
		})
		f.check(t)
	})
	t.Run("replaced", func(t *testing.T) {
		f := newFleet(t, program, pgtest.Database(t), 4, seed)
		f.underLoad(t, func() {
			for _, replica := range f.replicas {
				f.goesWell(t, 5)
				replica.stop(t)
				replica.start(t)
			}
			f.goesWell(t, 5)
		})
		// A request may be on its way when the service closes its connection: it
		// has no answer, but nothing of it was accepted.
		for _, c := range f.clients {
			c.unknown = 0
		}
		f.check(t)
	})
}
