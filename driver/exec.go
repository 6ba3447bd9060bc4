package driver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"

	"pangaea/driver/supervisor"
)

// maxExecOutput bounds what a script check may say: it is kept in memory and goes into a health status.
const maxExecOutput = 1 << 20

var _ drivers.ExecTaskStreamingDriver = (*Driver)(nil)

// ExecTask runs a program in a task's sandbox, for script checks.
func (d *Driver) ExecTask(id string, cmd []string, timeout time.Duration) (*drivers.ExecTaskResult, error) {
	h, ok := d.task(id)
	if !ok {
		return nil, drivers.ErrTaskNotFound
	}
	if len(cmd) == 0 {
		return nil, errors.New("cannot run a program in the task: no command given")
	}
	ctx, cancel := context.WithTimeout(d.ctx, timeout)
	defer cancel()
	stdout, stderr := &bounded{limit: maxExecOutput}, &bounded{limit: maxExecOutput}
	code, err := h.task.Exec(ctx, supervisor.ExecRequest{Args: cmd, Stdout: stdout, Stderr: stderr})
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("cannot finish within %s: %w", timeout, err)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot run a program in the task: %w", err)
	}
	return &drivers.ExecTaskResult{Stdout: stdout.Bytes(), Stderr: stderr.Bytes(), ExitResult: &drivers.ExitResult{ExitCode: code}}, nil
}

// ExecTaskStreaming runs a program in a task's sandbox with its input and output on the caller's streams.
func (d *Driver) ExecTaskStreaming(ctx context.Context, id string, o *drivers.ExecOptions) (*drivers.ExitResult, error) {
	// Closed last, and only to end whoever still reads it: input that comes after the end is no error.
	defer o.Stdin.Close()
	defer o.Stdout.Close()
	defer o.Stderr.Close()
	h, ok := d.task(id)
	if !ok {
		return nil, drivers.ErrTaskNotFound
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.ctx, cancel)()
	// Nobody reads what goes to a client that has left: a write under way would wait for ever.
	defer context.AfterFunc(ctx, func() { _, _ = o.Stdout.Close(), o.Stderr.Close() })()
	code, err := h.task.Exec(ctx, supervisor.ExecRequest{
		Args: o.Command, TTY: o.Tty, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Resize: resizes(ctx, o.ResizeCh),
	})
	if err != nil {
		return nil, fmt.Errorf("cannot run a program in the task: %w", err)
	}
	return &drivers.ExitResult{ExitCode: code}, nil
}

// resizes translates terminal sizes until the caller's channel or the exec ends.
func resizes(ctx context.Context, in <-chan drivers.TerminalSize) <-chan supervisor.Size {
	out := make(chan supervisor.Size)
	go func() {
		defer close(out)
		for {
			select {
			case <-ctx.Done():
				return
			case size, ok := <-in:
				if !ok {
					return
				}
				select {
				case out <- supervisor.Size{Rows: size.Height, Cols: size.Width}:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out
}

// bounded keeps the first bytes of what is written to it and takes the rest for nothing.
type bounded struct {
	bytes.Buffer
	limit int
}

func (b *bounded) Write(p []byte) (int, error) {
	room := b.limit - b.Len()
	if room > 0 {
		_, _ = b.Buffer.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}
