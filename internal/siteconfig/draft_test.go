package siteconfig

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestDraftIsRead: whatever Slurm calls its clusters, partitions and accounts, a first site.yaml is one. It reports the
// resources that are known, each of its own partitions, and the others as soon as the marks before them are taken away.
func TestDraftIsRead(t *testing.T) {
	name := rapid.OneOf(rapid.StringMatching(`[A-Za-z0-9_.@-]{1,12}`), rapid.SampledFrom([]string{"true", "1e3", "0", "GPU*", "null", "a: b", "#x", "x #y", "\"", "'", "{", "é", "\u202e", "a\nb", "-"}))
	names := rapid.SliceOfNDistinct(name, 0, 25, rapid.ID)
	plain := rapid.SliceOfNDistinct(rapid.StringMatching(`[A-Za-z0-9_.@-]{1,12}`), 0, 4, rapid.ID) // a partition is a pattern
	rapid.Check(t, func(t *rapid.T) {
		d := Draft{
			Site: "PSC", Zone: "America/New_York", URL: rapid.SampledFrom([]string{"", "http://127.0.0.1:8642/api/v1"}).Draw(t, "url"),
			Sacct:   rapid.SampledFrom([]string{"", "/opt/slurm 24/bin/sacct"}).Draw(t, "sacct"),
			Cluster: rapid.OneOf(rapid.Just(""), name).Draw(t, "cluster"), Others: names.Draw(t, "others"), Accounts: names.Draw(t, "accounts"),
		}
		var whole, all []DraftResource
		for _, r := range []DraftResource{{Example: "gpu.example.org", TRES: "gres/gpu"}, {Example: "cpu.example.org", TRES: "cpu"}} {
			r.Name = rapid.SampledFrom([]string{"", "known." + r.Example}).Draw(t, "name")
			r.Partitions = plain.Draw(t, "partitions")
			if d.Resources = append(d.Resources, r); r.IsWhole() {
				whole = append(whole, r)
			}
			if r.Name == "" {
				r.Name = r.Example
			}
			if len(r.Partitions) == 0 {
				r.Partitions = []string{"PARTITION"}
			}
			all = append(all, r)
		}
		check := func(text string, want []DraftResource) {
			s, err := ParseSite("site.yaml", []byte(text))
			if err != nil {
				t.Fatalf("%v in\n%s", err, text)
			}
			if d.Cluster != "" && !slices.Equal(s.Slurm.Clusters, []string{d.Cluster}) || d.Sacct != "" && s.Slurm.Sacct != d.Sacct || d.URL != "" && s.UsageURL != d.URL {
				t.Fatalf("it says something else:\n%s", text)
			}
			if len(s.Rules.Resources) != len(want) {
				t.Fatalf("%d resources, want %d, in\n%s", len(s.Rules.Resources), len(want), text)
			}
			for i, r := range s.Rules.Resources {
				if _, charged := r.Rates[0].PerHour[want[i].TRES]; r.Name != want[i].Name || !slices.Equal(r.Match.Partitions, want[i].Partitions) || !charged {
					t.Fatalf("resource %s is of partitions %q, want %+v, in\n%s", r.Name, r.Match.Partitions, want[i], text)
				}
			}
		}
		text := d.String()
		check(text, whole)
		lines := strings.Split(text, "\n")
		for i, line := range lines {
			if line == "# resources:" || strings.HasPrefix(line, "#   - {resource: ") {
				lines[i] = line[2:]
			}
		}
		check(strings.Join(lines, "\n"), all)
	})
}
