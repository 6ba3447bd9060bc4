package driver

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/helper/uuid"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/testutils"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// world is what a root test runs in: a registry with images, a state directory, a cgroup of its own.
type world struct {
	t        testing.TB
	registry string // host:port
	state    string
	parent   string // name of the cgroup that stands in for Nomad's
	config   Config
	allocs   []string // of all tasks
	driver   *Driver
	harness  *testutils.DriverHarness
	logs     logs
}

// logs is all that the driver has logged.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// programs builds the shim and the runtime once, beside nothing but each other.
func programs() (dir string, err error) {
	dir, err = os.MkdirTemp("/var/tmp", "pangaea-driver-programs-")
	if err != nil {
		return "", err
	}
	builds := [][]string{
		{"CGO_ENABLED=0", "-o", filepath.Join(dir, shimName), "./shim"},
		{"CGO_ENABLED=1", "-tags", "seccomp", "-o", filepath.Join(dir, runtimeName), "./runtime"},
	}
	for _, b := range builds {
		cmd := exec.Command("go", append([]string{"build"}, b[1:]...)...)
		cmd.Env = append(os.Environ(), b[0])
		out, err := cmd.CombinedOutput()
		if err != nil {
			return dir, fmt.Errorf("cannot build %s: %w\n%s", b[len(b)-1], err, out)
		}
	}
	return dir, nil
}

// newWorld starts a driver behind Nomad's own gRPC, and promises to leave nothing behind.
func newWorld(t testing.TB, change func(*Config)) *world {
	t.Helper()
	must.Zero(t, os.Geteuid(), must.Sprint("root tests must run as root"))
	w := &world{t: t, registry: newRegistry(t), parent: fmt.Sprintf("pangaea-test-%d", os.Getpid())}
	var err error
	w.state, err = os.MkdirTemp("/var/tmp", "pangaea-driver-")
	must.NoError(t, err)
	// The sandbox's mapped users must be able to walk to their root file systems.
	must.NoError(t, os.Chmod(w.state, 0o711))
	// Nomad's harness makes directories that it does not remove whole.
	t.Setenv("TMPDIR", filepath.Join(w.state, "tmp"))
	must.NoError(t, os.Mkdir(os.Getenv("TMPDIR"), 0o711))
	w.config = Config{
		StateDir: w.state, HoldsDir: filepath.Join(w.state, "holds"), InsecureRegistries: []string{w.registry},
		ShimPath: filepath.Join(built, shimName), RuntimePath: filepath.Join(built, runtimeName),
		Egress: Egress{Disabled: true}, // it would change the machine's own network
	}
	if name := os.Getenv(runtimeEnv); name != "" {
		w.config.Runtimes = map[string]OtherRuntime{name: otherRuntime(name)}
		w.config.DefaultRuntime = name
	}
	if change != nil {
		change(&w.config)
	}
	w.makeCpuset(t)
	t.Cleanup(func() {
		must.SliceEmpty(t, w.mounts(), must.Sprint("mounts were left behind"))
		left, _ := filepath.Glob(filepath.Join(w.state, "tasks", "*"))
		must.SliceEmpty(t, left, must.Sprint("tasks were left behind"))
		must.NoError(t, os.RemoveAll(w.state))
	})
	w.restart(t)
	t.Cleanup(func() { w.driver.Shutdown() })
	return w
}

// runtimeEnv names the runtime that tasks run under unless they say, runsc or runc, instead of our own.
const runtimeEnv = "PANGAEA_TEST_RUNTIME"

// otherRuntime is the runtime of a name in PANGAEA_BIN.
func otherRuntime(name string) OtherRuntime {
	kind := map[string]string{"runsc": kindRunsc, "runc": kindOCI}[name]
	return OtherRuntime{Kind: kind, Path: filepath.Join(os.Getenv("PANGAEA_BIN"), name)}
}

// gvisor says that tasks run under gVisor.
func gvisor() bool { return os.Getenv(runtimeEnv) == "runsc" }

// byKernel is one of two: what holds under a runtime that has the host's kernel, and what under gVisor.
func byKernel[T any](hosts, gvisors T) T {
	if gvisor() {
		return gvisors
	}
	return hosts
}

// refusedByGVisor starts a task that is refused under gVisor, for a reason that names what to do about it; "" is none.
func (w *world) refusedByGVisor(t testing.TB, job JobConfig, change func(*drivers.TaskConfig), reason string) bool {
	t.Helper()
	if !gvisor() || reason == "" {
		return false
	}
	cfg := w.prepare(t, job, false)
	if change != nil {
		change(cfg)
	}
	_, _, err := w.plugin().StartTask(cfg)
	must.ErrorContains(t, err, reason)
	return true
}

