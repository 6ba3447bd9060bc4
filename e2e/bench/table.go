package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Print writes a report's rows as one table, with ratios to the side called peer.
func Print(out io.Writer, report Report, peer string) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "what\tside\tmedian [min-max]\tn\tof %s\tpromised\tload, busy before\n", peer)
	for _, row := range report.Rows {
		promises := make([]string, len(row.Promises))
		for i, p := range row.Promises {
			promises[i] = p.String()
		}
		what, promised, before := row.What, strings.Join(promises, "; "), fmt.Sprintf("%.1f, %.0f %%", row.Before.Load, row.Before.Busy)
		for _, side := range row.Sides {
			ratio := ""
			if r := row.ratio(side, peer); !math.IsNaN(r) {
				ratio = fmt.Sprintf("%.2f", r)
			}
			fmt.Fprintf(table, "%s\t%s\t%s %s\t%d\t%s\t%s\t%s\n", what, side.Name, side.spread(), row.Unit, len(side.Values), ratio, promised, before)
			what, promised, before = "", "", ""
		}
		for _, failure := range row.Failures {
			fmt.Fprintf(table, "%s\t%s\tfailed, see below\n", what, failure.Name)
			what = ""
		}
	}
	err := table.Flush()
	for _, row := range report.Rows {
		if row.Note != "" {
			fmt.Fprintf(out, "%s: %s\n", row.What, row.Note)
		}
		for _, failure := range row.Failures {
			fmt.Fprintf(out, "%s: %s failed: %s\n", row.What, failure.Name, failure.Error)
		}
	}
	for _, note := range report.Notes {
		fmt.Fprintln(out, note)
	}
	return err
}

// WriteJSON writes a report, every single value in it, to a file.
func WriteJSON(path string, report Report) error {
	data, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot encode the figures: %w", err)
	}
	err = os.WriteFile(path, append(data, '\n'), 0o644)
	if err != nil {
		return fmt.Errorf("cannot write the figures: %w", err)
	}
	return nil
}

// brief is a row in one line, for progress.
func (r *Row) brief() string {
	var parts []string
	for _, side := range r.Sides {
		parts = append(parts, side.Name+" "+side.spread()+" "+r.Unit+" n="+strconv.Itoa(len(side.Values)))
	}
	for _, failure := range r.Failures {
		parts = append(parts, failure.Name+" failed")
	}
	return r.What + ": " + strings.Join(parts, ", ")
}
