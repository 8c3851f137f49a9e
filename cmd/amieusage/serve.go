package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/amieusage/amieusage/internal/httpapi"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/metrics"
	"github.com/amieusage/amieusage/internal/postgres"
)

type serveOptions struct {
	db             dbFlag
	postgres       postgres.Options
	listen         string
	policy         string
	tls            httpapi.TLSFiles
	insecureHTTP   bool
	maxQueued      int64
	maxConnections int
	trustedProxies []string
	metricsListen  string
	metricsPublic  bool
	pprof          bool
	logFormat      string
	verbose        bool
}

func (p *program) serveCommand() *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:     "serve --db DB",
		GroupID: "service",
		Short:   "Serve the Usage API from a ledger in one file, or in PostgreSQL",
		Long: `Serve the Usage API under /api/v1, from a ledger in one SQLite file, which is
created if it is missing, or in a database of PostgreSQL 13 or later. GET /healthz
answers 200 when it is ready.

On PostgreSQL any number of replicas of this program accept and load side by
side: start as many as you like with the same --db, and let any balancer spread
the requests. Several hosts in the URL are tried until the primary is found:
postgres://amieusage@db1,db2/ledger. Give the password as PGPASSWORD, in a
passfile, or the whole URL as AMIEUSAGE_DB. A replica uses up to 16 connections
(--db-connections), and one more to hear of what others accept. A pooler may
stand between, lending connections by transaction; --db-listen then names the
server itself.

The policy decides what is loaded: strict loads only what the registry knows
(see: amieusage admin import); open registers the resources, projects and
users that it meets, and is meant for trying a client. The first serve of a ledger
chooses its policy; a serve that names another is refused. It is changed with
amieusage admin policy.

It keeps its memory near 192 MiB; GOMEMLIMIT in the environment sets another limit,
such as 512MiB.

On SIGTERM or SIGINT it answers the requests in flight and loads queued records for up
to 10 seconds; the rest stays queued for the next start.`,
		Example: `  amieusage serve --db ledger.db
  amieusage serve --db try.db --policy open
  amieusage serve --db ledger.db --listen :8642 --tls-cert server.pem --tls-key server.key
  amieusage serve --db ledger.db --metrics-listen 127.0.0.1:9642
  amieusage serve --db postgres://amieusage@db1,db2/ledger`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.serve(cmd.Context(), &o) },
	}
	f := cmd.Flags()
	o.db.add(cmd)
	f.StringVar(&o.postgres.ListenURL, "db-listen", "", "URL of the PostgreSQL server itself, where --db is a pooler's")
	f.Int32Var(&o.postgres.MaxConns, "db-connections", 0, "connections to PostgreSQL, besides the one that listens (default: pool_max_conns in the URL, or 16)")
	f.StringVar(&o.listen, "listen", "127.0.0.1:8642", "host and port to listen on")
	f.StringVar(&o.policy, "policy", "", "what a new ledger loads: strict (the default) or open; a ledger keeps its policy (see: amieusage admin policy)")
	f.StringVar(&o.tls.Cert, "tls-cert", "", "PEM file of the server's certificate; reloaded when it changes")
	f.StringVar(&o.tls.Key, "tls-key", "", "PEM file of the certificate's key; reloaded when it changes")
	f.StringVar(&o.tls.ClientCA, "client-ca", "", "PEM file of the authorities whose client certificates are required")
	f.BoolVar(&o.insecureHTTP, "insecure-http", false, "allow listening beyond loopback without TLS")
	f.Int64Var(&o.maxQueued, "max-queued", ledger.DefaultMaxQueued, "how many records of a site may wait to be loaded; beyond that, its sends are refused with 429")
	f.IntVar(&o.maxConnections, "max-connections", httpapi.DefaultMaxConnections, "how many connections may be open; beyond that, idle ones are closed, from the busiest address first")
	f.StringSliceVar(&o.trustedProxies, "trusted-proxy", nil, "address or network of a proxy, such as 127.0.0.1 or 10.0.0.0/8, whose X-Forwarded-For names the client (may be repeated)")
	f.StringVar(&o.metricsListen, "metrics-listen", "", "host and port to serve GET /metrics on, for Prometheus: 127.0.0.1:9642")
	f.BoolVar(&o.metricsPublic, "metrics-public", false, "allow --metrics-listen beyond loopback: whoever reaches it sees every site's figures, without a key")
	f.BoolVar(&o.pprof, "pprof", false, "serve Go's profiles at /debug/pprof/ beside the metrics")
	f.StringVar(&o.logFormat, "log-format", "text", "form of the log on standard error: text or json")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "log loads and health checks too (requests are logged always)")
	completeValues(cmd, "policy", string(ledger.Strict), string(ledger.Open))
	completeValues(cmd, "log-format", "text", "json")
	return cmd
}

