package bench

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

func TestRow_Judge(t *testing.T) {
	row := Row{What: "start", Unit: "ms", Promises: []Promise{{Limit: 35}, {Limit: 0.35, Of: "exec"}, {Limit: 0.5, Of: "docker"}}}
	for _, value := range []float64{30, 50, 40} {
		row.add("runc", value)
	}
	for _, value := range []float64{100, 200} {
		row.add("exec", value)
	}
	row.judge()
	must.Eq(t, []Promise{
		{Limit: 35, Value: 40},
		{Limit: 0.35, Of: "exec", Value: 40. / 150, IsMet: true},
	}, row.Promises, must.Sprint("a share of a peer that is not there can't be judged"))
}

// What is wrong with an engine of others costs its own column; what is wrong with us, or a stop, ends the bench.
func TestRow_GiveUp(t *testing.T) {
	row := Row{What: "start", Unit: "ms", Promises: []Promise{{Limit: 0.8, Of: "docker"}}}
	row.add("runc", 30)
	row.add("docker", 100)
	must.NoError(t, row.giveUp(t.Context(), "docker", true, nil))
	must.False(t, row.lacks("docker"))
	broken := errors.New("its socket is gone")
	must.ErrorIs(t, row.giveUp(t.Context(), "runc", false, broken), broken)
	stopped, stop := context.WithCancel(t.Context())
	stop()
	must.ErrorIs(t, row.giveUp(stopped, "docker", true, broken), broken)
	must.NoError(t, row.giveUp(t.Context(), "docker", true, broken))
	must.True(t, row.lacks("docker"))
	row.judge()
	must.SliceEmpty(t, row.Promises)
	var out strings.Builder
	must.NoError(t, Print(&out, Report{Rows: []Row{row}}, "exec"))
	must.StrContains(t, out.String(), "docker  failed, see below")
	must.StrContains(t, out.String(), "start: docker failed: its socket is gone\n")
	must.Eq(t, "start: runc 30.0 ms n=1, docker failed", row.brief())
}

func TestPrint(t *testing.T) {
	row := Row{What: "start", Unit: "ms", Note: "on one node", Before: State{Load: 0.5, Busy: 7}, Promises: []Promise{{Limit: 35}, {Limit: 0.45, Of: "exec"}}}
	for _, value := range []float64{30, 50, 40} {
		row.add("runc", value)
	}
	row.add("exec", 100)
	row.judge()
	var out strings.Builder
	must.NoError(t, Print(&out, Report{Rows: []Row{row}, Notes: []string{"exec lacks much"}}, "exec"))
	var lines [][]string
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.Fields(line))
	}
	must.Eq(t, [][]string{
		{"what", "side", "median", "[min-max]", "n", "of", "exec", "promised", "load,", "busy", "before"},
		{"start", "runc", "40.0", "[30.0-50.0]", "ms", "3", "0.40", "<=", "35:", "MISSED;", "<=", "0.45", "of", "exec:", "met", "0.5,", "7", "%"},
		{"exec", "100", "ms", "1", "1.00"},
		{"start:", "on", "one", "node"},
		{"exec", "lacks", "much"},
	}, lines)
}

func TestNumber(t *testing.T) {
	for given, want := range map[float64]string{0.7251: "0.73", 7.251: "7.25", 72.51: "72.5", 725.1: "725", -3.2: "-3.20"} {
		must.Eq(t, want, number(given))
	}
}

func TestDriver_Helps(t *testing.T) {
	for _, c := range []struct {
		name string
		d    driver
		argv []string
		want bool
	}{
		{"our shim", ours(), []string{"/opt/pangaea-shim", "/var/lib/x"}, true},
		{"our plugin", ours(), []string{"/plugins/pangaea-driver", ""}, false},
		{"Nomad's executor", nomads()[0], []string{"/usr/bin/nomad", "executor", "{}"}, true},
		{"Nomad's log collector", nomads()[0], []string{"/usr/bin/nomad", "logmon"}, false},
		{"a task that names one", nomads()[0], []string{"sh", "-c", "executor"}, false},
		{"a kernel thread", docker(), []string{""}, false},
	} {
		must.Eq(t, c.want, c.d.helps(c.argv), must.Sprint(c.name))
	}
	must.True(t, ours().serves([]string{"/plugins/pangaea-driver"}))
	must.False(t, nomads()[0].serves([]string{"/plugins/pangaea-driver"}))
}
