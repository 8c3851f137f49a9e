package siteconfig

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/siterules"
	"github.com/amieusage/amieusage/usageclient"
)

// APIKeyVariable is the environment variable that holds the API key; it goes
// before a file.
const APIKeyVariable = "AMIEUSAGE_API_KEY"

// What a configuration means where it does not say.
const (
	DefaultState       = "outbox.db"
	DefaultLookback    = 72 * time.Hour
	DefaultConfirmWait = 30 * time.Second
)

// A Site is a site's configuration, read and checked.
type Site struct {
	File            string // its name
	Section         string // of an amieclient configuration
	Name            string
	KeyFile         string
	UsageURL        string
	InsecureHTTP    bool
	CAFile          string
	ClientCert      string
	ClientKey       string
	MaxRequestBytes int // 0: the client's own
	State           string
	MetricsFile     string // "": none is written
	ConfirmWait     time.Duration
	RequestTimeout  time.Duration // of one attempt
	Retry           usageclient.RetryPolicy
	Zone            *time.Location // of times that people write without an offset
	Schedulers      []Kind         // at least one
	Slurm           Slurm
	PBS             []PBS        // one for each server
	HTCondor        []HTCondor   // one for each schedd
	GridEngine      []GridEngine // one for each cell
	Counted         *Counted     // nil: there are no such tables
	Storage         *Storage     // nil: none is collected
	Rules           siterules.Rules

	key      string // of an amieclient configuration
	hasSlurm bool   // there is a section slurm:
}

// Slurm says how Slurm's accounting is read.
type Slurm struct {
	Zone     *time.Location // of times without an offset; nil: not stated
	Lookback time.Duration
	Sacct    string        // the program
	Timeout  time.Duration // of one run of it; 0: its own
	Clusters []string      // none: all
}

