package slurm

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestTimeParserUnknown(t *testing.T) {
	p := timeParser{}
	for _, s := range []string{"", "0", "Unknown", "None", "N/A"} {
		if got, err := p.parse(s); err != nil || !got.IsZero() {
			t.Errorf("%q: got %s, %v; want the zero time", s, got, err)
		}
	}
}

func TestTimeParserRefuses(t *testing.T) {
	p := timeParser{zone: time.UTC}
	for _, s := range []string{"x", "-1", "1e9", "253402300800", "99999999999999999999", "2026-11-22", "2026-11-22T11:28", "2026-13-01T00:00:00",
		"2026-00-01T00:00:00", "2026-02-29T00:00:00", "2026-11-22T24:00:00", "2026-11-22T00:60:00", "2026-11-22T00:00:60", "2026-11-22T11:28:07x",
		"2026-11-22T11:28:07+", "2026-11-22T11:28:07+5", "2026-11-22T11:28:07+24:00", "2026-11-22T11:28:07+05-00", "2026-11-22T11:28:07.5", "2026/11/22T11:28:07"} {
		if got, err := p.parse(s); err == nil || err.final || err.remedy == "" {
			t.Errorf("%q: got %s, %v; want an error with a remedy", s, got, err)
		}
	}
}

// TestTimeParserZones checks every naive time, in any order, against all instants that the zone shows as it.
func TestTimeParserZones(t *testing.T) {
	zones := []string{"UTC", "America/New_York", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca",
		"America/St_Johns", "Asia/Manila", "Europe/Dublin"}
	from := time.Date(2005, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	to := time.Date(2045, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	rapid.Check(t, func(t *rapid.T) {
		zone, err := time.LoadLocation(rapid.SampledFrom(zones).Draw(t, "zone"))
		if err != nil {
			t.Fatal(err)
		}
		p := timeParser{zone: zone}
		for range rapid.IntRange(1, 30).Draw(t, "times") {
			wall := rapid.Int64Range(from, to).Draw(t, "wall")
			if rapid.Bool().Draw(t, "near a change of the clocks") {
				if _, end := time.Unix(wall, 0).In(zone).ZoneBounds(); !end.IsZero() {
					_, offset := end.Zone()
					wall = end.Unix() + int64(offset) + rapid.Int64Range(-3*3600, 3*3600).Draw(t, "off by")
				}
			}
			var instants []time.Time
			for offset := int64(-15 * 3600); offset <= 15*3600; offset += 15 * 60 {
				at := time.Unix(wall-offset, 0).In(zone)
				if _, o := at.Zone(); int64(o) == offset {
					instants = append(instants, at)
				}
			}
			text := time.Unix(wall, 0).UTC().Format("2006-01-02T15:04:05")
			got, ferr := p.parse(text)
			switch {
			case len(instants) == 1 && (ferr != nil || !got.Equal(instants[0])):
				t.Fatalf("%s in %s: got %s, %v; want %s", text, zone, got, ferr, instants[0])
			case len(instants) != 1 && (ferr == nil || ferr.final):
				t.Fatalf("%s in %s happened at %v: got %s, %v; want an error", text, zone, instants, got, ferr)
			}
		}
	})
}
