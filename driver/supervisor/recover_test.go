package supervisor

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"pangaea/driver/record"
)

// standInEnv makes this test program a stand-in for the plugin, so that a test can kill it.
const standInEnv = "PANGAEA_TEST_STAND_IN"

// standIn is what the stand-in does: start one task, say so, wait to be killed.
func standIn() {
	var order struct {
		Config Config
		Launch Launch
	}
	err := json.Unmarshal([]byte(os.Getenv(standInEnv)), &order)
	if err == nil {
		_, err = New(order.Config).Start(context.Background(), order.Launch)
	}
	fmt.Println("started", err)
	select {}
}

// startElsewhere has a stand-in start the task and returns it.
func (b *bench) startElsewhere(l Launch) (*exec.Cmd, *bufio.Reader) {
	b.t.Helper()
	conf := b.sup.conf
	conf.Logger = nil
	order, err := json.Marshal(map[string]any{"Config": conf, "Launch": l})
	must.NoError(b.t, err)
	self, err := os.Executable()
	must.NoError(b.t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), standInEnv+"="+string(order))
	out, err := cmd.StdoutPipe()
	must.NoError(b.t, err)
	must.NoError(b.t, cmd.Start())
	return cmd, bufio.NewReader(out)
}

// abandon starts a task and kills who started it.
func (b *bench) abandon(l Launch) {
	b.t.Helper()
	cmd, out := b.startElsewhere(l)
	line, err := out.ReadString('\n')
	must.NoError(b.t, err)
	must.Eq(b.t, "started <nil>\n", line)
	must.NoError(b.t, cmd.Process.Kill())
	_ = cmd.Wait()
}

func (b *bench) recover(l Launch) *Task {
	b.t.Helper()
	task, err := b.sup.Recover(l.Dir)
	must.NoError(b.t, err)
	b.t.Cleanup(func() { must.NoError(b.t, task.Destroy(context.Background())) })
	return task
}

func (b *bench) state(l Launch) *record.State {
	b.t.Helper()
	state, err := record.ReadState(l.Dir)
	must.NoError(b.t, err)
	return state
}

// adopted waits until a task has a shim that was not killed.
func (b *bench) adopted(l Launch, killed ...int) {
	b.t.Helper()
	eventually(b.t, "another shim has taken over", func() bool {
		state := b.state(l)
		return !slices.Contains(killed, state.ShimPid) && record.Alive(state.ShimPid, state.ShimStartTime)
	})
}

