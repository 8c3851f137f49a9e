package siterules

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/apd/v3"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/decimal"
	"github.com/amieusage/amieusage/internal/scheduler"
)

// A Rate says what an hour on a resource costs from a date on:
// Σ(rate × TRES) × elapsed seconds ÷ 3600 × factor, rounded half to even.
type Rate struct {
	// From is when the rate begins to count; zero: it always has.
	From time.Time
	// PerHour holds the rate of each TRES, in allocation units an hour: of one
	// cpu, node, gres/gpu …, and of one GiB of mem.
	PerHour map[string]*apd.Decimal
	// Combine says what becomes of several rates: their sum, or the largest.
	Combine Combine
	// Decimals is the number of digits behind the point.
	Decimals int
	// Factors multiply the charge of some jobs.
	Factors Factors
	// Line is where the rate stands in site.yaml; 0: nowhere.
	Line int

	parts []tresRate // PerHour in order of names, and the rate's text: kept by check
	text  string
	fast  *fastRate
}

// Factors multiply the charge of jobs by QOS and by partition; a job that has
// both is multiplied by both. Names are compared as they are.
type Factors struct {
	QOS        map[string]*apd.Decimal
	Partitions map[string]*apd.Decimal
}

// Or returns the factors of f, and of other what f does not have at all.
func (f Factors) Or(other Factors) Factors {
	if f.QOS == nil {
		f.QOS = other.QOS
	}
	if f.Partitions == nil {
		f.Partitions = other.Partitions
	}
	return f
}

