package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Default is where the plugin looks unless its control_dir says otherwise.
const Default = Dir("/var/lib/pangaea/device")

// Dir is the control directory.
type Dir string

// ErrUnsafe is a directory that others could write to.
var ErrUnsafe = errors.New("others could write to it")

// prepare makes the directory and the one for reclaims, and refuses those that others could write to.
func (d Dir) prepare() error {
	for _, dir := range []string{string(d), d.reclaims()} {
		err := os.MkdirAll(dir, 0o700)
		if err != nil {
			return fmt.Errorf("cannot make the control directory: %w", err)
		}
	}
	return d.safe()
}

// safe tells an error if the directory is not this user's alone to write to; one that is not there is safe.
func (d Dir) safe() error {
	for _, dir := range []string{string(d), d.reclaims()} {
		info, err := os.Lstat(dir)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot look at the control directory: %w", err)
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || !info.IsDir() || info.Mode().Perm()&0o022 != 0 || int(st.Uid) != os.Geteuid() {
			return fmt.Errorf("cannot trust %s, make it a directory of root's with mode 0700: %w", dir, ErrUnsafe)
		}
	}
	return nil
}

func (d Dir) reclaims() string { return filepath.Join(string(d), "reclaim") }

// write replaces a file in one step, so that readers see the old or the new one.
func write(path string, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("internal error: cannot encode: %w", err)
	}
	temp := path + ".new"
	err = os.WriteFile(temp, append(text, '\n'), 0o600)
	if err != nil {
		return fmt.Errorf("cannot write: %w", err)
	}
	err = os.Rename(temp, path)
	if err != nil {
		return fmt.Errorf("cannot write: %w", err)
	}
	return nil
}

// Keep writes down what the plugin must know again in its next life.
func (d Dir) Keep(name string, value any) error {
	err := d.prepare()
	if err != nil {
		return err
	}
	return write(filepath.Join(string(d), name+".json"), value)
}

// Recall reads what an earlier life kept; nothing kept leaves value as it is.
func (d Dir) Recall(name string, value any) error {
	err := d.safe()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(string(d), name+".json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot recall: %w", err)
	}
	err = json.Unmarshal(text, value)
	if err != nil {
		return fmt.Errorf("cannot understand what was kept: %w", err)
	}
	return nil
}
