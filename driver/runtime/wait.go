package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/runc/libcontainer/configs"
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

// rehearse pays ahead for what is slow only the first time: what the decoder and the encoder learn of their types.
func rehearse() {
	_ = json.Unmarshal([]byte("{}"), new(specs.Spec))
	_ = json.NewEncoder(io.Discard).Encode(new(configs.Config))
}
