package siteconfig

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/amieusage/amieusage/internal/counted"
	"github.com/amieusage/amieusage/internal/pbs"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/siterules"
)

// A Kind is a kind of scheduler.
type Kind string

// The kinds of schedulers.
const (
	KindSlurm      Kind = "slurm"
	KindPBS        Kind = "pbs"
	KindHTCondor   Kind = "htcondor"
	KindGridEngine Kind = "gridengine"
	KindCounted    Kind = "counted" // tables of what was counted elsewhere
)

// Kinds are all kinds of schedulers.
var Kinds = []Kind{KindSlurm, KindPBS, KindHTCondor, KindGridEngine, KindCounted}

// PBS says how the accounting of a PBS server is read.
type PBS struct {
	Accounting string // the folder of its logs
	Zone       *time.Location
	Lookback   time.Duration
	Clusters   []string // names of servers, as in jobs' ids
	Exclusive  bool
	Whole      []pbs.Whole
}

// HTCondor says how the history of a schedd is read.
type HTCondor struct {
	History  string   // its file; "": condor_history is run
	Program  string   // condor_history
	Args     []string // more arguments of it
	Timeout  time.Duration
	Lookback time.Duration
	Cluster  string // the pool's name
	Project  string // the attribute that holds a job's project
}

// GridEngine says how the accounting file of a cell is read.
type GridEngine struct {
	Accounting string
	Lookback   time.Duration
	Cluster    string
	GPU        string // the complex that is a GPU
	GPUPerJob  bool
}

// Counted says how tables of usage are read that was counted elsewhere.
type Counted struct {
	Columns counted.Options
	Restate time.Duration // how far back a row that is gone goes to 0
}

// several reads a section that may stand once or be a list of several.
func several(read func(v value) error) reader {
	return func(v value) error {
		if v.isList() {
			return list(func(_ int, v value) error { return read(v) })(v)
		}
		if v.keys == nil && !v.isSet() {
			return nil
		}
		return read(v)
	}
}

// schedulers are the keys that say where jobs come from.
func (s *Site) schedulers() []field {
	return []field{
		{"scheduler", func(v value) error {
			kind := func(v value) error {
				word, err := v.word()
				if err != nil || v.keys != nil {
					return err
				}
				if !slices.Contains(Kinds, Kind(word)) {
					return v.errorf("scheduler %q is not one of slurm, pbs, htcondor, gridengine, counted", word)
				}
				if slices.Contains(s.Schedulers, Kind(word)) {
					return v.errorf("scheduler %s stands here twice", word)
				}
				s.Schedulers = append(s.Schedulers, Kind(word))
				return nil
			}
			return several(kind)(v)
		}},
		{"pbs", several(s.pbs)},
		{"htcondor", several(s.htcondor)},
		{"gridengine", several(s.gridEngine)},
		{"counted", s.counted},
	}
}

func (s *Site) pbs(v value) error {
	p := PBS{Lookback: DefaultLookback}
	err := v.fields(
		field{"accounting", text(&p.Accounting)},
		field{"time_zone", location(&p.Zone)},
		field{"lookback", duration("lookback", &p.Lookback)},
		field{"clusters", texts(&p.Clusters)},
		field{"exclusive", parsed(func(text string) error {
			if text != "node" {
				return fmt.Errorf("exclusive %q is not node, by which whole nodes are charged where place= has excl", text)
			}
			p.Exclusive = true
			return nil
		})},
		field{"nodes", list(func(_ int, v value) error {
			w, err := wholeNodes(v)
			if err == nil && v.keys == nil {
				p.Whole = append(p.Whole, w)
			}
			return err
		})},
	)
	if err == nil && v.keys == nil {
		s.PBS = append(s.PBS, p)
	}
	return err
}

// wholeNodes reads what whole nodes have: {names: ["gpu*"], cpu: 64, gres/gpu: 4, mem: 512}.
func wholeNodes(v value) (pbs.Whole, error) {
	var w pbs.Whole
	var names []string
	read := func(name string) field {
		return field{name, parsed(func(text string) error {
			n, ok := wholeNumber(text)
			if !ok {
				return fmt.Errorf("%s must be a whole number", name)
			}
			if name == "mem" {
				n <<= 30
			}
			w.TRES = append(w.TRES, scheduler.TRES{Name: name, Count: n})
			return nil
		})}
	}
	err := v.fields(field{"names", patterns(&names, siterules.CheckPattern)}, read("cpu"), read("gres/gpu"), read("mem"))
	if err == nil && v.keys == nil && len(w.TRES) == 0 {
		err = v.errorf("nodes: say what a whole node has, as in {names: [\"gpu*\"], cpu: 64, gres/gpu: 4, mem: 512}")
	}
	w.Nodes = names
	return w, err
}

