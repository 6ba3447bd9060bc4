package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"pangaea/driver/cgroup"
)

func TestRootOOM(t *testing.T) {
	b := newBench(t)
	memory, block := int64(16<<20), "bs=64M"
	if gvisor() {
		// Its own kernel counts as the task's, too.
		memory, block = 96<<20, "bs=256M"
	}
	tests := []struct {
		name string
		args []string
		want Exit
	}{
		{"the task itself", []string{"/bin/dd", "if=/dev/zero", "of=/dev/null", block, "count=1"}, Exit{Code: 137, Signal: 9, OOMKilled: true}},
		{"a child", []string{"/bin/sh", "-c", "dd if=/dev/zero of=/dev/null " + block + " count=1; exit $?"}, Exit{Code: 137, OOMKilled: true}},
		{"enough memory", []string{"/bin/dd", "if=/dev/zero", "of=/dev/null", "bs=1M", "count=1"}, Exit{}},
	}
	if gvisor() {
		// To the host the task is one process.
		tests[1].want.Signal = 9
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			b := b.on(t)
			l := b.launch(tc.args...)
			l.Spec.Linux.Resources.Memory = memoryLimit(memory)
			got := b.run(l)
			got.At = time.Time{}
			must.Eq(t, tc.want, got)
		})
	}
}

// A log reader that stalls slows the task for a second at most, and what it misses is counted.
func TestRootStalledLogReader(t *testing.T) {
	b := newBench(t)
	const written = 8 << 20
	l := b.launch("/bin/sh", "-c", "head -c 8388608 /dev/zero; exit 6")
	fifo := b.newFIFO("stalled")
	reader, err := os.OpenFile(fifo.path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	must.NoError(t, err)
	defer reader.Close()
	l.Stdout = fifo.path
	// A second for each time that the FIFO is full would be a quarter of an hour, for which nobody waits here.
	got := b.run(l)
	must.Eq(t, 6, got.Code)
	kept := 0
	buffer := make([]byte, 1<<20)
	for {
		n, err := unix.Read(int(reader.Fd()), buffer)
		if err != nil || n == 0 {
			break
		}
		kept += n
	}
	must.Positive(t, kept)
	must.Eq(t, written, kept+int(got.DroppedLogBytes))
}

// Nomad makes the FIFO anew after some restarts; the shim finds the new one.
func TestRootLogFIFOReplaced(t *testing.T) {
	b := newBench(t)
	l := b.launch("/bin/sh", "-c", "while true; do echo tick; sleep 0.05; done")
	first := b.newFIFO("ticks").read(t)
	l.Stdout = first.path
	b.start(l)
	eventually(t, "it ticks", func() bool { return strings.Contains(first.String(), "tick") })
	must.NoError(t, os.Remove(first.path))
	second := b.newFIFO("ticks").read(t)
	eventually(t, "it ticks in the new FIFO", func() bool { return strings.Contains(second.String(), "tick") })
}

// A slow but living log reader loses nothing.
func TestRootFlood(t *testing.T) {
	b := newBench(t)
	for range 10 {
		out, lost := b.flood()
		if lost == 0 {
			return
		}
		// A machine that keeps the reader from reading for so long says nothing of the shim.
		must.Greater(t, 500*time.Millisecond, out.longestGap(), must.Sprint("bytes lost: ", lost))
	}
	t.Fatal("this machine never lets a reader read")
}

// flood has a task write much at once, and says how much of that its reader never saw.
func (b *bench) flood() (*logs, int64) {
	b.t.Helper()
	l := b.launch("/bin/seq", "1", "200000")
	out := b.newFIFO(l.ID).read(b.t)
	l.Stdout = out.path
	lost := b.run(l).DroppedLogBytes
	eventually(b.t, "the last line has come", func() bool { return lost > 0 || strings.HasSuffix(out.String(), "\n200000\n") })
	if lost == 0 {
		must.Eq(b.t, 200000, strings.Count(out.String(), "\n"))
	}
	return out, lost
}

func TestRootCpuset(t *testing.T) {
	b := newBench(t)
	root := cgroup.Root + "/cpuset"
	_, err := os.Stat(root)
	if err != nil {
		t.Skip("cgroup v2 has no cpuset of its own: there the task's cgroup, which the spec names, has one")
	}
	shared := filepath.Join(root, fmt.Sprintf("pangaea-test-share-%d", os.Getpid()))
	must.NoError(t, os.MkdirAll(shared, 0o755))
	t.Cleanup(func() {
		// A dying process keeps it busy for a moment.
		eventually(t, "nobody is in it", func() bool { return unix.Rmdir(shared) == nil })
	})
	for file, text := range map[string]string{"cpuset.cpus": "1", "cpuset.mems": "0"} {
		must.NoError(t, os.WriteFile(filepath.Join(shared, file), []byte(text), 0))
	}
	l := b.launch("/bin/sh", "-c", "nproc; exec sleep 1000")
	out := b.newFIFO("out").read(t)
	l.Stdout, l.CpusetCgroup = out.path, shared
	task := b.start(l)
	eventually(t, "the task counts its processors", func() bool { return out.String() == "1\n" })
	var inside lockedBuffer
	code, err := task.Exec(t.Context(), ExecRequest{Args: []string{"nproc"}, Stdout: &inside})
	must.NoError(t, err)
	must.Zero(t, code)
	must.Eq(t, "1\n", inside.String())
	must.NoError(t, task.Destroy(t.Context()))
}

// The tests' sandbox asks for more open files than this process may have; the runtime clamps.
func TestRootClamps(t *testing.T) {
	ownOnly(t, "the other runtimes clamp nothing; the driver's specs ask for nothing to clamp")
	b := newBench(t)
	l := b.launch("/bin/sh", "-c", "ulimit -Hn; grep CapBnd /proc/self/status")
	out := b.newFIFO("out").read(t)
	l.Stdout = out.path
	l.Spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN", "CAP_SYS_RESOURCE"}}
	must.Zero(t, b.run(l).Code)
	var own unix.Rlimit
	must.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &own))
	bounding := "CapBnd:\t0000000001000001\n"
	has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_RESOURCE, 0, 0, 0)
	must.NoError(t, err)
	if has == 0 {
		bounding = "CapBnd:\t0000000000000001\n"
	}
	eventually(t, "the output has come", func() bool { return strings.HasSuffix(out.String(), bounding) })
	must.StrHasPrefix(t, itoa(own.Max)+"\n", out.String())
}

