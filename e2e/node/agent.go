package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// patience is how long anything may take: far longer than on the slowest machine, for it ends a test that would
	// never end.
	patience = 5 * time.Minute
	// stopTimeout is how long an agent has to end after SIGTERM before it is killed.
	stopTimeout = 2 * time.Minute
	// pollPause is between two looks at what tells nobody when it changes.
	pollPause = 50 * time.Millisecond
)

// agent is a Nomad process. One goroutine waits for its end and ends with it.
type agent struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	err  error // valid once done is closed
}

// startAgent runs an agent in a process group of its own, so that Ctrl-C reaches only the test.
func (n *Node) startAgent(role string, env ...string) (*agent, error) {
	a := &agent{name: role, log: filepath.Join(n.Dir, "logs", role+".log"), done: make(chan struct{})}
	file, err := os.OpenFile(a.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the log of the %s: %w", role, err)
	}
	defer file.Close()
	config := filepath.Join(n.Dir, role)
	a.cmd = exec.Command(n.tools.nomad, "agent", "-config", config+".hcl", "-config", config+"-test.hcl")
	a.cmd.Stdout, a.cmd.Stderr = file, file
	a.cmd.Env = append(n.environment(), env...)
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = a.cmd.Start()
	if err != nil {
		return nil, fmt.Errorf("cannot start the %s: %w", role, err)
	}
	go func() {
		defer close(a.done)
		a.err = a.cmd.Wait()
	}()
	return a, nil
}

// marker is in the environment of everything that Nomad starts for a node.
const marker = "PANGAEA_TEST_NODE="

// environment is little of ours. In particular AWS_CA_BUNDLE is not in it: it makes Nomad's fingerprinter abort.
func (n *Node) environment() []string {
	env := []string{marker + n.Dir}
	for _, name := range []string{"PATH", "HOME", "LANG", "TMPDIR"} {
		value, ok := os.LookupEnv(name)
		if ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// signal sends a signal to the agent, if it runs.
func (a *agent) signal(sig syscall.Signal) error {
	if !a.running() {
		return nil
	}
	err := a.cmd.Process.Signal(sig)
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("cannot signal the %s: %w", a.name, err)
	}
	return nil
}

// end ends the agent and waits for it: in order, or else at once.
func (a *agent) end(orderly bool) error {
	if !a.running() {
		return nil
	}
	if orderly {
		err := a.signal(syscall.SIGTERM)
		if err != nil {
			return err
		}
		select {
		case <-a.done:
			return nil
		case <-time.After(stopTimeout):
		}
	}
	err := a.signal(syscall.SIGKILL)
	if err == nil {
		<-a.done
	}
	return err
}

func (a *agent) running() bool {
	if a == nil {
		return false
	}
	select {
	case <-a.done:
		return false
	default:
		return true
	}
}

// await calls ready until it returns nil, the agent dies, or patience is at an end.
func (a *agent) await(ctx context.Context, what string, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-a.done:
			return fmt.Errorf("the %s ended (%w) before %s; the end of its log:\n%s", a.name, errors.Join(a.err, err), what, tail(a.log))
		case <-ctx.Done():
			return fmt.Errorf("waited in vain until %s: %w; the end of the %s's log:\n%s", what, err, a.name, tail(a.log))
		case <-time.After(pollPause):
		}
	}
}

// tail returns the last lines of a log.
func tail(path string) string {
	const lines = 25
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimSpace(content), []byte("\n"))
	var text strings.Builder
	for _, line := range all[max(0, len(all)-lines):] {
		text.WriteString("    ")
		text.Write(line)
		text.WriteByte('\n')
	}
	return text.String()
}
