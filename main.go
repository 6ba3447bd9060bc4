// Command pangaea is every role of Pangaea in one binary: the two Nomad plugins, the member agent and the gateway.
//
// Nomad loads a plugin by its file name, so the install links pangaea-driver and pangaea-device in plugin_dir to this
// binary; the name it is called by, or else the first argument, picks the role.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-hclog"

	"pangaea/device"
	"pangaea/device/command"
	"pangaea/driver"
	"pangaea/driver/doctor"
	"pangaea/federation/gateway"
	"pangaea/federation/member"
)

// version is set by the linker.
var version = "dev"

const usage = `Usage: pangaea <command> [options]

Nomad plugins, started by Nomad from its plugin_dir by these file names:
  pangaea-driver    task driver "runc"
  pangaea-device    device plugin "nvidia/gpu"

Commands:
  member     run the agent that lends a Nomad cluster to a pool
  gateway    run a front door of a pool: Nomad's HTTP API over all members
  gpu        take GPUs back from Nomad for their owner, give them again, or show them
  doctor     say what this host can offer, what is wrong with it, and how to mend it
  version    print the version

Run "pangaea <command> -h" for a command's options.
`

func main() {
	role, args := pick(os.Args)
	os.Exit(run(role, args, os.Stdout, os.Stderr))
}

// pick tells the role from the name that the binary was called by, or from its first argument.
func pick(argv []string) (role string, args []string) {
	name := filepath.Base(argv[0])
	role, isPlugin := strings.CutPrefix(name, "pangaea-")
	if isPlugin {
		return role, argv[1:]
	}
	if len(argv) < 2 {
		return "", nil
	}
	return argv[1], argv[2:]
}

// run carries out a role until it ends and returns the exit status: 0 done, 1 failed, 2 not understood.
func run(role string, args []string, stdout, stderr io.Writer) int {
	switch role {
	case "driver":
		driver.Serve()
	case "device":
		device.Serve()
	case "member":
		return member.Command(args, stdout, stderr)
	case "gateway":
		return gateway.Command(args, stdout, stderr)
	case "gpu":
		return command.Run(args, stdout, stderr)
	case "doctor":
		return doctor.Command(args, stdout, stderr, device.New(context.Background(), hclog.NewNullLogger()))
	case "version", "-v", "--version", "-version":
		fmt.Fprintf(stdout, "Pangaea %s\n", version)
	case "help", "-h", "--help", "-help":
		return help(role, args, stdout, stderr)
	case "":
		fmt.Fprint(stderr, usage)
		return 2
	default:
		fmt.Fprintf(stderr, "pangaea has no command %q; see pangaea -h\n", role)
		return 2
	}
	return 0
}

// help is "help COMMAND" for one command's options, and everything else that asks for help.
func help(role string, args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && role == "help" && args[0] != "driver" && args[0] != "device" {
		return run(args[0], []string{"-h"}, stdout, stderr)
	}
	fmt.Fprint(stdout, usage)
	return 0
}
