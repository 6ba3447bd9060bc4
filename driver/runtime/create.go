package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"

	"pangaea/driver/cgroup"
	"pangaea/driver/failpoint"
)

// killTimeout bounds how long leftovers of an earlier run may take to die.
const killTimeout = 10 * time.Second

// create makes the sandbox; its init waits until it is told to start. With a control descriptor it also starts.
func create(id string, opts options) (failure error) {
	failpoint.Here(opts.bundle, "runtime-create")
	control := openControl(opts.control)
	defer control.finish(&failure)
	spec, err := loadSpec(opts.bundle)
	if err != nil {
		return err
	}
	container, process, err := prepare(id, spec, opts)
	if err != nil {
		return err
	}
	err = judge(container.Start(process))
	if err == nil {
		failpoint.Here(opts.bundle, "runtime-created")
		// The shim records the init meanwhile.
		err = control.created(process)
	}
	if err == nil {
		err = settle(spec, process, opts)
	}
	if err == nil {
		err = control.startOnGo(container, opts.bundle)
	}
	if err != nil {
		_ = process.Signal(os.Kill)
		_, _ = process.Wait()
		return errors.Join(err, container.Destroy())
	}
	return nil
}

// prepare empties the sandbox's cgroup of what an earlier run left, since libcontainer refuses a busy one.
func prepare(id string, spec *specs.Spec, opts options) (*libcontainer.Container, *libcontainer.Process, error) {
	// specconv takes the working directory for the bundle.
	err := os.Chdir(opts.bundle)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot enter the bundle: %w", err)
	}
	group, err := cgroup.New(spec.Linux.CgroupsPath)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	err = group.KillAll(ctx)
	if err != nil {
		return nil, nil, err
	}
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: id, Spec: spec})
	if err != nil {
		return nil, nil, fmt.Errorf("cannot convert the spec: %w", err)
	}
	lendUserns(config, opts.userns)
	container, err := libcontainer.Create(opts.root, id, config)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot create the sandbox: %w", err)
	}
	process, err := newProcess(spec.Process)
	if err != nil {
		return nil, nil, err
	}
	process.Init = true
	if spec.Process.Terminal {
		// The shim waits for the terminal on the socket that it gave us as standard input.
		process.ConsoleSocket = os.Stdin
	} else {
		process.Stdin, process.Stdout, process.Stderr = os.Stdin, os.Stdout, os.Stderr
	}
	return container, process, nil
}

// lendUserns has the binds that are mapped as the sandbox itself is take their mapping from a user namespace that is there
// already. It lies in the supervisor's process: if that dies, this start is one that the shim gives up.
func lendUserns(config *configs.Config, path string) {
	if path == "" {
		return
	}
	for _, m := range config.Mounts {
		if m.IDMapping != nil && slices.Equal(m.IDMapping.UIDMappings, config.UIDMappings) && slices.Equal(m.IDMapping.GIDMappings, config.GIDMappings) {
			m.IDMapping = &configs.MountIDMapping{UserNSPath: path, Recursive: m.IDMapping.Recursive}
		}
	}
}

// settle does what must be done between create and start: the cpuset and the pid file.
func settle(spec *specs.Spec, process *libcontainer.Process, opts options) error {
	pid, err := process.Pid()
	if err != nil {
		return err
	}
	if opts.cpuset != "" {
		err = joinCpuset(opts.cpuset, pid)
		if err != nil {
			return err
		}
		group, err := cgroup.New(spec.Linux.CgroupsPath)
		if err != nil {
			return err
		}
		// It is empty now. If it stays it goes with the task's other cgroups.
		_ = os.Remove(group.Dir("cpuset"))
	}
	if opts.pidFile == "" {
		return nil
	}
	return os.WriteFile(opts.pidFile, []byte(strconv.Itoa(pid)), 0o600)
}

// joinCpuset moves a process to the cpuset that Nomad manages. libcontainer has put it in a cpuset of the
// task's own, which Nomad would not resize when it reserves cores for others.
func joinCpuset(dir string, pid int) error {
	err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
	if err != nil {
		return fmt.Errorf("cannot join cpuset cgroup %s: %w", dir, err)
	}
	return nil
}

// forgetCpuset takes the cpuset of the task's own, which settle has removed, out of libcontainer's state, so that exec
// does not put its processes there: they stay in the one that the exec command itself has joined. It is done before
// an exec, since it takes a twentieth of a start.
func forgetCpuset(stateFile string) error {
	var state map[string]json.RawMessage
	err := readJSON(stateFile, &state)
	if err != nil {
		return fmt.Errorf("cannot read the sandbox's state: %w", err)
	}
	var paths map[string]string
	err = json.Unmarshal(state["cgroup_paths"], &paths)
	if err != nil {
		return fmt.Errorf("cannot decode the sandbox's state: %w", err)
	}
	if paths["cpuset"] == "" {
		return nil
	}
	delete(paths, "cpuset")
	state["cgroup_paths"], err = json.Marshal(paths)
	if err != nil {
		return err
	}
	data, err := json.Marshal(state)
	if err == nil {
		err = replaceFile(stateFile, data)
	}
	if err != nil {
		return fmt.Errorf("cannot write the sandbox's state: %w", err)
	}
	return nil
}

// replaceFile replaces a file whole, also when several do so at once.
func replaceFile(path string, data []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	err = errors.Join(err, file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		_ = os.Remove(file.Name())
	}
	return err
}

// control is the conversation with the shim over one socket, in lines: we say "created" and the init's pid, it says
// go, and we say "started", or "error" or "retry" and why not.
type control struct{ file *os.File }

func openControl(fd int) control {
	if fd < 0 {
		return control{}
	}
	return control{file: os.NewFile(uintptr(fd), "control")}
}

func (c control) say(word, text string) error {
	_, err := c.file.WriteString(word + " " + strings.ReplaceAll(text, "\n", " ") + "\n")
	return err
}

func (c control) created(process *libcontainer.Process) error {
	if c.file == nil {
		return nil
	}
	pid, err := process.Pid()
	if err != nil {
		return err
	}
	return c.say("created", strconv.Itoa(pid))
}

// startOnGo starts the sandbox's program when the shim says so. A shim that dies instead closes the socket, and
// the sandbox is never started: nothing runs that is not recorded.
func (c control) startOnGo(container *libcontainer.Container, dir string) error {
	if c.file == nil {
		return nil
	}
	word := make([]byte, 2)
	_, err := io.ReadFull(c.file, word)
	if err != nil || string(word) != "go" {
		return errors.New("the shim did not let the sandbox start")
	}
	failpoint.Here(dir, "runtime-start")
	return judge(container.Exec())
}

// finish tells the shim how it went; an error that the shim was told is not printed as well.
func (c control) finish(failure *error) {
	if c.file == nil {
		return
	}
	if *failure == nil {
		_ = c.say("started", "")
		return
	}
	if c.say(word(*failure), (*failure).Error()) == nil {
		*failure = nil
	}
}