func TestRootRecover(t *testing.T) {
	b := newBench(t)
	t.Run("running", func(t *testing.T) {
		b := b.on(t)
		l := b.launch("/bin/sh", "-c", "trap 'exit 4' TERM; while true; do sleep 0.05; done")
		out := b.newFIFO("running").read(t)
		l.Stdout = out.path
		l.Spec.Process.Args[2] = "trap 'echo bye; exit 4' TERM; echo up; while true; do sleep 0.05; done"
		b.abandon(l)
		task := b.recover(l)
		must.Eq(t, b.state(l).Pid, task.Pid())
		eventually(t, "the trap is set", func() bool { return out.String() == "up\n" })
		must.NoError(t, task.Stop(t.Context(), unix.SIGTERM, patience))
		must.Eq(t, 4, b.wait(task).Code)
		eventually(t, "the last word is read", func() bool { return out.String() == "up\nbye\n" })
	})
	t.Run("exited while nobody looked", func(t *testing.T) {
		b := b.on(t)
		l := b.launch("/bin/sh", "-c", "sleep 0.1; exit 23")
		b.abandon(l)
		eventually(t, "the exit is recorded", func() bool {
			_, err := os.Stat(filepath.Join(l.Dir, record.ExitFile))
			return err == nil
		})
		must.Eq(t, 23, b.wait(b.recover(l)).Code)
		must.Eq(t, 23, b.wait(b.recover(l)).Code)
	})
	t.Run("shim and plugin killed", func(t *testing.T) {
		b := b.on(t)
		l, out := b.untilTold(24)
		b.abandon(l)
		out.up(t)
		must.NoError(t, unix.Kill(b.state(l).ShimPid, unix.SIGKILL))
		task := b.recover(l)
		must.NoError(t, task.Signal(unix.SIGTERM))
		b.witnessed(24, b.wait(task))
	})
	t.Run("twice at once, without a shim", func(t *testing.T) {
		b := b.on(t)
		l, out := b.untilTold(25)
		b.abandon(l)
		out.up(t)
		killed := b.state(l).ShimPid
		must.NoError(t, unix.Kill(killed, unix.SIGKILL))
		first, second := b.recover(l), b.recover(l)
		b.adopted(l, killed)
		must.NoError(t, first.Signal(unix.SIGTERM))
		must.Eq(t, b.wait(first), b.wait(second))
		b.witnessed(25, b.wait(first))
	})
	t.Run("shim, plugin and task killed", func(t *testing.T) {
		b := b.on(t)
		l := b.launch("/bin/sleep", "1000")
		b.abandon(l)
		state := b.state(l)
		must.NoError(t, unix.Kill(state.ShimPid, unix.SIGKILL))
		must.NoError(t, unix.Kill(state.Pid, unix.SIGKILL))
		eventually(t, "both are gone", func() bool {
			return !record.Alive(state.Pid, state.StartTime) && !record.Alive(state.ShimPid, state.ShimStartTime)
		})
		_, err := b.sup.Recover(l.Dir)
		must.ErrorIs(t, err, ErrGone)
		lost, err := b.sup.Lost(l.Dir)
		must.NoError(t, err)
		must.True(t, b.wait(lost).Unknown)
		must.True(t, b.wait(b.recover(l)).Unknown, must.Sprint("once unknown, always unknown"))
	})
	t.Run("never started", func(t *testing.T) {
		_, err := b.sup.Recover(b.on(t).launch("/bin/true").Dir)
		must.ErrorIs(t, err, ErrGone)
	})
	t.Run("before a reboot", func(t *testing.T) {
		b := b.on(t)
		l := b.launch("/bin/true")
		must.Zero(t, b.run(l).Code)
		must.NoError(t, os.Remove(filepath.Join(l.Dir, record.ExitFile)))
		launch, err := record.ReadLaunch(l.Dir)
		must.NoError(t, err)
		launch.BootID = "another"
		must.NoError(t, record.WriteLaunch(l.Dir, launch))
		_, err = b.sup.Recover(l.Dir)
		must.ErrorIs(t, err, ErrGone)
		_, err = b.sup.Lost(l.Dir)
		must.ErrorIs(t, err, ErrGone, must.Sprint("a restart of the machine says nothing of a task"))
	})
}

