package siteconfig

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// slowINI reads what amieclient's users' configuration says of a key, as Python's
// configparser does: no comments behind a value, no escapes, no quotes, keys in
// any letter case, and [DEFAULT] for all. ok is false for what is not plain:
// several lines of a value, interpolation, anything given twice.
func slowINI(text, section, key string) (value string, ok bool) {
	values := map[string]map[string]string{}
	in := ""
	for line := range strings.SplitSeq(text, "\n") {
		trimmed := strings.TrimSpace(line)
		switch {
		case trimmed == "", trimmed[0] == '#', trimmed[0] == ';':
			continue
		case trimmed != line, strings.ContainsAny(line, "%`\\\r\t\v\f") || strings.Contains(line, `"""`):
			return "", false
		case line[0] == '[':
			end := strings.IndexByte(line, ']')
			if end != len(line)-1 || end < 2 || values[line[1:end]] != nil {
				return "", false
			}
			in = line[1:end]
			values[in] = map[string]string{}
		default:
			i := strings.IndexAny(line, "=:")
			if i < 1 || in == "" {
				return "", false
			}
			name := strings.ToLower(strings.TrimSpace(line[:i]))
			if _, twice := values[in][name]; twice || strings.ContainsAny(name, `"'`) {
				return "", false
			}
			values[in][name] = strings.TrimSpace(line[i+1:])
		}
	}
	if values[section] == nil {
		return "", false
	}
	if value, found := values[section][key]; found {
		return value, true
	}
	return values["DEFAULT"][key], true
}

// A configuration of amieclient's users is read as amieclient reads it.
func FuzzINI(f *testing.F) {
	addScriptFiles(f, ".ini")
	for _, s := range []string{"", "[PSC]", "[PSC]\nsite_name = PSC\napi_key = a#b;c\n", "[PSC]\nSITE_NAME: PSC\nApi_Key=\"quoted\"\n", "[DEFAULT]\nusage_url = https://usage.example.org/api/v1\n[PSC]\nsite_name=PSC\n",
		"[PSC]\nsite_name = PSC\napi_key = ends in \\\nusage_url = x\n", "[PSC]\nsite_name = %(a)s\na = %(site_name)s\n", "; comment\n[PSC]\nsite_name = 'PSC\n", "[PSC]\nsite_name = `PSC`\n",
		"[PSC]\nsite_name = \"\"\"PSC\nx\"\"\"\n", "[PSC\n", "site_name = PSC\n", "[PSC]\nsite_name = PSC\n[PSC.x]\napi_key = k\n"} {
		f.Add([]byte(s))
	}
	// A file with a key must be private: ParseINI looks at it.
	name := filepath.Join(f.TempDir(), "config.ini")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		sections := []string{"PSC", ""}
		if _, rest, ok := bytes.Cut(data, []byte("[")); ok {
			section, _, _ := bytes.Cut(rest, []byte("]"))
			sections = append(sections, string(section))
		}
		for _, section := range sections {
			c, err := ParseINI(name, section, data)
			again, againErr := ParseINI(name, section, data)
			if (err == nil) != (againErr == nil) || !reflect.DeepEqual(c, again) {
				t.Fatalf("%+v, %v, and then %+v, %v", c, err, again, againErr)
			}
			if err != nil && !strings.HasPrefix(err.Error(), name+": ") {
				t.Fatalf("%q does not name the file", err)
			}
			if err == nil && (c.Name == "" || c.UsageURL == "" || section == "") {
				t.Fatalf("%+v", c)
			}
			site, plain := slowINI(string(data), section, "site_name")
			if !plain || section == "DEFAULT" {
				continue
			}
			if (err == nil) != (site != "") {
				t.Fatalf("section %q of %q: %v; configparser finds the site %q", section, data, err, site)
			}
			if err != nil {
				continue
			}
			key, _ := slowINI(string(data), section, "api_key")
			address, _ := slowINI(string(data), section, "usage_url")
			if c.Name != site || c.key != key || address != "" && c.UsageURL != address {
				t.Fatalf("section %q of %q: site %q, key %q, address %q; configparser has %q, %q, %q", section, data, c.Name, c.key, c.UsageURL, site, key, address)
			}
		}
	})
}
