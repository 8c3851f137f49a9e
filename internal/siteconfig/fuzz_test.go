package siteconfig

import (
	"bytes"
	"errors"
	"net/url"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// addScriptFiles makes seeds of the files that the scripts come with.
func addScriptFiles(f *testing.F, extension string) {
	f.Helper()
	scripts, err := filepath.Glob("../../cmd/amieusage/testdata/script/*.txtar")
	more, moreErr := filepath.Glob("../../cmd/amieusage/testdata/script/*/*.txtar")
	if err = errors.Join(err, moreErr); err != nil {
		f.Fatal(err)
	}
	found := false
	for _, script := range append(scripts, more...) {
		archive, err := txtar.ParseFile(script)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			if filepath.Ext(file.Name) == extension {
				f.Add(file.Data)
				found = true
			}
		}
	}
	if !found {
		f.Fatal("no script has a file ", extension)
	}
}

var placed = regexp.MustCompile(`^site\.yaml:([0-9]+):([0-9]+): .`)

// mustBePlaced asserts that an error names its place in the file.
func mustBePlaced(t *testing.T, err error, data []byte) {
	t.Helper()
	text := err.Error()
	m := placed.FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("%q has no place", text)
	}
	line, _ := strconv.Atoi(m[1])
	column, _ := strconv.Atoi(m[2])
	lines := len(regexp.MustCompile(`\r\n|\r|\n`).FindAll(data, -1)) + 1
	if line < 1 || line > lines+1 || column < 1 || column > len(data)+1 {
		t.Fatalf("%q is beyond the %d lines of %q", text, lines, data)
	}
}

// A site's configuration can be used, or the error says where it cannot.
func FuzzSite(f *testing.F) {
	addScriptFiles(f, ".yaml")
	f.Add([]byte("site: PSC\nusage_url: https://usage.example.org/api/v1/\nmax_request_bytes: 65536\nconfirm_wait: 30s\nslurm: {time_zone: America/New_York, lookback: 72h}\n" +
		"resources:\n  - resource: rm\n    clusters: [testc]\n    partitions: [\"RM*\", cpu]\n    qos: [normal]\n    charge: {per_hour: {cpu: 1, gres/gpu: 16.5, mem: 0.25}, combine: max, decimals: 2}\n" +
		"projects: {include: [\"p.*\"], case: lower, map: {training: p.trn000000.000}}\nusers: {map: {asmith: alice}}\nreport_zero_elapsed: true\n"))
	for _, s := range []string{"", "site: PSC\n---\nnonsense: 1\n", "site: &a PSC\nstate: *a\n", "site: !!binary UFND\n", "? site\n: PSC\n", "site: |\n  PSC\n", "site: PSC\nusage_url: >-\n  https://h/api/v1\n", "site: !!str PSC\n", "site: PSC\nresources: !x\nfoo: 1\n", "{site: PSC}", "\xef\xbb\xbfsite: PSC\n",
		"site: PSC\nsite: TACC\n", "<<: {site: PSC}\n", "- site\n", "site: ~\n", "site: PSC\nslurm:\n", "site: PSC\nresources: [null]\n", "site: PSC\nresources: [{resource: rm, charge: {per_hour: {cpu: ~}}}]\n", "a: &a [*a]\n", "site: PSC\nresources: [{resource: rm, charge: {per_hour: {cpu: 1e999999999}}}]\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseSite("site.yaml", data)
		again, againErr := ParseSite("site.yaml", data)
		if (err == nil) != (againErr == nil) { // of several mistakes it may be another that is named
			t.Fatalf("%v, and then %v", err, againErr)
		}
		if err != nil {
			if !strings.HasPrefix(err.Error(), "site.yaml: site is missing") {
				mustBePlaced(t, err, data)
			}
			return
		}
		for _, c := range []*Site{c, again} {
			if c.Slurm.Zone != nil {
				c.Slurm.Zone = time.FixedZone(c.Slurm.Zone.String(), 0)
			}
		}
		if !reflect.DeepEqual(c, again) {
			t.Fatalf("%+v, and then %+v", c, again)
		}
		if err := c.Rules.Check(); err != nil {
			t.Fatal(err)
		}
		if u, err := url.Parse(c.UsageURL); err != nil || u.Host == "" || CheckSiteName(c.Name) != nil || c.State == "" || c.Slurm.Lookback < 0 || c.ConfirmWait < 0 ||
			c.MaxRequestBytes != 0 && (c.MaxRequestBytes < 1024 || c.MaxRequestBytes > amieusage.MaxRequestBytes) {
			t.Fatalf("%+v", c)
		}
		if _, err := ParseSite("site.yaml", append(bytes.Clone(data), "\nno_such_key: 1\n"...)); err == nil {
			t.Fatalf("an unknown key behind %q is no error", data)
		}
	})
}

