package storage

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/cockroachdb/apd/v3"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/decimal"
)

// A Rate says what storage costs from a time on.
type Rate struct {
	From time.Time `json:"-"` // zero: it always has
	// Per is what a Unit of bytes costs: at each reading, or for each day between two where Integral is set.
	Per      *apd.Decimal `json:"per"`
	Unit     Unit         `json:"unit"`
	Integral bool         `json:"integral,omitempty"`
}

func (r *Rate) equal(other *Rate) bool {
	return r.Unit == other.Unit && r.Integral == other.Integral && r.Per.Cmp(other.Per) == 0
}

// A Unit is a number of bytes by its name.
type Unit string

// Units are the units that charges can be stated for. None is assumed.
var Units = map[Unit]int64{"GB": 1e9, "GiB": 1 << 30, "TB": 1e12, "TiB": 1 << 40, "PB": 1e15, "PiB": 1 << 50}

// Check returns what is wrong with the rate.
func (r *Rate) Check() error {
	switch {
	case r.Per == nil:
		return errors.New("charge has no rate, as in gauge: {per_TB: 1} or integral: {per_TB_day: 0.01}")
	case Units[r.Unit] == 0:
		return fmt.Errorf("%q is no unit", r.Unit)
	case r.Per.Form != apd.Finite || r.Per.Negative || r.Per.Exponent < -12 || r.Per.NumDigits() > 18:
		return errors.New("a rate must be a number from 0 on, with at most 12 decimals")
	}
	return nil
}

// exact holds every product of bytes, seconds and a rate; a quotient is rounded once, half to even.
var exact = apd.Context{Precision: 80, MaxExponent: apd.MaxExponent, MinExponent: apd.MinExponent, Rounding: apd.RoundHalfEven}

// charge returns what bytes cost, or bytes × seconds where the rate is integral.
func (r *Rate) charge(bytes *apd.Decimal) amieusage.Charge {
	var c, unit apd.Decimal
	_, _ = exact.Mul(&c, bytes, r.Per)
	unit.SetInt64(Units[r.Unit])
	if r.Integral {
		_, _ = exact.Mul(&unit, &unit, apd.New(24*60*60, 0))
	}
	_, _ = exact.Quo(&c, &c, &unit)
	_, _ = exact.Quantize(&c, &c, -6)
	c.Reduce(&c)
	return decimal.Charge(&c)
}

// RateAt returns the rate of a time; nil: none has begun.
func (f *FileSystem) RateAt(at time.Time) *Rate {
	for i := len(f.Rates) - 1; i >= 0; i-- {
		if !f.Rates[i].From.After(at) {
			return &f.Rates[i]
		}
	}
	return nil
}

// A Charged is a record, and how its charge came about.
type Charged struct {
	Record *amieusage.StorageRecord
	How    string
}

// Records returns the records of a reading. last is the reading of the tick before it; nil: there is none. A gauge charges what
// is held, and an integral what the last reading held for the time from it to this one; the first reading charges nothing
// then.
func (f *FileSystem) Records(r, last *Reading, every time.Duration) ([]Charged, error) {
	rate := r.Rate
	if rate == nil {
		rate = f.RateAt(r.Tick)
	}
	if rate == nil {
		return nil, fmt.Errorf("%s: no rate has begun at %s: state what it costs from an earlier date", f.Name, r.Tick.Format(time.RFC3339))
	}
	uses := r.Uses
	held := map[key]int64{}
	if rate.Integral && last != nil {
		have := map[key]bool{}
		for i := range uses {
			have[uses[i].key()] = true
		}
		for _, u := range last.Uses {
			held[u.key()] = u.Bytes
			if !have[u.key()] { // what was held until now is charged all the same
				u.Bytes, u.Files, u.Rest = 0, 0, 0
				uses = append(uses[:len(uses):len(uses)], u)
			}
		}
	}
	records := make([]Charged, 0, len(uses))
	for i := range uses {
		u := &uses[i]
		bytes, how := apd.New(u.Bytes, 0), "gauge"
		switch {
		case rate.Integral && last == nil:
			bytes, how = apd.New(0, 0), "integral: the first reading, from which on it counts"
		case rate.Integral:
			seconds := int64(r.At.Sub(last.At) / time.Second)
			if _, err := exact.Mul(bytes, apd.New(held[u.key()], 0), apd.New(max(seconds, 0), 0)); err != nil {
				return nil, err
			}
			how = fmt.Sprintf("integral: %d bytes from %s to %s", held[u.key()], last.At.Format(time.RFC3339), r.At.Format(time.RFC3339))
		}
		if u.Rest != 0 {
			how += fmt.Sprintf("; %d bytes of no user", u.Rest)
		}
		if r.Carried {
			how += "; not read: carried from " + r.At.Format(time.RFC3339)
		}
		record := &amieusage.StorageRecord{
			Username: u.User, LocalProjectID: u.Project, LocalRecordID: u.id(), Resource: u.Resource, CollectionTime: r.Tick,
			Charge: rate.charge(bytes), BytesStored: amieusage.CountOf(u.Bytes), FileCount: amieusage.CountOf(u.Files), MediaType: f.MediaType,
		}
		if days := int64(every / (24 * time.Hour)); days > 0 && every%(24*time.Hour) == 0 {
			record.CollectionInterval = amieusage.CountOf(days)
		}
		if f.SystemCopies > 0 {
			record.SystemCopies = amieusage.CountOf(f.SystemCopies)
		}
		if f.UserCopies > 0 {
			record.UserCopies = amieusage.CountOf(f.UserCopies)
		}
		if err := record.Validate(); err != nil {
			return nil, fmt.Errorf("%s: %s of %s: %w", f.Name, u.User, u.Project, err)
		}
		records = append(records, Charged{record, f.Name + ", read " + r.At.Format(time.RFC3339) + ": " + how})
	}
	return records, nil
}

// id is made of mount point, project and user. The site's label of the file system is no part of it.
func (u *Use) id() string {
	return strings.TrimSuffix(u.Mount, "/") + "/" + url.PathEscape(u.Project) + "/" + url.PathEscape(u.User)
}
