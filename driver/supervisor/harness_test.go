package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"pangaea/driver/cgroup"
	"pangaea/driver/record"
)

// hostBase is the first host id of the tests' user namespaces.
const hostBase = 1_500_000_000

// programs are the shim and the runtime, built once for all tests.
type programs struct{ shim, runtime, busybox string }

func buildPrograms(dir string) (programs, error) {
	p := programs{shim: filepath.Join(dir, "pangaea-shim"), runtime: filepath.Join(dir, "pangaea-runtime")}
	for _, build := range []struct {
		out, pkg, cgo string
		flags         []string
	}{
		{p.shim, "pangaea/driver/shim", "0", nil},
		{p.runtime, "pangaea/driver/runtime", "1", []string{"-tags", "seccomp"}},
	} {
		args := append([]string{"build", "-ldflags", "-s -w", "-o", build.out}, build.flags...)
		cmd := exec.Command("go", append(args, build.pkg)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+build.cgo)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return p, fmt.Errorf("cannot build %s: %w: %s", build.pkg, err, out)
		}
	}
	var err error
	p.busybox, err = exec.LookPath("busybox")
	if err != nil {
		return p, fmt.Errorf("cannot find busybox; install busybox-static: %w", err)
	}
	return p, nil
}

// bench is what a root test works with: a supervisor, a root file system and the promise to leave nothing behind.
type bench struct {
	t      testing.TB
	sup    *Supervisor
	root   string
	rootfs string
	before leftovers
	serial *int
	// runtime is the other runtime that tasks run under, or "".
	runtime string
}

// runtimeEnv names the runtime that the root tests run their tasks under: runsc or runc, from the directory of
// PANGAEA_BIN, instead of our own.
const runtimeEnv = "PANGAEA_TEST_RUNTIME"

// others is that runtime.
func others() map[string]Runtime {
	name := os.Getenv(runtimeEnv)
	kind := map[string]string{"runsc": KindRunsc, "runc": KindOCI}[name]
	return map[string]Runtime{name: {Kind: kind, Path: filepath.Join(os.Getenv("PANGAEA_BIN"), name)}}
}

// gvisor says that the tasks run under gVisor.
func gvisor() bool { return os.Getenv(runtimeEnv) == "runsc" }

// ownOnly skips a test of what only our own runtime does.
func ownOnly(t testing.TB, why string) {
	t.Helper()
	if os.Getenv(runtimeEnv) != "" {
		t.Skip(why)
	}
}

// on is the same bench for a subtest.
func (b *bench) on(t testing.TB) *bench {
	c := *b
	c.t = t
	return &c
}

func newBench(t testing.TB) *bench {
	t.Helper()
	must.Zero(t, os.Geteuid(), must.Sprint("root tests must run as root"))
	b := &bench{t: t, serial: new(int), runtime: os.Getenv(runtimeEnv)}
	var err error
	b.root, err = os.MkdirTemp("/var/tmp", "pangaea-supervisor-")
	must.NoError(t, err)
	// The sandbox's root user must be able to walk to its root file system.
	must.NoError(t, os.Chmod(b.root, 0o711))
	b.before = look(t, b.root)
	t.Cleanup(func() {
		b.before.compare(t, b.root)
		removeParents()
		must.NoError(t, os.RemoveAll(b.root))
	})
	b.rootfs = filepath.Join(b.root, "rootfs")
	makeRootfs(t, b.rootfs)
	b.sup = New(Config{
		ShimPath: built.shim, RuntimePath: built.runtime, Others: others(),
		Logger: hclog.New(&hclog.LoggerOptions{Output: io.Discard}),
	})
	return b
}

func makeRootfs(t testing.TB, dir string) {
	t.Helper()
	for _, sub := range []string{"bin", "proc", "sys", "dev", "tmp", "etc", "root"} {
		must.NoError(t, os.MkdirAll(filepath.Join(dir, sub), 0o755))
	}
	must.NoError(t, os.Chmod(filepath.Join(dir, "tmp"), 0o777|os.ModeSticky))
	data, err := os.ReadFile(built.busybox)
	must.NoError(t, err)
	must.NoError(t, os.WriteFile(filepath.Join(dir, "bin/busybox"), data, 0o755))
	for _, name := range []string{"sh", "true", "false", "sleep", "cat", "echo", "kill", "id", "dd", "stty", "tty", "yes", "env", "ls", "pwd", "nproc", "head", "tail", "seq", "grep"} {
		must.NoError(t, os.Symlink("busybox", filepath.Join(dir, "bin", name)))
	}
	must.NoError(t, os.WriteFile(filepath.Join(dir, "bin/garbage"), []byte("\x7fELFnot really"), 0o755))
	must.NoError(t, os.WriteFile(filepath.Join(dir, "etc/passwd"),
		[]byte("root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001::/:/bin/sh\n"), 0o644))
	must.NoError(t, os.WriteFile(filepath.Join(dir, "etc/group"), []byte("root:x:0:\nstaff:x:1001:\nextra:x:1002:alice\n"), 0o644))
}

