package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"pangaea/device/control"
)

func (d *desk) status(context.Context) error {
	s, uuids, stale, err := d.asked()
	if err != nil {
		return err
	}
	if s.At.IsZero() { // the plugin has not run here yet: there is nothing to show
		return control.ErrStale
	}
	s.GPUs = of(s, uuids)
	err = d.print(s)
	if err != nil {
		return err
	}
	if !stale {
		return nil
	}
	return fmt.Errorf("%w (this was so at %s)", control.ErrStale, s.At.Local().Format(time.DateTime))
}

// print shows the GPUs to a program or to a human.
func (d *desk) print(s control.Status) error {
	if d.json {
		encoder := json.NewEncoder(d.out)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		return encoder.Encode(s)
	}
	if s.Problem != "" {
		fmt.Fprintln(d.out, printable(s.Problem))
	}
	columns := tabwriter.NewWriter(d.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(columns, "GPU\tUUID\tMODEL\tOFFERED\tUSED BY")
	for _, g := range s.GPUs {
		fmt.Fprintln(columns, strings.Join([]string{number(g), g.UUID, printable(g.Model), printable(offered(g)), printable(users(g))}, "\t"))
	}
	return columns.Flush()
}

func number(g control.GPU) string {
	if g.Index < 0 {
		return "-"
	}
	return fmt.Sprint(g.Index)
}

func offered(g control.GPU) string {
	if g.Healthy {
		return "yes"
	}
	return "no: " + g.Reason
}

func users(g control.GPU) string {
	var all []string
	for _, t := range g.Tasks {
		all = append(all, "task "+taskName(t))
	}
	for _, p := range g.OwnerProcesses {
		all = append(all, fmt.Sprintf("owner's %s (%d)", p.Name, p.PID))
	}
	if g.Problem != "" {
		all = append(all, "cannot be freed: "+g.Problem)
	}
	if len(all) == 0 {
		return "nobody"
	}
	return strings.Join(all, ", ")
}

// taskName is a task with what Nomad calls it by, as far as that is known.
func taskName(t control.Task) string {
	name := t.Task
	if t.JobID != "" {
		name = t.JobID + "/" + name
	}
	if t.Namespace != "" {
		name = t.Namespace + "/" + name
	}
	if t.AllocID == "" {
		return name
	}
	return fmt.Sprintf("%s (allocation %.8s)", name, t.AllocID)
}

// printable keeps names that tenants chose from moving the terminal's cursor.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}

var errInterrupted = errors.New("interrupted; what was asked stays in force")
