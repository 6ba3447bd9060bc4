package rootfs

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Range is a task's block of host IDs: user i inside is Start+i outside. Start 0 means no user namespace.
type Range struct{ UID, GID, Count uint32 }

// None tells whether there is no user namespace.
func (r Range) None() bool { return r.UID == 0 && r.GID == 0 }

// Userns makes a user namespace that maps nothing but r. It lives as long as the file is open and no
// process ever runs in it: mount_setattr only reads its mapping.
func Userns(r Range) (*os.File, error) {
	if r.UID == 0 || r.GID == 0 || r.Count == 0 {
		return nil, errors.New("internal error: incomplete id range")
	}
	// A traced child stops before the first instruction of its program, whatever that is; the parent
	// takes the namespace and kills it. ptrace ties parent and child to one OS thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	proc, err := os.StartProcess("/proc/self/exe", []string{"pangaea-userns"}, &os.ProcAttr{
		Env: []string{},
		Sys: &syscall.SysProcAttr{
			Ptrace:                     true,
			Cloneflags:                 unix.CLONE_NEWUSER,
			Pdeathsig:                  syscall.SIGKILL,
			UidMappings:                []syscall.SysProcIDMap{{HostID: int(r.UID), Size: int(r.Count)}},
			GidMappings:                []syscall.SysProcIDMap{{HostID: int(r.GID), Size: int(r.Count)}},
			GidMappingsEnableSetgroups: true,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("cannot make a user namespace (is user.max_user_namespaces 0?): %w", err)
	}
	defer func() {
		_ = proc.Kill()
		_, _ = proc.Wait()
	}()
	fd, err := os.Open("/proc/" + strconv.Itoa(proc.Pid) + "/ns/user")
	if err != nil {
		return nil, fmt.Errorf("cannot open the user namespace: %w", err)
	}
	return fd, nil
}
