package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// other is a user and a group that the task is not.
const other = 12345

// privileges are attempts to be somebody else or to get capabilities.
func privileges() []attempt {
	return []attempt{
		{"be the host's root", func() error {
			mapped, err := os.ReadFile("/proc/self/uid_map")
			var inside, outside int
			_, scanErr := fmt.Sscan(string(mapped), &inside, &outside)
			err = errors.Join(err, scanErr, unix.Setuid(0))
			if err == nil && (inside != 0 || outside != 0) {
				return fmt.Errorf("0 is the host's %d", outside)
			}
			return err
		}},
		{"be another user", func() error { return unix.Setresuid(other, other, other) }},
		{"be another group", func() error { return unix.Setresgid(other, other, other) }},
		{"be in another group", func() error { return unix.Setgroups([]int{other}) }},
		{"have a capability", func() error {
			return shows("/proc/self/status", func(text string) string {
				return regexp.MustCompile(`Cap...:\s+0*[1-9a-f]`).FindString(text)
			})
		}},
		{"raise a capability", func() error {
			runtime.LockOSThread()
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var sets [2]unix.CapUserData
			sets[0].Permitted, sets[0].Effective = 1<<unix.CAP_SYS_ADMIN, 1<<unix.CAP_SYS_ADMIN
			return unix.Capset(&header, &sets[0])
		}},
		{"drop a capability from the bounding set", func() error { return control(unix.PR_CAPBSET_DROP, unix.CAP_SYS_TIME) }},
		{"set securebits", func() error { return control(unix.PR_SET_SECUREBITS, 1) }},
		{"gain privileges by exec", func() error { return shows("/proc/self/status", after("NoNewPrivs:\t0")) }},
		{"be unfiltered", func() error { return shows("/proc/self/status", after("Seccomp:\t0")) }},
		{"give a program capabilities", func() error {
			// Revision 2, effective, permitted CAP_SYS_ADMIN.
			value := "\x01\x00\x00\x02\x00\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
			return unix.Setxattr(ownCopy(), "security.capability", []byte(value), 0)
		}},
		{"run a program as its owner", setuidProgram},
		{"give a file away", func() error { return os.Chown(ownCopy(), other, other) }},
		{"read what nobody may", func() error {
			path := filepath.Join(scratch(), "shut")
			err := os.WriteFile(path, nil, 0)
			_, readErr := os.ReadFile(path)
			return errors.Join(err, readErr)
		}},
	}
}

func control(option int, value uintptr) error { return unix.Prctl(option, value, 0, 0, 0) }

// after is what a text holds from some words on.
func after(words string) func(string) string {
	return func(text string) string {
		_, rest, _ := strings.Cut(text, words)
		return rest
	}
}

// ownCopy is a new copy of this program.
func ownCopy() string {
	path := filepath.Join(scratch(), "escape")
	program, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(path, program, 0o755) //nolint:gosec // a program
	}
	if err != nil {
		panic(err)
	}
	return path
}

// setuidProgram runs a program with the setuid bit, of another user's if files can be given away.
func setuidProgram() error {
	path, owner := ownCopy(), os.Geteuid()
	if os.Chown(path, other, other) == nil {
		owner = other
	}
	err := unix.Chmod(path, 0o6755)
	said, runErr := exec.Command(path).Output()
	err = errors.Join(err, runErr)
	if err == nil && (owner != other || strings.TrimSpace(string(said)) != fmt.Sprint(other)) {
		return fmt.Errorf("it runs as %s", strings.TrimSpace(string(said)))
	}
	return err
}
