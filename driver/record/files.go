package record

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Names of the records in a task's directory.
const (
	LaunchFile = "launch.json"
	StateFile  = "state.json"
	ExitFile   = "exit.json"
)

// Version is written into every record, so that a later program knows what it reads.
const Version = 1

// Launch says how a task is to run; it holds no secrets, for the sandbox's environment is in the bundle.
type Launch struct {
	Version      int      `json:"version"`
	ID           string   `json:"id"`
	BootID       string   `json:"boot_id"`
	Shim         string   `json:"shim"`
	Runtime      string   `json:"runtime"`
	RuntimeKind  string   `json:"runtime_kind"`
	RuntimeArgs  []string `json:"runtime_args,omitempty"`
	Stdout       string   `json:"stdout,omitempty"`
	Stderr       string   `json:"stderr,omitempty"`
	StdioUID     int      `json:"stdio_uid"`
	StdioGID     int      `json:"stdio_gid"`
	CgroupsPath  string   `json:"cgroups_path"`
	CpusetCgroup string   `json:"cpuset_cgroup,omitempty"`
	LeaseFile    string   `json:"lease_file,omitempty"`
	LeaseTTLMs   int64    `json:"lease_ttl_ms,omitempty"`
}

// State says which processes a task consists of. A pid means nothing without its start time.
type State struct {
	Version       int    `json:"version"`
	ID            string `json:"id"`
	BootID        string `json:"boot_id"`
	Pid           int    `json:"pid"`
	StartTime     uint64 `json:"start_time"`
	ShimPid       int    `json:"shim_pid"`
	ShimStartTime uint64 `json:"shim_start_time"`
	CreatedUnixNs int64  `json:"created_unix_ns"`
	OOMBaseline   uint64 `json:"oom_baseline"`
}

// Exit says how a task ended.
type Exit struct {
	Version int `json:"version"`
	// Code is the exit code, 128+Signal if a signal ended the task.
	Code      int  `json:"code"`
	Signal    int  `json:"signal,omitempty"`
	OOMKilled bool `json:"oom_killed,omitempty"`
	// LeaseExpired says that the shim killed the task because its lease ran out.
	LeaseExpired bool `json:"lease_expired,omitempty"`
	// Unknown says that the task has ended and nobody saw how.
	Unknown bool `json:"unknown,omitempty"`
	// Error says why the task's program never ran.
	Error           string `json:"error,omitempty"`
	AtUnixNs        int64  `json:"at_unix_ns"`
	DroppedLogBytes int64  `json:"dropped_log_bytes,omitempty"`
}

// Write replaces the record called name in dir, durably.
func Write(dir, name string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("cannot encode record %s: %w", name, err)
	}
	tmp := filepath.Join(dir, "."+name+".new")
	err = writeSynced(tmp, append(data, '\n'))
	if err != nil {
		return fmt.Errorf("cannot write record %s: %w", name, err)
	}
	err = os.Rename(tmp, filepath.Join(dir, name))
	if err != nil {
		return fmt.Errorf("cannot put record %s in place: %w", name, err)
	}
	return syncDir(dir)
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	closeErr := f.Close()
	if err != nil {
		return err
	}
	return closeErr
}

// syncDir makes a rename survive a power cut: the directory is a file of its own to the disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("cannot open the task directory: %w", err)
	}
	err = d.Sync()
	closeErr := d.Close()
	if err != nil {
		return fmt.Errorf("cannot sync the task directory: %w", err)
	}
	return closeErr
}

// Read reads one record of dir; a missing record is os.ErrNotExist.
func Read[T Launch | State | Exit](dir, name string) (*T, error) {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	value := new(T)
	err = json.Unmarshal(data, value)
	if err != nil {
		return nil, fmt.Errorf("cannot decode record %s: %w", name, err)
	}
	return value, nil
}
