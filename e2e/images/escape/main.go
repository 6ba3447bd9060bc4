// Command escape tries to get out of the task that it is: a task for tests of isolation. Each attempt is a process of its
// own, so that none helps or hinders another, and is told on standard output as one line of JSON.
//
// An attempt that would harm a machine that let it through does not go all the way: it opens for writing and writes
// nothing, or asks with arguments that the kernel refuses only after it has decided that the caller may ask.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// atOnce is how many attempts run beside each other.
	atOnce = 4
	// patience is how long one may take; each gives up on whatever does not answer long before.
	patience = time.Minute
	// refused is the status of an attempt that is told no.
	refused = 3
)

// host is what the test tells of the machine outside, in JSON, so that each attempt knows what to look for there.
type host struct {
	Canary  string   // a file's path, for all to read
	Token   string   // what is in it, in the names of what is the host's, and in the environment of its process
	Handle  []byte   // the file's handle
	Kind    int32    // of handle
	PID     int      // of the host's process
	Shm     int      // key of its shared memory
	Port    string   // of its loopback and all its other addresses
	Near    []string // host:port
	Threads int      // more than the task may have
	Memory  int      // MiB, more than the task may have
	Space   int      // MiB, more than /tmp and /dev/shm may have
	Groups  []string // of attempts, if not all
	Watch   bool     // go on after the last attempt, until there is a file /tmp/made
	Look    string   // for the host's file at this place only
}

// attempt is one way out. Its function returns nil if it has reached what is not the task's.
type attempt struct {
	name string
	try  func() error
}

type group struct {
	name     string
	attempts []attempt
}

func (h *host) groups() []group {
	return append(h.alone(), []group{
		{"mounts", h.mounts()},
		{"namespaces", namespaces(h.PID)},
		{"privileges", privileges()},
		{"kernel files", kernelFiles()},
		{"devices", devices()},
		{"system calls", append(systemCalls(), h.bigCalls()...)},
		{"processes", h.processes()},
		{"network", h.network()},
		{"neighbours", h.neighbours()},
		{limits, h.limits()},
	}...)
}

// outcome is a line of the output.
type outcome struct {
	Group, Name string
	Reached     bool
	Detail      string
}

func main() {
	if len(os.Args) == 1 {
		fmt.Println(os.Geteuid())
		return
	}
	var h host
	err := json.Unmarshal([]byte(os.Args[1]), &h)
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "escape: cannot read what to look for:", err)
		os.Exit(1)
	case len(os.Args) == 3:
		os.Exit(h.tryOne(os.Args[2]))
	case h.Look != "":
		h.look()
	default:
		h.tryAll()
	}
}

// tryOne is the process of one attempt: it ends with 0 if that has reached something, and else says what was in its way.
func (h *host) tryOne(name string) int {
	err := errors.New("there is no such attempt")
	for _, g := range h.groups() {
		for _, a := range g.attempts {
			if g.name+": "+a.name == name {
				err = a.try()
			}
		}
	}
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, err)
	return refused
}

// reached is success, and says of what.
func reached(what string) error {
	fmt.Fprintln(os.Stderr, what)
	return nil
}

func (h *host) tryAll() {
	out := json.NewEncoder(os.Stdout)
	for _, g := range h.groups() {
		if h.Groups != nil && !slices.Contains(h.Groups, g.name) {
			continue
		}
		outcomes := make(chan outcome)
		slots := make(chan struct{}, map[bool]int{true: 1, false: atOnce}[g.name == limits]) // which take what the others need
		var running sync.WaitGroup
		for _, a := range g.attempts {
			running.Go(func() {
				slots <- struct{}{}
				outcomes <- inProcess(g.name, a.name)
				<-slots
			})
		}
		for range g.attempts {
			_ = out.Encode(<-outcomes)
		}
		running.Wait()
	}
	if h.Watch {
		_ = out.Encode(outcome{Group: "watching"})
		_ = out.Encode(watch())
	}
	_ = out.Encode(outcome{Group: "over"})
}

// inProcess runs this program once more, for one attempt.
func inProcess(group, name string) outcome {
	cmd := exec.Command(os.Args[0], os.Args[1], group+": "+name) //nolint:gosec // it is this program
	// A machine with many processors must not have it take the threads that the task may have.
	cmd.Env = append(os.Environ(), "GOMAXPROCS=2")
	var said bytes.Buffer
	cmd.Stderr = &said
	err := cmd.Start()
	if err == nil {
		timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		err = cmd.Wait()
		timer.Stop()
	}
	detail, _, _ := strings.Cut(said.String(), "\n")
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != refused) {
		detail = strings.TrimSpace(err.Error() + " " + detail)
	}
	return outcome{group, name, err == nil, detail}
}

// look looks for the host's file at a place that the image made, and leaves a file there.
func (h *host) look() {
	for _, path := range []string{h.Look, filepath.Join(h.Look, "secret"), "secret"} {
		if h.holds(path) == nil {
			fmt.Println("reached", path)
		}
	}
	for _, dir := range []string{h.Look, "."} {
		_ = os.WriteFile(filepath.Join(dir, "made"), nil, 0o600)
	}
	fmt.Println("looked")
}
