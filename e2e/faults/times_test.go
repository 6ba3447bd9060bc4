//go:build faults

package faults

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// How long it takes until Nomad knows the exit code of a task that ended while Nomad's client, or the driver's plugin, was
// dead. FAULTS_TIMES is how often it is measured; the times are told, for how fast is the machine's affair.
func TestRootTimes(t *testing.T) {
	var client, plugin []time.Duration
	for range number(t, "FAULTS_TIMES", 1) {
		client = append(client, timeOfClient(t))
		plugin = append(plugin, timeOfPlugin(t))
	}
	for name, times := range map[string][]time.Duration{"client": client, "plugin": plugin} {
		slices.Sort(times)
		t.Logf("the %s killed, until the exit code is known: n = %d, median %s, %s to %s", name, len(times), times[len(times)/2], times[0], times[len(times)-1])
	}
}

// timeOfClient counts from the command that starts the client again.
func timeOfClient(t *testing.T) time.Duration {
	t.Helper()
	w := newTask(t, fmt.Sprint("t", serial.Add(1)), usual)
	w.run()
	w.awaitStarted()
	must.NoError(t, shared.KillClient())
	w.write("exit", "7")
	w.eventually("its end is recorded", w.recordedExit)
	began := time.Now()
	back := make(chan error, 1)
	go func() { back <- shared.StartClient(t.Context()) }()
	w.awaitExit(7)
	took := time.Since(began).Round(time.Millisecond)
	must.NoError(t, <-back)
	w.end()
	return took
}

// timeOfPlugin counts from the kill.
func timeOfPlugin(t *testing.T) time.Duration {
	t.Helper()
	w := newTask(t, fmt.Sprint("t", serial.Add(1)), usual)
	w.run()
	w.awaitStarted()
	pid := pluginPID(t, "pangaea-driver")
	w.write("exit", "7")
	began := time.Now()
	signalAll(w, []int{pid}, syscall.SIGKILL)
	w.awaitExit(7)
	took := time.Since(began).Round(time.Millisecond)
	w.end()
	return took
}
