package pbs

import (
	"math"
	"math/bits"
	"strconv"
	"strings"

	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/siterules"
	"github.com/amieusage/amieusage/internal/textfile"
)

// allocation is what a job was given, or has asked for.
type allocation struct {
	cpus, gpus, mem          int64
	hasCPUs, hasGPUs, hasMem bool
	others                   []scheduler.TRES // by their names in PBS
}

// allocated says what was allocated to the job: what exec_vnode assigns, or else what Resource_List asks for.
func (p *lineParser) allocated(opts *Options) (string, *fieldError) {
	j, v := &p.job, &p.values
	p.hosts.reset()
	p.given = allocation{others: p.given.others[:0]}
	given := &p.given
	if v.execHost != "" {
		for host := range strings.SplitSeq(v.execHost, "+") {
			host, _, _ = strings.Cut(host, "/")
			p.hosts.add(host)
		}
	}
	if field, problem := p.assigned(v.execVnode, v.execHost == ""); problem != nil {
		return field, problem
	}
	if field, problem := p.asked(); problem != nil {
		return field, problem
	}
	nodes := int64(len(p.hosts.names))
	if nodes == 0 && v.nodect != "" {
		nodes, _ = textfile.Digits(v.nodect)
	}
	if opts.Exclusive && strings.Contains(v.place, "excl") {
		p.whole(opts)
	}
	if !given.hasCPUs {
		return "exec_vnode", &fieldError{"the job ran, and nothing says how many CPUs it had", "correct it in the log"}
	}
	p.nodeList = p.nodeList[:0]
	for i, name := range p.hosts.names {
		if i > 0 {
			p.nodeList = append(p.nodeList, ',')
		}
		p.nodeList = append(p.nodeList, name...)
	}
	j.NodeList = string(p.nodeList)
	j.CPUs, j.Nodes = given.cpus, nodes
	j.TRES = append(j.TRES, scheduler.TRES{Name: "cpu", Count: given.cpus})
	if given.hasMem {
		j.TRES = append(j.TRES, scheduler.TRES{Name: "mem", Count: given.mem})
	}
	if nodes > 0 {
		j.TRES = append(j.TRES, scheduler.TRES{Name: "node", Count: nodes})
	}
	if given.hasGPUs {
		j.TRES = append(j.TRES, scheduler.TRES{Name: "gres/gpu", Count: given.gpus})
	}
	j.TRES = append(j.TRES, given.others...)
	return "", nil
}

// assigned adds up (node:ncpus=4:mem=8gb+node:ncpus=4)+(node:…).
func (p *lineParser) assigned(text string, hosts bool) (string, *fieldError) {
	for text != "" {
		var part string
		part, text, _ = strings.Cut(text, "+")
		part = strings.Trim(part, "()")
		name, resources, _ := strings.Cut(part, ":")
		if hosts {
			vnode, _, _ := strings.Cut(name, "[") // node[0], a part of a node
			p.hosts.add(vnode)
		}
		for resources != "" {
			var resource string
			resource, resources, _ = strings.Cut(resources, ":")
			key, value, ok := strings.Cut(resource, "=")
			if !ok {
				continue
			}
			if problem := p.given.add(key, value); problem != nil {
				return "exec_vnode", problem
			}
		}
	}
	return "", nil
}

// add adds what one part of a node gives.
func (a *allocation) add(key, value string) *fieldError {
	switch key {
	case "ncpus":
		n, ok := textfile.Digits(value)
		if !ok || n > math.MaxInt32 {
			return &fieldError{key + " is " + strconv.Quote(textfile.Clip(value, 80)) + ", and no number", "correct it in the log"}
		}
		a.cpus, a.hasCPUs = a.cpus+n, true
	case "ngpus":
		n, ok := textfile.Digits(value)
		if !ok || n > math.MaxInt32 {
			return &fieldError{key + " is " + strconv.Quote(textfile.Clip(value, 80)) + ", and no number", "correct it in the log"}
		}
		a.gpus, a.hasGPUs = a.gpus+n, true
	case "mem":
		n, ok := size(value)
		if !ok || n > math.MaxInt64-a.mem {
			return &fieldError{key + " is " + strconv.Quote(textfile.Clip(value, 80)) + ", and no size such as 8gb", "correct it in the log"}
		}
		a.mem, a.hasMem = a.mem+n, true
	default:
		n, ok := textfile.Digits(value)
		if !ok {
			return nil // not one that is counted
		}
		for i := range a.others {
			if o := &a.others[i]; o.Name == key {
				o.Count = min(o.Count+n, math.MaxInt64/2)
				return nil
			}
		}
		a.others = append(a.others, scheduler.TRES{Name: key, Count: n})
	}
	return nil
}

