package gateway

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/go-bexpr"
)

// listed is one item of a list: what is shown, what a filter sees, and what it is ordered and paged by.
type listed[T any] struct {
	show   T
	filter any
	id     string // matched by ?prefix=
	token  string // unique: where the next page begins
}

// page applies prefix, filter, reverse and paging to a list, as Nomad's lists do.
func page[T any](w http.ResponseWriter, c *call, items []listed[T]) ([]T, error) {
	query := c.URL.Query()
	test, err := filterOf(query.Get("filter"))
	if err != nil {
		return nil, err
	}
	prefix := query.Get("prefix")
	order := 1
	if query.Get("reverse") == "true" {
		order = -1
	}
	slices.SortFunc(items, func(a, b listed[T]) int { return order * cmp.Compare(a.token, b.token) })
	size, err := sizeOf(query.Get("per_page"))
	if err != nil {
		return nil, err
	}
	out, start := []T{}, query.Get("next_token")
	for _, item := range items {
		if start != "" && order*cmp.Compare(item.token, start) < 0 || !strings.HasPrefix(item.id, prefix) {
			continue
		}
		ok, err := test(item.filter)
		if err != nil {
			return nil, fail(http.StatusBadRequest, "failed to evaluate filter: %s", err)
		}
		if !ok {
			continue
		}
		if size > 0 && len(out) == size {
			w.Header().Set("X-Nomad-NextToken", item.token)
			break
		}
		out = append(out, item.show)
	}
	return out, nil
}

func sizeOf(text string) (int, error) {
	size, err := strconv.Atoi(or(text, "0"))
	if err != nil || size < 0 {
		return 0, fail(http.StatusBadRequest, "per_page must be a number, not %q", text)
	}
	return size, nil
}

func filterOf(expression string) (func(any) (bool, error), error) {
	if expression == "" {
		return func(any) (bool, error) { return true, nil }, nil
	}
	evaluator, err := bexpr.CreateEvaluator(expression)
	if err != nil {
		return nil, fail(http.StatusBadRequest, "failed to read filter expression: %s", err)
	}
	return evaluator.Evaluate, nil
}

// timeToken orders a list by age, then ID.
func timeToken(index uint64, id string) string {
	text := strconv.FormatUint(index, 10)
	return strings.Repeat("0", max(20-len(text), 0)) + text + "." + id
}