// Read reads a site's configuration: site.yaml, or a section of amieclient's
// config.ini. Names of files are relative to its folder, so that a timer may
// start the program anywhere.
func Read(path, section string) (*Site, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var s *Site
	switch extension := filepath.Ext(path); {
	case section != "" && (extension == ".yaml" || extension == ".yml"):
		return nil, fmt.Errorf("%s has no sections: --section is for amieclient's config.ini", path)
	case section != "" || extension == ".ini":
		s, err = ParseINI(path, section, data)
	default:
		s, err = ParseSite(path, data)
	}
	if err != nil {
		return nil, err
	}
	for _, name := range []*string{&s.KeyFile, &s.CAFile, &s.ClientCert, &s.ClientKey, &s.State, &s.MetricsFile} {
		if *name != "" && !filepath.IsAbs(*name) {
			*name = filepath.Join(filepath.Dir(path), *name)
		}
	}
	if err := s.absolute(filepath.Dir(path)); err != nil {
		return nil, err
	}
	// A program's name without a slash is one to be found on PATH.
	if sacct := &s.Slurm.Sacct; strings.ContainsRune(*sacct, '/') && !filepath.IsAbs(*sacct) {
		if *sacct, err = filepath.Abs(filepath.Join(filepath.Dir(path), *sacct)); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func newSite(file string) *Site {
	return &Site{
		File: file, UsageURL: amieusage.DefaultURL, State: DefaultState, ConfirmWait: DefaultConfirmWait, Zone: time.UTC,
		RequestTimeout: usageclient.DefaultTimeout, Schedulers: []Kind{KindSlurm}, Slurm: Slurm{Lookback: DefaultLookback, Sacct: "sacct"},
	}
}

// ParseSite reads a site.yaml; name is what errors call it.
func ParseSite(name string, data []byte) (*Site, error) {
	s, rules := newSite(name), ruleFile{}
	s.Schedulers = nil
	var zone *time.Location
	err := parse(name, data, s.reader(&rules, &zone))
	if unknown, ok := errors.AsType[*unknownKeyError](err); ok {
		unknown.all = known(newSite(name).reader(&ruleFile{}, new(*time.Location)))
	}
	if err != nil {
		return nil, err
	}
	if s.Name == "" {
		return nil, fmt.Errorf("%s: site is missing: the site's name, as in site: PSC", name)
	}
	if err := s.settle(s.hasSlurm); err != nil {
		return nil, err
	}
	for i := range s.PBS {
		if s.PBS[i].Zone == nil {
			s.PBS[i].Zone = zone
		}
		if zone == nil {
			zone = s.PBS[i].Zone
		}
	}
	if zone == nil {
		zone = s.Slurm.Zone
	}
	if zone == nil {
		zone = time.UTC
	}
	s.Zone = zone
	if s.Counted != nil && s.Counted.Columns.Zone == nil {
		s.Counted.Columns.Zone = zone
	}
	if s.Storage != nil {
		if err := s.Storage.finish(zone); err != nil {
			return nil, err
		}
	}
	if s.Rules, err = rules.finish(filepath.Dir(name), zone); err != nil {
		return nil, err
	}
	return s, nil
}

// reader reads the top of a site.yaml.
func (s *Site) reader(rules *ruleFile, zone **time.Location) reader {
	return func(v value) error {
		return v.fields(append(append(rules.fields(), s.schedulers()...),
			field{"site", parsed(func(text string) error {
				s.Name = text
				return under("site", CheckSiteName(text))
			})},
			field{"api_key_file", text(&s.KeyFile)},
			field{"usage_url", parsed(func(text string) error {
				if u, err := url.Parse(text); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
					return fmt.Errorf("usage_url is no http or https address, as in %s", amieusage.DefaultURL)
				}
				s.UsageURL = text
				return nil
			})},
			field{"insecure_http", flag(&s.InsecureHTTP)},
			field{"ca_file", text(&s.CAFile)},
			field{"client_cert", text(&s.ClientCert)},
			field{"client_key", text(&s.ClientKey)},
			field{"max_request_bytes", whole("max_request_bytes", &s.MaxRequestBytes, 1024, amieusage.MaxRequestBytes)},
			field{"state", parsed(func(text string) error {
				if text != "" {
					s.State = text
				}
				return nil
			})},
			field{"metrics_file", text(&s.MetricsFile)},
			field{"confirm_wait", duration("confirm_wait", &s.ConfirmWait)},
			field{"request_timeout", func(v value) error {
				if err := duration("request_timeout", &s.RequestTimeout)(v); err != nil {
					return err
				}
				if v.isSet() && s.RequestTimeout == 0 {
					return v.errorf("request_timeout must be above 0")
				}
				return nil
			}},
			field{"retry_for", func(v value) error {
				var d time.Duration
				if err := duration("retry_for", &d)(v); err != nil || !v.isSet() {
					return err
				}
				s.Retry = usageclient.RetryPolicy{MaxAttempts: 1}
				if d > 0 {
					s.Retry = usageclient.RetryPolicy{MaxElapsed: d, MaxAttempts: math.MaxInt32}
				}
				return nil
			}},
			field{"time_zone", location(zone)},
			field{"storage", s.storage},
			field{"slurm", func(v value) error {
				s.hasSlurm = s.hasSlurm || v.isSet()
				return v.fields(
					field{"time_zone", location(&s.Slurm.Zone)},
					field{"lookback", duration("lookback", &s.Slurm.Lookback)},
					field{"sacct", parsed(func(text string) error {
						if text != "" {
							s.Slurm.Sacct = text
						}
						return nil
					})},
					field{"timeout", duration("timeout", &s.Slurm.Timeout)},
					field{"clusters", texts(&s.Slurm.Clusters)},
				)
			}},
		)...)
	}
}

func location(to **time.Location) reader {
	return parsed(func(text string) error {
		zone, err := time.LoadLocation(text)
		if err != nil || text == "" || text == "Local" {
			return fmt.Errorf("time_zone %q is no time zone, as in America/New_York or UTC", text)
		}
		*to = zone
		return nil
	})
}

// CheckSiteName refuses what cannot stand in the header that bears a site's
// name. The error is a [*amieusage.Error] with [amieusage.CodeInvalid].
func CheckSiteName(name string) error {
	for _, r := range name {
		if r <= ' ' || r >= 0x7f {
			return &amieusage.Error{Code: amieusage.CodeInvalid,
				Message: "a site's name travels in a header: it must be printable ASCII without spaces"}
		}
	}
	if name == "" || len(name) > 255 {
		return &amieusage.Error{Code: amieusage.CodeInvalid, Message: "a site's name has from 1 to 255 characters"}
	}
	return nil
}

// HasState reports whether the site's own file is there.
func (s *Site) HasState() bool {
	_, err := os.Stat(s.State)
	return !errors.Is(err, fs.ErrNotExist)
}

// checkPrivate refuses a file with a key that others than its owner can read.
func checkPrivate(name string) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s holds an API key and can be read by others: chmod 600 %s", name, name)
	}
	return nil
}

