package siteconfig

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A Draft is what a first site.yaml is made of.
type Draft struct {
	Site, URL, Zone string
	Sacct           string   // where it is no usual place
	Cluster         string   // whose jobs are reported; "": it is not known
	Others          []string // clusters that are in the same accounting
	Accounts        []string
	Resources       []DraftResource
}

// A DraftResource is a resource, as far as it is known.
type DraftResource struct {
	Name       string // at the service; "": it is not known
	Example    string // of such a name
	Partitions []string
	TRES       string // that is charged
}

// IsWhole reports whether all of it is known. What is not whole stands in the file as a comment: a resource without
// partitions would take every job.
func (r *DraftResource) IsWhole() bool { return r.Name != "" && len(r.Partitions) > 0 }

// maxNamed is how many names a comment lists.
const maxNamed = 20

// String returns a site.yaml that can be read. What is not known is a comment.
func (d Draft) String() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# What amieusage reports of this site. Every key: docs/CONFIG.md. Look before you send:")
	line("#   amieusage doctor --config site.yaml")
	line("#   amieusage report --config site.yaml --dry-run")
	line("")
	line("site: %s", quoted(d.Site))
	line("api_key_file: %-26s # the key that the service gave you; chmod 600", "amieusage.key")
	if d.URL != "" {
		line("usage_url: %s", quoted(d.URL))
	} else {
		line("# usage_url: %-27s # unless stated: production", "http://127.0.0.1:8642/api/v1")
	}
	line("state: %-33s # jobs, charges, and what was sent: keep it, and back it up", "outbox.db")
	line("")
	line("# Slurm's accounting, as sacct shows it.")
	slurm := []string{"time_zone: " + quoted(d.Zone), "lookback: 72h"}
	if d.Sacct != "" {
		slurm = append(slurm, "sacct: "+quoted(d.Sacct))
	}
	if d.Cluster != "" {
		slurm = append(slurm, "clusters: "+flow([]string{d.Cluster}))
	}
	line("slurm: {%s}", strings.Join(slurm, ", "))
	if len(d.Others) > 0 {
		line("# In the same accounting: %s. Jobs of clusters that are not named are not asked for.", listed(d.Others))
	}
	line("")
	line("# Which jobs ran on which resource, and what an hour costs. The first that matches wins; a job that matches")
	line("# none is skipped, and counted.")
	d.resources(line)
	line("")
	line("# Whose a job is: accounts that match are reported as projects, others are skipped, and counted.")
	if len(d.Accounts) > 0 {
		line("# Accounts here: %s", listed(d.Accounts))
	}
	line("projects:")
	line("  include: [\"*\"]                           # every account; name those of projects, as in [\"p.*\", \"tg-*\"]")
	line("  # map: {account: PROJECT}                # where a project is called otherwise at the service")
	line("")
	line("# users: {map: {login: NAME}}              # where a user is called otherwise at the service")
	line("# exempt: [{states: [NODE_FAIL]}]          # jobs that are never charged")
	line("# limits: {per_job: 100000}                # what charges more is held, for you to look at")
	return b.String()
}

func (d Draft) resources(line func(format string, args ...any)) {
	top := "# resources:"
	if slices.ContainsFunc(d.Resources, func(r DraftResource) bool { return r.IsWhole() }) {
		top = "resources:"
	}
	if slices.ContainsFunc(d.Resources, func(r DraftResource) bool { return !r.IsWhole() }) {
		line("# Complete the lines with a #, and take it away: until then nothing of them is reported.")
	}
	line("%s", top)
	for _, r := range d.Resources {
		mark, name, partitions := "  ", cmp.Or(r.Name, r.Example), r.Partitions
		if !r.IsWhole() {
			mark = "#   "
		}
		if len(partitions) == 0 {
			partitions = []string{"PARTITION"}
		}
		line("%s- {resource: %s, partitions: %s, charge: {per_hour: {%s: 1}}}", mark, quoted(name), flow(partitions), r.TRES)
	}
}

// quoted returns a text as YAML has it in a flow mapping.
func quoted(s string) string {
	plain := s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._/-:", r))
	}) < 0 && (s[0] >= 'a' && s[0] <= 'z' || s[0] >= 'A' && s[0] <= 'Z' || s[0] == '/') && !strings.HasSuffix(s, ":")
	if plain && !slices.Contains([]string{"true", "false", "null", "yes", "no", "on", "off", "y", "n"}, strings.ToLower(s)) {
		return s
	}
	return strconv.QuoteToASCII(s)
}

func flow(list []string) string {
	quotes := make([]string, len(list))
	for i, s := range list {
		quotes[i] = quoted(s)
	}
	return "[" + strings.Join(quotes, ", ") + "]"
}

// listed returns names for a comment.
func listed(names []string) string {
	rest := len(names) - maxNamed
	if rest > 0 {
		names = names[:maxNamed]
	}
	text := strings.TrimSuffix(strings.TrimPrefix(flow(names), "["), "]")
	if rest > 0 {
		text += fmt.Sprintf(", and %d more", rest)
	}
	return text
}
