// Package storage makes records of what file systems report: a reading is what one file system held at one time, by project
// and user, and what it costs follows from that reading and the one before it.
package storage

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/siterules"
)

// A Row is one line of a report. Of the names that say whose it is, it has those that the report gives.
type Row struct {
	Place      scheduler.Place
	FileSystem string // file system or mount point; "": the report does not say
	Fileset    string
	ProjectID  string
	Path       string
	Group      string
	PI         string
	User       string // name or number; "": the total of a tree
	Bytes      int64
	Files      int64
	At         time.Time // when it was read; zero: the report does not say
}

// A From names the name of a row that says whose it is.
type From string

// The names.
const (
	FromFileset   From = "fileset"
	FromProjectID From = "project_id"
	FromPath      From = "path"
	FromGroup     From = "group"
	FromPI        From = "pi"
	FromUser      From = "user"
)

// Froms are all of them.
var Froms = []From{FromFileset, FromProjectID, FromPath, FromGroup, FromPI, FromUser}

// tree returns what the row says of whose it is.
func (r *Row) tree(from From) string {
	switch from {
	case FromFileset:
		return r.Fileset
	case FromProjectID:
		return r.ProjectID
	case FromPath:
		return r.Path
	case FromGroup:
		return r.Group
	case FromPI:
		return r.PI
	}
	return r.User
}

// A Use is what a user of a project holds on a mount point.
type Use struct {
	Mount    string `json:"mount"`
	Project  string `json:"project"`
	User     string `json:"user"`
	Resource string `json:"resource"`
	Bytes    int64  `json:"bytes"`
	Files    int64  `json:"files"`
	// Rest is how many of the bytes are of no user, and stand with the project's lead.
	Rest int64 `json:"rest,omitempty"`
}

// key tells uses apart.
type key struct{ mount, project, user, resource string }

func (u *Use) key() key { return key{u.Mount, u.Project, u.User, u.Resource} }

// A Reading is what a file system held at one time.
type Reading struct {
	FileSystem string    `json:"-"` // its name in site.yaml
	Tick       time.Time `json:"-"` // the time that its records bear
	At         time.Time `json:"at"`
	Total      int64     `json:"total"` // bytes that were counted
	Uses       []Use     `json:"uses"`
	// Rate is what charges it: it stays, whatever becomes of site.yaml. nil: none has yet.
	Rate *Rate `json:"rate,omitempty"`
	// Carried says that nothing was read for this tick: it has what the one before it had.
	Carried bool `json:"carried,omitempty"`
}

// A Target says whose a tree is.
type Target struct {
	Project  string
	Resource string // "": the file system's
	Lead     string // "": the one that leads name
}

// FileSystem is what site.yaml says of a file system.
type FileSystem struct {
	Name         string
	Format       Format // "": found out
	Command      string // run by sh
	Timeout      time.Duration
	Mount        string   // where the report does not say
	Match        []string // patterns of file systems and mount points; none: all
	Resource     string
	MediaType    string
	SystemCopies int64
	UserCopies   int64
	Rates        []Rate
	From         From // "": by the format
	Map          map[string]Target
	Include      []string          // patterns of trees whose names are projects; none: no tree
	Leads        map[string]string // by project
	Ignore       map[string]bool   // trees and users
	CSV          CSV
}

// Names says what users are called.
type Names func(project, user string) (name string, known bool)

// An Assignment is a reading, and what a person should know of how it came about.
type Assignment struct {
	Reading
	Notes    []string // what was decided: rests, what was ignored
	Problems []string // what was not assigned
	Counted  int      // rows that are of a project, or are ignored
}

// Assign says whose the rows are. What has no user, and the rest between a tree's total and its users' sum, is the lead's of
// the project, so that a project's records add up to the total of its trees.
func (f *FileSystem) Assign(rows []Row, from From, names Names) Assignment {
	a := assigning{FileSystem: f, names: names, from: from, totals: map[key]int64{}, files: map[key]int64{}, hasTotal: map[key]bool{}, uses: map[key]*Use{}, leads: map[key]string{},
		ignored: map[string]int64{}, unmapped: map[string]int64{}}
	for i := range rows {
		if siterules.Fits(f.Match, rows[i].FileSystem) {
			a.row(&rows[i])
		}
	}
	return a.finish()
}

