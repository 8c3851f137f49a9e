package slurm

import (
	"context"
	"slices"
	"strings"
)

// An Inventory is what there is to charge for.
type Inventory struct {
	Cluster    string      // whose partitions these are; "": it is not known
	Clusters   []string    // all that are in the accounting
	Partitions []Partition // of Cluster
	Accounts   []string    // without root
}

// A Partition is a partition of a cluster.
type Partition struct {
	Name string
	GPUs bool // its nodes have gres/gpu
}

// Inventory asks scontrol and sacctmgr, which stand beside sacct. problems say what could not be asked; the rest is there.
func (s *Sacct) Inventory(ctx context.Context) (i Inventory, problems []error) {
	note := func(err error) {
		if err != nil {
			problems = append(problems, err)
		}
	}
	names := func(what string) []string {
		out, err := s.beside(ctx, "sacctmgr", "--noheader", "--parsable2", "show", what, "format="+what)
		note(err)
		names := strings.Fields(out)
		slices.Sort(names)
		return slices.Compact(names)
	}
	i.Clusters = names("cluster")
	i.Accounts = slices.DeleteFunc(names("account"), func(name string) bool { return name == "root" })
	config, err := s.ask(ctx, "scontrol", "show", "config")
	note(err)
	i.Cluster = config["clustername"]
	out, err := s.beside(ctx, "scontrol", "--oneliner", "show", "partition")
	note(err)
	for line := range strings.Lines(out) {
		var p Partition
		for field := range strings.FieldsSeq(line) {
			switch name, value, _ := strings.Cut(field, "="); name {
			case "PartitionName":
				p.Name = value
			case "TRES":
				p.GPUs = strings.Contains(value, "gres/gpu")
			}
		}
		if p.Name != "" {
			i.Partitions = append(i.Partitions, p)
		}
	}
	return i, problems
}
