package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Status is everything that the plugin knows about the machine's GPUs at one moment.
type Status struct {
	PID           int       `json:"pid"`
	At            time.Time `json:"at"` // written anew at least every StatusEvery
	DriverVersion string    `json:"driver_version,omitempty"`
	CUDAVersion   string    `json:"cuda_version,omitempty"`
	Problem       string    `json:"problem,omitempty"` // why no GPU can be asked, such as a driver that is not loaded
	GPUs          []GPU     `json:"gpus"`
}

// GPU is one card, MIG mode or replicas or not.
type GPU struct {
	UUID    string   `json:"uuid"`
	Model   string   `json:"model"`
	BusID   string   `json:"bus_id,omitempty"`
	Index   int      `json:"index"`   // in the driver's list; -1 when it is not there now
	Devices []string `json:"devices"` // the IDs that Nomad knows it by: its own, its MIG instances', its replicas'
	Healthy bool     `json:"healthy"` // offered to Nomad
	Reason  string   `json:"reason,omitempty"`

	Reclaim        *Reclaim  `json:"reclaim,omitempty"` // in force, and taken in by the plugin
	OwnerProcesses []Process `json:"owner_processes,omitempty"`
	Tasks          []Task    `json:"tasks,omitempty"`
	Asking         bool      `json:"asking,omitempty"`  // Nomad, who has it, for its owner who reclaimed it; there may be more tasks
	Problem        string    `json:"problem,omitempty"` // why its tasks could not be stopped for its owner
}

// Task is a Nomad task that holds the GPU or has processes on it.
type Task struct {
	AllocID   string    `json:"alloc_id"`
	Task      string    `json:"task"`
	Namespace string    `json:"namespace,omitempty"` // with JobID, of tasks that Pangaea's driver runs or that Nomad was asked about
	JobID     string    `json:"job_id,omitempty"`
	Processes []Process `json:"processes,omitempty"`
}

// Process has a context on the GPU.
type Process struct {
	PID  int    `json:"pid"`
	Name string `json:"name"`
}

// StatusEvery is how often a status is written that does not change.
const StatusEvery = 10 * time.Second

// ErrStale is a status that a plugin left behind.
var ErrStale = errors.New("the device plugin does not run; is Nomad running with it?")

// Status reads what the plugin wrote last. With ErrStale it returns the last status too.
func (d Dir) Status(now time.Time) (Status, error) {
	var s Status
	err := d.safe()
	if err != nil {
		return s, err
	}
	text, err := os.ReadFile(d.statusFile())
	if errors.Is(err, os.ErrNotExist) {
		return s, ErrStale
	}
	if err != nil {
		return s, fmt.Errorf("cannot read the device plugin's status: %w", err)
	}
	err = json.Unmarshal(text, &s)
	if err != nil {
		return s, fmt.Errorf("cannot understand the device plugin's status: %w", err)
	}
	if now.Sub(s.At) > 3*StatusEvery {
		return s, ErrStale
	}
	return s, nil
}

// Publisher writes the status of one plugin.
type Publisher struct {
	dir  Dir
	lock *os.File
}

// Publisher is the right to write the status, which one process has at a time: Nomad may run several clients on one
// machine, each with its plugin.
func (d Dir) Publisher() (*Publisher, error) {
	err := d.prepare()
	if err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(string(d), "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the control directory: %w", err)
	}
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("cannot lock %s, another device plugin writes its status there: %w", d, err)
	}
	return &Publisher{dir: d, lock: lock}, nil
}

// Publish replaces the status.
func (p *Publisher) Publish(s Status) error { return write(p.dir.statusFile(), s) }

// Close lets another process publish. The status stays, and grows stale.
func (p *Publisher) Close() error { return p.lock.Close() }

func (d Dir) statusFile() string { return filepath.Join(string(d), "status.json") }