type assigning struct {
	*FileSystem
	names    Names
	from     From
	totals   map[key]int64 // of trees, by mount, project and resource
	files    map[key]int64
	hasTotal map[key]bool // it is known, beside what the users hold
	uses     map[key]*Use
	leads    map[key]string
	order    []key // of uses
	trees    []key // of projects
	out      Assignment
	ignored  map[string]int64
	// unmapped are the bytes of trees that no project is stated for.
	unmapped map[string]int64
}

func (a *assigning) row(r *Row) {
	tree := r.tree(a.from)
	isTotal := r.User == "" || a.from == FromUser && tree == ""
	if tree == "" || a.from == FromUser && isTotal {
		return // the total of something else: it is counted where it belongs
	}
	if a.Ignore[tree] || r.User != "" && a.Ignore[r.User] {
		name := tree
		if !a.Ignore[tree] {
			name = r.User
			// What is left out is no part of the tree's total.
			if target, ok := a.target(tree); ok {
				k := a.treeKey(r, target)
				a.totals[k] -= r.Bytes
				a.files[k] -= r.Files
			}
		}
		a.ignored[name] += r.Bytes
		a.out.Counted++
		return
	}
	target, ok := a.target(tree)
	if !ok {
		if isTotal || a.from == FromUser || a.from == FromPI {
			a.unmapped[tree] += r.Bytes
		}
		return
	}
	a.out.Counted++
	k := a.treeKey(r, target)
	if _, met := a.leads[k]; !met {
		a.leads[k] = target.Lead
		a.trees = append(a.trees, k)
	}
	if isTotal {
		a.totals[k] += r.Bytes
		a.files[k] += r.Files
		a.out.Total += r.Bytes
		a.hasTotal[k] = true
		return
	}
	user, known := a.names(target.Project, r.User)
	if !known {
		user = "" // the lead's
		a.out.Notes = append(a.out.Notes, fmt.Sprintf("%s: user %s has no name: %d bytes go to the lead of %s", a.Name, r.User, r.Bytes, target.Project))
	}
	k.user = user
	a.add(k, r.Bytes, r.Files, !known)
}

// treeKey names a tree's project on its mount point and resource.
func (a *assigning) treeKey(r *Row, t Target) key {
	mount := r.FileSystem
	if mount == "" {
		mount = a.Mount
	}
	if mount == "" {
		mount = a.Name
	}
	resource := t.Resource
	if resource == "" {
		resource = a.Resource
	}
	return key{mount: mount, project: t.Project, resource: resource}
}

func (a *assigning) add(k key, bytes, files int64, rest bool) {
	u := a.uses[k]
	if u == nil {
		u = &Use{Mount: k.mount, Project: k.project, User: k.user, Resource: k.resource}
		a.uses[k] = u
		a.order = append(a.order, k)
	}
	u.Bytes += bytes
	u.Files += files
	if rest {
		u.Rest += bytes
	}
}

// target says whose a tree is: of paths, by the longest that it lies in.
func (a *assigning) target(tree string) (Target, bool) {
	if t, ok := a.Map[tree]; ok {
		return t, true
	}
	if a.from == FromPath {
		best := ""
		for path := range a.Map {
			if len(path) > len(best) && (strings.HasPrefix(tree, strings.TrimSuffix(path, "/")+"/")) {
				best = path
			}
		}
		if best != "" {
			return a.Map[best], true
		}
	}
	if len(a.Include) > 0 && siterules.Fits(a.Include, tree) {
		return Target{Project: tree}, true
	}
	return Target{}, false
}

