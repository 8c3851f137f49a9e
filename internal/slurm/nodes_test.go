package slurm

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestNodes(t *testing.T) {
	for list, want := range map[string]string{
		"n1": "n1", "n[1-3]": "n1 n2 n3", "n[08-10,12],login1": "login1 n08 n09 n10 n12", "r[1-2]n[1-2]": "r1n1 r1n2 r2n1 r2n2",
		"a,b": "a b", "": "", "None assigned": "", "n[1-2]-ib": "n1-ib n2-ib",
	} {
		got, err := Nodes(list)
		if names := strings.Join(slices.Sorted(maps.Keys(got)), " "); err != nil || names != want {
			t.Errorf("%q: %s, %v; want %s", list, names, err, want)
		}
	}
	for _, list := range []string{"n[1", "n[a-b]", "n[3-1]", "n[1-99999999]", "n]1", "n[1-1000][1-1000][1-1000]"} {
		if got, err := Nodes(list); err == nil {
			t.Errorf("%q: %d nodes", list, len(got))
		}
	}
}
