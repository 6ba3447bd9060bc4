package escape

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// controlDir names the directory of a control in the environment of its process.
const controlDir = "PANGAEA_ESCAPE_CONTROL"

// control runs the program where nothing is in its way: as root in a root directory of its own, like a task, and as the
// child of a process that stands for the host. Their namespaces for mounts, processes and names are not the machine's, so
// that what the program does ends with it.
func (o *outside) control(t *testing.T, program string) []outcome {
	t.Helper()
	root := filepath.Join(o.dir, "root")
	for _, d := range []string{"dev", "proc", "sys", "tmp", "usr/bin"} {
		must.NoError(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	must.NoError(t, os.Link(program, filepath.Join(root, "usr/bin/escape")))
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", o.told(t, "PID", 1), o.told(t, "Groups", []string{"namespaces"}))
	cmd.Env = append(os.Environ(), controlDir+"="+root, "TOKEN="+o.token)
	cmd.Dir = o.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS, Pdeathsig: unix.SIGKILL}
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	must.NoError(t, err, must.Sprint(said.String()))
	// What was attempted twice has reached something if it did once.
	list := outcomes(t, string(out))
	slices.SortFunc(list, func(a, b outcome) int {
		return cmp.Or(cmp.Compare(a.key(), b.key()), map[bool]int{true: -1, false: 1}[a.Reached])
	})
	return slices.CompactFunc(list, func(a, b outcome) bool { return a.key() == b.key() })
}

// runControl is the process that stands for the control's host.
func runControl() int {
	root := os.Getenv(controlDir)
	in := func(dir string) string { return filepath.Join(root, dir) }
	err := errors.Join(
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("proc", "/proc", "proc", 0, ""),
		unix.Mount("proc", in("proc"), "proc", 0, ""),
		unix.Mount("/sys", in("sys"), "", unix.MS_BIND|unix.MS_REC, ""),
		unix.Mount("/dev", in("dev"), "", unix.MS_BIND|unix.MS_REC, ""),
	)
	terminal, terminalErr := newTerminal()
	leak, leakErr := os.Open("/")
	err = errors.Join(err, terminalErr, leakErr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot make the control:", err)
		return 1
	}
	cmd := exec.Command("/usr/bin/escape", os.Args[1])
	cmd.ExtraFiles = []*os.File{terminal, leak}
	cmd.Dir = fmt.Sprintf("/proc/self/fd/%d", leak.Fd())
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Cloneflags: unix.CLONE_NEWNS, Setsid: true, Setctty: true, Ctty: 3}
	// Below another root directory nobody may make user namespaces.
	again := exec.Command(in("usr/bin/escape"), os.Args[2])
	for _, c := range []*exec.Cmd{cmd, again} {
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		err = errors.Join(err, c.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "the control ended:", err)
		return 1
	}
	return 0
}

// newTerminal is a terminal whose other side is this process's.
func newTerminal() (*os.File, error) {
	other, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	err = unix.IoctlSetPointerInt(other, unix.TIOCSPTLCK, 0)
	number, numberErr := unix.IoctlGetInt(other, unix.TIOCGPTN)
	if err = errors.Join(err, numberErr); err != nil {
		return nil, err
	}
	return os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
}