// A shim that is killed takes neither the task nor its exit code nor its output along.
func TestRootShimKilled(t *testing.T) {
	b := newBench(t)
	l := b.launch("/bin/sh", "-c", "trap 'end=1' USR1; i=0; while [ -z \"$end\" ]; do echo line $i; i=$((i+1)); sleep 0.01; done; echo end; exit 77")
	out := b.newFIFO("out").read(t)
	l.Stdout = out.path
	task := b.start(l)
	eventually(t, "the trap is set", func() bool { return out.String() != "" })
	var killed []int
	for range 3 {
		b.adopted(l, killed...)
		killed = append(killed, b.state(l).ShimPid)
		must.NoError(t, unix.Kill(killed[len(killed)-1], unix.SIGKILL))
		seen := len(out.String())
		eventually(t, "the output goes on", func() bool { return len(out.String()) > seen })
	}
	must.NoError(t, task.Signal(unix.SIGUSR1))
	b.witnessed(77, b.wait(task))
	eventually(t, "the last word has come", func() bool { return strings.HasSuffix(out.String(), "end\n") })
	var want bytes.Buffer
	for i := range strings.Count(out.String(), "line") {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	must.Eq(t, want.String()+"end\n", out.String())
}

// Nomad's log collector sees the end of a task's logs no sooner than somebody has learned of the task's end.
func TestRootLogsEndWhenTold(t *testing.T) {
	b := newBench(t)
	l := b.launch("/bin/sh", "-c", "exit 9")
	l.Stdout = b.newFIFO("out").path
	reader, err := os.OpenFile(l.Stdout, os.O_RDONLY|unix.O_NONBLOCK, 0)
	must.NoError(t, err)
	defer reader.Close()
	atEnd := func() bool {
		fds := []unix.PollFd{{Fd: int32(reader.Fd()), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, 0)
		return err == nil && fds[0].Revents&unix.POLLHUP != 0
	}
	task := b.start(l)
	<-task.Done()
	must.False(t, atEnd())
	must.Eq(t, 9, b.wait(task).Code)
	eventually(t, "the logs end", atEnd)
}

// Without a new shim the pidfd alone tells how the task ended.
func TestRootPidfdWitness(t *testing.T) {
	b := newBench(t)
	b.sup.conf.ShimPath = filepath.Join(b.root, "shim")
	must.NoError(t, os.Symlink(built.shim, b.sup.conf.ShimPath))
	l, out := b.untilTold(78)
	task := b.start(l)
	out.up(t)
	must.NoError(t, os.Remove(b.sup.conf.ShimPath))
	must.NoError(t, unix.Kill(b.state(l).ShimPid, unix.SIGKILL))
	must.NoError(t, task.Signal(unix.SIGTERM))
	b.witnessed(78, b.wait(task))
	b.witnessed(78, b.wait(b.recover(l)))
}

// Whoever starts a task may be killed at any moment: afterwards the task runs and is recorded, or nothing is left.
func TestRootKilledWhileStarting(t *testing.T) {
	b := newBench(t)
	whole := b.launch("/bin/sleep", "1000")
	began := time.Now()
	b.abandon(whole)
	// The moments lie between the first of a start and its end, and beyond until one came too late.
	step := time.Since(began) / 20
	b.recover(whole)
	var running, gone int
	for i := 0; i < 24 || running == 0; i++ {
		l := b.launch("/bin/sleep", "1000")
		cmd, _ := b.startElsewhere(l)
		time.Sleep(time.Duration(i) * step)
		must.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
		task, err := b.sup.Recover(l.Dir)
		if errors.Is(err, ErrGone) {
			gone++
			continue
		}
		must.NoError(t, err)
		must.False(t, task.ended())
		must.NoError(t, task.Signal(unix.SIGKILL))
		must.Eq(t, 137, b.wait(task).Code)
		must.NoError(t, task.Destroy(t.Context()))
		running++
	}
	t.Logf("%d tasks ran, %d were gone", running, gone)
}

// A shim that has only now come to its task, while whoever wanted it is dead, and others have looked and found nothing,
// starts nothing that nobody would ever remove.
func TestRootShimComesTooLate(t *testing.T) {
	b := newBench(t)
	l := b.launch("/bin/sleep", "1000")
	launch, group, err := b.sup.prepare(l)
	must.NoError(t, err)
	_, err = b.sup.Recover(l.Dir)
	must.ErrorIs(t, err, ErrGone)
	read, write, err := os.Pipe()
	must.NoError(t, err)
	must.NoError(t, read.Close())
	shim := exec.Command(b.sup.shimPath(launch), l.Dir)
	shim.ExtraFiles = []*os.File{write}
	must.Error(t, shim.Run())
	must.NoError(t, write.Close())
	must.SliceEmpty(t, group.Pids())
	for _, path := range []string{launch.Root(l.Dir), filepath.Join(l.Dir, record.StateFile)} {
		_, err = os.Lstat(path)
		must.ErrorIs(t, err, os.ErrNotExist, must.Sprint(path))
	}
}

// Any process of a start may be killed at any moment: then the start fails and nothing is left, or it succeeds and
// the task's end is known.
func TestRootStartDisturbed(t *testing.T) {
	b := newBench(t)
	began := time.Now()
	must.Eq(t, 5, b.run(b.launch("/bin/sh", "-c", "exit 5")).Code)
	took := time.Since(began)
	var failed, ended, unknown int
	// The last kills of forty come late enough for a start that takes longer than this one. How long one takes changes
	// with all else that the machine does, so there are more rounds until a kill came early enough, and one too late.
	for i := 0; i < 40 || failed == 0 || ended == 0; i++ {
		l := b.launch("/bin/sh", "-c", "exit 5")
		killed := make(chan string, 1)
		moment := time.Duration(i%40) * took / 24
		if i >= 40 && ended == 0 {
			moment = time.Duration(i) * took / 24
		}
		began = time.Now()
		go func() {
			time.Sleep(moment)
			program := ""
			victims := processesOf(l.Dir)
			if len(victims) > 0 {
				victim := victims[i%len(victims)]
				program, _ = os.Readlink(fmt.Sprintf("/proc/%d/exe", victim))
				_ = unix.Kill(victim, unix.SIGKILL)
			}
			killed <- program
		}()
		task, err := b.sup.Start(t.Context(), l)
		start := time.Since(began)
		victim := <-killed
		if err != nil {
			failed++
			continue
		}
		began = time.Now()
		exit := b.wait(task)
		switch {
		case exit.Unknown:
			must.Eq(t, built.shim, victim, must.Sprint("a shim that lives sees the end"))
			b.witnessed(5, exit)
			unknown++
		case gvisor() && exit.Code == 137:
			// The victim was gVisor's sandbox, which is the task.
		default:
			must.Eq(t, 5, exit.Code)
			ended++
			took = start + time.Since(began)
		}
		must.NoError(t, task.Destroy(t.Context()))
	}
	t.Logf("%d starts failed, %d tasks ended with their code, %d with an unknown one", failed, ended, unknown)
}

// processesOf finds the shim and the runtime of a task.
func processesOf(dir string) []int {
	var pids []int
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range lines {
		text, err := os.ReadFile(path)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil && pid != os.Getpid() && bytes.Contains(text, []byte(dir)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// A shim killed between create and start leaves a sandbox that nobody was told of.
func TestRootKilledBetweenCreateAndStart(t *testing.T) {
	b := newBench(t)
	l := b.launch("/bin/sleep", "1000")
	l.Lease = Lease{File: filepath.Join(b.root, "lease"), TTL: time.Hour}
	b.abandon(l)
	state := b.state(l)
	must.NoError(t, unix.Kill(state.ShimPid, unix.SIGKILL))
	eventually(t, "the shim is dead", func() bool { return !record.Alive(state.ShimPid, state.ShimStartTime) })
	_, err := b.sup.Recover(l.Dir)
	must.ErrorIs(t, err, ErrGone)
	// A process leaves its cgroup a moment before its end.
	eventually(t, "its init is dead", func() bool { return !record.Alive(state.Pid, state.StartTime) })
}

// Processes in the cgroup that a new task is to have are killed before it starts.
func TestRootOrphansInCgroup(t *testing.T) {
	b := newBench(t)
	orphan := b.launch("/bin/sleep", "1000")
	first := b.start(orphan)
	// Or it would empty the cgroup when its task has ended, in which the next may be by then.
	shim := b.state(orphan).ShimPid
	must.NoError(t, unix.Kill(shim, unix.SIGSTOP))
	second := b.launch("/bin/true")
	second.Spec.Linux.CgroupsPath = first.launch.CgroupsPath
	task := b.start(second)
	must.Zero(t, b.wait(task).Code)
	must.NoError(t, unix.Kill(shim, unix.SIGCONT))
	must.Eq(t, 137, b.wait(first).Code)
}

func TestRootManyAtOnce(t *testing.T) {
	b := newBench(t)
	var tasks sync.WaitGroup
	for i := range 16 {
		l := b.launch("/bin/sh", "-c", fmt.Sprintf("exit %d", i))
		tasks.Go(func() { must.Eq(t, i, b.run(l).Code) })
	}
	tasks.Wait()
}

func TestRootFastExits(t *testing.T) {
	b := newBench(t)
	for range 20 {
		must.Zero(t, b.run(b.launch("/bin/true")).Code)
	}
}