// restart replaces the plugin's process by a new one, as far as it can see.
func (w *world) restart(t testing.TB) {
	t.Helper()
	if w.driver != nil {
		w.driver.Shutdown()
	}
	w.driver = New(hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: io.MultiWriter(testWriter{t}, &w.logs)}))
	var data []byte
	must.NoError(t, base.MsgPackEncode(&data, &w.config))
	if test, ok := t.(*testing.T); ok {
		w.harness = testutils.NewDriverHarness(test, w.driver)
		// The harness's own Kill races with itself. What cleans up after an allocation also closes the harness.
		w.t.Cleanup(w.harness.MkAllocDir(&drivers.TaskConfig{AllocID: uuid.Generate(), Name: "none"}, false))
	}
	must.NoError(t, w.driver.SetConfig(&base.Config{PluginConfig: data, ApiVersion: drivers.ApiVersion010}))
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	if testing.Verbose() {
		_, _ = os.Stderr.Write(p)
	}
	return len(p), nil
}

// makeCpuset makes what Nomad's client makes on cgroup v1: a shared cpuset.
func (w *world) makeCpuset(t testing.TB) {
	t.Helper()
	if cgroupV2() {
		return
	}
	top := filepath.Join("/sys/fs/cgroup/cpuset", w.parent)
	for _, dir := range []string{top, filepath.Join(top, "share")} {
		must.NoError(t, os.MkdirAll(dir, 0o755))
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join("/sys/fs/cgroup/cpuset", file))
			must.NoError(t, err)
			must.NoError(t, os.WriteFile(filepath.Join(dir, file), value, 0o644))
		}
	}
	t.Cleanup(func() {
		must.NoError(t, removeCgroup(filepath.Join(top, "share")))
		dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + w.parent)
		for _, dir := range dirs {
			must.NoError(t, removeCgroup(dir), must.Sprint("a task's cgroup was left behind"))
		}
	})
}

// removeCgroup waits for the processes in it that are about to go.
func removeCgroup(dir string) error {
	err := unix.Rmdir(dir)
	for deadline := time.Now().Add(time.Minute); err == unix.EBUSY && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
		err = unix.Rmdir(dir)
	}
	return err
}

// task is a job's task as Nomad would hand it over.
func (w *world) task(t testing.TB, job JobConfig) *drivers.TaskConfig { return w.prepare(t, job, true) }

// memoryMB is what tasks get: enough for a kernel of their own, if they have one.
func memoryMB() int64 {
	if gvisor() {
		return 160
	}
	return 64
}

// prepare is task, with or without a logmon: one whose task never starts takes seconds to stop.
func (w *world) prepare(t testing.TB, job JobConfig, logs bool) *drivers.TaskConfig {
	t.Helper()
	alloc := uuid.Generate()
	w.allocs = append(w.allocs, alloc[:8])
	cfg := &drivers.TaskConfig{
		AllocID: alloc, Name: "web", ID: alloc + "/web/" + uuid.Generate()[:8], JobName: "job", TaskGroupName: "group",
		Env: map[string]string{"GREETING": "hello"},
		Resources: &drivers.Resources{
			NomadResources: &structs.AllocatedTaskResources{Memory: structs.AllocatedMemoryResources{MemoryMB: memoryMB()}, Cpu: structs.AllocatedCpuResources{CpuShares: 100}},
			LinuxResources: &drivers.LinuxResources{CPUShares: 100, MemoryLimitBytes: memoryMB() << 20},
		},
	}
	cfg.Resources.LinuxResources.CpusetCgroupPath = "/sys/fs/cgroup/cpuset/" + w.parent + "/share"
	if cgroupV2() {
		cfg.Resources.LinuxResources.CpusetCgroupPath = "/sys/fs/cgroup/" + w.parent + "/" + alloc + ".web.scope"
	}
	if job.Image == "" {
		job.Image = w.registry + "/busybox:1"
	}
	must.NoError(t, cfg.EncodeConcreteDriverConfig(&job))
	if w.harness == nil {
		cfg.AllocDir = filepath.Join(w.state, "tmp", alloc)
		dir := cfg.TaskDir()
		for _, d := range []string{dir.LogDir, dir.LocalDir, dir.SecretsDir} {
			must.NoError(t, os.MkdirAll(d, 0o755))
		}
		return cfg
	}
	// Its cleaning up also closes the harness's connection, so it has to wait for all other tasks.
	w.t.Cleanup(w.harness.MkAllocDir(cfg, logs))
	return cfg
}

// start starts a task and destroys it when the test ends.
func (w *world) start(t testing.TB, cfg *drivers.TaskConfig) *drivers.TaskHandle {
	t.Helper()
	handle, _, err := w.plugin().StartTask(cfg)
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, w.driver.DestroyTask(cfg.ID, true)) })
	return handle
}

// plugin is the driver behind Nomad's gRPC, in tests.
func (w *world) plugin() drivers.DriverPlugin {
	if w.harness == nil {
		return w.driver
	}
	return w.harness
}

// wait is how the task ended.
func (w *world) wait(t testing.TB, id string) *drivers.ExitResult {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ch, err := w.plugin().WaitTask(ctx, id)
	must.NoError(t, err)
	select {
	case r := <-ch:
		must.NotNil(t, r)
		return r
	case <-ctx.Done():
		t.Fatal("the task did not end")
		return nil
	}
}

