package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// start runs the program of a sandbox that create made.
func start(id string, opts options) error {
	container, err := libcontainer.Load(opts.root, id)
	if err != nil {
		return fmt.Errorf("cannot load sandbox %s: %w", id, err)
	}
	status, err := container.Status()
	if err != nil {
		return err
	}
	if status != libcontainer.Created {
		return fmt.Errorf("cannot start sandbox %s: it is %s", id, status)
	}
	return container.Exec()
}

// kill sends a signal, TERM unless one is named, to a sandbox's init.
func kill(id string, args []string, opts options) error {
	name := "TERM"
	if len(args) > 0 {
		name = args[0]
	}
	signal, err := parseSignal(name)
	if err != nil {
		return err
	}
	container, err := libcontainer.Load(opts.root, id)
	if err != nil {
		return fmt.Errorf("cannot load sandbox %s: %w", id, err)
	}
	return container.Signal(signal)
}

func parseSignal(name string) (unix.Signal, error) {
	number, err := strconv.Atoi(name)
	if err == nil && number > 0 && number <= 64 {
		return unix.Signal(number), nil
	}
	signal := unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(name), "SIG"))
	if signal == 0 {
		return 0, fmt.Errorf("%q is no signal", name)
	}
	return signal, nil
}

// remove deletes a sandbox that has ended, or with --force any; one that does not exist is already deleted.
func remove(id string, opts options) error {
	container, err := libcontainer.Load(opts.root, id)
	if errors.Is(err, libcontainer.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot load sandbox %s: %w", id, err)
	}
	if opts.force {
		err = container.Signal(unix.SIGKILL)
		if err != nil && !errors.Is(err, libcontainer.ErrNotRunning) {
			return fmt.Errorf("cannot kill sandbox %s: %w", id, err)
		}
		awaitStopped(container)
	}
	return container.Destroy()
}

// state prints the OCI state of a sandbox.
func state(id string, opts options) error {
	container, err := libcontainer.Load(opts.root, id)
	if err != nil {
		return fmt.Errorf("cannot load sandbox %s: %w", id, err)
	}
	now, err := container.OCIState()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(now)
}
