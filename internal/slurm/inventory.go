package slurm

import (
	"context"
	"slices"
	"strings"
)

// An Inventory is what there is to charge for.
type Inventory struct {
	Clusters   []string
	Partitions []Partition
	Accounts   []string
}

// A Partition is one of the cluster that scontrol speaks of.
type Partition struct {
	Name string
	GPUs bool // its nodes have gres/gpu
}

// maxInventory is how many names of a kind are kept.
const maxInventory = 1000

// Inventory asks sacctmgr and scontrol, which stand beside sacct. problems say what could not be asked; the rest is there.
func (s *Sacct) Inventory(ctx context.Context) (i Inventory, problems []error) {
	names := func(what, column string) []string {
		out, err := s.beside(ctx, "sacctmgr", "--noheader", "--parsable2", "show", what, "format="+column)
		if err != nil {
			problems = append(problems, err)
		}
		names := strings.Fields(out)
		slices.Sort(names)
		names = slices.Compact(names)
		return names[:min(len(names), maxInventory)]
	}
	i.Clusters = names("cluster", "cluster")
	i.Accounts = slices.DeleteFunc(names("account", "account"), func(name string) bool { return name == "root" })
	out, err := s.beside(ctx, "scontrol", "--oneliner", "show", "partition")
	if err != nil {
		problems = append(problems, err)
	}
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
		if p.Name != "" && len(i.Partitions) < maxInventory {
			i.Partitions = append(i.Partitions, p)
		}
	}
	return i, problems
}
