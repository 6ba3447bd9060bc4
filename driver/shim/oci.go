package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"pangaea/driver/record"
)

// launchOCI runs any OCI runtime.
func (s *shim) launchOCI() error {
	ctx, cancel := context.WithTimeout(context.Background(), emptyTime)
	defer cancel()
	// What an earlier run left in the task's cgroup: runc takes no cgroup that is in use.
	err := s.group.KillAll(ctx)
	pidFile := filepath.Join(s.dir, "init.pid")
	if err == nil {
		err = s.ociVerb(s.args("create", append(s.consoleFlags(), "--bundle", s.dir, "--pid-file", pidFile)...))
	}
	s.closeTaskEnds()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return wrap("read the sandbox's pid", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return wrap("read the sandbox's pid", err)
	}
	err = s.takeTerminal()
	if err == nil {
		err = s.record(pid)
	}
	if err == nil {
		err = s.joinCpuset()
	}
	if err == nil {
		err = s.admit(s.startOCI)
	}
	if err == nil {
		err = s.startedOrFailed()
	}
	return err
}

// startOCI lets the program start and leaves word of it for whoever has to know once this process is gone.
func (s *shim) startOCI() error {
	err := s.ociVerb(s.args("start"))
	if err != nil && s.conf.RuntimeKind == kindOCI && s.killed() {
		// runsc itself kills a sandbox whose program it can't run.
		return &interrupted{err}
	}
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.dir, record.StartedFile), nil, 0o600)
}

// joinCpuset moves the whole sandbox: it may consist of more than its init.
func (s *shim) joinCpuset() error {
	if s.conf.CpusetCgroup == "" {
		return nil
	}
	for _, pid := range s.group.Pids() {
		err := os.WriteFile(filepath.Join(s.conf.CpusetCgroup, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
		if err != nil && pid == s.state.Pid {
			return wrap("join the task's cpuset", err)
		}
	}
	return nil
}

// ociVerb runs the runtime and waits for it; what went wrong is the last of its log.
func (s *shim) ociVerb(args []string) error {
	refused := s.group.ForksRefused()
	pid, err := s.spawn(args)
	if err != nil {
		return err
	}
	status := s.waitChild(pid)
	if status.Exited() && status.ExitStatus() == 0 {
		return nil
	}
	if s.group.OOMKills() > s.state.OOMBaseline {
		return errors.New("the task's memory does not suffice for the sandbox itself: raise it")
	}
	if s.group.ForksRefused() > refused {
		return errors.New("the task's limit of processes does not suffice for the sandbox itself: raise pids_limit")
	}
	if status.Signaled() {
		return errRuntimeDied
	}
	text, _ := os.ReadFile(filepath.Join(s.dir, "runtime.log"))
	return errors.New("the runtime failed: " + record.LastMessage(string(text)))
}
