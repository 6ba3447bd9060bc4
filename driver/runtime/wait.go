package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer/configs/validate"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	// controlFd is where a waiting runtime gets its order, and later holds the conversation.
	controlFd = 3
	maxOrder  = 16 << 10
)

// wait gets ready for what the shim will want, waits for its order, and carries it out: the arguments and standard
// files that this process would otherwise have been started with. It ends when the shim does.
func wait() (int, error) {
	unix.CloseOnExec(controlFd)
	rehearse()
	args, err := receive(controlFd)
	if err != nil || args == nil {
		return exitFailed, err
	}
	if args[0] == "wait" {
		return exitUsage, errors.New("wait is no order")
	}
	return run(args)
}

// receive reads an order and takes its files for standard input, output and error; nil says that none will come.
func receive(fd int) ([]string, error) {
	text, rights := make([]byte, maxOrder), make([]byte, unix.CmsgSpace(3*4))
	var n, size int
	var err error
	for {
		n, size, _, _, err = unix.Recvmsg(fd, text, rights, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot receive the shim's order: %w", err)
	}
	if n == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(rights[:size])
	if err != nil || len(messages) != 1 {
		return nil, errors.New("the shim's order came without files")
	}
	files, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(files) != 3 {
		return nil, errors.New("the shim's order came without its three files")
	}
	for to, from := range files {
		err = unix.Dup3(from, to, 0)
		if err != nil {
			return nil, fmt.Errorf("cannot take over the sandbox's files: %w", err)
		}
		_ = unix.Close(from)
	}
	return strings.Split(string(text[:n]), "\x00"), nil
}

// rehearse pays ahead for what is slow only the first time: what the decoder and the encoder learn of their types, and
// the pages of this program that are not in its memory yet. What it makes is thrown away; none of it touches the system.
func rehearse() {
	spec := new(specs.Spec)
	_ = json.Unmarshal([]byte(rehearsal), spec)
	trim(spec.Linux.Seccomp)
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: "rehearsal", Spec: spec})
	if err == nil {
		_ = json.NewEncoder(io.Discard).Encode(config)
		_ = validate.Validate(config)
		_, _ = manager.New(config.Cgroups)
	}
	_, _ = newProcess(spec.Process)
	// Before Go starts its first process it tries out on a child whether pidfds work: half a millisecond.
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		_ = self.Release()
	}
}

// rehearsal is a spec with one of each.
const rehearsal = `{"ociVersion":"1.2.0","root":{"path":"/"},"hostname":"x",
"process":{"args":["x"],"env":["A=b"],"cwd":"/","capabilities":{},"rlimits":[{"type":"RLIMIT_NOFILE","hard":1,"soft":1}]},
"mounts":[{"destination":"/proc","type":"proc","source":"proc","options":["nosuid"]},
{"destination":"/x","type":"bind","source":"/x","options":["rbind","ro","idmap"],
"uidMappings":[{"containerID":0,"hostID":1,"size":1}],"gidMappings":[{"containerID":0,"hostID":1,"size":1}]}],
"linux":{"cgroupsPath":"/x/x","namespaces":[{"type":"user"},{"type":"mount"},{"type":"network"}],
"uidMappings":[{"containerID":0,"hostID":1,"size":1}],"gidMappings":[{"containerID":0,"hostID":1,"size":1}],
"sysctl":{"net.x":"0"},"maskedPaths":["/x"],"readonlyPaths":["/x"],
"resources":{"devices":[{"allow":false,"access":"rwm"}],"memory":{"limit":1},"pids":{"limit":1}},
"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64"],
"syscalls":[{"names":["read","write"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}]}}}`