// A directory of the host's root is the sandbox's root's by an id-mapped mount; what the task makes there belongs to
// the host's root, and a directory that is mounted without stays foreign.
func TestRootIdmappedMount(t *testing.T) {
	b := newBench(t)
	mapped, plain := filepath.Join(b.root, "mapped"), filepath.Join(b.root, "plain")
	for _, dir := range []string{mapped, plain} {
		must.NoError(t, os.Mkdir(dir, 0o700))
	}
	l := b.launch("/bin/sh", "-c", "echo hi >/mnt/mapped/file && ! ls /mnt/plain")
	for _, name := range []string{"mapped", "plain"} {
		must.NoError(t, os.MkdirAll(filepath.Join(b.rootfs, "mnt", name), 0o755))
	}
	l.Spec.Mounts = append(l.Spec.Mounts,
		specs.Mount{
			Destination: "/mnt/mapped", Source: mapped, Type: "bind", Options: []string{"bind", "nosuid", "nodev"},
			UIDMappings: l.Spec.Linux.UIDMappings, GIDMappings: l.Spec.Linux.GIDMappings,
		},
		specs.Mount{Destination: "/mnt/plain", Source: plain, Type: "bind", Options: []string{"bind", "nosuid", "nodev"}},
	)
	must.Zero(t, b.run(l).Code)
	var info unix.Stat_t
	must.NoError(t, unix.Stat(filepath.Join(mapped, "file"), &info))
	must.Zero(t, info.Uid)
}

// The device cgroup lets the task open what the spec grants and nothing else, though the node is there and its
// mode lets everybody. The device stands for a GPU: it is one that the kernel opens for anybody.
func TestRootDeviceRules(t *testing.T) {
	if gvisor() {
		t.Skip("gVisor gives no node of the host's to its tasks")
	}
	const major, minor = 10, 229 // /dev/fuse
	for _, granted := range []bool{true, false} {
		t.Run(map[bool]string{true: "granted", false: "not granted"}[granted], func(t *testing.T) {
			b := newBench(t)
			l := b.launch("/bin/sh", "-c", "exec 3<>/dev/device")
			node := filepath.Join(b.root, "device")
			must.NoError(t, unix.Mknod(node, unix.S_IFCHR, int(unix.Mkdev(major, minor))))
			must.NoError(t, os.Chmod(node, 0o666))
			l.Spec.Mounts = append(l.Spec.Mounts, specs.Mount{
				Destination: "/dev/device", Source: node, Type: "bind", Options: []string{"bind", "nosuid", "noexec"},
			})
			if granted {
				l.Spec.Linux.Resources.Devices = append(l.Spec.Linux.Resources.Devices,
					specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(int64(major)), Minor: ptr(int64(minor)), Access: "rw"})
			}
			errs := b.newFIFO("err").read(t)
			l.Stderr = errs.path
			exit := b.run(l)
			must.Eq(t, granted, exit.Code == 0)
			if !granted {
				eventually(t, "the reason is there", func() bool { return strings.Contains(errs.String(), "Operation not permitted") })
			}
		})
	}
}