type tresRate struct {
	name string
	rate *apd.Decimal
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

// exact holds every sum of products of rates, counts, factors and a time
// exactly.
var exact = apd.Context{
	Precision:   200,
	MaxExponent: apd.MaxExponent,
	MinExponent: apd.MinExponent,
	Rounding:    apd.RoundHalfEven,
}

// quotient holds so many digits that rounding them again is as good as
// rounding once: of a charge that the ledger can hold, what is no tie is at
// least 10⁻¹¹⁰ away from one.
var quotient = apd.Context{
	Precision:   140,
	MaxExponent: apd.MaxExponent,
	MinExponent: apd.MinExponent,
	Rounding:    apd.RoundHalfEven,
}

// CheckDecimal returns what is wrong with a rate or a factor, or nil.
func CheckDecimal(d *apd.Decimal) error {
	if d == nil || d.Form != apd.Finite || d.Negative || d.NumDigits() > 18 || d.Exponent < -18 || d.Exponent > 18 {
		return fmt.Errorf("must be a decimal number of at most 18 digits, and not negative")
	}
	return nil
}

// check also keeps what each job asks for; who changes a rate checks it again.
func (r *Rate) check() error {
	r.parts, r.text, r.fast = nil, "", nil
	if len(r.PerHour) == 0 {
		return fmt.Errorf("charge has no rate under per_hour, as in per_hour: {cpu: 1}")
	}
	letters := map[string]string{}
	for _, part := range r.rates() {
		if !isTRES(part.name) {
			return fmt.Errorf("%q under per_hour is no TRES: they are cpu, mem, node, billing, energy, vmem, pages, "+
				"and gres/…, license/…, fs/…, bb/…, ic/… as in gres/gpu", part.name)
		}
		if err := CheckDecimal(part.rate); err != nil {
			return fmt.Errorf("the rate of %s %w", part.name, err)
		}
		if other, ok := letters[strings.ToLower(part.name)]; ok {
			return fmt.Errorf("%s and %s are the same TRES: give it one rate", other, part.name)
		}
		letters[strings.ToLower(part.name)] = part.name
	}
	switch r.Combine {
	case "", CombineSum, CombineMax:
	default:
		return fmt.Errorf("combine %q is not one of sum, max", string(r.Combine))
	}
	if r.Decimals < 0 || r.Decimals > MaxDecimals {
		return fmt.Errorf("decimals must be from 0 to %d", MaxDecimals)
	}
	for kind, factors := range map[string]map[string]*apd.Decimal{"qos": r.Factors.QOS, "partitions": r.Factors.Partitions} {
		for name, factor := range factors {
			if err := CheckDecimal(factor); err != nil {
				return fmt.Errorf("factors: the factor of %s %s %w", kind, name, err)
			}
		}
	}
	r.parts, r.text, r.fast = r.rates(), r.Text(), fastOf(r)
	return nil
}

// isTRES tells the names of what Slurm tracks from slips of the pen, which
// would charge nothing.
func isTRES(name string) bool {
	name = strings.ToLower(name)
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

// rates returns PerHour in order of names.
func (r *Rate) rates() []tresRate {
	if r.parts != nil {
		return r.parts
	}
	parts := make([]tresRate, 0, len(r.PerHour))
	for name, rate := range r.PerHour {
		parts = append(parts, tresRate{name, rate})
	}
	slices.SortFunc(parts, func(a, b tresRate) int { return strings.Compare(a.name, b.name) })
	return parts
}

// rateText is a rate as it is kept with what it has charged: JSON, for the
// encoder writes a value always in the same way.
type rateText struct {
	From       string            `json:"from,omitempty"`
	PerHour    map[string]string `json:"per_hour"`
	Combine    Combine           `json:"combine,omitempty"`
	Decimals   int               `json:"decimals"`
	QOS        map[string]string `json:"factors_qos,omitempty"`
	Partitions map[string]string `json:"factors_partitions,omitempty"`
}

// Text returns the rate in one line, the same for equal rates. ParseRate reads
// it: a job keeps the rate that charged it, whatever becomes of site.yaml.
func (r *Rate) Text() string {
	if r.text != "" {
		return r.text
	}
	t := rateText{PerHour: decimalTexts(r.PerHour), Combine: r.Combine, Decimals: r.Decimals,
		QOS: decimalTexts(r.Factors.QOS), Partitions: decimalTexts(r.Factors.Partitions)}
	if t.Combine == CombineSum {
		t.Combine = ""
	}
	if !r.From.IsZero() {
		t.From = r.From.Format(time.RFC3339)
	}
	text, err := json.Marshal(t) // of text and a number: it cannot fail
	if err != nil {
		return ""
	}
	return string(text)
}

func decimalTexts(of map[string]*apd.Decimal) map[string]string {
	if len(of) == 0 {
		return nil
	}
	texts := make(map[string]string, len(of))
	for name, d := range of {
		var reduced apd.Decimal
		reduced.Reduce(d)
		texts[name] = reduced.String()
	}
	return texts
}

// ParseRate reads the text of a rate.
func ParseRate(text string) (*Rate, error) {
	var t rateText
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		return nil, fmt.Errorf("this is not the text of a rate: %w", err)
	}
	r := &Rate{Combine: t.Combine, Decimals: t.Decimals}
	if t.From != "" {
		from, err := time.Parse(time.RFC3339, t.From)
		if err != nil {
			return nil, fmt.Errorf("this is not the text of a rate: %w", err)
		}
		r.From = from
	}
	for _, to := range []struct {
		texts    map[string]string
		decimals *map[string]*apd.Decimal
	}{{t.PerHour, &r.PerHour}, {t.QOS, &r.Factors.QOS}, {t.Partitions, &r.Factors.Partitions}} {
		for name, text := range to.texts {
			d, _, err := apd.NewFromString(text)
			if err != nil {
				return nil, fmt.Errorf("this is not the text of a rate: %q is no number", text)
			}
			if *to.decimals == nil {
				*to.decimals = make(map[string]*apd.Decimal, len(to.texts))
			}
			(*to.decimals)[name] = d
		}
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("this is not the text of a rate: %w", err)
	}
	return r, nil
}

// NeedsTRES names a TRES that the rate is for and that no source gives which
// lacks scheduler.FactTRES; "" where there is none.
func (r *Rate) NeedsTRES() string {
	for _, part := range r.rates() {
		if name := strings.ToLower(part.name); name != "cpu" && name != "node" {
			return part.name
		}
	}
	return ""
}

// names reports whether the rate is for a TRES, whatever its type.
func (r *Rate) names(tres string) bool {
	return slices.ContainsFunc(r.rates(), func(part tresRate) bool {
		name, _, _ := strings.Cut(part.name, ":")
		return strings.EqualFold(name, tres)
	})
}

// Untracked names the TRES of the rate that the accounting does not give of the
// job, and tells whether it gives none of them at all. A rate of 0 counts as any
// other. Jobs without GPUs have no gres/gpu, and so some is usual; none is not.
func (r *Rate) Untracked(job *scheduler.Job) (names []string, all bool) {
	all = true
	for _, part := range r.rates() {
		if _, known := job.TRESCount(part.name); known {
			all = false
		} else {
			names = append(names, part.name)
		}
	}
	return names, all
}

// Charge returns the charge of a job. It holds for rates that pass their check.
func (r *Rate) Charge(job *scheduler.Job) amieusage.Charge {
	if r.fast != nil {
		if charge, ok := r.fast.charge(job); ok {
			return charge
		}
	}
	return r.charge(job)
}

// charge computes in decimals of any length.
func (r *Rate) charge(job *scheduler.Job) amieusage.Charge {
	var total, part, count apd.Decimal
	for _, tres := range r.rates() {
		n, known := job.TRESCount(tres.name)
		if !known {
			continue
		}
		partOf(&part, &count, tres, n)
		switch {
		case r.Combine != CombineMax:
			exact.Add(&total, &total, &part)
		case part.Cmp(&total) > 0:
			total.Set(&part)
		}
	}
	exact.Mul(&total, &total, count.SetInt64(job.ElapsedSeconds))
	for _, factor := range r.factorsOf(job) {
		exact.Mul(&total, &total, factor)
	}
	quotient.Quo(&total, &total, hour)
	quotient.Quantize(&total, &total, -int32(r.Decimals))
	total.Reduce(&total)
	return decimal.Charge(&total)
}

// partOf sets part to what an hour of the TRES costs.
func partOf(part, count *apd.Decimal, tres tresRate, n scheduler.TRES) {
	count.SetInt64(n.Count)
	if n.Nanos != 0 {
		exact.Add(count, count, apd.New(int64(n.Nanos), -9))
	}
	exact.Mul(part, tres.rate, count)
	if strings.EqualFold(tres.name, "mem") {
		exact.Mul(part, part, gibOfByte)
	}
}

func (r *Rate) factorsOf(job *scheduler.Job) []*apd.Decimal {
	var factors []*apd.Decimal
	if f, ok := r.Factors.QOS[job.QOS]; ok {
		factors = append(factors, f)
	}
	if f, ok := r.Factors.Partitions[job.Partition]; ok {
		factors = append(factors, f)
	}
	return factors
}

// A Step is one line of the arithmetic of a charge.
type Step struct {
	What string `json:"what"` // "8 cpu × 1", "factor of QOS high"
	Is   string `json:"is"`   // the value so far, or of this part
}

// Explain returns the arithmetic of a job's charge, step by step.
func (r *Rate) Explain(job *scheduler.Job) []Step {
	var steps []Step
	var part, count apd.Decimal
	parts := 0
	for _, tres := range r.rates() {
		n, known := job.TRESCount(tres.name)
		if !known {
			steps = append(steps, Step{tres.name + ": the accounting has none of this job", "0"})
			continue
		}
		partOf(&part, &count, tres, n)
		part.Reduce(&part)
		unit := ""
		if strings.EqualFold(tres.name, "mem") {
			unit = " bytes ÷ 2^30"
		}
		steps = append(steps, Step{fmt.Sprintf("%s %s%s × %s an hour", strings.TrimPrefix(n.String(), n.Name+"="), tres.name, unit, tres.rate.Text('f')), part.Text('f')})
		parts++
	}
	if parts > 1 {
		how := "the sum of these, an hour"
		if r.Combine == CombineMax {
			how = "the largest of these, an hour"
		}
		hourly := *r
		hourly.Factors, hourly.Decimals = Factors{}, MaxDecimals
		anHour := *job
		anHour.ElapsedSeconds = 3600
		steps = append(steps, Step{how, hourly.Charge(&anHour).String()})
	}
	plain := *r
	plain.Factors, plain.Decimals = Factors{}, MaxDecimals
	steps = append(steps, Step{fmt.Sprintf("× %d s ÷ 3600", job.ElapsedSeconds), plain.Charge(job).String()})
	if f, ok := r.Factors.QOS[job.QOS]; ok {
		steps = append(steps, Step{"factor of QOS " + job.QOS, f.Text('f')})
	}
	if f, ok := r.Factors.Partitions[job.Partition]; ok {
		steps = append(steps, Step{"factor of partition " + job.Partition, f.Text('f')})
	}
	return append(steps, Step{fmt.Sprintf("rounded half to even, %d decimals", r.Decimals), r.Charge(job).String()})
}
