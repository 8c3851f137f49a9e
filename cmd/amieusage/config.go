package main

import (
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage/internal/siteconfig"
	"github.com/amieusage/amieusage/usageclient"
)

// A configFlags are the flags that name a site's configuration.
type configFlags struct {
	path         string
	section      string
	insecureHTTP bool
	state        string // instead of the configuration's, where set
	resolved     bool
	named        string // the flags that named the configuration, for hints
}

// again returns a command as it can be given behind this one: with the flags that
// named the configuration.
func (f *configFlags) again(command string) string { return "amieusage " + command + f.named }

func (f *configFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.path, "config", "c", "", "the site's configuration, site.yaml, or amieclient's config.ini (or "+configVariable+", or "+defaultConfig+")")
	cmd.Flags().StringVar(&f.section, "section", "", "the section of a config.ini")
	cmd.Flags().BoolVar(&f.insecureHTTP, "insecure-http", false, "send the API key over plain http beyond loopback (insecure_http in site.yaml)")
}

// configVariable names the site's configuration where --config does not, and
// defaultConfig is where it is looked for last.
const (
	configVariable = "AMIEUSAGE_CONFIG"
	defaultConfig  = "/etc/amieusage/site.yaml"
)

// resolve sets what the flag leaves open.
func (f *configFlags) resolve() error {
	if !f.resolved && f.path != "" {
		f.named = " --config " + shellWord(f.path)
		if f.section != "" {
			f.named += " --section " + shellWord(f.section)
		}
		if f.insecureHTTP {
			f.named += " --insecure-http"
		}
	}
	f.resolved = true
	if f.path == "" {
		f.path = os.Getenv(configVariable)
	}
	if f.path != "" {
		return nil
	}
	if _, err := os.Stat(defaultConfig); err != nil {
		return usageError(`required flag(s) "config" not set, nor is %s, and there is no %s`, configVariable, defaultConfig)
	}
	f.path = defaultConfig
	return nil
}

// shellWord returns a text as a shell takes it for one word.
func shellWord(s string) string {
	plain := strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._/-:@%+,", r))
	}) < 0
	if plain && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// load reads the configuration. All its errors are bad configuration.
func (f *configFlags) load() (*siteconfig.Site, error) {
	if err := f.resolve(); err != nil {
		return nil, err
	}
	c, err := siteconfig.Read(f.path, f.section)
	if err != nil {
		return nil, &statusError{exitUsage, err}
	}
	c.InsecureHTTP = c.InsecureHTTP || f.insecureHTTP
	if f.state != "" {
		c.State = f.state
	}
	return c, nil
}

// clientOf returns the client of the site's service. All its errors are bad
// configuration.
func clientOf(c *siteconfig.Site, log *slog.Logger) (*usageclient.Client, error) {
	client, err := c.Client(log, "amieusage/"+version())
	if err != nil {
		return nil, &statusError{exitUsage, err}
	}
	return client, nil
}

// checkResources refuses a configuration by which no job would be reported.
func checkResources(c *siteconfig.Site) error {
	if err := c.CheckResources(); err != nil {
		return &statusError{exitUsage, err}
	}
	return nil
}
