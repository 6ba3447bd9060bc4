package record

import (
	"errors"
	"os"
	"path/filepath"
)

// Names of the records in a task's directory.
const (
	LaunchFile = "launch"
	StateFile  = "state"
	ExitFile   = "exit"
	// StartedFile says that a runtime that is not ours was told to run the task's program, and did.
	StartedFile = "started"
)

// RuntimeDir is where, below the task's directory, a runtime usually keeps its state.
const RuntimeDir = "run"

// Version is written into every record, so that a later program knows what it reads.
const Version = 1

// Launch says how a task is to run; it holds no secrets, for the sandbox's environment is in the bundle.
type Launch struct {
	Version              int
	ID, BootID           string
	Shim                 string
	Runtime, RuntimeKind string
	RuntimeName          string // What the operator calls it; "" for our own.
	RuntimeArgs          []string
	RuntimeRoot          string // Where it keeps its state; "" for the usual place.
	RuntimeID            string // What it calls the sandbox; "" for ID.
	Stdout, Stderr       string // Paths of Nomad's log FIFOs.
	StdioUID, StdioGID   int
	// TTY gives the program a terminal, whose output goes to Stdout; Stdin leaves its input open; Discard throws all
	// output away.
	TTY, Stdin, Discard bool
	CgroupsPath         string
	CpusetCgroup        string
	// Userns is where the runtime finds the mapping of id-mapped binds; it is there only while the supervisor starts the task.
	Userns     string
	LeaseFile  string
	LeaseTTLMs int64
}

// Root is where, for a task's directory, the runtime keeps its state.
func (l *Launch) Root(dir string) string {
	if l.RuntimeRoot != "" {
		return l.RuntimeRoot
	}
	return filepath.Join(dir, RuntimeDir)
}

// Container is what the runtime calls the sandbox.
func (l *Launch) Container() string {
	if l.RuntimeID != "" {
		return l.RuntimeID
	}
	return l.ID
}

func (l *Launch) fields() []field {
	return []field{
		{"version", &l.Version},
		{"id", &l.ID},
		{"boot_id", &l.BootID},
		{"shim", &l.Shim},
		{"runtime", &l.Runtime},
		{"runtime_kind", &l.RuntimeKind},
		{"runtime_name", &l.RuntimeName},
		{"runtime_arg", &l.RuntimeArgs},
		{"runtime_root", &l.RuntimeRoot},
		{"runtime_id", &l.RuntimeID},
		{"stdout", &l.Stdout},
		{"stderr", &l.Stderr},
		{"stdio_uid", &l.StdioUID},
		{"stdio_gid", &l.StdioGID},
		{"tty", &l.TTY},
		{"stdin", &l.Stdin},
		{"discard", &l.Discard},
		{"cgroups_path", &l.CgroupsPath},
		{"cpuset_cgroup", &l.CpusetCgroup},
		{"userns", &l.Userns},
		{"lease_file", &l.LeaseFile},
		{"lease_ttl_ms", &l.LeaseTTLMs},
	}
}

// State says which processes a task consists of. A pid means nothing without its start time.
type State struct {
	Version       int
	ID, BootID    string
	Pid           int
	StartTime     uint64
	ShimPid       int
	ShimStartTime uint64
	CreatedUnixNs int64
	// OOMBaseline and ForksBaseline are what the cgroup's counters said before the task started.
	OOMBaseline, ForksBaseline uint64
}

func (s *State) fields() []field {
	return []field{
		{"version", &s.Version},
		{"id", &s.ID},
		{"boot_id", &s.BootID},
		{"pid", &s.Pid},
		{"start_time", &s.StartTime},
		{"shim_pid", &s.ShimPid},
		{"shim_start_time", &s.ShimStartTime},
		{"created_unix_ns", &s.CreatedUnixNs},
		{"oom_baseline", &s.OOMBaseline},
		{"forks_baseline", &s.ForksBaseline},
	}
}

