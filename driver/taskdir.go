package driver

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// taskRecord is the name of a task's record in its directory.
const taskRecord = "task.json"

// taskFile is what the driver itself has to know about a task after a restart. It lies in taskRecord, which is written
// before anything of the task exists but its claim to a range of identifiers, so that whatever exists can be undone.
type taskFile struct {
	TaskID   string   `json:"task_id"`
	AllocID  string   `json:"alloc_id"`
	Task     string   `json:"task"`
	AllocDir string   `json:"alloc_dir"`
	ID       string   `json:"id"`
	IDStart  uint32   `json:"id_start,omitempty"`
	Image    string   `json:"image"`
	Digest   string   `json:"digest,omitempty"`
	Stop     string   `json:"stop_signal,omitempty"`
	UUIDs    []string `json:"gpus,omitempty"`
	Runtime  string   `json:"runtime,omitempty"`

	Health *healthCheck `json:"health,omitempty"`
}

// sandboxID names a task's sandbox, directory and mount: readable, safe as a file name whatever Nomad's task ID holds
// (CVE-2026-7474 was a name with ../ in it), and unique by a digest of that ID.
func sandboxID(taskID string) string {
	sum := sha256.Sum256([]byte(taskID))
	return sandboxPrefix(taskID) + hex.EncodeToString(sum[:8])
}

// sandboxPrefix is the same for all starts of one task: Nomad's task IDs are allocation/task/random.
func sandboxPrefix(taskID string) string {
	var prefix strings.Builder
	for i, part := range strings.Split(taskID, "/") {
		part = regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(part), "-")
		if i < 2 {
			prefix.WriteString(strings.Trim(part[:min(len(part), []int{8, 40}[i])], "-") + "-")
		}
	}
	return strings.TrimLeft(prefix.String(), "-")
}

// sameTask tells whether two sandboxes are of two starts of one task, or the same.
func sameTask(a, b string) bool {
	const digest = 16
	return len(a) > digest && len(b) > digest && a[:len(a)-digest] == b[:len(b)-digest]
}

func (s *settings) taskDir(id string) string { return filepath.Join(s.StateDir, "tasks", id) }

// makeTaskDir has create make a task's directory and fill write its record. It fails if the directory exists: Nomad's
// task IDs are new for every start.
func makeTaskDir(dir string, create func(dir string) error, fill func() error) error {
	err := os.MkdirAll(filepath.Dir(dir), 0o700)
	if err != nil {
		return fmt.Errorf("cannot make the tasks' directory: %w", err)
	}
	err = create(dir)
	if err != nil {
		return fmt.Errorf("cannot make the task's directory: %w", err)
	}
	err = fill()
	if err != nil {
		// Nobody else knows of it yet.
		return errors.Join(err, os.RemoveAll(dir))
	}
	return nil
}

// fillTaskDir claims a range of identifiers for the task's directory and writes the record.
func (s *startup) fillTaskDir() (err error) {
	if !s.plan.HostUsers {
		s.file.IDStart, err = s.ids.claim(s.dir)
		if err != nil {
			return err
		}
		s.plan.IDStart = s.file.IDStart
		s.undone("cannot release the task's identifiers", func() error { s.ids.release(s.file.IDStart, s.dir); return nil })
	}
	return writeTaskFile(s.dir, s.file)
}

// writeTaskFile replaces the record in one step. It is not synced: it says what to undo on a host that still runs.
func writeTaskFile(dir string, t taskFile) error {
	text, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("internal error: cannot encode the task's record: %w", err)
	}
	temp := filepath.Join(dir, taskRecord+"~")
	err = os.WriteFile(temp, text, 0o600)
	if err == nil {
		err = os.Rename(temp, filepath.Join(dir, taskRecord))
	}
	if err != nil {
		return fmt.Errorf("cannot write the task's record: %w", err)
	}
	return nil
}

func readTaskFile(dir string) (taskFile, error) {
	var t taskFile
	text, err := os.ReadFile(filepath.Join(dir, taskRecord))
	if err != nil {
		return t, fmt.Errorf("cannot read the task's record: %w", err)
	}
	err = json.Unmarshal(text, &t)
	if err != nil {
		return t, fmt.Errorf("cannot read the task's record: %w", err)
	}
	return t, nil
}

// removeTaskDir removes a task's directory. What it says of the task's network is made good first. What is mounted in
// it is unmounted: removing through a mount would delete what is mounted. The record goes first, so that the sweep knows
// a directory whose removal was cut short.
func removeTaskDir(dir string) error {
	err := returnNetwork(dir)
	if err == nil {
		err = unmountNetwork(dir)
	}
	if err != nil {
		return err
	}
	err = os.Remove(filepath.Join(dir, taskRecord))
	if err == nil || errors.Is(err, os.ErrNotExist) {
		err = os.RemoveAll(dir)
	}
	if err != nil {
		return fmt.Errorf("cannot remove the task's directory: %w", err)
	}
	return nil
}

func sysfsDir(dir string) string { return filepath.Join(dir, "sys") }
