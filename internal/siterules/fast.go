package siterules

import (
	"math/bits"
	"strconv"
	"strings"

	"github.com/cockroachdb/apd/v3"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/scheduler"
)

// A fastRate is a rate in whole numbers, for jobs whose charge 128 bits can
// hold: nearly all. It gives the same charges as decimals do, in a twentieth of
// their time.
type fastRate struct {
	parts       []fastPart
	denominator uint64 // of the sum of rate × count × elapsed seconds
	max         bool
	decimals    int
	scale       uint64 // 10^decimals
}

type fastPart struct {
	name string
	rate uint64 // times the denominator ÷ 3600
}

// maxFastDigits is how many digits behind the point a rate may have: with them,
// an hour and the bytes of a GiB, the denominator fits 64 bits.
const maxFastDigits = 6

// fastOf returns the rate in whole numbers; nil where it does not fit them.
func fastOf(r *Rate) *fastRate {
	f := &fastRate{max: r.Combine == CombineMax, decimals: r.Decimals, scale: pow10(r.Decimals)}
	digits, bytes := 0, false
	for _, part := range r.rates() {
		var d apd.Decimal
		d.Reduce(part.rate)
		digits = max(digits, int(-d.Exponent))
		bytes = bytes || strings.EqualFold(part.name, "mem")
	}
	if digits > maxFastDigits || len(r.Factors.QOS)+len(r.Factors.Partitions) > 0 {
		return nil
	}
	unit := pow10(digits)
	f.denominator = 3600 * unit
	if bytes {
		f.denominator <<= 30
	}
	for _, part := range r.rates() {
		var d apd.Decimal
		if _, err := exact.Mul(&d, part.rate, apd.New(int64(unit), 0)); err != nil {
			return nil
		}
		n, err := d.Int64()
		if err != nil || n >= 1<<33 {
			return nil
		}
		rate := uint64(n)
		if bytes && !strings.EqualFold(part.name, "mem") {
			rate <<= 30
		}
		f.parts = append(f.parts, fastPart{part.name, rate})
	}
	return f
}

func pow10(n int) uint64 {
	p := uint64(1)
	for range n {
		p *= 10
	}
	return p
}

// charge returns the charge of a job; false where it needs more than 128 bits.
func (f *fastRate) charge(job *scheduler.Job) (amieusage.Charge, bool) {
	var hi, lo uint64
	for i := range f.parts {
		n, known := job.TRESCount(f.parts[i].name)
		if !known {
			continue
		}
		if n.Nanos != 0 || n.Count < 0 {
			return amieusage.Charge{}, false
		}
		h, l := bits.Mul64(f.parts[i].rate, uint64(n.Count))
		switch {
		case !f.max:
			var carry uint64
			lo, carry = bits.Add64(lo, l, 0)
			if hi, carry = bits.Add64(hi, h, carry); carry != 0 {
				return amieusage.Charge{}, false
			}
		case h > hi || h == hi && l > lo:
			hi, lo = h, l
		}
	}
	ok := job.ElapsedSeconds >= 0
	for _, by := range [2]uint64{uint64(job.ElapsedSeconds), f.scale} {
		over, high := bits.Mul64(hi, by)
		var carry uint64
		carry, lo = bits.Mul64(lo, by)
		hi, carry = bits.Add64(high, carry, 0)
		ok = ok && over == 0 && carry == 0
	}
	if !ok || hi >= f.denominator {
		return amieusage.Charge{}, false
	}
	n, rest := bits.Div64(hi, lo, f.denominator)
	if half := f.denominator - rest; rest > half || rest == half && n%2 == 1 {
		n++
	}
	return chargeOf(n, f.decimals), true
}

// chargeOf returns the charge of n ÷ 10^decimals, without trailing zeros.
func chargeOf(n uint64, decimals int) amieusage.Charge {
	for decimals > 0 && n%10 == 0 {
		n, decimals = n/10, decimals-1
	}
	var buffer [32]byte
	text := strconv.AppendUint(buffer[:0], n, 10)
	if decimals > 0 {
		for len(text) <= decimals {
			text = append([]byte{'0'}, text...)
		}
		point := len(text) - decimals
		text = append(text[:point], append([]byte{'.'}, text[point:]...)...)
	}
	charge, _ := amieusage.ParseCharge(string(text)) // digits and a point
	return charge
}
