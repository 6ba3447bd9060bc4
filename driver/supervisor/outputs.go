package supervisor

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"
)

// outputs are the pipes from an exec's program to the request's writers.
type outputs struct {
	ours, theirs []*os.File
	sinks        []io.Writer
	copies       sync.WaitGroup
}

// pipeOutputs gives a command pipes for the outputs that are wanted.
func pipeOutputs(cmd *exec.Cmd, r ExecRequest) (*outputs, error) {
	o := &outputs{}
	var err error
	if r.Stdout != nil {
		cmd.Stdout, err = o.add(r.Stdout)
	}
	if err == nil && r.Stderr != nil {
		cmd.Stderr, err = o.add(r.Stderr)
	}
	if err != nil {
		o.abort()
		return nil, fmt.Errorf("cannot make a pipe: %w", err)
	}
	return o, nil
}

func (o *outputs) add(sink io.Writer) (*os.File, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	o.ours, o.theirs, o.sinks = append(o.ours, read), append(o.theirs, write), append(o.sinks, sink)
	return write, nil
}

// abort closes everything when the command did not start.
func (o *outputs) abort() {
	for _, f := range append(o.ours, o.theirs...) {
		_ = f.Close()
	}
}

// started copies until the pipes end or linger gives up.
func (o *outputs) started() {
	for _, f := range o.theirs {
		_ = f.Close()
	}
	for i, f := range o.ours {
		o.copies.Go(func() {
			_, _ = io.Copy(o.sinks[i], f)
			_ = f.Close()
		})
	}
}

// linger reads what the program has written, but no longer waits for what its children may yet write.
func (o *outputs) linger() {
	timer := time.AfterFunc(lingerTime, func() {
		for _, f := range o.ours {
			_ = f.SetReadDeadline(unblock())
		}
	})
	defer timer.Stop()
	o.copies.Wait()
}
