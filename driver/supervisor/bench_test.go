package supervisor

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// BenchmarkRootStart is what a task costs from launch until its program runs, until its exit is known, and until
// nothing is left of it. The medians are what to look at: other programs disturb the mean.
func BenchmarkRootStart(b *testing.B) {
	bench := newBench(b)
	var start, exit, destroy []time.Duration
	for b.Loop() {
		l := bench.launch("/bin/true")
		began := time.Now()
		task, err := bench.sup.Start(b.Context(), l)
		start = append(start, time.Since(began))
		must.NoError(b, err)
		bench.wait(task)
		exit = append(exit, time.Since(began))
		must.NoError(b, task.Destroy(b.Context()))
		destroy = append(destroy, time.Since(began))
	}
	for name, times := range map[string][]time.Duration{"ms-start": start, "ms-exit": exit, "ms-destroy": destroy} {
		slices.Sort(times)
		b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, name)
	}
}

// What runs once per task must be small: all of it is the shim.
func TestRootMemoryPerTask(t *testing.T) {
	ownOnly(t, "the shim is the same")
	b := newBench(t)
	const tasks, mostPSS = 20, 1 << 20
	var launches []Launch
	for range tasks {
		l := b.launch("/bin/sleep", "1000")
		l.Stdout, l.Stderr = b.newFIFO(l.ID+"-out").path, b.newFIFO(l.ID+"-err").path
		b.start(l)
		launches = append(launches, l)
	}
	var pss, dirty int
	for _, l := range launches {
		usage := rollup(t, b.state(l).ShimPid)
		pss += usage["Pss:"]
		dirty += usage["Private_Dirty:"]
	}
	t.Logf("per task: PSS %d KiB, private dirty %d KiB", pss/tasks>>10, dirty/tasks>>10)
	must.Less(t, mostPSS, pss/tasks)
}

// rollup reads a process's memory, in bytes.
func rollup(t *testing.T, pid int) map[string]int {
	t.Helper()
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	must.NoError(t, err)
	usage := map[string]int{}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) == 3 {
			kib, err := strconv.Atoi(fields[1])
			must.NoError(t, err)
			usage[fields[0]] = kib << 10
		}
	}
	return usage
}
