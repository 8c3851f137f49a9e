// Package decimal computes with charges: a charge as a decimal, and a decimal as a charge. The public packages do without
// the library's types.
package decimal

import (
	"github.com/cockroachdb/apd/v3"

	"github.com/amieusage/amieusage"
)

// Of returns a charge's exact value; zero where it is absent.
func Of(c amieusage.Charge) *apd.Decimal {
	d, _, err := apd.NewFromString(c.String())
	if err != nil {
		return new(apd.Decimal)
	}
	return d
}

// Charge returns the charge that a decimal holds, without an exponent. NaN, infinities, and what no charge can say give
// none.
func Charge(d *apd.Decimal) amieusage.Charge {
	c, err := amieusage.ParseCharge(d.Text('f'))
	if err != nil {
		return amieusage.Charge{}
	}
	return c
}
