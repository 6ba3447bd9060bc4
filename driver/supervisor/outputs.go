package supervisor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"
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
			copyOut(o.sinks[i], f)
			_ = f.Close()
		})
	}
}

// mostHeld is what a pipe holds by default; a terminal holds less.
const mostHeld = 64 << 10

// copyOut copies what comes from a pipe or a terminal until its end or its deadline. What is in it by then it copies as
// well: a client may be slow to take what came before, and this process slow to run.
func copyOut(sink io.Writer, f *os.File) {
	_, err := io.Copy(sink, f)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return
	}
	// No more than that: others may still write, and for ever.
	rest := make([]byte, 0, mostHeld)
	_ = conn.Control(func(fd uintptr) {
		for len(rest) < mostHeld {
			n, err := unix.Read(int(fd), rest[len(rest):mostHeld])
			if err == unix.EINTR {
				continue
			}
			if err != nil || n <= 0 {
				return
			}
			rest = rest[:len(rest)+n]
		}
	})
	_, _ = sink.Write(rest)
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