// namesSite matches an error that says where in a registry it is without a line.
var namesSite = regexp.MustCompile(`^site\.yaml: (?:no sites|site .)`)

// names hands out numbers, and leaves the registry to what is tested.
type names struct{ last int64 }

func (n *names) next(string) (int64, error)                          { n.last++; return n.last, nil }
func (n *names) AddResource(name string) (int64, error)              { return n.next(name) }
func (n *names) AddProject(id string) (int64, error)                 { return n.next(id) }
func (n *names) AddUser(name string) (int64, error)                  { return n.next(name) }
func (n *names) AddMember(int64, int64) error                        { return nil }
func (n *names) RemoveMember(int64, int64) error                     { return nil }
func (n *names) SetAllocation(int64, ledger.Allocation) error        { return nil }
func (n *names) RemoveAllocation(_ int64, _ ledger.Allocation) error { return nil }

// A registry is refused, or is what the ledger has after its import; importing
// it again changes nothing.
func FuzzRegistry(f *testing.F) {
	addScriptFiles(f, ".yaml")
	const head = "sites:\n  - name: PSC\n    resources: [{name: rm}, {name: gpu}]\n    projects:\n      - id: p.abc123456.000\n"
	for _, s := range []string{"", "sites: []", head, head + "        users: [alice, bob, alice]\n", head + "        users: []\n        allocations: []\n",
		head + "        allocations:\n          - {resource: rm, amount: 100000.5, start: 2026-01-01, end: 2026-12-31}\n          - {resource: rm, amount: 1e3, start: 2027-01-01T00:00:00-05:00, end: 2028-01-01}\n",
		head + "        allocations: [{resource: rm, amount: 1, start: 2026-01-01, end: 2026-01-01}, {resource: rm, amount: 2, start: 2026-01-01, end: 2026-01-02}]\n",
		head + "        allocations: [{resource: x, amount: 9000000000000, start: 2026-01-01, end: 2026-01-01}]\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		spec, err := ParseRegistry("site.yaml", data)
		if err != nil {
			if !namesSite.MatchString(err.Error()) {
				mustBePlaced(t, err, data)
			}
			return
		}
		if err := spec.Check(); err != nil {
			if e, ok := errors.AsType[*amieusage.Error](err); !ok || e.Code != amieusage.CodeInvalid {
				t.Fatal(err)
			}
			return
		}
		for i := range spec.Sites {
			site := &spec.Sites[i]
			registry := &ledger.Registry{Resources: map[string]int64{}, Users: map[string]int64{}, Projects: map[string]*ledger.Project{}}
			tx := &names{}
			if _, err := ledger.ImportSite(tx, registry, site); err != nil {
				if e, ok := errors.AsType[*amieusage.Error](err); !ok || e.Code != amieusage.CodeInvalid {
					t.Fatal(err)
				}
				continue
			}
			changes, err := ledger.ImportSite(tx, registry, site)
			if err != nil || len(changes) > 0 {
				t.Fatalf("importing again: %v, error %v", changes, err)
			}
			mustHoldSite(t, registry, site)
		}
	})
}

// mustHoldSite asserts that the registry holds what the spec states, and
// nothing else.
func mustHoldSite(t *testing.T, registry *ledger.Registry, site *ledger.SiteSpec) {
	for _, resource := range site.Resources {
		if registry.Resources[resource] == 0 {
			t.Fatalf("there is no resource %q", resource)
		}
	}
	if len(registry.Projects) != len(site.Projects) {
		t.Fatalf("%d projects, and not %d", len(registry.Projects), len(site.Projects))
	}
	for _, want := range site.Projects {
		got := registry.Projects[want.ID]
		users := map[int64]bool{}
		for _, user := range want.Users {
			users[registry.Users[user]] = true
		}
		if diff := cmp.Diff(users, got.Users); diff != "" || users[0] {
			t.Fatalf("users of %s (-want +got):\n%s", want.ID, diff)
		}
		var allocations []ledger.Allocation
		for _, a := range want.Allocations {
			allocations = append(allocations, ledger.Allocation{Resource: registry.Resources[a.Resource], Start: a.Start, End: a.End, Amount: a.Amount})
		}
		if diff := cmp.Diff(allocations, got.Allocations); diff != "" {
			t.Fatalf("allocations of %s (-want +got):\n%s", want.ID, diff)
		}
	}
}