// launch is a task that runs a program in a sandbox like the driver's.
func (b *bench) launch(args ...string) Launch {
	*b.serial++
	id := fmt.Sprintf("t%d-%d", os.Getpid(), *b.serial)
	dir := filepath.Join(b.root, id)
	must.NoError(b.t, os.Mkdir(dir, 0o700))
	return Launch{ID: id, Dir: dir, Spec: b.spec(id, args), Runtime: b.runtime}
}

func (b *bench) spec(id string, args []string) *specs.Spec {
	mapping := []specs.LinuxIDMapping{{ContainerID: 0, HostID: hostBase, Size: 65536}}
	files := uint64(1 << 30) // Which our own runtime has to make less.
	if b.runtime != "" {
		files = 1024
	}
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: b.rootfs},
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/bin", "HOME=/root"},
			NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{},
			Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: files, Hard: files}},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=64k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{
			UIDMappings: mapping, GIDMappings: mapping,
			CgroupsPath: cgroupParent() + "/" + id,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.NetworkNamespace},
				{Type: specs.UserNamespace},
				{Type: specs.CgroupNamespace},
			},
			Resources: &specs.LinuxResources{
				Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
				Pids:    &specs.LinuxPids{Limit: ptr(int64(64))},
			},
			MaskedPaths:   []string{"/proc/kcore", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/sys"},
		},
	}
}

func memoryLimit(bytes int64) *specs.LinuxMemory {
	return &specs.LinuxMemory{Limit: ptr(bytes), Swap: ptr(bytes)}
}

func ptr[T any](v T) *T { return &v }

// untilTold is a task that lives until it gets SIGTERM, on which it ends with a code. Its logs say "up" when it heeds that.
func (b *bench) untilTold(code int) (Launch, *logs) {
	b.t.Helper()
	l := b.launch("/bin/sh", "-c", fmt.Sprintf("trap 'exit %d' TERM; echo up; while true; do sleep 0.05; done", code))
	out := b.newFIFO(l.ID).read(b.t)
	l.Stdout = out.path
	return l, out
}

// up waits until such a task can be told.
func (l *logs) up(t testing.TB) {
	t.Helper()
	eventually(t, "the trap is set", func() bool { return l.String() == "up\n" })
}

// refused says why a program can't run. On a machine where that takes long the task counts as started before it is known.
func (b *bench) refused(l Launch) error {
	b.t.Helper()
	task, err := b.sup.Start(b.t.Context(), l)
	if err != nil {
		return err
	}
	exit := b.wait(task)
	must.NoError(b.t, task.Destroy(b.t.Context()))
	must.Eq(b.t, codeNotExecuted, exit.Code)
	return errors.New(exit.Error)
}

// start starts a task and destroys it when the test ends.
func (b *bench) start(l Launch) *Task {
	b.t.Helper()
	task, err := b.sup.Start(b.t.Context(), l)
	must.NoError(b.t, err)
	b.t.Cleanup(func() { must.NoError(b.t, task.Destroy(context.Background())) })
	return task
}

// run starts a task and waits until it has ended.
func (b *bench) run(l Launch) Exit {
	b.t.Helper()
	return b.wait(b.start(l))
}

// witnessed checks how a task of this exit code that lost its shim is told to have ended. Linux before 6.15 shows the
// code of a process that was reaped to nobody, and then the honest word is that it is not known.
func (b *bench) witnessed(code int, got Exit) {
	b.t.Helper()
	cmd := exec.Command("/bin/false")
	pidfd := -1
	cmd.SysProcAttr = &syscall.SysProcAttr{PidFD: &pidfd}
	must.NoError(b.t, cmd.Start())
	defer func() { must.NoError(b.t, unix.Close(pidfd)) }()
	must.Error(b.t, cmd.Wait())
	_, told := record.ExitStatus(pidfd, -1, 0)
	if !told && got.Unknown {
		return
	}
	must.Eq(b.t, Exit{Code: code, At: got.At}, got)
}

func (b *bench) wait(task *Task) Exit {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	exit, err := task.Wait(ctx)
	must.NoError(b.t, err)
	return exit
}

// logs is a log reader like Nomad's: a FIFO and what came out of it.
type logs struct {
	path string
	file *os.File
	mu   sync.Mutex
	text bytes.Buffer
	// gap is the longest time between two of its reads.
	gap time.Duration
	end chan struct{}
}

