package main

import (
	"bufio"
	"context"
	"os"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/amieusage/amieusage/internal/agent"
	"github.com/amieusage/amieusage/internal/outbox"
)

// lastSuccess is the metric that a run which fails leaves as it was.
const lastSuccess = "amieusage_agent_last_success_timestamp_seconds"

// writeMetrics writes what a run came to into the file that metrics_file: names,
// for the textfile collector of node_exporter. The file is replaced at once.
func (s *siteCommand) writeMetrics(ctx context.Context, sum *agent.Summary, runErr error) error {
	path := s.config.MetricsFile
	registry := prometheus.NewRegistry()
	gauge := func(name, help string, value float64) {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
		g.Set(value)
		registry.MustRegister(g)
	}
	vector := func(name, help, label string, values map[string]float64) {
		v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{label})
		for of, value := range values {
			v.WithLabelValues(strings.ToValidUTF8(of, "\uFFFD")).Set(value)
		}
		registry.MustRegister(v)
	}
	now := float64(s.clock().Unix())
	succeeded := now
	ok := 1.0
	if runErr != nil {
		succeeded, ok = metricOf(path, lastSuccess), 0
	}
	gauge("amieusage_agent_last_run_timestamp_seconds", "When the last run ended.", now)
	gauge("amieusage_agent_last_run_ok", "Whether it exited with 0.", ok)
	if succeeded > 0 {
		gauge(lastSuccess, "When a run last exited with 0.", succeeded)
	}
	states := map[string]float64{}
	for state, n := range sum.Outbox {
		states[string(state)] = float64(n)
	}
	vector("amieusage_agent_records", "Records in the site's file, by their states.", "state", states)
	oldest := 0.0
	unsent, err := s.queue.List(ctx, outbox.Filter{States: []outbox.State{outbox.Pending}, Limit: 1})
	if err != nil {
		return err
	}
	if len(unsent) > 0 {
		oldest = max(now-float64(unsent[0].EnqueuedAt.Unix()), 0)
	}
	gauge("amieusage_agent_oldest_unsent_seconds", "For how long the oldest record that is not sent has waited; 0: there is none.", oldest)
	gauge("amieusage_agent_bad_rows", "Rows of the accounting that cannot be used.", float64(sum.BadRows))
	skipped := map[string]float64{}
	for reason, n := range sum.Skipped {
		skipped[reason] = float64(n)
	}
	vector("amieusage_agent_run_skipped_jobs", "Jobs that the last run has left out, by the reason.", "reason", skipped)
	vector("amieusage_agent_run_records", "What the last run has done, by records.", "what", map[string]float64{
		"read": float64(sum.Read), "new": float64(sum.New), "changed": float64(sum.Changed), "sent": float64(sum.Sent),
		"rejected": float64(sum.Rejected), "loaded": float64(sum.Loaded), "failed": float64(sum.Failed),
	})
	charges := map[string]float64{}
	for resource, c := range sum.Charge {
		if n, err := strconv.ParseFloat(c.Total.String(), 64); err == nil {
			charges[resource] = n
		}
	}
	vector("amieusage_agent_run_charge", "What the last run has collected, in allocation units, by resource.", "resource", charges)
	return prometheus.WriteToTextfile(path, registry)
}

// metricOf returns the value of a metric that an earlier run has written; 0: none
// has.
func metricOf(path, name string) float64 {
	file, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			value, _ := strconv.ParseFloat(text, 64)
			return value
		}
	}
	return 0
}
