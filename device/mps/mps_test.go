package mps

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"pangaea/e2e/mpssim"
)

// simulate is a control daemon that does not run yet, with its program on the PATH.
func simulate(t *testing.T) (*mpssim.Control, Daemon) {
	t.Helper()
	c, err := mpssim.New(t.TempDir())
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, c.Kill()) })
	t.Setenv("PATH", c.Bin+":"+os.Getenv("PATH"))
	return c, Daemon{Dir: c.Pipe, Proc: "/proc"}
}

func TestFind(t *testing.T) {
	c, d := simulate(t)
	_, err := d.Find()
	must.EqError(t, err, "the MPS control daemon does not run: run CUDA_MPS_PIPE_DIRECTORY="+c.Pipe+" nvidia-cuda-mps-control -d (nvidia-cuda-mps-control.pid is not there)")
	must.NoError(t, c.Start())
	first, err := d.Find()
	must.NoError(t, err)
	again, err := d.Find()
	must.NoError(t, err)
	must.Eq(t, first, again)
	must.NoError(t, c.Kill())
	_, err = d.Find()
	must.ErrorContains(t, err, "is gone", must.Sprint("its file is still there"))
	must.NoError(t, c.Start())
	second, err := d.Find()
	must.NoError(t, err)
	must.NotEq(t, first, second)
}

// Anybody may make files in /tmp.
func TestFindWhatIsNoDaemon(t *testing.T) {
	file := func(text string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			t.Helper()
			must.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		}
	}
	cases := []struct {
		name  string
		make  func(t *testing.T, path string)
		fails string
	}{
		{"empty", file(""), `holds "", which is no process`},
		{"words", file("one\n"), "which is no process"},
		{"every process", file("-1\n"), "which is no process"},
		{"another program", file(strconv.Itoa(os.Getpid())), "is gone"},
		{"nobody", file("4194305\n"), "is gone"},
		{"a pipe", func(t *testing.T, path string) { t.Helper(); must.NoError(t, syscall.Mkfifo(path, 0o600)) }, "is no file"},
		{"a directory", func(t *testing.T, path string) { t.Helper(); must.NoError(t, os.Mkdir(path, 0o700)) }, "is no file"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d := Daemon{Dir: t.TempDir(), Proc: "/proc"}
			c.make(t, filepath.Join(d.Dir, pidFile))
			_, err := d.Find()
			must.ErrorContains(t, err, c.fails)
		})
	}
}

func TestRootStrangersDaemonIsNone(t *testing.T) {
	d := Daemon{Dir: t.TempDir(), Proc: t.TempDir()}
	must.NoError(t, os.WriteFile(filepath.Join(d.Dir, pidFile), []byte("7"), 0o600))
	process := filepath.Join(d.Proc, "7")
	must.NoError(t, os.Mkdir(process, 0o755))
	must.NoError(t, os.WriteFile(filepath.Join(process, "comm"), []byte(comm+"\n"), 0o600))
	must.NoError(t, os.WriteFile(filepath.Join(process, "stat"), []byte("7 (a) b) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0\n"), 0o600))
	found, err := d.Find()
	must.NoError(t, err)
	must.Eq(t, Process{PID: 7, Start: 4711}, found)
	must.NoError(t, os.Chown(process, 1000, 1000))
	_, err = d.Find()
	must.ErrorContains(t, err, "is another user's: end it, and start one as root")
}

func TestTell(t *testing.T) {
	bounds := Bounds{Percent: 25, MiB: map[string]uint64{"GPU-b": 5758, "GPU-a": 20389}}
	c, d := simulate(t)
	must.NoError(t, c.Start())
	failures, err := d.Tell(t.Context(), bounds)
	must.NoError(t, err)
	must.MapEmpty(t, failures)
	asked, err := c.Asked()
	must.NoError(t, err)
	must.Eq(t, []string{
		"set_default_active_thread_percentage 25", "get_default_active_thread_percentage", "get_server_list",
		"set_default_device_pinned_mem_limit GPU-a 20389M", "set_default_device_pinned_mem_limit GPU-b 5758M",
	}, asked)

	// Defaults don't reach servers that run already.
	must.NoError(t, c.Serve("71", "72"))
	must.NoError(t, os.Remove(filepath.Join(c.Pipe, "asked")))
	_, err = d.Tell(t.Context(), Bounds{Percent: 50, MiB: map[string]uint64{"GPU-a": 9}})
	must.NoError(t, err)
	asked, err = c.Asked()
	must.NoError(t, err)
	must.Eq(t, []string{
		"set_default_active_thread_percentage 50", "get_default_active_thread_percentage", "get_server_list",
		"set_active_thread_percentage 71 50", "set_active_thread_percentage 72 50",
		"set_default_device_pinned_mem_limit GPU-a 9M", "set_device_pinned_mem_limit 71 GPU-a 9M", "set_device_pinned_mem_limit 72 GPU-a 9M",
	}, asked)
}

func TestTellFails(t *testing.T) {
	bounds := Bounds{Percent: 25, MiB: map[string]uint64{"GPU-b": 5758, "GPU-a": 20389}}
	c, d := simulate(t)
	must.NoError(t, c.Start())
	must.NoError(t, c.Behave("refuse GPU-a"))
	failures, err := d.Tell(t.Context(), bounds)
	must.NoError(t, err)
	must.MapLen(t, 1, failures)
	must.EqError(t, failures["GPU-a"], `cannot tell the MPS control daemon "set_default_device_pinned_mem_limit GPU-a 20389M": exit status 1: "Invalid device"`)

	must.NoError(t, c.Behave("garbage"))
	_, err = d.Tell(t.Context(), bounds)
	must.EqError(t, err, `the MPS control daemon answers get_default_active_thread_percentage with "flubber [2J", not with the 25 that it was told: restart it`)

	must.NoError(t, c.Behave("hang"))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err = d.Tell(ctx, bounds)
	must.ErrorContains(t, err, "the MPS control daemon does not answer set_default_active_thread_percentage: restart it")
	must.Less(t, 30*time.Minute, time.Since(began), must.Sprint("it hangs for an hour"))

	must.NoError(t, c.Behave(""))
	must.NoError(t, c.Serve("Server list:"))
	_, err = d.Tell(t.Context(), bounds)
	must.ErrorContains(t, err, `answers get_server_list with "Server list:", which is no list of processes`)

	must.NoError(t, c.Kill())
	_, err = d.Tell(t.Context(), bounds)
	must.ErrorContains(t, err, "Cannot find MPS control daemon process")

	t.Setenv("PATH", t.TempDir())
	_, err = d.Tell(t.Context(), bounds)
	must.ErrorContains(t, err, "cannot find nvidia-cuda-mps-control, which comes with NVIDIA's driver: install it, or put its directory on the PATH of Nomad's client")
}