// newFIFO makes a log FIFO that nobody reads yet, where Nomad would make it.
func (b *bench) newFIFO(name string) *logs {
	b.t.Helper()
	dir := filepath.Join(b.root, "alloc", "logs")
	must.NoError(b.t, os.MkdirAll(dir, 0o777))
	l := &logs{path: filepath.Join(dir, name), end: make(chan struct{})}
	must.NoError(b.t, unix.Mkfifo(l.path, 0o600))
	return l
}

// read collects until all writers have closed or stop is called.
func (l *logs) read(t testing.TB) *logs {
	t.Helper()
	var err error
	l.file, err = os.OpenFile(l.path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	must.NoError(t, err)
	go func() {
		defer close(l.end)
		buffer := make([]byte, 64<<10)
		last := time.Now()
		for {
			n, err := l.file.Read(buffer)
			now := time.Now()
			l.mu.Lock()
			l.text.Write(buffer[:n])
			l.gap = max(l.gap, now.Sub(last))
			l.mu.Unlock()
			last = now
			if errors.Is(err, io.EOF) {
				// Also when there has been no writer yet.
				_, err = os.Stat(l.path)
				time.Sleep(time.Millisecond)
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(l.stop)
	return l
}

func (l *logs) stop() {
	_ = l.file.Close()
	<-l.end
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logs) longestGap() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gap
}

// patience is how long a test waits for what is sure to come, on however slow a machine.
const patience = 3 * time.Minute

// eventually fails the test if a condition does not come about.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatalf("waited in vain until %s", what)
}

// leftovers is what a test must not leave more of.
type leftovers struct{ processes, cgroups, mounts, fds, roots []string }

func look(t testing.TB, root string) leftovers {
	t.Helper()
	var l leftovers
	out, err := exec.Command("ps", "-e", "-o", "args=").Output()
	must.NoError(t, err)
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, root) {
			l.processes = append(l.processes, strings.TrimSpace(line))
		}
	}
	l.cgroups, err = filepath.Glob(cgroup.Root + "/*" + cgroupParent() + "/t*/")
	must.NoError(t, err)
	more, err := filepath.Glob(cgroup.Root + cgroupParent() + "/t*/")
	must.NoError(t, err)
	l.cgroups = append(l.cgroups, more...)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must.NoError(t, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, root) {
			l.mounts = append(l.mounts, line)
		}
	}
	tasks, err := filepath.Glob(filepath.Join(root, "t*"))
	must.NoError(t, err)
	for _, dir := range tasks {
		_, err := os.Stat(runscRoot(dir))
		if err == nil {
			l.roots = append(l.roots, runscRoot(dir))
		}
	}
	entries, err := os.ReadDir("/proc/self/fd")
	must.NoError(t, err)
	for _, entry := range entries {
		target, err := os.Readlink("/proc/self/fd/" + entry.Name())
		// The cgroups library keeps its root open for ever.
		if err == nil && !strings.HasPrefix(target, "/proc/") && target != cgroup.Root {
			l.fds = append(l.fds, target)
		}
	}
	return l
}

// cgroupParent is the cgroup that the tasks of this process's tests share. Who else runs these tests has another: one that
// both had would be removed by the one as the other makes a cgroup in it.
func cgroupParent() string { return fmt.Sprintf("/pangaea-supervisor-test-%d", os.Getpid()) }

// removeParents removes that, unless it is in use.
func removeParents() {
	dirs, _ := filepath.Glob(cgroup.Root + "/*" + cgroupParent())
	for _, dir := range append(dirs, cgroup.Root+cgroupParent()) {
		_ = unix.Rmdir(dir)
	}
}

func (l leftovers) compare(t testing.TB, root string) {
	t.Helper()
	var now leftovers
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		now = look(t, root)
		// What was killed takes its time to go.
		if len(now.processes) <= len(l.processes) && len(now.fds) <= len(l.fds) || time.Now().After(deadline) {
			break
		}
	}
	must.LessEq(t, len(l.processes), len(now.processes), must.Sprintf("processes are left: %v", now.processes))
	must.LessEq(t, len(l.cgroups), len(now.cgroups), must.Sprintf("cgroups are left: %v", now.cgroups))
	must.LessEq(t, len(l.mounts), len(now.mounts), must.Sprintf("mounts are left: %v", now.mounts))
	must.LessEq(t, len(l.roots), len(now.roots), must.Sprintf("runsc's state is left: %v", now.roots))
	must.LessEq(t, len(l.fds), len(now.fds), must.Sprintf("descriptors are left: %v", now.fds))
}
