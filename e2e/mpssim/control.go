package mpssim

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

//go:embed control.sh
var program []byte

// Control is one control daemon that runs or does not, and the program that speaks to it.
type Control struct {
	Bin  string // the directory of nvidia-cuda-mps-control
	Pipe string // CUDA_MPS_PIPE_DIRECTORY

	daemon *exec.Cmd
}

// New puts the program and a pipe directory below dir. No daemon runs yet.
func New(dir string) (*Control, error) {
	c := &Control{Bin: filepath.Join(dir, "bin"), Pipe: filepath.Join(dir, "pipe")}
	for _, d := range []string{c.Bin, c.Pipe} {
		err := os.MkdirAll(d, 0o755)
		if err != nil {
			return nil, fmt.Errorf("cannot make a directory for the simulated MPS: %w", err)
		}
	}
	err := syscall.Mkfifo(filepath.Join(c.Pipe, "hold"), 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot make what the simulated MPS control daemon waits for: %w", err)
	}
	return c, errors.Join(
		os.WriteFile(c.path(), program, 0o755),
		c.Behave(""), c.Serve(),
	)
}

func (c *Control) path() string { return filepath.Join(c.Bin, "nvidia-cuda-mps-control") }

// Behave says how commands are answered from now on: "" as documented, "hang" for an hour, "garbage", or "refuse X" for those
// about X.
func (c *Control) Behave(how string) error {
	return os.WriteFile(filepath.Join(c.Pipe, "behaviour"), []byte(how), 0o600)
}

// Serve makes the daemon say that it has started these servers.
func (c *Control) Serve(pids ...string) error {
	return os.WriteFile(filepath.Join(c.Pipe, "servers"), []byte(strings.Join(pids, "\n")+"\n"), 0o600)
}

// Start starts the daemon and returns once it can be found. Kill it in the end.
func (c *Control) Start() error {
	pidFile := filepath.Join(c.Pipe, "nvidia-cuda-mps-control.pid")
	err := os.Remove(pidFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	c.daemon = exec.Command(c.path(), "-f")
	c.daemon.Env = []string{"CUDA_MPS_PIPE_DIRECTORY=" + c.Pipe, "PATH=" + os.Getenv("PATH")}
	err = c.daemon.Start()
	if err != nil {
		return fmt.Errorf("cannot start the simulated MPS control daemon: %w", err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		text, err := os.ReadFile(pidFile)
		if err == nil && len(text) > 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the simulated MPS control daemon does not start: %w", err)
		}
	}
}

// Kill ends the daemon, which leaves its files behind as the real one does.
func (c *Control) Kill() error {
	if c.daemon == nil {
		return nil
	}
	err := c.daemon.Process.Kill()
	if err != nil {
		return fmt.Errorf("cannot end the simulated MPS control daemon: %w", err)
	}
	_ = c.daemon.Wait() // it was killed
	c.daemon = nil
	return nil
}

// Asked are the commands so far, oldest first.
func (c *Control) Asked() ([]string, error) {
	text, err := os.ReadFile(filepath.Join(c.Pipe, "asked"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n"), nil
}
