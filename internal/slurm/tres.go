package slurm

import (
	"math/bits"
	"strconv"
	"strings"

	"github.com/amieusage/amieusage/internal/scheduler"
)

const mebi = 1 << 20

// appendTRES appends what AllocTRES says (billing=8,cpu=8,gres/gpu=2,mem=250.50G,node=1) to list. A bare count of memory
// or burst buffer is in MiB, which is how Slurm keeps it and prints it under --noconvert. Counts that Slurm means as
// "not set" (energy=18446744073709551614) are left out.
func appendTRES(list []scheduler.TRES, s string) ([]scheduler.TRES, *fieldError) {
	for s != "" {
		var entry string
		entry, s, _ = strings.Cut(s, ",")
		eq := strings.IndexByte(entry, '=')
		if eq <= 0 {
			return list, &fieldError{problem: strconv.Quote(entry) + " is no name=count"}
		}
		name, text := entry[:eq], entry[eq+1:]
		if text == "18446744073709551614" || text == "18446744073709551615" {
			continue
		}
		count, nanos, ok := parseCount(text, inMebibytes(name))
		if !ok {
			return list, &fieldError{problem: strconv.Quote(entry) + " has no count that can be read"}
		}
		list = append(list, scheduler.TRES{Name: name, Count: count, Nanos: nanos})
	}
	return list, nil
}

// inMebibytes tells whether Slurm counts the resource in MiB.
func inMebibytes(name string) bool { return name == "mem" || strings.HasPrefix(name, "bb/") }

// parseCount reads a number, with decimals and a binary unit (K M G T P E) or without, exactly; what is left of it behind
// the ninth digit is rounded to the nearest. mebibytes says that it counts bytes: then it is whole, rounded to the nearest
// too, and without a unit it is in MiB.
func parseCount(s string, mebibytes bool) (count int64, nanos int32, ok bool) {
	if n, ok := digits(s); ok && !mebibytes {
		return n, 0, true
	}
	if s == "" {
		return 0, 0, false
	}
	unit := uint64(1)
	if i := strings.IndexByte("KMGTPE", s[len(s)-1]); i >= 0 {
		unit = 1 << (10 * (i + 1))
		s = s[:len(s)-1]
	} else if mebibytes {
		unit = mebi
	}
	whole, fraction, point := strings.Cut(s, ".")
	n, ok := digits(whole)
	if !ok {
		return 0, 0, false
	}
	high, total := bits.Mul64(uint64(n), unit)
	if point {
		if len(fraction) > 18 {
			return 0, 0, false
		}
		f, ok := digits(fraction)
		if !ok {
			return 0, 0, false
		}
		scale := uint64(1)
		for range len(fraction) {
			scale *= 10
		}
		fhigh, flow := bits.Mul64(uint64(f), unit) // f < scale, so that the quotient fits 64 bits
		whole, rest := bits.Div64(fhigh, flow, scale)
		digits := uint64(1)
		if !mebibytes {
			digits = 1e9
		}
		rhigh, rlow := bits.Mul64(rest, digits) // rest < scale, so that this quotient does, too
		part, rest := bits.Div64(rhigh, rlow, scale)
		if rest >= scale-rest {
			part++
		}
		if part == digits {
			whole, part = whole+1, 0
		}
		nanos = int32(part)
		var carry uint64
		total, carry = bits.Add64(total, whole, 0)
		high += carry
	}
	return int64(total), nanos, high == 0 && total <= 1<<63-1
}

// formatMebibytes prints memory as sacct does: in the largest unit that keeps it exact.
func formatMebibytes(n int64) string {
	const units = "MGTPE"
	unit, half := 0, false
	for n >= 1024 && n%512 == 0 && !half && unit < len(units)-1 {
		half = n%1024 != 0
		n /= 1024
		unit++
	}
	s := strconv.FormatInt(n, 10)
	if half {
		s += ".50"
	}
	return s + units[unit:unit+1]
}