// finish gives each project's rest to its lead.
func (a *assigning) finish() Assignment {
	for _, k := range a.trees {
		nobody := a.uses[k] // of users without a name
		rest, restFiles := int64(0), int64(0)
		if a.hasTotal[k] {
			rest, restFiles = a.totals[k], a.files[k]
			for _, u := range a.order {
				if u.mount == k.mount && u.project == k.project && u.resource == k.resource && u.user != "" {
					rest -= a.uses[u].Bytes
					restFiles -= a.uses[u].Files
				}
			}
		} else if nobody != nil {
			rest, restFiles = nobody.Bytes, nobody.Files
		}
		delete(a.uses, k)
		if rest == 0 {
			continue
		}
		lead := a.leads[k]
		if lead == "" {
			lead = a.Leads[k.project]
		}
		if rest < 0 {
			a.takeOff(k, -rest)
			continue
		}
		if lead == "" {
			a.out.Problems = append(a.out.Problems, fmt.Sprintf("%s: %d bytes of %s are of no user, and the project has no lead: state it under projects: leads:", a.Name, rest, k.project))
			continue
		}
		a.out.Notes = append(a.out.Notes, fmt.Sprintf("%s: %d bytes of %s are of no user, and go to its lead %s", a.Name, rest, k.project, lead))
		k.user = lead
		a.add(k, rest, max(restFiles, 0), true)
	}
	met := map[key]bool{}
	for _, k := range a.order {
		if u := a.uses[k]; u != nil && !met[k] {
			met[k] = true
			a.out.Uses = append(a.out.Uses, *u)
		}
	}
	total := int64(0)
	for _, u := range a.out.Uses {
		total += u.Bytes
	}
	a.out.Total = total
	slices.SortFunc(a.out.Uses, func(x, y Use) int {
		for _, c := range [...]int{strings.Compare(x.Mount, y.Mount), strings.Compare(x.Project, y.Project), strings.Compare(x.User, y.User), strings.Compare(x.Resource, y.Resource)} {
			if c != 0 {
				return c
			}
		}
		return 0
	})
	a.out.Notes = append(a.out.Notes, counted(a.Name, "ignored", a.ignored)...)
	a.out.Notes = append(a.out.Notes, counted(a.Name, "no project is stated for", a.unmapped)...)
	return a.out
}

// takeOff takes off the users of a project what they hold more than its tree has: they were counted at another time. The
// largest has it taken off first.
func (a *assigning) takeOff(k key, over int64) {
	var users []*Use
	for _, o := range a.order {
		if u := a.uses[o]; u != nil && o.mount == k.mount && o.project == k.project && o.resource == k.resource && o.user != "" {
			users = append(users, u)
		}
	}
	slices.SortStableFunc(users, func(x, y *Use) int { return int(min(max(y.Bytes-x.Bytes, -1), 1)) })
	a.out.Notes = append(a.out.Notes, fmt.Sprintf("%s: the users of %s hold %d bytes more than its tree: these are taken off the largest", a.Name, k.project, over))
	for _, u := range users {
		part := min(over, u.Bytes)
		u.Bytes, over = u.Bytes-part, over-part
	}
}

// counted tells what was left out, by its size.
func counted(name, what string, of map[string]int64) []string {
	var notes []string
	for tree, bytes := range of {
		notes = append(notes, name+": "+what+" "+tree+": "+strconv.FormatInt(bytes, 10)+" bytes")
	}
	slices.Sort(notes)
	return notes
}

// Timed are the rows of one tick, and when the newest of them was read.
type Timed struct {
	At   time.Time
	Rows []Row
}

