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

// Print writes rows as one table, with ratios to the side called peer.
func Print(out io.Writer, rows []Row, peer string) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "what\tside\tmedian [min-max]\tn\tof %s\tpromised\n", peer)
	for _, row := range rows {
		promises := make([]string, len(row.Promises))
		for i, p := range row.Promises {
			promises[i] = p.String()
		}
		what, promised := row.What, strings.Join(promises, "; ")
		for _, side := range row.Sides {
			ratio := ""
			if r := row.ratio(side, peer); !math.IsNaN(r) {
				ratio = fmt.Sprintf("%.2f", r)
			}
			fmt.Fprintf(table, "%s\t%s\t%s %s\t%d\t%s\t%s\n", what, side.Name, side.spread(), row.Unit, len(side.Values), ratio, promised)
			what, promised = "", ""
		}
	}
	err := table.Flush()
	for _, row := range rows {
		if row.Note != "" {
			fmt.Fprintf(out, "%s: %s\n", row.What, row.Note)
		}
	}
	return err
}

// WriteJSON writes rows, every single value among them, to a file.
func WriteJSON(path string, rows []Row) error {
	data, err := json.MarshalIndent(rows, "", "  ")
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
	return r.What + ": " + strings.Join(parts, ", ")
}
