package siteconfig

import (
	"fmt"
	"strings"

	"gopkg.in/ini.v1"

	"github.com/amieusage/amieusage"
)

// asConfigparser reads what Python's configparser, which amieclient's users read
// their configuration with, reads: nothing behind a value is a comment, quotes
// and backslashes are part of it, keys come in any letter case, and no section
// is another's child.
var asConfigparser = ini.LoadOptions{
	IgnoreInlineComment:     true,
	IgnoreContinuation:      true,
	PreserveSurroundedQuote: true,
	InsensitiveKeys:         true,
	ChildSectionDelimiter:   "\n",
}

// ParseINI reads one section of the configuration that amieclient's users
// keep: site_name, api_key and usage_url. What it does not state is taken from
// the section DEFAULT.
func ParseINI(name, section string, data []byte) (*Site, error) {
	file, err := ini.LoadSources(asConfigparser, data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var known []string
	for _, s := range file.SectionStrings() {
		if s != ini.DefaultSection {
			known = append(known, s)
		}
	}
	if section == "" {
		return nil, fmt.Errorf("%s: name a section with --section: it has %s", name, strings.Join(known, ", "))
	}
	s, err := file.GetSection(section)
	if err != nil {
		return nil, fmt.Errorf("%s: there is no section %q: it has %s", name, section, strings.Join(known, ", "))
	}
	c := newSite(name)
	c.Section = section
	c.UsageURL = ""
	for _, key := range []struct {
		name  string
		value *string
	}{{"site_name", &c.Name}, {"api_key", &c.key}, {"usage_url", &c.UsageURL}} {
		from := s
		if !s.HasKey(key.name) {
			from = file.Section(ini.DefaultSection)
		}
		value := from.Key(key.name).Value() // as it stands: two keys may refer to one another for ever
		if strings.Contains(value, "%(") {
			return nil, fmt.Errorf("%s: section %s: %s refers to another key with %%(…): state the value itself", name, section, key.name)
		}
		*key.value = strings.ReplaceAll(value, "%%", "%")
	}
	if c.Name == "" {
		return nil, fmt.Errorf("%s: section %s has no site_name", name, section)
	}
	if c.UsageURL == "" {
		c.UsageURL = amieusage.DefaultURL
	}
	if c.key != "" {
		if err := checkPrivate(name); err != nil {
			return nil, err
		}
	}
	return c, nil
}
