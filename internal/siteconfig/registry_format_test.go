package siteconfig

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/amieusage/amieusage/internal/ledger"
)

// TestFormatRegistry writes registries, whatever their names are, and reads them back.
func TestFormatRegistry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(rapid.StringMatching(`[ -~]{1,12}`), rapid.SampledFrom([]string{"yes", "null", "1e3", "0x10", "2026-10-01", "~", "a: b", "- x", "#c", "é", "\u2028", "'", `"`, "{}", "a,b", "\tx"}))
		names := func(of string) []string { return rapid.SliceOfNDistinct(name, 0, 4, rapid.ID[string]).Draw(t, of) }
		spec := &ledger.RegistrySpec{}
		for _, site := range rapid.SliceOfNDistinct(rapid.StringMatching(`[A-Za-z0-9.-]{1,8}`), 1, 3, rapid.ID[string]).Draw(t, "sites") {
			s := ledger.SiteSpec{Name: site}
			s.Resources = append(s.Resources, names("resources")...)
			for _, id := range names("projects") {
				p := ledger.ProjectSpec{ID: id, Users: append([]string{}, names("users")...), Allocations: []ledger.AllocationSpec{}}
				if len(s.Resources) > 0 {
					start := ledger.TimeOf(rapid.Int64Range(0, 3_000_000_000).Draw(t, "start") * 1_000_000_000)
					if rapid.Bool().Draw(t, "whole days") {
						start = ledger.TimeOf(rapid.Int64Range(0, 30_000).Draw(t, "day") * 86_400_000_000_000)
					}
					p.Allocations = append(p.Allocations, ledger.AllocationSpec{
						Resource: s.Resources[0], Amount: rapid.Int64Range(0, 9_000_000_000_000_000_000).Draw(t, "amount"),
						Start: start, End: start.AddDate(0, 0, rapid.IntRange(1, 700).Draw(t, "days")),
					})
				}
				s.Projects = append(s.Projects, p)
			}
			spec.Sites = append(spec.Sites, s)
		}
		text := FormatRegistry(spec)
		again, err := ParseRegistry("registry.yaml", text)
		if err != nil {
			t.Fatalf("%v:\n%s", err, text)
		}
		if diff := cmp.Diff(spec, again); diff != "" {
			t.Fatalf("(-want +got):\n%s\n%s", diff, text)
		}
	})
}
