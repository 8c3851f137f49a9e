package siteconfig

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestDraftIsRead: whatever Slurm calls its partitions and accounts, a first site.yaml is one, and says of them what it was
// given.
func TestDraftIsRead(t *testing.T) {
	name := rapid.OneOf(rapid.StringMatching(`[A-Za-z0-9_.@-]{1,12}`), rapid.SampledFrom([]string{"true", "1e3", "0", "GPU*", "null", "a: b", "#x", "x #y", "\"", "'", "{", "é", "\u202e", "a\nb", "-"}))
	names := rapid.SliceOfNDistinct(name, 0, 4, rapid.ID)
	rapid.Check(t, func(t *rapid.T) {
		d := Draft{
			Site: "PSC", Zone: "America/New_York", URL: rapid.SampledFrom([]string{"", "http://127.0.0.1:8642/api/v1"}).Draw(t, "url"),
			Sacct: rapid.SampledFrom([]string{"", "/opt/slurm 24/bin/sacct"}).Draw(t, "sacct"), Clusters: names.Draw(t, "clusters"), Accounts: names.Draw(t, "accounts"),
			Resource: rapid.SampledFrom([]string{"", "rm.psc.example.org"}).Draw(t, "resource"), GPUResource: rapid.SampledFrom([]string{"", "gpu.psc.example.org"}).Draw(t, "gpu"),
		}
		plain := rapid.StringMatching(`[A-Za-z0-9_.@-]{1,12}`) // a partition is a pattern
		d.Partitions = rapid.SliceOfNDistinct(plain, 0, 4, rapid.ID).Draw(t, "partitions")
		d.GPUPartitions = rapid.SliceOfNDistinct(plain, 0, 4, rapid.ID).Draw(t, "GPU partitions")
		text := d.String()
		s, err := ParseSite("site.yaml", []byte(text))
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if !slices.Equal(s.Slurm.Clusters, d.Clusters) || d.Sacct != "" && s.Slurm.Sacct != d.Sacct || d.URL != "" && s.UsageURL != d.URL {
			t.Fatalf("it says something else:\n%s", text)
		}
		var resources []string
		for _, r := range s.Rules.Resources {
			resources = append(resources, r.Name)
			want := d.Partitions
			if r.Name == d.GPUResource {
				want = d.GPUPartitions
			}
			if !slices.Equal(r.Match.Partitions, want) {
				t.Fatalf("resource %s is of partitions %q, want %q, in\n%s", r.Name, r.Match.Partitions, want, text)
			}
		}
		want := slices.DeleteFunc([]string{d.GPUResource, d.Resource}, func(s string) bool { return s == "" })
		if !slices.Equal(resources, want) {
			t.Fatalf("resources %q, want %q, in\n%s", resources, want, text)
		}
		// With the marks of the examples taken away, it is one as well.
		if len(want) == 0 {
			lines := strings.Split(text, "\n")
			for i, line := range lines {
				if line == "# resources:" || strings.HasPrefix(line, "#   - {resource: ") {
					lines[i] = line[2:]
				}
			}
			s, err := ParseSite("site.yaml", []byte(strings.Join(lines, "\n")))
			if err != nil || len(s.Rules.Resources) == 0 {
				t.Fatalf("%v in\n%s", err, strings.Join(lines, "\n"))
			}
		}
	})
}
