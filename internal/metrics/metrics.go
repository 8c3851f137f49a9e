// Package metrics tells Prometheus how the service does. Every label has few values:
// sites, their first resources, routes and statuses.
package metrics

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/postgres"
)

const (
	// lookEvery is how often the ledger is asked at most, however many scrape.
	lookEvery = 5 * time.Second
	// lookTimeout ends asking it.
	lookTimeout = 8 * time.Second
	// maxResources bounds the resources of a site that are told apart. The charges
	// of those beyond are summed up as otherResources.
	maxResources   = 50
	otherResources = "others"
)

// Config is what the metrics are of.
type Config struct {
	Service *ledger.Service
	// Sites returns how each site stands.
	Sites  func(context.Context) ([]ledger.SiteState, error)
	Pool   func() postgres.PoolState // nil: there is no pool of connections
	HTTP   prometheus.Collector      // of the API
	Clock  func() time.Time
	Logger *slog.Logger
	Pprof  bool // Go's profiles are served beside the metrics
}

// Handler serves GET /metrics and, where the configuration says so, /debug/pprof/.
func Handler(c Config) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), c.HTTP, &collector{Config: c})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	if c.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("amieusage_"+name, help, labels, nil)
}

var (
	sent      = desc("send_records_total", "Records of sends that this process has answered: accepted, or refused at once.", "outcome")
	loading   = desc("load_records_total", "Records that this process has loaded: new, corrected, unchanged (loaded already), failed.", "outcome")
	up        = desc("ledger_up", "Whether the ledger answers.")
	accepted  = desc("site_accepted_records_total", "Records of the site that were accepted.", "site")
	loaded    = desc("site_loaded_records_total", "Records of the site that were loaded, changed or not.", "site")
	failed    = desc("site_failed_records_total", "Records of the site that failed when they were loaded.", "site")
	queued    = desc("site_queued_records", "Records of the site that wait to be loaded.", "site")
	oldest    = desc("site_queue_age_seconds", "For how long the oldest of them has waited; 0: none waits.", "site")
	lastSend  = desc("site_last_send_age_seconds", "For how long the site has sent nothing that was accepted.", "site")
	charged   = desc("site_charge_units", "What was charged less what was given back, in the resource's allocation units, over all time.", "site", "resource")
	poolMax   = desc("db_connections_max", "How many connections to PostgreSQL there may be.")
	poolOpen  = desc("db_connections", "Connections to PostgreSQL, by whether they are in use.", "state")
	poolWaits = desc("db_connection_waits_total", "How often a connection to PostgreSQL had to be waited for.")
)

// A collector asks the service and its ledger when Prometheus does.
type collector struct {
	Config
	mu     sync.Mutex
	looked time.Time
	sites  []ledger.SiteState
	err    error
}

// Describe lists the metrics.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{sent, loading, up, accepted, loaded, failed, queued, oldest, lastSend, charged, poolMax, poolOpen, poolWaits} {
		ch <- d
	}
}

// Collect collects the metrics.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, value, labels...)
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	stats := c.Service.Stats()
	counter(sent, float64(stats.Accepted), "accepted")
	counter(sent, float64(stats.Refused), "refused")
	counter(loading, float64(stats.New), "new")
	counter(loading, float64(stats.Corrected), "corrected")
	counter(loading, float64(stats.Unchanged), "unchanged")
	counter(loading, float64(stats.Failed), "failed")
	if c.Pool != nil {
		p := c.Pool()
		gauge(poolMax, float64(p.Max))
		gauge(poolOpen, float64(p.Busy), "busy")
		gauge(poolOpen, float64(p.Open-p.Busy), "idle")
		counter(poolWaits, float64(p.Waited))
	}
	sites, err := c.look()
	if err != nil {
		gauge(up, 0)
		return
	}
	gauge(up, 1)
	now := c.Clock()
	for i := range sites {
		s := &sites[i]
		name := label(s.Name)
		counter(accepted, float64(s.Accepted), name)
		counter(loaded, float64(s.Loaded), name)
		counter(failed, float64(s.Failed), name)
		gauge(queued, float64(s.Queued), name)
		gauge(oldest, age(now, s.OldestQueued), name)
		if !s.LastAccepted.IsZero() {
			gauge(lastSend, age(now, s.LastAccepted), name)
		}
		others := 0.0
		for i, r := range s.Charges {
			if i < maxResources {
				gauge(charged, units(r), name, label(r.Resource))
			} else {
				others += units(r)
			}
		}
		if len(s.Charges) > maxResources {
			gauge(charged, others, name, otherResources)
		}
	}
}

// look asks the ledger, or returns what it said a moment ago.
func (c *collector) look() ([]ledger.SiteState, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.Clock(); c.looked.IsZero() || now.Sub(c.looked) >= lookEvery || now.Before(c.looked) {
		ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
		defer cancel()
		if c.sites, c.err = c.Sites(ctx); c.err != nil {
			c.Logger.Error("the ledger cannot be asked for its metrics", "error", c.err)
		}
		c.looked = now
	}
	return c.sites, c.err
}

// age returns the seconds since a time; 0 where there is none.
func age(now, since time.Time) float64 {
	if since.IsZero() {
		return 0
	}
	return max(now.Sub(since).Seconds(), 0)
}

// units returns what a resource has charged. What Prometheus keeps are floats: they
// are to be looked at, and not to be accounted by.
func units(r ledger.ResourceCharge) float64 {
	used, _ := strconv.ParseFloat(r.Used.String(), 64)
	back, _ := strconv.ParseFloat(r.GivenBack.String(), 64)
	return used - back
}

// label returns a name as a label's value may be.
func label(name string) string { return strings.ToValidUTF8(name, "\uFFFD") }
