package escape

import (
	"encoding/json"
	"errors"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/hashicorp/nomad/helper/uuid"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"pangaea/e2e/hostnet"
)

// What the tasks get, and more than that.
const (
	pids, tooManyThreads = 128, 200
	memory, tooMuchRAM   = 128, 192 // MiB
	space, tooMuchSpace  = 48, 64   // MiB
)

// outside is what there is on the host for a task to find: a file, a process, sockets, shared memory.
type outside struct {
	dir   string
	token string
	pid   int            // of its process, which has the token in its environment
	tells map[string]any // what the program is told of all that
}

// told is the program's argument: what there is outside, with more in pairs.
func (o *outside) told(t *testing.T, more ...any) string {
	t.Helper()
	all := maps.Clone(o.tells)
	for i := 0; i < len(more); i += 2 {
		all[more[i].(string)] = more[i+1]
	}
	text, err := json.Marshal(all)
	must.NoError(t, err)
	return string(text)
}

func newOutside(t *testing.T) *outside {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "pangaea-escape-")
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, os.RemoveAll(dir)) })
	must.NoError(t, os.Chmod(dir, 0o755)) // nothing but the sandbox may be in the way
	o := &outside{dir: dir, token: "pangaea-escape-" + uuid.Generate()}
	must.NoError(t, os.WriteFile(filepath.Join(dir, "secret"), []byte(o.token), 0o644))
	inShm := filepath.Join("/dev/shm", o.token)
	must.NoError(t, os.WriteFile(inShm, []byte(o.token), 0o644))
	t.Cleanup(func() { must.NoError(t, os.Remove(inShm)) })
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, filepath.Join(dir, "secret"), 0)
	if errors.Is(err, unix.EOPNOTSUPP) { // by the file system; the control won't reach the file by it either
		handle, err = unix.NewFileHandle(0, nil), nil
	}
	must.NoError(t, err)
	process := exec.CommandContext(t.Context(), "sleep", "infinity")
	process.Env, process.Dir = []string{"TOKEN=" + o.token}, dir
	must.NoError(t, process.Start())
	t.Cleanup(func() { _ = process.Wait() })
	o.pid = process.Process.Pid
	o.tells = map[string]any{
		"Canary": filepath.Join(dir, "secret"), "Token": o.token, "Handle": handle.Bytes(), "Kind": handle.Type(), "PID": o.pid,
		"Shm": sharedMemory(t, o.token), "Port": listen(t, o.token), "Near": []string{hostnet.Address + ":8080", "192.168.1.1:8080", "169.254.169.254:8080"},
		"Threads": tooManyThreads, "Memory": tooMuchRAM, "Space": tooMuchSpace,
	}
	return o
}

// listen answers on a port of all addresses and on an abstract socket, until the test ends.
func listen(t *testing.T, name string) (port string) {
	t.Helper()
	tcp, err := net.Listen("tcp4", "0.0.0.0:0")
	must.NoError(t, err)
	abstract, err := net.Listen("unix", "@"+name)
	must.NoError(t, err)
	for _, l := range []net.Listener{tcp, abstract} {
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_ = conn.Close()
			}
		}()
	}
	_, port, err = net.SplitHostPort(tcp.Addr().String())
	must.NoError(t, err)
	return port
}

// sharedMemory makes a segment of shared memory, whose key it returns, and a message queue of a name.
func sharedMemory(t *testing.T, name string) (key int) {
	t.Helper()
	key = os.Getpid()<<8 | 0x45
	id, err := unix.SysvShmGet(key, os.Getpagesize(), unix.IPC_CREAT|unix.IPC_EXCL|0o666)
	must.NoError(t, err)
	t.Cleanup(func() {
		_, err := unix.SysvShmCtl(id, unix.IPC_RMID, nil)
		must.NoError(t, err)
	})
	text, err := unix.BytePtrFromString(name)
	must.NoError(t, err)
	queue, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(text)), unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o666, 0, 0, 0)
	must.Zero(t, errno)
	must.NoError(t, unix.Close(int(queue)))
	t.Cleanup(func() { _, _, _ = unix.Syscall(unix.SYS_MQ_UNLINK, uintptr(unsafe.Pointer(text)), 0, 0) })
	return key
}
