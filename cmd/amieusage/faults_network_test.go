package main

import (
	"math/rand/v2"
	"net/url"
	"testing"
	"time"

	"github.com/amieusage/amieusage/internal/nettest"
	"github.com/amieusage/amieusage/internal/pgtest"
)

// A databaseFault is what is wrong for a while with the network between the
// service and PostgreSQL.
type databaseFault struct {
	name   string
	toxics []nettest.Toxic
	cut    bool // all connections are closed, and no new ones taken
	// The fault lasts until a few requests of each client went well, and none
	// was refused; for a time; or else until some were answered with 503.
	harmless bool
	lasts    time.Duration
}

func databaseFaults(random *rand.Rand) []databaseFault {
	between := func(least, most int64) int64 { return least + random.Int64N(most-least+1) }
	both := func(kind string, attributes nettest.Attributes) []nettest.Toxic {
		return []nettest.Toxic{
			{Type: kind, Stream: nettest.Upstream, Attributes: attributes},
			{Type: kind, Stream: nettest.Downstream, Attributes: attributes},
		}
	}
	commit := func(behind bool) []nettest.Toxic {
		return []nettest.Toxic{{Type: "close_at", Stream: nettest.Upstream,
			Attributes: nettest.Attributes{"text": "commit\x00", "nth": between(2, 5), "behind": behind}}}
	}
	return []databaseFault{
		{name: "latency and jitter", toxics: both("latency", nettest.Attributes{"latency": 10, "jitter": 8}), harmless: true},
		{name: "tiny packets", toxics: both("slicer", nettest.Attributes{"average_size": 100, "size_variation": 90}), harmless: true},
		{name: "resets in what is sent", toxics: nettest.Reset(nettest.Upstream, between(5000, 20_000))},
		{name: "resets in what is answered", toxics: nettest.Reset(nettest.Downstream, between(5000, 20_000))},
		{name: "closed before commits", toxics: commit(false)},
		{name: "closed behind commits", toxics: commit(true)},
		{name: "silence, and then an end", toxics: both("timeout", nil), lasts: *stoppedFor},
		{name: "silence, and then all that was held up", toxics: both("stall", nil), lasts: *stoppedFor},
		{name: "cut", cut: true, lasts: *stoppedFor},
	}
}

// TestFaultDatabaseNetwork has clients send to two replicas while the network
// between these and PostgreSQL is bad. Each request is answered, with 503 if it
// must be, the replicas recover by themselves, and nothing is lost or doubled.
func TestFaultDatabaseNetwork(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("the seed is %d", seed)
	u := must[*url.URL](t)(url.Parse(pgtest.Database(t)))
	network := nettest.NewProxy(t, u.Host)
	restart := func() {
		if err := network.Start(); err != nil {
			t.Fatal(err)
		}
	}
	network.Stop()
	network.Listen = freeAddress(t)
	restart()
	u.Host = network.Listen
	f := newFleet(t, buildProgram(t), u.String(), 2, seed)
	f.timeout = time.Minute
	f.underLoad(t, func() {
		f.goesWell(t, 3)
		for _, fault := range databaseFaults(rand.New(rand.NewPCG(seed, 1<<32))) {
			before := f.gate.unavailable.Load()
			over := time.After(fault.lasts)
			if nettest.Worsen(t, network, fault.toxics...); fault.cut {
				network.Stop()
			}
			switch {
			case fault.harmless:
				f.goesWell(t, 2)
				if f.gate.unavailable.Load() > before {
					t.Errorf("%s: requests are answered with 503", fault.name)
				}
			case fault.lasts > 0:
				<-over
			default:
				f.isUnavailable(t, before+5)
			}
			if network.Toxics.ResetToxics(t.Context()); fault.cut {
				restart()
			}
			since := time.Now()
			f.goesWell(t, 3)
			t.Logf("%s: %d requests were answered 503; all went well %v after it", fault.name,
				f.gate.unavailable.Load()-before, time.Since(since).Round(time.Millisecond))
		}
	})
	if n := f.gate.cut.Load() + f.gate.refused.Load(); n > 0 {
		t.Errorf("%d requests had no answer", n)
	}
	f.check(t)
}

// isUnavailable waits until so many requests were answered with 503.
func (f *fleet) isUnavailable(t *testing.T, n int64) {
	t.Helper()
	deadline, tick := time.After(patience), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for f.gate.unavailable.Load() < n {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("requests are not answered with 503")
		}
	}
}
