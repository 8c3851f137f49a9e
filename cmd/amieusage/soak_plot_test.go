package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"image/color"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// A soakLine is one thing that a soak measures over time.
type soakLine struct {
	name, unit string
	figure     string // it is drawn in soak-FIGURE.svg
	panel      string // and there among those of the same panel
	// It climbs where the median of the last quarter is more than factor times
	// that of the second, and slack. A factor of 0: it may.
	factor, slack float64
	measure       func(*soakState) float64
}

func (l *soakLine) file() string { return "soak-" + l.figure + ".svg" }

const mib = 1 << 20

// soakLines are all lines, in order of figures and panels. What depends on how
// busy the machine is may vary by seconds; a log is moved into its file when it
// has reached 80 MiB.
var soakLines = []soakLine{
	{"serve, resident", "MiB", "memory", "memory, MiB", 1.25, 16, func(s *soakState) float64 { return s.rss }},
	{"serve, highest since its start", "MiB", "memory", "memory, MiB", 0, 0, func(s *soakState) float64 { return s.peak }},
	{"report, highest of a run", "MiB", "memory", "memory, MiB", 1.25, 16, func(s *soakState) float64 { return s.report.mib }},
	{"open files of serve", "", "files", "open files, threads", 1, 16, func(s *soakState) float64 { return s.files }},
	{"threads of serve", "", "files", "open files, threads", 1, 16, func(s *soakState) float64 { return s.threads }},
	{"ledger", "MiB", "database", "size, MiB", 0, 0, func(s *soakState) float64 { return s.bytes["ledger.db"] / mib }},
	{"outbox", "MiB", "database", "size, MiB", 0, 0, func(s *soakState) float64 { return s.bytes["outbox.db"] / mib }},
	{"ledger, for each record", "bytes", "database", "bytes a record", 1.05, 8, func(s *soakState) float64 { return each(s.bytes["ledger.db"], s.records) }},
	{"outbox, for each record", "bytes", "database", "bytes a record", 1.05, 8, func(s *soakState) float64 { return each(s.bytes["outbox.db"], s.entries) }},
	{"log of the ledger", "MiB", "database", "write-ahead log, MiB", 1, 80, func(s *soakState) float64 { return s.bytes["ledger.db-wal"] / mib }},
	{"log of the outbox", "MiB", "database", "write-ahead log, MiB", 1, 80, func(s *soakState) float64 { return s.bytes["outbox.db-wal"] / mib }},
	{"accept, p50", "ms", "latency", "wait for the answer, ms", 2, 20, func(s *soakState) float64 { return s.p50 }},
	{"accept, p99", "ms", "latency", "wait for the answer, ms", 2, 250, func(s *soakState) float64 { return s.p99 }},
	{"accepted, not loaded", "records", "queue", "records that wait", 1.5, soakRate, func(s *soakState) float64 { return s.queued }},
	{"in the outbox, not confirmed", "records", "queue", "records that wait", 1.5, 15 * soakRate, func(s *soakState) float64 { return s.open }},
	{"new records a second", "", "queue", "records a second", 0, 0, func(s *soakState) float64 { return s.rate }},
	{"a run of report", "s", "queue", "length of a run, s", 2, 15, func(s *soakState) float64 { return s.report.seconds }},
	{"report, processor time for 1,000 jobs", "ms", "queue", "processor time for 1,000 jobs, ms", 1.5, 20, func(s *soakState) float64 { return s.report.cpu }},
}

// each is the bytes for each record, once there are enough of them to tell.
func each(bytes, records float64) float64 {
	if records < 5*soakRate {
		return math.NaN()
	}
	return bytes / records
}

// A soakReport is what a soak is drawn and judged by.
type soakReport struct {
	*soak
	samples []soakSample
}

// quarter returns the median of a line in a quarter of the time, 0 to 3.
func (r *soakReport) quarter(line, n int) float64 {
	var in []float64
	for _, s := range r.samples {
		if v := s.values[line]; int(4*s.at/r.length) == n && !math.IsNaN(v) {
			in = append(in, v)
		}
	}
	if len(in) == 0 {
		return math.NaN()
	}
	slices.Sort(in)
	return in[len(in)/2]
}

func (r *soakReport) allowed(line int) float64 {
	l := soakLines[line]
	return l.factor*r.quarter(line, 1) + l.slack
}

// records is how many records were in the ledger at the last sample, and when
// that was.
func (r *soakReport) records() (n float64, at time.Duration) {
	for _, s := range slices.Backward(r.samples) {
		if !math.IsNaN(s.records) {
			return s.records, s.at
		}
	}
	return 0, 0
}

