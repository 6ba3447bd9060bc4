package hold

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"pangaea/driver/gpu"
	"pangaea/driver/record"
)

// Default is where holds lie unless the operator says otherwise.
const Default = "/run/pangaea/gpus"

// Hold is what one task has.
type Hold struct {
	Devices   []string `json:"devices"` // as Nomad calls them
	UUIDs     []string `json:"uuids"`   // of the GPU or MIG instance behind each
	Namespace string   `json:"namespace"`
	JobID     string   `json:"job_id"`
	AllocID   string   `json:"alloc_id"`
	Task      string   `json:"task"`
	// TaskDir is the driver's own directory of the task, and with it the hold ends.
	TaskDir string `json:"task_dir"`
}

// Grant adds what was granted.
func (h *Hold) Grant(grants []gpu.Grant) {
	for _, g := range grants {
		h.Devices, h.UUIDs = append(h.Devices, g.ID), append(h.UUIDs, g.UUID)
	}
}

// live says that the task may run. Its exit record is written once the last of its processes is gone.
func (h *Hold) live() bool {
	_, err := os.Lstat(h.TaskDir)
	if errors.Is(err, os.ErrNotExist) {
		return false
	}
	_, err = os.Lstat(filepath.Join(h.TaskDir, record.ExitFile))
	return err != nil
}

// Registry is the directory of holds.
type Registry struct{ Dir string }

// Take takes a hold, in place of the one that the task has, if there is nobody that it must not share with. across lets
// namespaces share a GPU.
func (r Registry) Take(h Hold, across bool) error {
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	defer unlock()
	others, err := r.others(h)
	if err != nil {
		return err
	}
	for _, other := range others {
		err = h.beside(other, across)
		if err != nil {
			return err
		}
	}
	return r.write(h)
}

// Keep takes a hold whoever else has one: that of a task that runs.
func (r Registry) Keep(h Hold) error {
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return r.write(h)
}

// Release ends the hold of the task with a directory. It would end with the directory.
func (r Registry) Release(taskDir string) {
	unlock, err := r.lock()
	if err != nil {
		return
	}
	defer unlock()
	_ = os.Remove(r.file(taskDir))
}

// others are the holds of the tasks besides this one that may run; those of others are cleared away.
func (r Registry) others(h Hold) ([]Hold, error) {
	files, err := filepath.Glob(filepath.Join(r.Dir, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("internal error: cannot list who has GPUs: %w", err)
	}
	var all []Hold
	for _, file := range files {
		var other Hold
		text, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(text, &other)
		}
		switch {
		case err != nil:
			// Whoever wrote it may run: only an operator can tell.
			return nil, fmt.Errorf("cannot read who has GPUs, remove %s if no task of that name runs: %w", file, err)
		case other.TaskDir == h.TaskDir:
		case !other.live():
			_ = os.Remove(file)
		default:
			all = append(all, other)
		}
	}
	return all, nil
}

func (r Registry) write(h Hold) error {
	text, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("internal error: cannot encode a hold: %w", err)
	}
	file := r.file(h.TaskDir)
	err = os.WriteFile(file+"~", text, 0o600)
	if err == nil {
		err = os.Rename(file+"~", file)
	}
	if err != nil {
		return fmt.Errorf("cannot note who has a GPU: %w", err)
	}
	return nil
}

func (r Registry) file(taskDir string) string {
	return filepath.Join(r.Dir, filepath.Base(taskDir)+".json")
}

func (r Registry) lock() (unlock func(), err error) {
	err = os.MkdirAll(r.Dir, 0o700)
	if err != nil {
		return nil, fmt.Errorf("cannot make the directory of who has GPUs: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(r.Dir, "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the directory of who has GPUs: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("cannot lock the directory of who has GPUs: %w", err)
	}
	return func() { _ = f.Close() }, nil
}