// ByTick parts rows by the ticks in which they were read, the earliest first: rows that do not say so were read at that time.
// Of rows of one tick that tell of the same, the newest counts.
func ByTick(rows []Row, at time.Time, every time.Duration, zone *time.Location) []Timed {
	type same struct {
		tick int64
		of   Row // without what it says of it
	}
	met := map[same]int{}
	byTick := map[int64]*Timed{}
	for _, r := range rows {
		said := r.At
		if said.IsZero() {
			said = at
		}
		tick := TickOf(said, every, zone).UnixNano()
		group := byTick[tick]
		if group == nil {
			group = &Timed{}
			byTick[tick] = group
		}
		if said.After(group.At) {
			group.At = said
		}
		if !r.At.IsZero() {
			k := same{tick, r}
			k.of.Place, k.of.Bytes, k.of.Files, k.of.At = scheduler.Place{}, 0, 0, time.Time{}
			if i, ok := met[k]; ok && !group.Rows[i].At.Equal(r.At) {
				if r.At.After(group.Rows[i].At) {
					group.Rows[i] = r
				}
				continue
			}
			met[k] = len(group.Rows)
		}
		group.Rows = append(group.Rows, r)
	}
	var ticks []Timed
	for _, tick := range slices.Sorted(maps.Keys(byTick)) {
		ticks = append(ticks, *byTick[tick])
	}
	return ticks
}

// Suspect says why a reading cannot be believed; "": it can. last is the one before it; nil: there is none. plausible is by how
// many percent the total may change in a tick.
func (r *Reading) Suspect(last *Reading, plausible int64) string {
	if last == nil || last.Total == 0 {
		return ""
	}
	if len(r.Uses) == 0 {
		return fmt.Sprintf("it holds nothing, and held %d bytes at %s", last.Total, last.At.Format(time.RFC3339))
	}
	mounts := map[string]bool{}
	for i := range r.Uses {
		mounts[r.Uses[i].Mount] = true
	}
	for i := range last.Uses {
		if u := &last.Uses[i]; !mounts[u.Mount] && u.Bytes > 0 {
			return fmt.Sprintf("%s is not in the report any more, and held %d bytes at %s", u.Mount, u.Bytes, last.At.Format(time.RFC3339))
		}
	}
	change := r.Total - last.Total
	if change < 0 {
		change = -change
	}
	if plausible > 0 && float64(change)*100 > float64(last.Total)*float64(plausible) {
		return fmt.Sprintf("it holds %d bytes, and held %d at %s: a change of more than %d%%", r.Total, last.Total, last.At.Format(time.RFC3339), plausible)
	}
	return ""
}

// Overwrite adds to a reading, with nothing in them, the uses of an earlier one of the same tick that it does not have: their
// records say otherwise.
func (r *Reading) Overwrite(earlier *Reading) {
	have := map[key]bool{}
	for i := range r.Uses {
		have[r.Uses[i].key()] = true
	}
	for _, u := range earlier.Uses {
		if !have[u.key()] {
			u.Bytes, u.Files, u.Rest = 0, 0, 0
			r.Uses = append(r.Uses, u)
		}
	}
}

// SameAs reports whether two readings of a tick come to the same records.
func (r *Reading) SameAs(other *Reading) bool {
	if len(r.Uses) != len(other.Uses) || (r.Rate == nil) != (other.Rate == nil) || r.Rate != nil && !r.Rate.equal(other.Rate) {
		return false
	}
	held := map[Use]bool{}
	for _, u := range r.Uses {
		held[u] = true
	}
	for _, u := range other.Uses {
		if !held[u] {
			return false
		}
	}
	return true
}

// TickOf returns the time that a reading's records bear: the last of those that are every apart, midnight in the zone where
// that is days.
func TickOf(at time.Time, every time.Duration, zone *time.Location) time.Time {
	const day = 24 * time.Hour
	if every%day != 0 {
		return at.UTC().Truncate(every)
	}
	y, m, d := at.In(zone).Date()
	days := time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() / int64(day/time.Second)
	days -= days % int64(every/day)
	first := time.Unix(days*int64(day/time.Second), 0).UTC()
	return time.Date(first.Year(), first.Month(), first.Day(), 0, 0, 0, 0, zone).UTC()
}

// Missed returns the ticks between two, which nothing was read for: at most max of them, the newest.
func Missed(last, now time.Time, every time.Duration, zone *time.Location, most int) []time.Time {
	var ticks []time.Time
	for t := TickOf(now.Add(-1), every, zone); t.After(last) && len(ticks) < most; t = TickOf(t.Add(-1), every, zone) {
		ticks = append(ticks, t)
	}
	slices.Reverse(ticks)
	return ticks
}
