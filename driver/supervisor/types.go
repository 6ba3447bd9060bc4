package supervisor

import (
	"errors"
	"io"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// ErrGone says that nothing is left of a task and that its exit code can't be told.
var ErrGone = errors.New("nothing is left of the task, and how it ended is not known")

// ErrInterrupted says that a start failed because one of its processes was killed: the next may succeed.
var ErrInterrupted = errors.New("the start was interrupted")

// ErrNotRunning says that a task can't be signalled or entered because it has ended or does not run yet.
var ErrNotRunning = errors.New("the task is not running")

// Kinds of OCI runtime that a Config may name.
const (
	// KindPangaea is this project's own runtime program, which creates and starts in one process.
	KindPangaea = "pangaea"
	// KindOCI is any program with the OCI runtime's command line and runc's way of working: runc, crun.
	KindOCI = "oci"
	// KindRunsc is gVisor: a kernel of its own for every task, in a process that the host sees as the task's init.
	KindRunsc = "runsc"
)

// Runtime is a program that makes sandboxes.
type Runtime struct {
	// Path is the program, Args go before its verb.
	Path string
	Args []string
	// Kind is KindPangaea, which is also what "" means, KindOCI or KindRunsc.
	Kind string
	// HostStack lets tasks under KindRunsc that join a network namespace use the host kernel's network stack there,
	// instead of one of their own that takes the namespace's addresses over.
	HostStack bool
}

// Config says which programs supervise and run tasks.
type Config struct {
	// ShimPath is the program that supervises one task each.
	ShimPath string
	// RuntimePath, RuntimeKind and RuntimeArgs are the Runtime of tasks whose Launch names no other.
	RuntimePath string
	RuntimeKind string
	RuntimeArgs []string
	// Others are what a Launch may name.
	Others map[string]Runtime
	// Logger gets what goes wrong where no caller can be told; nil means nowhere.
	Logger hclog.Logger
}

// Launch is one task to start.
type Launch struct {
	// ID names the sandbox: at most 128 letters, digits, '_', '-' and '.', unique on this machine.
	ID string
	// Dir is the task's own state directory: root only, on a disk, made by the caller.
	Dir string
	// Spec is the sandbox; Start writes it to Dir and runs it from there. If its process asks for a terminal, it has one
	// whose output goes to Stdout, and which hangs up should the shim be killed.
	Spec *specs.Spec
	// Stdout and Stderr are paths of FIFOs that get the task's output; "" means /dev/null.
	Stdout, Stderr string
	// Discard throws the output away, all the same opening the FIFOs, on which a log reader waits.
	Discard bool
	// Stdin leaves the program's input open, as if somebody were yet to type; otherwise it is at its end.
	Stdin bool
	// Userns has the sandbox's own mapping, for its id-mapped binds, since the runtime would start a process to make one.
	// It may be nil, and is needed until Start returns. Nothing runs in it: the sandbox has a user namespace of its own.
	Userns *os.File
	// CpusetCgroup is a cgroup v1 cpuset directory that the task joins; "" on cgroup v2.
	CpusetCgroup string
	// Lease is the task's dead-man's switch.
	Lease Lease
	// Runtime names one of the Config's Others; "" is the Config's own.
	Runtime string
}

// Lease is a dead-man's switch: the task starts when the file changes and is killed when it stops changing.
type Lease struct {
	// File is a host path, outside all that the task can write.
	File string
	// TTL is how long unchanged content lets the task live; 0 means no lease.
	TTL time.Duration
}

// Exit says how a task ended.
type Exit struct {
	// Code is the exit code, 128+Signal if a signal ended the task.
	Code int
	// Signal is the signal that ended the task, or 0.
	Signal int
	// OOMKilled says that the kernel killed something in the task for want of memory.
	OOMKilled bool
	// ForkRefused says that the kernel refused the task a process or thread for their number.
	ForkRefused bool
	// LeaseExpired says that the task was killed because its lease ran out.
	LeaseExpired bool
	// At is when the task ended.
	At time.Time
	// Unknown says that the task has ended and that nobody saw how; Code is then meaningless.
	Unknown bool
	// Error says why the task's program never ran, if it did not.
	Error string
	// DroppedLogBytes counts output that was thrown away because nothing read the FIFOs fast enough.
	DroppedLogBytes int64
}

// Size is a terminal's size.
type Size struct{ Rows, Cols int }

// ExecRequest is a program to run inside a task's sandbox.
type ExecRequest struct {
	// Args is the program and its arguments; the program is looked up in the sandbox's PATH.
	Args []string
	// Env is added to the environment of the task's own process, later values win.
	Env []string
	// Cwd is the working directory; "" means that of the task.
	Cwd string
	// User is "uid" or "uid:gid" or a name in the sandbox's /etc/passwd; "" means that of the task.
	User string
	// TTY gives the program a terminal; all output then goes to Stdout.
	TTY bool
	// Stdin, Stdout and Stderr may each be nil.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Resize gets the terminal's sizes; it may be nil and need never be closed.
	Resize <-chan Size
}

// Stats is what a sandbox uses now.
type Stats struct {
	At time.Time
	// CPU times are totals since the start, in nanoseconds.
	CPUTotal, CPUUser, CPUSystem uint64
	// Throttling is what the CPU quota did so far.
	ThrottledPeriods, ThrottledTime uint64
	// Memory figures are bytes; a limit of 0 means none.
	MemoryUsage, MemoryRSS, MemoryCache, MemoryMaxUsage, MemorySwap, MemoryLimit uint64
	// MappedFile and KernelUsage are bytes.
	MappedFile, KernelUsage uint64
	// Pids counts the sandbox's tasks.
	Pids uint64
}
