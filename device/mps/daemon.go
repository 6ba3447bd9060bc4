package mps

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const (
	// Program speaks to the control daemon, and started with -d is it.
	Program = "nvidia-cuda-mps-control"
	// pidFile is the daemon's, in its pipe directory.
	pidFile = "nvidia-cuda-mps-control.pid"
	// comm is what the kernel keeps of the program's name.
	comm = "nvidia-cuda-mps"
)

// Daemon is the control daemon of one pipe directory, whether it runs or not.
type Daemon struct {
	Dir  string // its CUDA_MPS_PIPE_DIRECTORY, an absolute path
	Proc string // "/proc"
}

// Process is one life of the daemon. Two lives never are equal, even with the same number.
type Process struct {
	PID   int
	Start uint64 // clock ticks after the machine's
}

// Find is the daemon that runs now. The error says why there is none, and what to do.
func (d Daemon) Find() (Process, error) {
	p, err := d.find()
	if err != nil {
		return Process{}, fmt.Errorf("the MPS control daemon does not run: run CUDA_MPS_PIPE_DIRECTORY=%s %s -d (%w)", d.Dir, Program, err)
	}
	return p, nil
}

func (d Daemon) find() (Process, error) {
	pid, err := d.pid()
	if err != nil {
		return Process{}, err
	}
	dir := filepath.Join(d.Proc, strconv.Itoa(pid))
	name, err := os.ReadFile(filepath.Join(dir, "comm"))
	if err != nil || string(bytes.TrimSpace(name)) != comm {
		return Process{}, fmt.Errorf("process %d of %s is gone", pid, pidFile)
	}
	err = trusted(dir)
	if err != nil {
		return Process{}, err
	}
	start, err := started(dir)
	if err != nil {
		return Process{}, err
	}
	return Process{PID: pid, Start: start}, nil
}

// pid reads the daemon's file. The directory is one that everybody may make in /tmp, so whatever lies there holds up nobody.
func (d Daemon) pid() (int, error) {
	f, err := os.OpenFile(filepath.Join(d.Dir, pidFile), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("%s is not there", pidFile)
	}
	if err != nil {
		return 0, fmt.Errorf("cannot read its file: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return 0, fmt.Errorf("%s is no file", pidFile)
	}
	text, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return 0, fmt.Errorf("cannot read its file: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 0 {
		return 0, fmt.Errorf("%s holds %q, which is no process", pidFile, text)
	}
	return pid, nil
}

// trusted refuses a daemon of some user of the machine: he could let tasks' programs do as he likes.
func trusted(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("cannot tell whose it is: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("process %s is another user's: end it, and start one as root", filepath.Base(dir))
	}
	return nil
}

// started is when a process began. Behind the name, which may hold anything, it is the twentieth field (proc_pid_stat(5)).
func started(dir string) (uint64, error) {
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return 0, fmt.Errorf("cannot tell when it began: %w", err)
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 || fields[0][0] == 'Z' {
		return 0, errors.New("it has ended")
	}
	start, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("cannot tell when it began: %w", err)
	}
	return start, nil
}
