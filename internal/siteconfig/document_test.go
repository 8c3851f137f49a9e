package siteconfig

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage/internal/ledger"
)

// documented lists the keys of one file in docs/CONFIG.md, each with the places at which it has a whole row.
func documented(t *testing.T, text string) map[string][]string {
	t.Helper()
	keys := map[string][]string{}
	place := ""
	row := regexp.MustCompile("^\\| `([^`]+)` \\|")
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if heading, ok := strings.CutPrefix(line, "### "); ok {
			place = heading
			continue
		}
		m := row.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if len(cells) != 5 || strings.TrimSpace(cells[1]) == "" || strings.TrimSpace(cells[4]) == "" {
			t.Errorf("%s: the row of %s has no type, or does not say what it means: %s", place, m[1], line)
		}
		keys[m[1]] = append(keys[m[1]], place)
	}
	return keys
}

// sorted sorts the places.
func sorted(keys map[string][]string) map[string][]string {
	for _, places := range keys {
		slices.Sort(places)
	}
	return keys
}

// TestDocument holds docs/CONFIG.md against the readers: every key, and every example.
func TestDocument(t *testing.T) {
	data, err := os.ReadFile("../../docs/CONFIG.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(data), "\n## site.yaml\n")
	site, registryText, ok := strings.Cut(text, "\n## registry.yaml\n")
	if !ok {
		t.Fatal("there is no part on registry.yaml")
	}
	if diff := cmp.Diff(sorted(known(newSite("site.yaml").reader(&ruleFile{}, new(*time.Location)))), sorted(documented(t, site))); diff != "" {
		t.Errorf("keys of site.yaml: the reader's (-) and docs/CONFIG.md's (+):\n%s", diff)
	}
	if diff := cmp.Diff(sorted(known(registry(&ledger.RegistrySpec{}))), sorted(documented(t, registryText))); diff != "" {
		t.Errorf("keys of registry.yaml: the reader's (-) and docs/CONFIG.md's (+):\n%s", diff)
	}
	example := regexp.MustCompile("(?s)```yaml\n(.*?)```")
	for i, m := range example.FindAllStringSubmatch(site, -1) {
		if _, err := ParseSite("site.yaml", []byte(m[1])); err != nil {
			t.Errorf("example %d of site.yaml: %v", i+1, err)
		}
	}
	for i, m := range example.FindAllStringSubmatch(registryText, -1) {
		if _, err := ParseRegistry("registry.yaml", []byte(m[1])); err != nil {
			t.Errorf("example %d of registry.yaml: %v", i+1, err)
		}
	}
}
