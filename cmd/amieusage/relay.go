package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/amieusage/amieusage/internal/agent"
	"github.com/amieusage/amieusage/internal/httpapi"
	"github.com/amieusage/amieusage/internal/relay"
)

func (p *program) relayCommand() *cobra.Command {
	s := &siteCommand{program: p}
	var listen, logFormat string
	cmd := &cobra.Command{
		Use:     "relay --config site.yaml [--listen 127.0.0.1:8641]",
		GroupID: "site",
		Short:   "Take what a site's own scripts send, keep it, and deliver it",
		Long: `Speak the Usage API to a site's own scripts (the Python client, curl), so that only
their URL changes. Records are validated at once, and kept durably before they are
answered; they are delivered to the service of site.yaml with all that report has:
splitting, retries, confirmation. If the service is down for a while, nothing is lost.

failed, status, loaded and DELETE are answered as the service does; records that the
service refused at once are listed after its failed ones. Scripts send the site's name and its key.

The relay needs an outbox of its own: if the site also runs report, give the relay a
site.yaml with another state:.`,
		Example: `  amieusage relay --config relay.yaml
  curl -H 'XA-SITE: PSC' -H "XA-API-KEY: $KEY" --data @usage.json http://127.0.0.1:8641/api/v1/usage/
  amieusage records list --config relay.yaml --state rejected`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			if !isLoopback(listen) {
				return usageError("refusing to listen on %s: the relay is for scripts of this machine, whose API keys travel in the clear", listen)
			}
			return s.run(ctx, needService|needLock, func(a *agent.Agent) error { return s.relay(ctx, a, listen, logFormat) })
		},
	}
	s.flags.add(cmd)
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8641", "the address to listen on")
	cmd.Flags().StringVar(&logFormat, "log-format", "text", "the form of the log on standard error: text or json")
	cmd.Flags().BoolVarP(&s.verbose, "verbose", "v", false, "log requests and retries on standard error")
	return cmd
}

func (s *siteCommand) relay(ctx context.Context, a *agent.Agent, listen, logFormat string) error {
	log, err := s.logger(logFormat, s.verbose)
	if err != nil {
		return err
	}
	a.Log, a.Progress, a.Bad = log, nil, nil
	key, err := s.config.APIKey()
	if err != nil {
		return &statusError{exitUsage, err}
	}
	// What a script sends replaces what the service has, as it does without a relay.
	if err := s.queue.Meet(ctx, nil, true); err != nil {
		return err
	}
	socket, err := net.Listen("tcp", listen)
	if err != nil {
		return usageError("cannot listen on %s: %w", listen, err)
	}
	service := relay.New(relay.Config{Site: s.config.Name, Key: key, Agent: a, Logger: log, Clock: s.clock})
	handler := httpapi.New(httpapi.Config{Service: service, Logger: log, Clock: s.clock, Random: rand.Reader})
	server := httpapi.NewServer(httpapi.ServerConfig{Listener: socket, Handler: handler, Logger: log, OnStop: handler.Stop, MaxConnections: httpapi.DefaultMaxConnections})
	log.Info("relaying the Usage API", "url", fmt.Sprintf("http://%s%s", socket.Addr(), httpapi.Prefix), "to", s.config.UsageURL, "state", s.config.State)
	group, running := errgroup.WithContext(ctx)
	group.Go(func() error { return server.Run(running) })
	group.Go(func() error { return service.Run(running) })
	return group.Wait()
}