// asked takes from Resource_List what was not assigned by name.
func (p *lineParser) asked() (string, *fieldError) {
	v, given := &p.values, &p.given
	cpus, gpus, torque := ofNodes(v.nodes)
	switch {
	case given.hasCPUs:
	case torque: // nodes=2:ppn=8; ncpus beside it is a default that says nothing
		given.cpus, given.hasCPUs = cpus, true
	default:
		for _, from := range [...]struct{ key, text string }{{"ncpus", v.ncpus}, {"procs", v.procs}} {
			if from.text == "" || given.hasCPUs {
				continue
			}
			if problem := given.add("ncpus", from.text); problem != nil {
				return "Resource_List." + from.key, problem
			}
		}
	}
	switch {
	case given.hasGPUs:
	case gpus > 0:
		given.gpus, given.hasGPUs = gpus, true
	case v.ngpus != "":
		if problem := given.add("ngpus", v.ngpus); problem != nil {
			return "Resource_List.ngpus", problem
		}
	}
	if !given.hasMem && v.mem != "" {
		if problem := given.add("mem", v.mem); problem != nil {
			return "Resource_List.mem", problem
		}
	}
	return "", nil
}

// ofNodes reads Torque's Resource_List.nodes, 2:ppn=8:gpus=1+n7:ppn=4; ok is false where it does not name CPUs.
func ofNodes(text string) (cpus, gpus int64, ok bool) {
	for text != "" {
		var part string
		part, text, _ = strings.Cut(text, "+")
		count, rest, _ := strings.Cut(part, ":")
		nodes, isCount := textfile.Digits(count)
		if !isCount {
			nodes = 1 // a node's name
		}
		perNode := int64(1)
		for rest != "" {
			var property string
			property, rest, _ = strings.Cut(rest, ":")
			key, value, _ := strings.Cut(property, "=")
			n, isNumber := textfile.Digits(value)
			if !isNumber || n > math.MaxInt32 || nodes > math.MaxInt32 {
				continue
			}
			switch key {
			case "ppn":
				perNode, ok = n, true
			case "gpus":
				gpus += nodes * n
			}
		}
		if nodes <= math.MaxInt32 {
			cpus += nodes * perNode
		}
	}
	return cpus, gpus, ok
}

// whole gives the job all of its nodes.
func (p *lineParser) whole(opts *Options) {
	whole := allocation{others: p.given.others}
	for _, name := range p.hosts.names {
		at := -1
		for i := range opts.Whole {
			if siterules.Fits(opts.Whole[i].Nodes, name) {
				at = i
				break
			}
		}
		if at < 0 {
			return // what such a node has is not known: the job has what it was given
		}
		for _, t := range opts.Whole[at].TRES {
			switch t.Name {
			case "cpu":
				whole.cpus, whole.hasCPUs = whole.cpus+t.Count, true
			case "mem":
				whole.mem, whole.hasMem = whole.mem+t.Count, true
			case "gres/gpu":
				whole.gpus, whole.hasGPUs = whole.gpus+t.Count, true
			}
		}
	}
	p.job.By = "whole nodes"
	for _, t := range [...]struct {
		name  string
		count int64
	}{{"cpu", whole.cpus}, {"gres/gpu", whole.gpus}, {"mem", whole.mem}} {
		p.job.By += " " + t.name + "=" + strconv.FormatInt(t.count, 10)
	}
	if whole.hasCPUs {
		p.given.cpus, p.given.hasCPUs = max(whole.cpus, p.given.cpus), true
	}
	if whole.hasMem {
		p.given.mem, p.given.hasMem = max(whole.mem, p.given.mem), true
	}
	if whole.hasGPUs {
		p.given.gpus, p.given.hasGPUs = max(whole.gpus, p.given.gpus), true
	}
}

// size reads a size: a number with b, kb, mb, gb, tb or pb, or with w for words of eight bytes; without either, in bytes.
func size(s string) (int64, bool) {
	end := 0
	for end < len(s) && s[end] >= '0' && s[end] <= '9' {
		end++
	}
	n, ok := textfile.Digits(s[:end])
	if !ok {
		return 0, false
	}
	unit := uint64(1)
	rest := strings.ToLower(s[end:])
	if rest != "" && strings.IndexByte("kmgtp", rest[0]) >= 0 {
		unit = 1 << (10 * (1 + strings.IndexByte("kmgtp", rest[0])))
		rest = rest[1:]
	}
	switch rest {
	case "", "b":
	case "w":
		unit *= 8
	default:
		return 0, false
	}
	high, low := bits.Mul64(uint64(n), unit)
	return int64(low), high == 0 && low <= math.MaxInt64
}

// hostSet are names of hosts, each once, in the order in which they came.
type hostSet struct {
	names []string
	index map[string]bool // where there are many
}

// fewHosts are looked through faster than they are looked up.
const fewHosts = 16

func (s *hostSet) reset() { s.names, s.index = s.names[:0], nil }

func (s *hostSet) add(name string) {
	if name == "" || len(s.names) > 0 && s.names[len(s.names)-1] == name {
		return
	}
	if s.index == nil {
		for _, n := range s.names {
			if n == name {
				return
			}
		}
		if len(s.names) == fewHosts {
			s.index = make(map[string]bool, 2*fewHosts)
			for _, n := range s.names {
				s.index[n] = true
			}
		}
	}
	if s.index != nil {
		if s.index[name] {
			return
		}
		s.index[name] = true
	}
	s.names = append(s.names, name)
}