func (p *program) serve(ctx context.Context, o *serveOptions) error {
	if err := o.db.resolve(p.stderr); err != nil {
		return err
	}
	log, err := p.logger(o.logFormat, o.verbose)
	if err != nil {
		return err
	}
	policy := ledger.Policy(o.policy)
	if policy != "" && policy != ledger.Strict && policy != ledger.Open {
		return usageError("--policy %q is not one of strict, open", o.policy)
	}
	if o.maxQueued < 1 {
		return usageError("--max-queued must be 1 or more")
	}
	if o.postgres.MaxConns < 0 || o.postgres.MaxConns == 1 {
		return usageError("--db-connections must be 2 or more: one loads while another accepts")
	}
	if o.maxConnections < 1 {
		return usageError("--max-connections must be 1 or more")
	}
	proxies, err := parseProxies(o.trustedProxies)
	if err != nil {
		return err
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	tlsConfig, err := p.serverTLS(o, log)
	if err != nil {
		return err
	}
	if tlsConfig == nil && !o.insecureHTTP && !isLoopback(o.listen) {
		return usageError("refusing to listen on %s without TLS, because API keys travel in the requests: "+
			"give --tls-cert and --tls-key, or --insecure-http behind a proxy that ends TLS", o.listen)
	}
	if o.metricsListen == "" && (o.metricsPublic || o.pprof) {
		return usageError("--metrics-public and --pprof need --metrics-listen")
	}
	if o.metricsListen != "" && !o.metricsPublic && !isLoopback(o.metricsListen) {
		return usageError("refusing to serve metrics on %s without --metrics-public: whoever reaches it sees every site's figures, without a key", o.metricsListen)
	}
	o.postgres.Logger = log
	store, err := o.db.open(ctx, o.postgres)
	if err != nil {
		return err
	}
	defer func() {
		if err := store.Close(); err != nil {
			log.Error("closing the ledger", "error", err)
		}
	}()
	chosen, err := ledger.ChoosePolicy(p.acting(ctx), store, cmp.Or(policy, ledger.Strict))
	if err != nil {
		return err
	}
	if policy != "" && policy != chosen {
		return usageError("the policy of the ledger %s is %s, not %s: leave --policy out, or change it for all that is loaded from now on "+
			"(amieusage admin policy %s --db %s)", o.db, chosen, policy, policy, shellWord(printable(o.db.String())))
	}
	policy = chosen
	config := ledger.Config{Store: store, Policy: policy, Clock: p.clock, Logger: log, MaxQueued: o.maxQueued, RefuseAhead: true}
	replicas, listens := store.(listener)
	if listens {
		config.IdlePoll = listeningPoll
	}
	service := ledger.New(config)
	socket, err := net.Listen("tcp", o.listen)
	if err != nil {
		return usageError("cannot listen on %s: %w", o.listen, err)
	}
	handler := httpapi.New(httpapi.Config{Service: service, Logger: log, Clock: p.clock, Random: rand.Reader, TrustedProxies: proxies})
	server := httpapi.NewServer(httpapi.ServerConfig{
		Listener: socket, Handler: handler, TLS: tlsConfig, Logger: log, OnStop: handler.Stop,
		MaxConnections: o.maxConnections,
	})
	var metricsSocket net.Listener
	if o.metricsListen != "" {
		if metricsSocket, err = net.Listen("tcp", o.metricsListen); err != nil {
			return errors.Join(usageError("cannot listen on %s: %w", o.metricsListen, err), socket.Close())
		}
	}
	scheme := "http"
	if tlsConfig != nil {
		scheme = "https"
	}
	log.Info("serving the Usage API", "url", fmt.Sprintf("%s://%s%s", scheme, socket.Addr(), httpapi.Prefix),
		"db", o.db.String(), "policy", string(policy))
	group, running := errgroup.WithContext(ctx)
	if metricsSocket != nil {
		log.Info("serving metrics", "address", "http://"+metricsSocket.Addr().String()+"/metrics")
		measured := metrics.Config{Service: service, Sites: store.Sites, HTTP: handler.Metrics(), Clock: p.clock, Logger: log, Pprof: o.pprof}
		if pooled, ok := store.(interface{ Pool() postgres.PoolState }); ok {
			measured.Pool = pooled.Pool
		}
		group.Go(func() error { return serveMetrics(running, metricsSocket, metrics.Handler(measured)) })
	}
	loading, stopLoading := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLoading()
	group.Go(func() error {
		// Loading goes on until the last request is answered.
		defer stopLoading()
		return server.Run(running)
	})
	group.Go(func() error { return service.Run(loading) })
	if listens {
		// While one waits for the database, the other computes: of different
		// sites.
		group.Go(func() error { return service.Run(loading) })
		group.Go(func() error { return replicas.Listen(loading, service.Wake) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return loadRest(service, log)
}

// serveMetrics serves the metrics until ctx ends.
func serveMetrics(ctx context.Context, socket net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(socket); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// memoryLimit is from where on the service rather spends time on collecting
// garbage than memory on keeping it: at most half of its time, and it may come
// to have more.
const memoryLimit = 192 << 20

// A listener is a store that hears what its other replicas accept.
type listener interface {
	Listen(ctx context.Context, wake func()) error
}

// listeningPoll is how often an idle replica looks for what it was not told of.
const listeningPoll = 30 * time.Second

// stopDeadline is how long a stopping service goes on loading what is queued.
const stopDeadline = 10 * time.Second

func loadRest(service *ledger.Service, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopDeadline)
	defer cancel()
	for ctx.Err() == nil {
		report, err := service.LoadSome(ctx)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if report.Batches == 0 {
			break
		}
	}
	log.Info("stopped")
	return nil
}

func (p *program) serverTLS(o *serveOptions, log *slog.Logger) (*tls.Config, error) {
	switch {
	case o.tls.Cert == "" && o.tls.Key == "" && o.tls.ClientCA == "":
		return nil, nil
	case o.tls.Cert == "" || o.tls.Key == "":
		return nil, usageError("--tls-cert and --tls-key go together, and --client-ca needs both")
	}
	config, err := httpapi.TLSConfig(o.tls, p.clock, log)
	if err != nil {
		return nil, &statusError{exitUsage, err}
	}
	return config, nil
}

// parseProxies reads addresses and networks.
func parseProxies(texts []string) (networks []netip.Prefix, err error) {
	for _, text := range texts {
		network, err := netip.ParsePrefix(text)
		if address, addressErr := netip.ParseAddr(text); addressErr == nil {
			network, err = address.Prefix(address.BitLen())
		}
		if err != nil {
			return nil, usageError("--trusted-proxy %q is no address or network, as in 127.0.0.1 or 10.0.0.0/8", text)
		}
		networks = append(networks, network.Masked())
	}
	return networks, nil
}

// isLoopback reports whether an address to listen on is reached from this
// machine only.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func (p *program) logger(format string, verbose bool) (*slog.Logger, error) {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	options := &slog.HandlerOptions{Level: level}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(p.stderr, options)), nil
	case "json":
		options.ReplaceAttr = durationInSeconds
		return slog.New(slog.NewJSONHandler(p.stderr, options)), nil
	}
	return nil, usageError("--log-format %q is not one of text, json", format)
}

// durationInSeconds gives a duration its unit, which JSON's numbers have not.
func durationInSeconds(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		return slog.Float64(a.Key+"_seconds", a.Value.Duration().Seconds())
	}
	return a
}

// markRequired makes a flag required, which fails only for a flag that is not
// there.
func markRequired(cmd *cobra.Command, flag string) {
	if err := cmd.MarkFlagRequired(flag); err != nil {
		cmd.Println(err)
	}
}