// run starts a task, waits for its end, and for its output to be as wanted if anything is.
func (w *world) run(t testing.TB, job JobConfig, change func(*drivers.TaskConfig), want string) *drivers.ExitResult {
	t.Helper()
	cfg := w.task(t, job)
	if change != nil {
		change(cfg)
	}
	w.start(t, cfg)
	result := w.wait(t, cfg.ID)
	if want != "" {
		w.says(t, cfg, want)
	}
	return result
}

// says waits until the task's output is as wanted: it reaches the file some time after the task has ended.
func (w *world) says(t testing.TB, cfg *drivers.TaskConfig, want string) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if w.output(cfg) == want {
			return
		}
	}
	must.Eq(t, want, w.output(cfg))
}

// patience is how long a test waits for what is sure to come, on however slow a machine.
const patience = 3 * time.Minute

// eventually fails the test if a condition does not come about.
func eventually(t testing.TB, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if is() {
			return
		}
	}
	t.Fatal("it never was so")
}

// taskEvents are the events of tasks that Nomad's client would show.
type taskEvents struct {
	mu  sync.Mutex
	all []*drivers.TaskEvent
}

// events gathers the driver's events at once, as Nomad does: one that nobody takes for two seconds is lost.
func (w *world) events(t testing.TB) *taskEvents {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	ch, err := w.driver.TaskEvents(ctx)
	must.NoError(t, err)
	e := &taskEvents{}
	go func() {
		for {
			select {
			case event, ok := <-ch:
				if !ok {
					return
				}
				e.mu.Lock()
				e.all = append(e.all, event)
				e.mu.Unlock()
			case <-ctx.Done():
				return
			}
		}
	}()
	return e
}

// await is the first event of a task that says something.
func (e *taskEvents) await(t testing.TB, id, text string) string {
	t.Helper()
	message := ""
	eventually(t, func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, event := range e.all {
			if event.TaskID == id && strings.Contains(event.Message, text) {
				message = event.Message
				return true
			}
		}
		return false
	})
	return message
}

// String is all that has been told so far, with whatever else an event carries.
func (e *taskEvents) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var b strings.Builder
	for _, event := range e.all {
		fmt.Fprintf(&b, "%+v\n", event)
	}
	return b.String()
}

func (w *world) output(cfg *drivers.TaskConfig) string {
	text, _ := os.ReadFile(filepath.Join(cfg.TaskDir().LogDir, "web.stdout.0"))
	return string(text)
}

// sh is a job that runs a shell script.
func sh(script string) JobConfig { return JobConfig{Command: "/bin/sh", Args: []string{"-c", script}} }

func newRegistry(t testing.TB) string {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	push(t, host+"/busybox:1", v1.Config{Env: []string{"PATH=/bin", "FROM_IMAGE=yes"}, Cmd: []string{"/bin/echo", "from the image"}})
	push(t, host+"/user:1", v1.Config{Env: []string{"PATH=/bin"}, User: "alice", WorkingDir: "/home", Entrypoint: []string{"/bin/sh", "-c"}, StopSignal: "SIGUSR1"})
	push(t, host+"/hostile:1", v1.Config{WorkingDir: "/proc/self/fd/7", Cmd: []string{"/bin/true"}})
	return host
}

func push(t testing.TB, ref string, config v1.Config) {
	t.Helper()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(busyboxLayer(t))), nil })
	must.NoError(t, err)
	image, err := mutate.AppendLayers(empty.Image, layer)
	must.NoError(t, err)
	file, err := image.ConfigFile()
	must.NoError(t, err)
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", "amd64", config
	image, err = mutate.ConfigFile(image, file)
	must.NoError(t, err)
	tag, err := name.ParseReference(ref, name.Insecure)
	must.NoError(t, err)
	must.NoError(t, remote.Write(tag, image))
}

func busyboxLayer(t testing.TB) []byte {
	t.Helper()
	program, err := os.ReadFile("/usr/bin/busybox")
	must.NoError(t, err, must.Sprint("install busybox-static"))
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, body []byte) {
		h.Size = int64(len(body))
		must.NoError(t, w.WriteHeader(&h))
		_, err := w.Write(body)
		must.NoError(t, err)
	}
	for _, dir := range []string{"bin", "etc", "home", "proc", "sys", "dev"} {
		add(tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	}
	add(tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}, nil)
	add(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, program)
	for _, applet := range strings.Fields("cat chmod chown dd echo env false grep head hostname id ip kill ls mkdir mknod mount nc ps pwd seq sh sleep stat stty tail touch true umount unshare wc yes") {
		add(tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil)
	}
	add(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:0::/:/bin/sh\nalice:x:1000:1001::/home:/bin/sh\n"))
	add(tar.Header{Name: "etc/group", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:\nstaff:x:1001:\nextra:x:1002:alice\n"))
	must.NoError(t, w.Close())
	return b.Bytes()
}

// mounts are those of the host that are this world's.
func (w *world) mounts() []string {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	var list []string
	for _, line := range strings.Split(string(text), "\n") {
		own := func(name string) bool { return strings.Contains(line, name) }
		if own(w.state) || slices.ContainsFunc(w.allocs, own) {
			list = append(list, line)
		}
	}
	return list
}
