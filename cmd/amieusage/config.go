package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cockroachdb/apd/v3"
	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/siterules"
	"github.com/amieusage/amieusage/usageclient"
)

// apiKeyVariable is the environment variable that holds the API key; it goes
// before a file.
const apiKeyVariable = "AMIEUSAGE_API_KEY"

// A siteFile is the YAML form of a site's configuration.
type siteFile struct {
	Site            scalar         `yaml:"site"`
	APIKeyFile      string         `yaml:"api_key_file"`
	UsageURL        scalar         `yaml:"usage_url"`
	InsecureHTTP    bool           `yaml:"insecure_http"`
	CAFile          string         `yaml:"ca_file"`
	ClientCert      string         `yaml:"client_cert"`
	ClientKey       string         `yaml:"client_key"`
	MaxRequestBytes scalar         `yaml:"max_request_bytes"`
	State           string         `yaml:"state"`
	ConfirmWait     scalar         `yaml:"confirm_wait"`
	RequestTimeout  scalar         `yaml:"request_timeout"`
	RetryFor        scalar         `yaml:"retry_for"`
	Slurm           slurmFile      `yaml:"slurm"`
	Resources       []resourceFile `yaml:"resources"`
	Projects        struct {
		Include []scalar          `yaml:"include"`
		Case    scalar            `yaml:"case"`
		Map     map[string]string `yaml:"map"`
	} `yaml:"projects"`
	Users struct {
		Map map[string]string `yaml:"map"`
	} `yaml:"users"`
	ReportZeroElapsed bool `yaml:"report_zero_elapsed"`
}

type slurmFile struct {
	TimeZone scalar `yaml:"time_zone"`
	Lookback scalar `yaml:"lookback"`
	Sacct    string `yaml:"sacct"`
}

type resourceFile struct {
	Resource   scalar   `yaml:"resource"`
	Clusters   []scalar `yaml:"clusters"`
	Partitions []scalar `yaml:"partitions"`
	QOS        []scalar `yaml:"qos"`
	Charge     struct {
		PerHour  map[string]scalar `yaml:"per_hour"`
		Combine  scalar            `yaml:"combine"`
		Decimals *scalar           `yaml:"decimals"`
	} `yaml:"charge"`
}

// A siteConfig is a site's configuration, read and checked.
type siteConfig struct {
	file            string
	site            string
	keyFile         string
	section         string // of an amieclient configuration
	key             string // from there
	usageURL        string
	insecureHTTP    bool
	caFile          string
	clientCert      string
	clientKey       string
	maxRequestBytes int
	state           string
	confirmWait     time.Duration
	requestTimeout  time.Duration // of one attempt
	retry           usageclient.RetryPolicy
	zone            *time.Location // nil: not stated
	lookback        time.Duration
	sacct           string
	rules           siterules.Rules
}

// What a configuration means where it does not say.
const (
	defaultState       = "outbox.db"
	defaultLookback    = 72 * time.Hour
	defaultConfirmWait = 30 * time.Second
)

// A configFlags are the flags that name a site's configuration.
type configFlags struct {
	path         string
	section      string
	insecureHTTP bool
	state        string // instead of the configuration's, where set
}

func (f *configFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.path, "config", "c", "", "the site's configuration, site.yaml, or amieclient's config.ini (required)")
	cmd.Flags().StringVar(&f.section, "section", "", "the section of a config.ini")
	cmd.Flags().BoolVar(&f.insecureHTTP, "insecure-http", false, "send the API key over plain http beyond loopback (insecure_http in site.yaml)")
	markRequired(cmd, "config")
}

// load reads the configuration. All its errors are bad configuration.
func (f *configFlags) load() (*siteConfig, error) {
	c, err := f.read()
	if err != nil {
		return nil, &statusError{exitUsage, err}
	}
	return c, nil
}

func (f *configFlags) read() (*siteConfig, error) {
	data, err := os.ReadFile(f.path)
	if err != nil {
		return nil, err
	}
	var c *siteConfig
	switch filepath.Ext(f.path) {
	case ".yaml", ".yml":
		if f.section != "" {
			return nil, fmt.Errorf("%s has no sections: --section is for amieclient's config.ini", f.path)
		}
	}
	if f.section != "" || strings.HasSuffix(f.path, ".ini") {
		c, err = parseINI(f.path, f.section, data)
	} else {
		c, err = parseSite(f.path, data)
	}
	if err != nil {
		return nil, err
	}
	c.insecureHTTP = c.insecureHTTP || f.insecureHTTP
	// Names of files are relative to the configuration's folder, so that a
	// timer may start the program anywhere.
	for _, name := range []*string{&c.keyFile, &c.caFile, &c.clientCert, &c.clientKey, &c.state} {
		if *name != "" && !filepath.IsAbs(*name) {
			*name = filepath.Join(filepath.Dir(f.path), *name)
		}
	}
	// A program's name without a slash is one to be found on PATH.
	if strings.ContainsRune(c.sacct, '/') && !filepath.IsAbs(c.sacct) {
		if c.sacct, err = filepath.Abs(filepath.Join(filepath.Dir(f.path), c.sacct)); err != nil {
			return nil, err
		}
	}
	if f.state != "" {
		c.state = f.state
	}
	return c, nil
}

