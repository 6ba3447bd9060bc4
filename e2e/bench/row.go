package bench

import (
	"context"
	"fmt"
	"math"
	"slices"
)

// Report is what a bench has found, and what one must know to read it.
type Report struct {
	Rows  []Row    `json:"rows"`
	Notes []string `json:"notes,omitempty"`
}

// Row is one measure: what each side took, and what is promised of the first.
type Row struct {
	What     string    `json:"what"`
	Unit     string    `json:"unit"`
	Note     string    `json:"note,omitempty"`
	Before   State     `json:"before"`
	Sides    []Side    `json:"sides"`
	Failures []Failure `json:"failures,omitempty"`
	Promises []Promise `json:"promises,omitempty"`
}

// Side is one side of a comparison; the first of a row is ours.
type Side struct {
	Name   string    `json:"name"`
	Values []float64 `json:"values"`
}

// Failure is a side that could not be measured, and why.
type Failure struct {
	Name  string `json:"name"`
	Error string `json:"error"`
}

// Promise is a limit of our median: in the row's unit, or as a share of another side's median.
type Promise struct {
	Limit float64 `json:"limit"`
	Of    string  `json:"of,omitempty"`
	Value float64 `json:"value"`
	IsMet bool    `json:"met"`
}

// side finds a side by its name.
func (r *Row) side(name string) (Side, bool) {
	i := slices.IndexFunc(r.Sides, func(s Side) bool { return s.Name == name })
	if i < 0 || len(r.Sides[i].Values) == 0 {
		return Side{}, false
	}
	return r.Sides[i], true
}

// add notes one value of a side.
func (r *Row) add(name string, value float64) {
	i := slices.IndexFunc(r.Sides, func(s Side) bool { return s.Name == name })
	if i < 0 {
		i = len(r.Sides)
		r.Sides = append(r.Sides, Side{Name: name})
	}
	r.Sides[i].Values = append(r.Sides[i].Values, value)
}

// take adds what a side measures, if this turn counts, unless the side was given up.
func (r *Row) take(ctx context.Context, name string, isForeign, counts bool, measure func() (float64, error)) error {
	if r.lacks(name) {
		return nil
	}
	value, err := measure()
	if err == nil && counts {
		r.add(name, value)
	}
	return r.giveUp(ctx, name, isForeign, err)
}

// giveUp leaves a side out of the row because of an error, if it is a foreign one; any other's error is returned.
func (r *Row) giveUp(ctx context.Context, name string, isForeign bool, err error) error {
	if err == nil || !isForeign || ctx.Err() != nil {
		return err
	}
	r.Sides = slices.DeleteFunc(r.Sides, func(s Side) bool { return s.Name == name })
	r.Failures = append(r.Failures, Failure{name, err.Error()})
	return nil
}

// lacks says whether a side was given up.
func (r *Row) lacks(name string) bool {
	return slices.ContainsFunc(r.Failures, func(f Failure) bool { return f.Name == name })
}

// judge compares our median with what is promised. A share of a side that was not measured is not judged.
func (r *Row) judge() {
	if len(r.Sides) == 0 {
		return
	}
	own := r.Sides[0].median()
	r.Promises = slices.DeleteFunc(r.Promises, func(p Promise) bool {
		_, found := r.side(p.Of)
		return p.Of != "" && !found
	})
	for i := range r.Promises {
		p := &r.Promises[i]
		p.Value = own
		if p.Of != "" {
			p.Value = r.ratio(r.Sides[0], p.Of)
		}
		p.IsMet = p.Value <= p.Limit
	}
}

// ratio is a side's median as a share of another's; not a number if that was not measured.
func (r *Row) ratio(s Side, of string) float64 {
	other, found := r.side(of)
	if !found {
		return math.NaN()
	}
	return s.median() / other.median()
}

func (s Side) median() float64 {
	if len(s.Values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s.Values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// spread is the median with the least and the greatest value.
func (s Side) spread() string {
	if len(s.Values) == 1 {
		return number(s.Values[0])
	}
	return fmt.Sprintf("%s [%s-%s]", number(s.median()), number(slices.Min(s.Values)), number(slices.Max(s.Values)))
}

// number shows three digits that count.
func number(value float64) string {
	digits := 0
	if value < 100 {
		digits = 1
	}
	if value < 10 {
		digits = 2
	}
	return fmt.Sprintf("%.*f", digits, value)
}

func (p Promise) String() string {
	of, verdict := "", "MISSED"
	if p.Of != "" {
		of = " of " + p.Of
	}
	if p.IsMet {
		verdict = "met"
	}
	return fmt.Sprintf("<= %g%s: %s", p.Limit, of, verdict)
}
