package siteconfig

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A Draft is what a first site.yaml is made of.
type Draft struct {
	Site, URL, Zone string
	Sacct           string // where it is no usual place
	Clusters        []string
	// Partitions are of the cluster, those with GPUs apart from the others; none: they are not known.
	Partitions, GPUPartitions []string
	Accounts                  []string
	// Resource and GPUResource are their names at the service; "": they are not known, and stand there to be filled in.
	Resource, GPUResource string
}

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
	if len(d.Clusters) > 0 {
		slurm = append(slurm, "clusters: "+flow(d.Clusters))
	}
	line("slurm: {%s}", strings.Join(slurm, ", "))
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
	named := d.Resource != "" || d.GPUResource != ""
	mark := "# "
	if named {
		line("resources:")
		mark = "  # "
	} else {
		line("# Name the resource as the service knows it, and take the # away; until then nothing is reported.")
		line("# resources:")
	}
	one := func(name, example string, partitions []string, tres string) {
		at := mark
		if name != "" {
			at = "  "
		} else if name = example; !named {
			at = "#   "
		}
		where := ""
		if len(partitions) > 0 {
			where = "partitions: " + flow(partitions) + ", "
		}
		line("%s- {resource: %s, %scharge: {per_hour: {%s: 1}}}", at, quoted(name), where, tres)
	}
	if len(d.GPUPartitions) > 0 || d.GPUResource != "" {
		one(d.GPUResource, "gpu.example.org", d.GPUPartitions, "gres/gpu")
	}
	if len(d.Partitions) > 0 || len(d.GPUPartitions) == 0 && d.GPUResource == "" || d.Resource != "" {
		one(d.Resource, "cpu.example.org", d.Partitions, "cpu")
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
