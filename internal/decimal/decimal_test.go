package decimal

import (
	"testing"

	"github.com/cockroachdb/apd/v3"

	"github.com/amieusage/amieusage"
)

func TestCharge(t *testing.T) {
	for text, want := range map[string]string{"16.250": "16.250", "1e3": "1000", "1e-7": "0.0000001", "NaN": "", "Infinity": "", "1e-2000": ""} {
		d, _, err := apd.NewFromString(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := Charge(d); got.String() != want || got.IsSet() != (want != "") {
			t.Errorf("Charge(%s) = %q, want %q", text, got, want)
		}
	}
}

func TestOf(t *testing.T) {
	for text, want := range map[string]string{"16.250": "16.250", "-1e3": "-1000", "1.9e-05": "0.000019", "": "0"} {
		var c amieusage.Charge
		if text != "" {
			c = amieusage.MustParseCharge(text)
		}
		if got := Of(c).Text('f'); got != want {
			t.Errorf("Of(%q) = %s, want %s", text, got, want)
		}
	}
}
