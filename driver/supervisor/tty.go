package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// consoleTime bounds how long the runtime may take to send the terminal.
const consoleTime = 30 * time.Second

// execTTY runs a program on a terminal that the sandbox makes, so that it belongs to the sandbox's devpts. The
// runtime sends us the terminal's master over a socket.
func (t *Task) execTTY(ctx context.Context, r ExecRequest, process *os.File) (int, error) {
	console, err := listenConsole(t.dir)
	if err != nil {
		return 0, err
	}
	defer console.close()
	cmd, _, err := t.execCommand(ctx, process, "--tty", "--console-socket", console.path)
	if err != nil {
		return 0, err
	}
	stderr := &tail{}
	cmd.Stderr = stderr
	err = cmd.Start()
	if err != nil {
		return 0, fmt.Errorf("cannot run the runtime: %w", err)
	}
	// The runtime that fails sends no terminal: do not wait for one.
	ended := make(chan error, 1)
	go func() {
		ended <- cmd.Wait()
		console.hurry()
	}()
	master, err := console.accept()
	if err != nil {
		waitErr := <-ended
		stderr.show(r.Stdout)
		return exitCode(ctx, cmd, waitErr)
	}
	done := converse(master, r)
	waitErr := <-ended
	done()
	stderr.show(r.Stdout)
	return exitCode(ctx, cmd, waitErr)
}

// converse connects a terminal to the request; what it returns waits for the last output and disconnects.
func converse(master *os.File, r ExecRequest) func() {
	copied, quit := make(chan struct{}), make(chan struct{})
	out := r.Stdout
	if out == nil {
		out = io.Discard
	}
	go func() {
		defer close(copied)
		// It ends with EIO when the last process has closed the terminal.
		copyOut(out, master)
	}()
	if r.Stdin != nil {
		go func() {
			_, err := io.Copy(master, r.Stdin)
			if err == nil {
				_, _ = master.Write([]byte{4}) // End of input, as a terminal's user types it.
			}
		}()
	}
	resized := make(chan struct{})
	go func() {
		defer close(resized)
		followSize(master, r.Resize, quit)
	}()
	return func() {
		timer := time.AfterFunc(lingerTime, func() { _ = master.SetReadDeadline(unblock()) })
		<-copied
		timer.Stop()
		close(quit)
		<-resized
		_ = master.Close()
	}
}

// followSize passes on the terminal's sizes until it is told to quit.
func followSize(master *os.File, sizes <-chan Size, quit <-chan struct{}) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok {
				return
			}
			setSize(master, size)
		case <-quit:
			return
		}
	}
}

func setSize(master *os.File, size Size) {
	conn, err := master.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) {
		_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(size.Rows), Col: uint16(size.Cols)})
	})
}

// console is the socket on which the runtime sends a terminal.
type console struct {
	dir      *os.File
	name     string
	path     string
	listener *net.UnixListener
}

// listenConsole listens in the task's directory, which only root can enter. A socket's path may have 108 bytes at
// most, so both sides reach the directory through our descriptor of it.
func listenConsole(dir string) (*console, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open the task's directory: %w", err)
	}
	file, err := os.CreateTemp(dir, "console-")
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("cannot make a console socket: %w", err)
	}
	file.Close()
	_ = os.Remove(file.Name())
	name := filepath.Base(file.Name())
	path := fmt.Sprintf("/proc/%d/fd/%d/%s", os.Getpid(), d.Fd(), name)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("cannot listen for the terminal: %w", err)
	}
	_ = listener.SetDeadline(time.Now().Add(consoleTime))
	return &console{dir: d, name: file.Name(), path: path, listener: listener}, nil
}

func (c *console) close() {
	_ = c.listener.Close()
	_ = os.Remove(c.name)
	_ = c.dir.Close()
}

// hurry leaves time only for a terminal that is already on its way: the runtime has ended.
func (c *console) hurry() { _ = c.listener.SetDeadline(time.Now().Add(lingerTime)) }

// accept receives the terminal's master.
func (c *console) accept() (*os.File, error) {
	conn, err := c.listener.AcceptUnix()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// The time may have passed while this process stood still and a terminal had come.
		c.hurry()
		conn, err = c.listener.AcceptUnix()
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(consoleTime))
	text, control := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(text, control)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return nil, errors.New("the runtime sent no terminal")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.New("the runtime sent no terminal")
	}
	unix.CloseOnExec(fds[0])
	err = unix.SetNonblock(fds[0], true)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}

// tail keeps the first bytes of what the runtime says about a failure.
type tail struct{ text []byte }

const maxTail = 4096

func (t *tail) Write(p []byte) (int, error) {
	if room := maxTail - len(t.text); room > 0 {
		t.text = append(t.text, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

// show tells the terminal's user why the program could not run.
func (t *tail) show(w io.Writer) {
	if w != nil && len(t.text) > 0 {
		_, _ = w.Write(t.text)
	}
}
