package main

import (
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// systemCalls are attempts at calls that change the machine, or whose code in the kernel is large and new.
func systemCalls() []attempt {
	const (
		tree    = 9999 // no descriptor of ours
		invalid = 0x80 // no flag of any of these
	)
	return []attempt{
		{"reboot", func() error { return past(call(unix.SYS_REBOOT), unix.EINVAL) }},
		{"kexec_load", func() error { return past(call(unix.SYS_KEXEC_LOAD, 0, tree), unix.EINVAL) }},
		{"kexec_file_load", func() error {
			return past(call(unix.SYS_KEXEC_FILE_LOAD, tree, tree, 0, 0, invalid), unix.EINVAL, unix.EBADF)
		}},
		{"init_module", func() error { return past(call(unix.SYS_INIT_MODULE, 0, 1, 0), unix.ENOEXEC, unix.EFAULT) }},
		{"finit_module", func() error {
			return past(call(unix.SYS_FINIT_MODULE, tree, 0, invalid), unix.EINVAL, unix.EBADF, unix.EFAULT)
		}},
		{"delete_module", func() error {
			return past(call(unix.SYS_DELETE_MODULE, text("escape-none"), unix.O_NONBLOCK), unix.ENOENT)
		}},
		{"swapon", func() error { return past(call(unix.SYS_SWAPON), unix.EFAULT) }},
		{"swapoff", func() error { return past(call(unix.SYS_SWAPOFF), unix.EFAULT) }},
		{"settimeofday", func() error {
			const minutesWest = 9999
			return past(call(unix.SYS_SETTIMEOFDAY, 0, memory(minutesWest)), unix.EINVAL)
		}},
		{"adjtimex", func() error {
			_, err := unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_TICK, Tick: 1})
			return past(err, unix.EINVAL)
		}},
		{"clock_adjtime", func() error {
			_, err := unix.ClockAdjtime(unix.CLOCK_REALTIME, &unix.Timex{Modes: unix.ADJ_TICK, Tick: 1})
			return past(err, unix.EINVAL)
		}},
		{"acct", func() error { return past(call(unix.SYS_ACCT, 1), unix.EFAULT) }},
		{"quotactl", func() error {
			const sync = 0x800001 << 8 // all quotas of users
			return call(unix.SYS_QUOTACTL, sync)
		}},
		{"syslog", func() error { _, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil); return err }},
		{"sethostname", func() error {
			name, err := os.Hostname()
			return errors.Join(err, unix.Sethostname([]byte(name)))
		}},
		{"setdomainname", func() error { return unix.Setdomainname([]byte("(none)")) }},
		{"vhangup", func() error {
			_, err := unix.Setsid() // a session without a terminal: there is nobody to hang up on
			return errors.Join(err, call(unix.SYS_VHANGUP))
		}},
		{"personality", func() error {
			const addrNoRandomize = 0x0040000
			return call(unix.SYS_PERSONALITY, addrNoRandomize)
		}},
		{"lookup_dcookie", func() error { return past(call(unix.SYS_LOOKUP_DCOOKIE, 0, memory(), 0), unix.EINVAL) }},
		{"iopl", func() error { return x86(172, 3) }},
		{"ioperm", func() error { return x86(173, 0x80, 1, 1) }},
		{"the second table of calls (x32)", func() error { return forked(unix.SYS_UNSHARE|1<<30, unix.CLONE_NEWUTS) }},
		{"the 32-bit table of calls", func() error {
			path := filepath.Join(scratch(), "escape") // by whose name it is known as ours
			err := os.WriteFile(path, unshare32(), 0o755)
			return errors.Join(err, exec.Command(path).Run())
		}},
	}
}

// x86 makes a call that no other architecture has.
func x86(trap uintptr, args ...uintptr) error {
	if runtime.GOARCH != "amd64" {
		return unix.ENOSYS
	}
	return call(trap, args...)
}

// unshare32 is a 32-bit program for x86 that ends with what its unshare(CLONE_NEWUTS) returns. Its calls have numbers of
// their own, which a filter that knows the 64-bit ones alone would not see.
func unshare32() []byte {
	program, err := hex.DecodeString("7f454c46010101000000000000000000" + // ELF
		"020003000100000054000100340000000000000000000000340020000100000000000000" + // an executable, where it starts, one segment
		"0100000000000000000001000000010069000000690000000500000000100000" + // all of it, to be read and run
		"b836010000" + "bb00000004" + "cd80" + // mov eax, 310 (unshare); mov ebx, CLONE_NEWUTS; int 0x80
		"89c3" + "b801000000" + "cd80") // mov ebx, eax; mov eax, 1 (exit); int 0x80
	if err != nil {
		panic(err)
	}
	return program
}

// bigCalls are those that a filter keeps from tasks for what they have been abused for.
func (h *host) bigCalls() []attempt {
	return []attempt{
		{"bpf: make a map", func() error {
			const array, size, entries = 2, 4, 1
			return call(unix.SYS_BPF, unix.BPF_MAP_CREATE, memory(array|size<<32, size|entries<<32), 16)
		}},
		{"bpf: load a program", func() error {
			const filter, instructions = 1, 2
			program := memory(0xb7, 0x95) // return 0
			return call(unix.SYS_BPF, unix.BPF_PROG_LOAD, memory(filter|instructions<<32, uint64(program), uint64(text("GPL"))), 48)
		}},
		{"perf_event_open", func() error {
			event := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: unix.PERF_ATTR_SIZE_VER0}
			_, err := unix.PerfEventOpen(&event, -1, 0, -1, unix.PERF_FLAG_FD_CLOEXEC)
			return err
		}},
		{"userfaultfd", func() error { return call(unix.SYS_USERFAULTFD, unix.O_CLOEXEC) }},
		{"io_uring_setup", func() error { return call(unix.SYS_IO_URING_SETUP, 1, memory()) }},
		{"io_uring_register", func() error { return past(call(unix.SYS_IO_URING_REGISTER, 9999), unix.EBADF) }},
		{"keyctl", func() error { _, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_USER_KEYRING, true); return err }},
		{"add_key", func() error {
			_, err := unix.AddKey("user", "escape", []byte("x"), unix.KEY_SPEC_PROCESS_KEYRING)
			return err
		}},
		{"request_key", func() error {
			return past(call(unix.SYS_REQUEST_KEY, text("user"), text("escape-none")), unix.ENOKEY)
		}},
		{"fanotify_init", func() error { _, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC, 0); return err }},
		{"open_by_handle_at", h.byHandle},
	}
}

// byHandle opens a file of the host's by its number, past all directories: the "shocker" of 2014.
func (h *host) byHandle() error {
	dir, err := unix.Open("/tmp", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	fd, err := unix.OpenByHandleAt(dir, unix.NewFileHandle(h.Kind, h.Handle), unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return err
	}
	return h.holds(descriptor(fd))
}