// Exit says how a task ended.
type Exit struct {
	Version int
	// Code is the exit code, 128+Signal if a signal ended the task.
	Code, Signal int
	OOMKilled    bool
	// ForkRefused says that the kernel refused the task a process or thread for their number.
	ForkRefused bool
	// LeaseExpired says that the shim killed the task because its lease ran out.
	LeaseExpired bool
	// Unknown says that the task has ended and nobody saw how.
	Unknown bool
	// Error says why the task's program never ran.
	Error           string
	AtUnixNs        int64
	DroppedLogBytes int64
}

func (e *Exit) fields() []field {
	return []field{
		{"version", &e.Version},
		{"code", &e.Code},
		{"signal", &e.Signal},
		{"oom_killed", &e.OOMKilled},
		{"fork_refused", &e.ForkRefused},
		{"lease_expired", &e.LeaseExpired},
		{"unknown", &e.Unknown},
		{"error", &e.Error},
		{"at_unix_ns", &e.AtUnixNs},
		{"dropped_log_bytes", &e.DroppedLogBytes},
	}
}

// WriteExit replaces the exit record, durably: an exit code survives a power cut.
func WriteExit(dir string, e *Exit) error {
	err := replace(dir, ExitFile, encode(e.fields()), (*os.File).Sync)
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return &fileError{"record how the task ended", err}
	}
	return nil
}

// WriteLaunch and WriteState replace their records whole. They don't wait for the disk, which takes long when it
// is busy: what they say is void after a power cut.
func WriteLaunch(dir string, l *Launch) error {
	err := replace(dir, LaunchFile, encode(l.fields()), nil)
	if err != nil {
		return &fileError{"record the task's launch", err}
	}
	return nil
}

// WriteState replaces the state record, like WriteLaunch.
func WriteState(dir string, s *State) error {
	err := replace(dir, StateFile, encode(s.fields()), nil)
	if err != nil {
		return &fileError{"record the task's state", err}
	}
	return nil
}

// Outline makes the files that the records of a task are written to first, so that writing them is quicker.
func Outline(dir string) error {
	for _, name := range []string{LaunchFile, StateFile, ExitFile} {
		err := os.WriteFile(unfinished(dir, name), nil, 0o600)
		if err != nil {
			return &fileError{"prepare the task's records", err}
		}
	}
	return nil
}

// unfinished is where a record lies until it is whole.
func unfinished(dir, name string) string { return filepath.Join(dir, "."+name+".new") }

func replace(dir, name string, data []byte, sync func(*os.File) error) error {
	tmp := unfinished(dir, name)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && sync != nil {
		err = sync(f)
	}
	closeErr := f.Close()
	if err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, name))
}

// syncDir makes a rename survive a power cut: the directory is a file of its own to the disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	closeErr := d.Close()
	if err != nil {
		return err
	}
	return closeErr
}

// ReadLaunch, ReadState and ReadExit read the records of dir; a missing one is os.ErrNotExist.
func ReadLaunch(dir string) (*Launch, error) { return read(dir, LaunchFile, new(Launch)) }

// ReadState reads which processes a task consists of.
func ReadState(dir string) (*State, error) { return read(dir, StateFile, new(State)) }

// ReadExit reads how a task ended.
func ReadExit(dir string) (*Exit, error) { return read(dir, ExitFile, new(Exit)) }

// ErrMalformed says that a record is not whole. Records are replaced whole, so there was a power cut.
var ErrMalformed = errors.New("the record is malformed")

func read[F interface {
	*Launch | *State | *Exit
	fields() []field
}](dir, name string, into F) (F, error) {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	err = decode(string(data), into.fields())
	if err != nil {
		return nil, &fileError{"read record " + name, err}
	}
	return into, nil
}

// fileError is fmt.Errorf without fmt, which costs the shim memory.
type fileError struct {
	doing string
	err   error
}

func (e *fileError) Error() string { return "cannot " + e.doing + ": " + e.err.Error() }
func (e *fileError) Unwrap() error { return e.err }