func parseSite(name string, data []byte) (*siteConfig, error) {
	var file siteFile
	if err := decodeYAML(name, data, &file); err != nil {
		return nil, err
	}
	c := &siteConfig{
		file:         name,
		site:         file.Site.text,
		keyFile:      file.APIKeyFile,
		usageURL:     file.UsageURL.text,
		insecureHTTP: file.InsecureHTTP,
		caFile:       file.CAFile,
		clientCert:   file.ClientCert,
		clientKey:    file.ClientKey,
		state:        file.State,
		sacct:        file.Slurm.Sacct,
		rules: siterules.Rules{
			Projects: siterules.Projects{
				Include: texts(file.Projects.Include),
				Case:    siterules.Case(file.Projects.Case.text),
				Map:     file.Projects.Map,
			},
			Users:             siterules.Users{Map: file.Users.Map},
			ReportZeroElapsed: file.ReportZeroElapsed,
		},
	}
	if c.site == "" {
		return nil, fmt.Errorf("%s: site is missing: the site's name, as in site: PSC", name)
	}
	if err := checkSiteName(c.site); err != nil {
		return nil, file.Site.problem(name, "site: %w", err)
	}
	if c.usageURL == "" {
		c.usageURL = amieusage.DefaultURL
	}
	if u, err := url.Parse(c.usageURL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, file.UsageURL.problem(name, "usage_url is no http or https address, as in %s", amieusage.DefaultURL)
	}
	if c.state == "" {
		c.state = defaultState
	}
	if c.sacct == "" {
		c.sacct = "sacct"
	}
	var err error
	if c.lookback, err = duration(name, "lookback", file.Slurm.Lookback, defaultLookback); err != nil {
		return nil, err
	}
	if c.confirmWait, err = duration(name, "confirm_wait", file.ConfirmWait, defaultConfirmWait); err != nil {
		return nil, err
	}
	if c.requestTimeout, err = duration(name, "request_timeout", file.RequestTimeout, usageclient.DefaultTimeout); err != nil {
		return nil, err
	}
	if c.requestTimeout == 0 {
		return nil, file.RequestTimeout.problem(name, "request_timeout must be above 0")
	}
	retryFor, err := duration(name, "retry_for", file.RetryFor, 0)
	switch {
	case err != nil:
		return nil, err
	case retryFor > 0:
		c.retry = usageclient.RetryPolicy{MaxElapsed: retryFor, MaxAttempts: math.MaxInt32}
	case file.RetryFor.text != "":
		c.retry = usageclient.RetryPolicy{MaxAttempts: 1}
	}
	if s := file.MaxRequestBytes; s.text != "" {
		if c.maxRequestBytes, err = strconv.Atoi(s.text); err != nil || c.maxRequestBytes < 1024 || c.maxRequestBytes > amieusage.MaxRequestBytes {
			return nil, s.problem(name, "max_request_bytes must be a whole number from 1024 to %d", amieusage.MaxRequestBytes)
		}
	}
	if z := file.Slurm.TimeZone; z.text != "" {
		if c.zone, err = time.LoadLocation(z.text); err != nil {
			return nil, z.problem(name, "time_zone %q is no time zone, as in America/New_York or UTC", z.text)
		}
	}
	for i := range file.Resources {
		if file.Resources[i].Resource.text == "" {
			return nil, placeOf(data, fmt.Sprintf("$.resources[%d]", i)).problem(name, "resource %d has no name: state it, as in resource: bridges2-rm.psc.access-ci.org", i+1)
		}
		r, err := file.Resources[i].rule(name)
		if err != nil {
			return nil, err
		}
		c.rules.Resources = append(c.rules.Resources, r)
	}
	projects := siterules.Rules{Projects: siterules.Projects{Case: c.rules.Projects.Case}}
	if err := projects.Check(); err != nil {
		return nil, file.Projects.Case.problem(name, "%w", err)
	}
	for _, pattern := range file.Projects.Include {
		projects.Projects.Include = []string{pattern.text}
		if err := projects.Check(); err != nil {
			return nil, pattern.problem(name, "%w", err)
		}
	}
	return c, nil
}

