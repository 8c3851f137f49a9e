package siterules

import (
	"fmt"
	"maps"
	"slices"

	"github.com/cockroachdb/apd/v3"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/batch"
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

// memUnit is what a rate of mem is for: one GiB.
const memUnit = 1 << 30

// arithmetic holds every product of a rate, a count and a time exactly, and
// every quotient so far beyond [MaxDecimals] that rounding it again is as good
// as rounding once.
var arithmetic = apd.Context{
	Precision:   100,
	MaxExponent: apd.MaxExponent,
	MinExponent: apd.MinExponent,
	Rounding:    apd.RoundHalfEven,
}

func (c *Charge) check() error {
	if len(c.PerHour) == 0 {
		return fmt.Errorf("charge has no rate under per_hour, as in per_hour: {cpu: 1}")
	}
	for _, name := range slices.Sorted(maps.Keys(c.PerHour)) {
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

// of returns the charge of a job. It holds for rates that pass check.
func (c *Charge) of(job *batch.Job) amieusage.Charge {
	var total, part, count apd.Decimal
	for name, rate := range c.PerHour {
		n, _ := job.TRESCount(name)
		count.SetInt64(n)
		arithmetic.Mul(&part, rate, &count)
		if name == "mem" {
			arithmetic.Quo(&part, &part, apd.New(memUnit, 0))
		}
		switch {
		case c.Combine != CombineMax:
			arithmetic.Add(&total, &total, &part)
		case part.Cmp(&total) > 0:
			total.Set(&part)
		}
	}
	arithmetic.Mul(&total, &total, count.SetInt64(job.ElapsedSeconds))
	arithmetic.Quo(&total, &total, apd.New(3600, 0))
	arithmetic.Quantize(&total, &total, -int32(c.Decimals))
	total.Reduce(&total)
	return amieusage.ChargeOf(&total)
}
