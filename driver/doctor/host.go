package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pangaea/driver"
)

// Host is the machine under examination.
type Host struct {
	Root string // "/"
	UID  int
	Now  func() time.Time

	Run          func(ctx context.Context, name string, args ...string) (string, error)
	Date         func(ctx context.Context, url string) (time.Time, error) // by a server's clock
	Pidfd        func() error
	Nftables     func() error
	Synchronised func() (bool, error)
	Exposed      func(dir string) bool
}

// newHost is the machine that this runs on.
func newHost() Host {
	return Host{
		Root: "/", UID: os.Geteuid(), Now: time.Now, Run: run, Date: date, Nftables: nftables, Synchronised: synchronised, Exposed: driver.Exposed,
		Pidfd: func() error {
			fd, err := unix.PidfdOpen(os.Getpid(), 0)
			if err == nil {
				_ = unix.Close(fd)
			}
			return err
		},
	}
}

func (h Host) path(name string) string { return filepath.Join(h.Root, name) }

// read is a file's text without the white space around it, "" if it cannot be had.
func (h Host) read(name string) string {
	text, err := os.ReadFile(h.path(name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

func (h Host) exists(name string) bool {
	_, err := os.Stat(h.path(name))
	return err == nil
}

// glob lists names below the root, without it.
func (h Host) glob(pattern string) []string {
	found, _ := filepath.Glob(h.path(pattern))
	for i, name := range found {
		found[i] = "/" + strings.TrimPrefix(strings.TrimPrefix(name, filepath.Clean(h.Root)), "/")
	}
	return found
}

// find is where a program lies, "" if nowhere. Nomad's unit rarely has the PATH of who runs this.
func (h Host) find(program string) string {
	for _, dir := range []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		info, err := os.Stat(h.path(filepath.Join(dir, program)))
		if err == nil && info.Mode()&0o111 != 0 {
			return filepath.Join(dir, program)
		}
	}
	return ""
}

func run(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("cannot run %s: %w: %s", name, err, out)
	}
	return string(out), nil
}

func date(ctx context.Context, url string) (time.Time, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return time.Time{}, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return time.Time{}, err
	}
	defer response.Body.Close()
	return http.ParseTime(response.Header.Get("Date"))
}

// synchronised asks the kernel whether something keeps its clock right.
func synchronised() (bool, error) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	return state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0, err
}

// nftables asks the kernel for its rule set's generation: that takes the same module and the same right as to change it.
func nftables() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(fd) }()
	const length = unix.SizeofNlMsghdr + 4 // of struct nfgenmsg
	request := make([]byte, length)
	request[0] = length
	request[4], request[5] = unix.NFT_MSG_GETGEN, unix.NFNL_SUBSYS_NFTABLES
	request[6] = unix.NLM_F_REQUEST
	err = unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if err != nil {
		return os.NewSyscallError("sendto", err)
	}
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5})
	if err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return os.NewSyscallError("recvfrom", err)
	}
	if n >= unix.SizeofNlMsghdr+4 && answer[4] == unix.NLMSG_ERROR && answer[5] == 0 {
		code := int32(answer[16]) | int32(answer[17])<<8 | int32(answer[18])<<16 | int32(answer[19])<<24
		return unix.Errno(-code)
	}
	return nil
}

// forbidden tells whether the reason is that the asker is not root.
func forbidden(err error) bool {
	return errors.Is(err, fs.ErrPermission)
}
