package siterules

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cockroachdb/apd/v3"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/scheduler"
)

// A Charge says what an hour on a resource costs:
// Σ(rate × TRES) × elapsed seconds ÷ 3600, rounded half to even.
type Charge struct {
	// PerHour holds the rate of each TRES, in allocation units an hour: of one
	// cpu, node, gres/gpu …, and of one GiB of mem.
	PerHour map[string]*apd.Decimal
	// Combine says what becomes of several rates: their sum, or the largest.
	Combine Combine
	// Decimals is the number of digits behind the point.
	Decimals int
}

// A Combine says how the parts of a charge become one.
type Combine string

// The ways to combine.
const (
	CombineSum Combine = "sum"
	CombineMax Combine = "max"
)

// MaxDecimals is the largest number of digits behind a charge's point, and the
// usual one: the ledger keeps millionths.
const MaxDecimals = 6

// gibOfByte is 2⁻³⁰, exactly: the accounting counts bytes, and a rate of mem is
// for one GiB.
var gibOfByte, _, _ = apd.NewFromString("931322574615478515625e-30")

var hour = apd.New(3600, 0)

// exact holds every sum of products of rates, counts and a time exactly.
var exact = apd.Context{
	Precision:   140,
	MaxExponent: apd.MaxExponent,
	MinExponent: apd.MinExponent,
	Rounding:    apd.RoundHalfEven,
}

// quotient holds so many digits that rounding them again is as good as
// rounding once: of a charge that the ledger can hold, what is no tie is at
// least 10⁻⁵² away from one.
var quotient = apd.Context{
	Precision:   80,
	MaxExponent: apd.MaxExponent,
	MinExponent: apd.MinExponent,
	Rounding:    apd.RoundHalfEven,
}

func (c *Charge) check() error {
	if len(c.PerHour) == 0 {
		return fmt.Errorf("charge has no rate under per_hour, as in per_hour: {cpu: 1}")
	}
	for _, name := range slices.Sorted(maps.Keys(c.PerHour)) {
		if !isTRES(name) {
			return fmt.Errorf("%q under per_hour is no TRES: they are cpu, mem, node, billing, energy, vmem, pages, "+
				"and gres/…, license/…, fs/…, bb/…, ic/… as in gres/gpu", name)
		}
		rate := c.PerHour[name]
		if rate == nil || rate.Form != apd.Finite || rate.Negative || rate.NumDigits() > 18 || rate.Exponent < -18 || rate.Exponent > 18 {
			return fmt.Errorf("the rate of %s must be a decimal number of at most 18 digits, and not negative", name)
		}
	}
	switch c.Combine {
	case "", CombineSum, CombineMax:
	default:
		return fmt.Errorf("combine %q is not one of sum, max", c.Combine)
	}
	if c.Decimals < 0 || c.Decimals > MaxDecimals {
		return fmt.Errorf("decimals must be from 0 to %d", MaxDecimals)
	}
	return nil
}

// isTRES tells the names of what Slurm tracks from slips of the pen, which
// would charge nothing.
func isTRES(name string) bool {
	switch name {
	case "cpu", "mem", "node", "billing", "energy", "vmem", "pages":
		return true
	}
	kind, of, _ := strings.Cut(name, "/")
	switch kind {
	case "gres", "license", "fs", "bb", "ic":
		return of != ""
	}
	return false
}

// of returns the charge of a job. It holds for rates that pass check.
func (c *Charge) of(job *scheduler.Job) amieusage.Charge {
	var total, part, count apd.Decimal
	for name, rate := range c.PerHour {
		n, _ := job.TRESCount(name)
		exact.Add(&count, apd.New(n.Count, 0), apd.New(int64(n.Nanos), -9))
		exact.Mul(&part, rate, &count)
		if name == "mem" {
			exact.Mul(&part, &part, gibOfByte)
		}
		switch {
		case c.Combine != CombineMax:
			exact.Add(&total, &total, &part)
		case part.Cmp(&total) > 0:
			total.Set(&part)
		}
	}
	exact.Mul(&total, &total, count.SetInt64(job.ElapsedSeconds))
	quotient.Quo(&total, &total, hour)
	quotient.Quantize(&total, &total, -int32(c.Decimals))
	total.Reduce(&total)
	return amieusage.ChargeOf(&total)
}