func wholeNumber(text string) (int64, bool) {
	var n int64
	for _, c := range text {
		if c < '0' || c > '9' || n > 1<<30 {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, text != ""
}

func (s *Site) htcondor(v value) error {
	h := HTCondor{Lookback: DefaultLookback, Program: "condor_history"}
	err := v.fields(
		field{"history", text(&h.History)},
		field{"condor_history", text(&h.Program)},
		field{"args", texts(&h.Args)},
		field{"timeout", duration("timeout", &h.Timeout)},
		field{"lookback", duration("lookback", &h.Lookback)},
		field{"cluster", text(&h.Cluster)},
		field{"project_attribute", text(&h.Project)},
	)
	if err == nil && v.keys == nil {
		s.HTCondor = append(s.HTCondor, h)
	}
	return err
}

func (s *Site) gridEngine(v value) error {
	g := GridEngine{Lookback: DefaultLookback}
	per := "slot"
	err := v.fields(
		field{"accounting", text(&g.Accounting)},
		field{"lookback", duration("lookback", &g.Lookback)},
		field{"cluster", text(&g.Cluster)},
		field{"gpu", text(&g.GPU)},
		field{"gpu_per", one(&per, "gpu_per", "slot", "job")},
	)
	g.GPUPerJob = per == "job"
	if err == nil && v.keys == nil {
		s.GridEngine = append(s.GridEngine, g)
	}
	return err
}

// defaultRestate is for how long what a table said of a day may be taken back by the next.
const defaultRestate = 7 * 24 * time.Hour

func (s *Site) counted(v value) error {
	if v.keys == nil && !v.isSet() {
		return nil
	}
	c := Counted{Restate: defaultRestate}
	o := &c.Columns
	o.TRES = map[string]string{}
	err := v.fields(
		field{"time_zone", location(&o.Zone)},
		field{"restate", duration("restate", &c.Restate)},
		field{"columns", func(v value) error {
			tres := func(name string) field {
				return field{name, parsed(func(text string) error { o.TRES[name] = text; return nil })}
			}
			return v.fields(
				field{"project", text(&o.Project)}, field{"user", text(&o.User)}, field{"day", text(&o.Day)}, field{"partition", text(&o.Partition)},
				field{"part", text(&o.Part)}, field{"state", text(&o.State)}, tres("cpu"), tres("gres/gpu"), tres("mem"), tres("node"), tres("billing"),
			)
		}},
		field{"weights", decimals("weight", &o.Weights)},
	)
	if err != nil || v.keys != nil {
		return err
	}
	switch {
	case o.Project == "" || o.User == "" || o.Day == "" || len(o.TRES) == 0:
		return v.errorf("counted: columns: name the columns, as in {project: namespace, user: user, day: date, cpu: cpu_hours}")
	case (o.State == "") != (len(o.Weights) == 0):
		return v.errorf("counted: weights: belong to columns: state:, as in weights: {active: 1, suspended: 0.75, stopped: 0.5, shelved: 0}")
	}
	for name, w := range o.Weights {
		if err := siterules.CheckDecimal(w); err != nil {
			return v.errorf("the weight of %s %w", name, err)
		}
	}
	s.Counted = &c
	return nil
}

// settle says which schedulers there are, where site.yaml leaves it to the sections that it has.
func (s *Site) settle(hasSlurm bool) error {
	has := map[Kind]int{KindPBS: len(s.PBS), KindHTCondor: len(s.HTCondor), KindGridEngine: len(s.GridEngine)}
	if s.Counted != nil {
		has[KindCounted] = 1
	}
	if hasSlurm {
		has[KindSlurm] = 1
	}
	if len(s.Schedulers) == 0 {
		for _, kind := range Kinds {
			if has[kind] > 0 {
				s.Schedulers = append(s.Schedulers, kind)
			}
		}
		if len(s.Schedulers) == 0 {
			s.Schedulers = []Kind{KindSlurm}
		}
	}
	for _, kind := range Kinds[1:] {
		if has[kind] > 0 && !slices.Contains(s.Schedulers, kind) {
			return fmt.Errorf("%s: there is a section %s:, and scheduler: does not name it: name both, as in scheduler: [slurm, %s]", s.File, kind, kind)
		}
	}
	for _, kind := range s.Schedulers {
		switch {
		case has[kind] > 0:
		case kind == KindPBS:
			s.PBS = []PBS{{Lookback: DefaultLookback}}
		case kind == KindHTCondor:
			s.HTCondor = []HTCondor{{Lookback: DefaultLookback, Program: "condor_history"}}
		case kind == KindCounted:
			return fmt.Errorf("%s: scheduler: counted needs a section counted:, which names the columns of its tables", s.File)
		case kind == KindGridEngine:
			s.GridEngine = []GridEngine{{Lookback: DefaultLookback}}
		}
	}
	return nil
}

// ErrNoPlace says that site.yaml does not say where a scheduler's accounting is.
var ErrNoPlace = errors.New("site.yaml does not say where the accounting is")

// absolute makes the names of files relative to the configuration's folder.
func (s *Site) absolute(folder string) error {
	var names []*string
	for i := range s.PBS {
		names = append(names, &s.PBS[i].Accounting)
	}
	for i := range s.HTCondor {
		names = append(names, &s.HTCondor[i].History)
		if strings.ContainsRune(s.HTCondor[i].Program, '/') {
			names = append(names, &s.HTCondor[i].Program)
		}
	}
	for i := range s.GridEngine {
		names = append(names, &s.GridEngine[i].Accounting)
	}
	for _, name := range names {
		if *name == "" || filepath.IsAbs(*name) {
			continue
		}
		path, err := filepath.Abs(filepath.Join(folder, *name))
		if err != nil {
			return err
		}
		*name = path
	}
	return nil
}

// ClusterNames are the names of clusters that the configuration knows.
func (s *Site) ClusterNames() []string {
	names := slices.Clone(s.Slurm.Clusters)
	for _, p := range s.PBS {
		names = append(names, p.Clusters...)
	}
	for _, h := range s.HTCondor {
		names = append(names, h.Cluster)
	}
	for _, g := range s.GridEngine {
		names = append(names, g.Cluster)
	}
	return slices.DeleteFunc(names, func(name string) bool { return name == "" })
}
