package slurm

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// maxNodes bounds what a list of nodes stands for.
const maxNodes = 1_000_000

// Nodes returns the names that a list of nodes such as n[1-4,7],login1 stands for.
func Nodes(list string) (map[string]bool, error) {
	nodes := map[string]bool{}
	if list == "None assigned" {
		return nodes, nil
	}
	for list != "" {
		// A comma between brackets is part of a name.
		end, depth := len(list), 0
		for i, c := range list {
			switch c {
			case '[':
				depth++
			case ']':
				depth--
			case ',':
				if depth == 0 {
					end = min(end, i)
				}
			}
		}
		if depth != 0 {
			return nil, fmt.Errorf("%q has brackets that are not closed", shorten(list))
		}
		if err := addNodes(nodes, "", list[:end]); err != nil {
			return nil, err
		}
		list = strings.TrimPrefix(list[end:], ",")
	}
	return nodes, nil
}

var errManyNodes = errors.New("too many nodes")

// addNodes adds what a name with ranges stands for, behind what is before it.
func addNodes(nodes map[string]bool, before, name string) error {
	open := strings.IndexByte(name, '[')
	if open < 0 {
		if len(nodes) == maxNodes {
			return errManyNodes
		}
		nodes[before+name] = true
		return nil
	}
	ranges, rest, found := strings.Cut(name[open+1:], "]")
	if !found {
		return fmt.Errorf("%q is no list of nodes", shorten(name))
	}
	before += name[:open]
	for _, r := range strings.Split(ranges, ",") {
		low, high, isRange := strings.Cut(r, "-")
		if !isRange {
			high = low
		}
		from, ok1 := digits(low)
		to, ok2 := digits(high)
		if !ok1 || !ok2 || to < from || to-from >= maxNodes {
			return fmt.Errorf("%q is no range of nodes", shorten(r))
		}
		for n := from; n <= to; n++ {
			number := strconv.FormatInt(n, 10)
			if pad := len(low) - len(number); pad > 0 {
				number = strings.Repeat("0", pad) + number
			}
			if err := addNodes(nodes, before+number, rest); err != nil {
				return err
			}
		}
	}
	return nil
}
