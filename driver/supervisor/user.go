package supervisor

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"pangaea/driver/openat"
)

// maxAccounts bounds what is read of the sandbox's passwd and group files, which the task may have written.
const maxAccounts = 1 << 20

// lookUpUser finds a user by uid, uid:gid or a name in the sandbox's own /etc/passwd.
func (t *Task) lookUpUser(name string) (specs.User, error) {
	if name == "" || strings.ContainsAny(name, "\n\x00") {
		return specs.User{}, fmt.Errorf("cannot use %q as a user", name)
	}
	passwd, group := t.account("/etc/passwd"), t.account("/etc/group")
	found, err := user.GetExecUser(name, &user.ExecUser{Home: "/"}, passwd, group)
	if err != nil {
		return specs.User{}, fmt.Errorf("cannot find user %q in the sandbox: %w", name, err)
	}
	u := specs.User{UID: uint32(found.Uid), GID: uint32(found.Gid)}
	for _, gid := range found.Sgids {
		u.AdditionalGids = append(u.AdditionalGids, uint32(gid))
	}
	return u, nil
}

// rootfs is the sandbox's root as this process can enter it. gVisor's kernel, which is what the host sees of the task,
// is not in it itself.
func (t *Task) rootfs() string {
	if t.launch.RuntimeKind == KindRunsc {
		spec, err := t.bundle()
		if err == nil {
			return spec.Root.Path
		}
	}
	return "/proc/" + strconv.Itoa(t.state.Pid) + "/root"
}

// account reads a file of the sandbox. The task may have made it a symlink, so it is resolved inside the sandbox's
// root and must be a plain file: a FIFO would block us.
func (t *Task) account(path string) io.Reader {
	empty := strings.NewReader("")
	root, err := unix.Open(t.rootfs(), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return empty
	}
	defer func() { _ = unix.Close(root) }()
	fd, err := openat.Open(root, path, unix.O_RDONLY|unix.O_NONBLOCK, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	if err != nil {
		return empty
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return empty
	}
	data, err := io.ReadAll(io.LimitReader(file, maxAccounts))
	if err != nil {
		return empty
	}
	return strings.NewReader(string(data))
}
