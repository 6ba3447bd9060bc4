package devpool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// stopTimeout is how long a process has to end after SIGTERM before it is killed.
	stopTimeout = time.Minute
	// patience is how long anything else may take: far longer than on the slowest machine, for it ends what would never end.
	patience = 5 * time.Minute
)

// inheritedVariables are those that the pool's processes get from ours. In particular AWS_CA_BUNDLE is not among
// them: it makes Nomad's AWS fingerprinter abort the agent.
var inheritedVariables = []string{"PATH", "HOME", "LANG", "TMPDIR"}

// command says how to start a process of the pool.
type command struct {
	name  string // of the log and the pid file
	netns string // path of a network namespace; empty for the machine's own
	argv  []string
	env   []string
}

// process is a running process of the pool. Its exit is awaited by one goroutine of its own.
type process struct {
	command command
	cmd     *exec.Cmd
	log     string
	pidFile string
	done    chan struct{}
	err     error // valid once done is closed
}

// start runs a command in a process group of its own, so that Ctrl-C reaches only us, with its output in a log file.
func start(dir string, c command) (*process, error) {
	log := filepath.Join(dir, "logs", c.name+".log")
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the log of %s: %w", c.name, err)
	}
	defer file.Close()
	argv := c.argv
	if c.netns != "" {
		// Not "ip netns exec": that mounts a fresh /sys, which hides the cgroups that Nomad works with.
		argv = append([]string{"nsenter", "--net=" + c.netns, "--"}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = file, file
	cmd.Env = append(environment(), c.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	if err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", c.name, err)
	}
	p := &process{command: c, cmd: cmd, log: log, pidFile: filepath.Join(dir, "pids", c.name), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
	}()
	err = os.WriteFile(p.pidFile, []byte(identity(cmd.Process.Pid)), 0o600)
	if err != nil {
		return p, errors.Join(fmt.Errorf("cannot record the pid of %s: %w", c.name, err), p.kill())
	}
	return p, nil
}

func environment() []string {
	var env []string
	for _, name := range inheritedVariables {
		value, ok := os.LookupEnv(name)
		if ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// stop ends the process with SIGTERM, or SIGKILL when it does not listen, and waits for it.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
		return p.kill()
	}
	return os.Remove(p.pidFile)
}

// kill ends the process at once and waits for it.
func (p *process) kill() error {
	_ = p.cmd.Process.Kill()
	<-p.done
	return os.Remove(p.pidFile)
}

// dead tells how the process ended, or nil while it runs, with the end of its log.
func (p *process) dead() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended: %w; the end of %s:\n%s", p.command.name, errors.Join(p.err, os.ErrProcessDone), p.log, tail(p.log, 15))
	default:
		return nil
	}
}

// tail returns the last lines of a file.
func tail(path string, lines int) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// await calls ready every 100 ms until it returns nil, the process dies or the time is up.
func (p *process) await(ctx context.Context, what string, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		dead := p.dead()
		if dead != nil {
			return dead
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot wait any longer until %s: %w; the end of %s:\n%s", what, err, p.log, tail(p.log, 15))
		case <-ticker.C:
		}
	}
}

// identity names a process so that its pid, once reused, does not pass for it: "pid starttime".
func identity(pid int) string {
	content, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return ""
	}
	// The command name, in parentheses, may hold spaces; the start time is field 22 of proc_pid_stat(5).
	_, rest, _ := strings.Cut(string(content), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return ""
	}
	return strconv.Itoa(pid) + " " + fields[19]
}

// killRecorded kills the processes that an earlier run recorded and did not stop.
func killRecorded(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "pids", "*"))
	if err != nil {
		return fmt.Errorf("cannot list recorded processes: %w", err)
	}
	for _, file := range files {
		recorded, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("cannot read a recorded pid: %w", err)
		}
		pid, err := strconv.Atoi(strings.Split(string(recorded), " ")[0])
		if err == nil && string(recorded) != "" && identity(pid) == string(recorded) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		err = os.Remove(file)
		if err != nil {
			return fmt.Errorf("cannot forget a recorded pid: %w", err)
		}
	}
	return nil
}