func (r *resourceFile) rule(file string) (siterules.Resource, error) {
	rule := siterules.Resource{
		Name:  r.Resource.text,
		Match: siterules.Match{Clusters: texts(r.Clusters), Partitions: texts(r.Partitions), QOS: texts(r.QOS)},
		Rates: []siterules.Rate{{
			PerHour:  map[string]*apd.Decimal{},
			Combine:  siterules.Combine(r.Charge.Combine.text),
			Decimals: siterules.MaxDecimals,
		}},
	}
	for tres, rate := range r.Charge.PerHour {
		d, _, err := apd.NewFromString(rate.text)
		if err != nil {
			return rule, rate.near(r.Resource).problem(file, "the rate of %s is not a decimal number: %q", tres, rate.text)
		}
		rule.Rates[0].PerHour[tres] = d
	}
	if d := r.Charge.Decimals; d != nil {
		n, err := strconv.Atoi(d.text)
		if err != nil {
			return rule, d.problem(file, "decimals must be a whole number from 0 to %d", siterules.MaxDecimals)
		}
		rule.Rates[0].Decimals = n
	}
	if err := (&siterules.Rules{Resources: []siterules.Resource{rule}}).Check(); err != nil {
		return rule, r.Resource.problem(file, "%w", err)
	}
	return rule, nil
}

func texts(scalars []scalar) []string {
	var list []string
	for _, s := range scalars {
		list = append(list, s.text)
	}
	return list
}

func duration(file, key string, s scalar, standard time.Duration) (time.Duration, error) {
	if s.text == "" {
		return standard, nil
	}
	d, err := time.ParseDuration(s.text)
	if err != nil || d < 0 {
		return 0, s.problem(file, "%s must be a duration such as 72h or 30m, not %q", key, s.text)
	}
	return d, nil
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

// apiKey returns the key, from the environment or from its file.
func (c *siteConfig) apiKey() (string, error) {
	if key := strings.TrimSpace(os.Getenv(apiKeyVariable)); key != "" {
		return key, nil
	}
	if c.key != "" {
		return c.key, nil
	}
	if c.section != "" {
		return "", fmt.Errorf("%s: section %s has no api_key: state it, or set %s", c.file, c.section, apiKeyVariable)
	}
	if c.keyFile == "" {
		return "", fmt.Errorf("%s: there is no API key: state api_key_file, or set %s", c.file, apiKeyVariable)
	}
	if err := checkPrivate(c.keyFile); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("the API key's file %s does not exist (api_key_file in %s)", c.keyFile, c.file)
		}
		return "", err
	}
	data, err := os.ReadFile(c.keyFile)
	if err != nil {
		return "", err
	}
	key := strings.TrimSpace(string(data))
	if key == "" {
		return "", fmt.Errorf("%s is empty: it should hold the API key", c.keyFile)
	}
	return key, nil
}

// client returns the client of the service. All its errors are bad
// configuration.
func (c *siteConfig) client(log *slog.Logger) (*usageclient.Client, error) {
	key, err := c.apiKey()
	if err != nil {
		return nil, &statusError{exitUsage, err}
	}
	options := []usageclient.Option{
		usageclient.WithBaseURL(c.usageURL),
		usageclient.WithUserAgent("amieusage/" + version()),
		usageclient.WithLogger(log),
		usageclient.WithTimeout(c.requestTimeout),
		usageclient.WithRetry(c.retry),
	}
	if c.insecureHTTP {
		options = append(options, usageclient.WithInsecureHTTP())
	}
	if c.maxRequestBytes > 0 {
		options = append(options, usageclient.WithMaxRequestBytes(c.maxRequestBytes))
	}
	tlsConfig, err := c.tls()
	if err != nil {
		return nil, &statusError{exitUsage, err}
	}
	if tlsConfig != nil {
		options = append(options, usageclient.WithTLSConfig(tlsConfig))
	}
	client, err := usageclient.New(c.site, key, options...)
	if err != nil {
		err = fmt.Errorf("%s: %w", c.file, err)
		if u, parseErr := url.Parse(c.usageURL); parseErr == nil && u.Scheme == "http" && !c.insecureHTTP &&
			!isLoopback(net.JoinHostPort(u.Hostname(), "")) {
			err = fmt.Errorf("%w; in site.yaml: insecure_http: true, or --insecure-http", err)
		}
		return nil, &statusError{exitUsage, err}
	}
	return client, nil
}

// checkResources refuses a configuration by which no job would be reported.
func (c *siteConfig) checkResources() error {
	if len(c.rules.Resources) == 0 {
		return usageError("%s: no resources, so no job would be reported: state in a site.yaml which jobs ran on which resource and what they cost", c.file)
	}
	return nil
}

// tls returns the TLS configuration that the files state, or nil.
func (c *siteConfig) tls() (*tls.Config, error) {
	if c.caFile == "" && c.clientCert == "" && c.clientKey == "" {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.caFile != "" {
		pem, err := os.ReadFile(c.caFile)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM form (ca_file in %s)", c.caFile, c.file)
		}
	}
	if c.clientCert != "" || c.clientKey != "" {
		pair, err := tls.LoadX509KeyPair(c.clientCert, c.clientKey)
		if err != nil {
			return nil, fmt.Errorf("client_cert and client_key in %s: %w", c.file, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