// check checks the files, the rate and, where the soak was long enough for
// that, that no line climbed.
func (r *soakReport) check(t *testing.T, folder string) {
	t.Helper()
	for _, name := range r.figures() {
		data, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if len(data) > 200<<10 {
			t.Errorf("%s has %d bytes", name, len(data))
		}
		for d := xml.NewDecoder(bytes.NewReader(data)); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	least := 0.25
	if r.length >= soakJudged {
		least = 0.95
		for i, l := range soakLines {
			if last := r.quarter(i, 3); l.factor > 0 && !(last <= r.allowed(i)) {
				t.Errorf("%s climbed from %.1f in the second quarter to %.1f %s in the last; %.1f is allowed",
					l.name, r.quarter(i, 1), last, l.unit, r.allowed(i))
			}
		}
	}
	n, at := r.records()
	if rate := n / at.Seconds(); !(rate >= least*soakRate) {
		t.Errorf("%.0f records a second came to the ledger, of %d", rate, soakRate)
	}
}

// figures are the names of the files of the plots.
func (r *soakReport) figures() (names []string) {
	for _, l := range soakLines {
		if name := l.file(); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// write writes the plots and SOAK.md.
func (r *soakReport) write(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	var b bytes.Buffer
	n, at := r.records()
	kills := 0
	for _, m := range r.marks {
		if m.killed {
			kills++
		}
	}
	fmt.Fprintf(&b, `# Soak

Written by %[1]smake soak%[1]s: the service and the agent as processes on SQLite files,
%[2]d new records a second by the clock. Every %[3]s %[1]samieusage report%[1]s is given a
dump of what ended since the last run and in the %[4]d seconds before it, with
corrections, rows that cannot be read and jobs of an unknown project; %[5]d records
a second come from a direct client, in messages of %[6]d, whose wait for the answer
is the latency here, over restarts too.

`, "`", soakRate, r.period, soakOverlap, soakRate-jobRate, probeRecords)
	fmt.Fprintf(&b, "Machine: %d cores, %s, %s, %s.\n\n", runtime.NumCPU(), processor(), runtime.Version(), r.start.UTC().Format(time.DateOnly))
	fmt.Fprintf(&b, "| | |\n|---|---|\n| length | %s |\n| new records in the ledger | %.0f, %.0f a second |\n", r.length, n, n/at.Seconds())
	fmt.Fprintf(&b, "| restarts of the service | %d by SIGKILL, %d by SIGTERM |\n| runs of the agent | %d, and %d killed |\n| seed | %d |\n\n",
		kills, len(r.marks)-kills, r.runs, r.killed, r.seed)
	judged := "It also fails where a line climbs: where the median of\n" +
		"the last quarter is beyond what is allowed by that of the second.\n\n"
	if r.length < soakJudged {
		judged = "It was too short to tell whether a\nline climbs.\n\n"
	}
	b.WriteString("In the end each record was in the ledger once, at its last charge, or in the outbox\n" +
		"with the reason why not, and `amieusage admin verify` found the ledger whole:\n" +
		"otherwise the run fails. " + judged +
		"| line | first quarter | second | last | allowed |\n|---|---|---|---|---|\n")
	for i, l := range soakLines {
		name := l.name
		if l.unit != "" {
			name += ", " + l.unit
		}
		allowed := "-"
		if l.factor > 0 {
			allowed = fmt.Sprintf("%.1f", r.allowed(i))
		}
		fmt.Fprintf(&b, "| %s | %.1f | %.1f | %.1f | %s |\n", name, r.quarter(i, 0), r.quarter(i, 1), r.quarter(i, 3), allowed)
	}
	b.WriteString("\nDashed lines are restarts of the service: red by SIGKILL, grey by SIGTERM.\n")
	for _, name := range r.figures() {
		if err := r.draw(filepath.Join(folder, name)); err != nil {
			return err
		}
		fmt.Fprintf(&b, "\n![%s](%s)\n", strings.TrimSuffix(strings.TrimPrefix(name, "soak-"), ".svg"), name)
	}
	return os.WriteFile(filepath.Join(folder, "SOAK.md"), b.Bytes(), 0o644)
}

// processor is the name of the machine's processor.
func processor() string {
	data, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(data)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

var soakColors = []color.Color{
	color.RGBA{R: 0x1f, G: 0x77, B: 0xb4, A: 0xff},
	color.RGBA{R: 0xd9, G: 0x5f, B: 0x02, A: 0xff},
	color.RGBA{R: 0x2c, G: 0xa0, B: 0x2c, A: 0xff},
}

// draw draws the panels of one figure below each other.
func (r *soakReport) draw(path string) error {
	var rows [][]*plot.Plot
	lines := 0 // of the panel
	for i, l := range soakLines {
		if filepath.Base(path) != l.file() {
			continue
		}
		if len(rows) == 0 || rows[len(rows)-1][0].Title.Text != l.panel {
			rows, lines = append(rows, []*plot.Plot{r.panel(l.panel)}), 0
		}
		line, err := plotter.NewLine(r.points(i))
		if err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
		line.Color, line.Width = soakColors[lines], vg.Points(1.2)
		lines++
		p := rows[len(rows)-1][0]
		p.Add(line)
		p.Legend.Add(l.name, line)
	}
	svg := vgsvg.New(vg.Points(760), vg.Points(float64(250*len(rows))))
	tiles := draw.Tiles{Rows: len(rows), Cols: 1, PadTop: 6, PadBottom: 6, PadLeft: 6, PadRight: 16, PadY: 12}
	canvases := plot.Align(rows, tiles, draw.New(svg))
	for i, row := range rows {
		p := row[0]
		p.X.Min, p.X.Max = 0, r.length.Minutes()
		p.X.Tick.Marker, p.Y.Tick.Marker = plainTicks{12}, plainTicks{6}
		if strings.HasPrefix(p.Title.Text, "wait") {
			// A restart is a thousand times longer than an ordinary wait.
			p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
			p.Y.Min, p.Y.Max = math.Pow(10, math.Floor(math.Log10(p.Y.Min))), math.Pow(10, math.Ceil(math.Log10(2*p.Y.Max)))
		} else {
			p.Y.Min, p.Y.Max = 0, max(1, 1.35*p.Y.Max) // room for the legend
		}
		p.Draw(canvases[i][0])
	}
	var b bytes.Buffer
	if _, err := svg.WriteTo(&b); err != nil {
		return err
	}
	// Few machines have that font.
	text := bytes.ReplaceAll(b.Bytes(), []byte("font-family:Liberation Sans;"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif;"))
	return os.WriteFile(path, text, 0o644)
}

// plainTicks are up to so many ticks at multiples of 1, 2 or 5.
type plainTicks struct{ most float64 }

// Ticks returns the ticks in [low, high].
func (t plainTicks) Ticks(low, high float64) (ticks []plot.Tick) {
	step := math.Pow(10, math.Floor(math.Log10((high-low)/t.most)))
	for _, factor := range []float64{1, 2, 5, 10} {
		if (high-low)/(factor*step) <= t.most {
			step *= factor
			break
		}
	}
	for n := math.Ceil(low / step); n*step <= high; n++ {
		ticks = append(ticks, plot.Tick{Value: n * step, Label: strconv.FormatFloat(n*step, 'g', 6, 64)})
	}
	return ticks
}

// panel returns an empty panel with the restarts in it.
func (r *soakReport) panel(title string) *plot.Plot {
	plot.DefaultFont.Variant = "Sans"
	p := plot.New()
	p.Title.Text, p.X.Label.Text = title, "minutes"
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.XOffs, p.Legend.YOffs, p.Legend.Padding = vg.Points(8), vg.Points(-4), vg.Points(3)
	p.Add(plotter.NewGrid(), soakMarks(r.marks))
	return p
}

// points are those of a line that have a value.
func (r *soakReport) points(line int) (points plotter.XYs) {
	for _, s := range r.samples {
		if v := s.values[line]; !math.IsNaN(v) && !math.IsInf(v, 0) {
			points = append(points, plotter.XY{X: s.at.Minutes(), Y: v})
		}
	}
	return points
}

// soakMarks are drawn as vertical lines.
type soakMarks []soakMark

func (m soakMarks) Plot(c draw.Canvas, p *plot.Plot) {
	x, _ := p.Transforms(&c)
	for _, mark := range m {
		style := draw.LineStyle{Color: color.Gray{Y: 0x80}, Width: vg.Points(0.8), Dashes: []vg.Length{vg.Points(4), vg.Points(3)}}
		if mark.killed {
			style.Color = color.RGBA{R: 0xc0, A: 0xff}
		}
		at := x(mark.at.Minutes())
		c.StrokeLine2(style, at, c.Min.Y, at, c.Max.Y)
	}
}
