package siteconfig_test

import (
	"strings"
	"testing"

	"github.com/amieusage/amieusage/internal/siteconfig"
)

func TestSchedulers(t *testing.T) {
	for text, want := range map[string]string{
		"":                                       "slurm",
		"scheduler: pbs":                         "pbs",
		"pbs: {accounting: a}":                   "pbs",
		"scheduler: [slurm, pbs]":                "slurm pbs",
		"slurm: {}\ngridengine: {accounting: a}": "slurm gridengine",
		"htcondor: [{history: a}, {history: b}]": "htcondor",
	} {
		site, err := siteconfig.ParseSite("site.yaml", []byte("site: PSC\n"+text+"\n"))
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		var got []string
		for _, kind := range site.Schedulers {
			got = append(got, string(kind))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %v, want %s", text, got, want)
		}
	}
	site, err := siteconfig.ParseSite("site.yaml", []byte("site: PSC\npbs: [{accounting: a, clusters: [x]}, {accounting: b, exclusive: node, nodes: [{names: [\"g*\"], cpu: 64, mem: 2}]}]\ngridengine: {cluster: y}\n"))
	if err != nil || len(site.PBS) != 2 || !site.PBS[1].Exclusive || site.PBS[1].Whole[0].Nodes[0] != "g*" ||
		site.PBS[1].Whole[0].TRES[1].Count != 2<<30 || strings.Join(site.ClusterNames(), " ") != "x y" {
		t.Errorf("%+v, %v", site, err)
	}
}

const fileSystem = "storage: {filesystems: [{name: s, resource: r, charge: {gauge: {per_TB: 1}}, "

func TestSourcesThatAreWrong(t *testing.T) {
	for text, want := range map[string]string{
		"scheduler: lsf":                         `scheduler "lsf" is not one of slurm, pbs, htcondor, gridengine, counted`,
		"scheduler: [pbs, pbs]":                  "scheduler pbs stands here twice",
		"scheduler: slurm\npbs: {accounting: a}": "scheduler: does not name it",
		"scheduler: counted":                     "needs a section counted:",
		"pbs: {exclusive: host}":                 `exclusive "host" is not node`,
		"pbs: {nodes: [{names: [n1]}]}":          "say what a whole node has",
		"pbs: {nodes: [{names: [n1], cpu: x}]}":  "cpu must be a whole number",
		"pbs: {acounting: a}":                    "acounting",
		"gridengine: {gpu_per: host}":            `gpu_per "host" is not one of slot, job`,
		"counted: {columns: {project: p}}":       "name the columns",
		"counted: {columns: {project: p, user: u, day: d, cpu: c, state: s}}":                          "weights: belong to",
		"projects: {from: [account, owner]}":                                                           `from "owner" is not one of account, project, group`,
		"storage: {every: 1s, filesystems: []}":                                                        "every must be a minute or more",
		"storage: {missed: guess}":                                                                     `missed "guess" is not one of carry, skip`,
		"storage: {plausible: much}":                                                                   "plausible must be a percentage",
		"storage: {every: 1d}":                                                                         "there are no filesystems",
		fileSystem + "format: ntfs}]}":                                                                 `format "ntfs" is not one of gpfs`,
		fileSystem + "projects: {from: owner}}]}":                                                      `projects: from "owner" is not one of`,
		fileSystem + "csv: {bytes: 3}}]}":                                                              `unit "" is not one of B`,
		fileSystem + "projects: {map: {a: {lead: x}}}}]}":                                              "a has no project",
		"storage: {filesystems: [{name: s, charge: {gauge: {per_TB: 1}}}]}":                            "has no resource",
		"storage: {filesystems: [{name: s, resource: r}]}":                                             "has no charge",
		"storage: {filesystems: [{name: s, resource: r, charge: {gauge: {per_TB: 1, per_GB: 1}}}]}":    "there are two rates",
		"storage: {filesystems: [{name: s, resource: r, charge: {gauge: {per_MB: 1}}}]}":               "per_MB",
		"storage: {filesystems: [{name: s, resource: r, charge: {gauge: {per_TB: -1}}}]}":              "a rate must be a number from 0 on",
		"storage: {filesystems: [{name: s, resource: r, charge: [{from: soon, gauge: {per_TB: 1}}]}]}": `from "soon" is no date`,
		"storage: {filesystems: [{name: s, resource: r, charge: [{from: 2026-02-01, gauge: {per_TB: 1}}, {from: 2026-01-01, gauge: {per_TB: 1}}]}]}": "not in order of their dates",
	} {
		_, err := siteconfig.ParseSite("site.yaml", []byte("site: PSC\n"+text+"\n"))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "site.yaml:") {
			t.Errorf("%q: %v; want %s", text, err, want)
		}
	}
}