// APIKey returns the key, from the environment or from its file.
func (s *Site) APIKey() (string, error) {
	if key := strings.TrimSpace(os.Getenv(APIKeyVariable)); key != "" {
		return key, nil
	}
	if s.key != "" {
		return s.key, nil
	}
	if s.Section != "" {
		return "", fmt.Errorf("%s: section %s has no api_key: state it, or set %s", s.File, s.Section, APIKeyVariable)
	}
	if s.KeyFile == "" {
		return "", fmt.Errorf("%s: there is no API key: state api_key_file, or set %s", s.File, APIKeyVariable)
	}
	if err := checkPrivate(s.KeyFile); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("the API key's file %s does not exist (api_key_file in %s)", s.KeyFile, s.File)
		}
		return "", err
	}
	data, err := os.ReadFile(s.KeyFile)
	if err != nil {
		return "", err
	}
	key := strings.TrimSpace(string(data))
	if key == "" {
		return "", fmt.Errorf("%s is empty: it should hold the API key", s.KeyFile)
	}
	return key, nil
}

// Client returns the client of the service.
func (s *Site) Client(log *slog.Logger, userAgent string) (*usageclient.Client, error) {
	key, err := s.APIKey()
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(s.UsageURL)
	if err == nil && u.Scheme == "http" && !s.InsecureHTTP && !isLoopback(u.Hostname()) {
		return nil, fmt.Errorf("%s: usage_url %s would send the API key in clear text: use https://, or, where the network is trusted, in site.yaml: insecure_http: true, or --insecure-http", s.File, s.UsageURL)
	}
	options := []usageclient.Option{
		usageclient.WithBaseURL(s.UsageURL),
		usageclient.WithUserAgent(userAgent),
		usageclient.WithLogger(log),
		usageclient.WithTimeout(s.RequestTimeout),
		usageclient.WithRetry(s.Retry),
	}
	if s.InsecureHTTP {
		options = append(options, usageclient.WithInsecureHTTP())
	}
	if s.MaxRequestBytes > 0 {
		options = append(options, usageclient.WithMaxRequestBytes(s.MaxRequestBytes))
	}
	tlsConfig, err := s.tls()
	if err != nil {
		return nil, err
	}
	if tlsConfig != nil {
		options = append(options, usageclient.WithTLSConfig(tlsConfig))
	}
	client, err := usageclient.New(s.Name, key, options...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.File, err)
	}
	return client, nil
}

// ServiceTime returns the service's clock, to the second.
func (s *Site) ServiceTime(ctx context.Context) (time.Time, error) {
	config, err := s.tls()
	if err != nil {
		return time.Time{}, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(s.UsageURL, "/")+"/usage/status", nil)
	if err != nil {
		return time.Time{}, err
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, Proxy: http.ProxyFromEnvironment}}
	defer client.CloseIdleConnections()
	answer, err := client.Do(request) // without a key, and so it is refused: that bears the time as well
	if err != nil {
		return time.Time{}, err
	}
	defer answer.Body.Close()
	return http.ParseTime(answer.Header.Get("Date"))
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// CheckResources refuses a configuration by which no job would be reported.
func (s *Site) CheckResources() error {
	if len(s.Rules.Resources) == 0 {
		return fmt.Errorf("%s: no resources, so no job would be reported: state in a site.yaml which jobs ran on which resource and what they cost", s.File)
	}
	return nil
}

// tls returns the TLS configuration that the files state, or nil.
func (s *Site) tls() (*tls.Config, error) {
	if s.CAFile == "" && s.ClientCert == "" && s.ClientKey == "" {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CAFile != "" {
		pem, err := os.ReadFile(s.CAFile)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM form (ca_file in %s)", s.CAFile, s.File)
		}
	}
	if s.ClientCert != "" || s.ClientKey != "" {
		pair, err := tls.LoadX509KeyPair(s.ClientCert, s.ClientKey)
		if err != nil {
			return nil, fmt.Errorf("client_cert and client_key in %s: %w", s.File, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
