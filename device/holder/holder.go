package holder

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// Default is where the driver notes it unless the operator says otherwise.
const Default = Dir("/run/pangaea/gpus")

// Dir is the driver's directory.
type Dir string

// Task is one that has GPUs.
type Task struct {
	AllocID   string   `json:"alloc_id"`
	Task      string   `json:"task"`
	Namespace string   `json:"namespace"`
	JobID     string   `json:"job_id"`
	Devices   []string `json:"devices"`  // as Nomad calls them
	TaskDir   string   `json:"task_dir"` // the driver's, gone when the task is
}

// Tasks are those that have GPUs now. What cannot be read is left out, with an error.
func (d Dir) Tasks() ([]Task, error) {
	files, err := filepath.Glob(filepath.Join(string(d), "*.json"))
	if err != nil {
		return nil, fmt.Errorf("cannot list who has GPUs: %w", err)
	}
	var all []Task
	var failed error
	for _, file := range files {
		var t Task
		text, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue // its task ended just now
		}
		if err == nil {
			err = json.Unmarshal(text, &t)
		}
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("cannot read who has a GPU: %w", err))
			continue
		}
		_, err = os.Lstat(t.TaskDir)
		if !errors.Is(err, os.ErrNotExist) {
			all = append(all, t)
		}
	}
	return all, failed
}

// Of is the task that has a device.
func Of(tasks []Task, device string) (Task, bool) {
	i := slices.IndexFunc(tasks, func(t Task) bool { return slices.Contains(t.Devices, device) })
	if i < 0 {
		return Task{}, false
	}
	return tasks[i], true
}
