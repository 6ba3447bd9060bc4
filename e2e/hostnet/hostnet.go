// Package hostnet gives a test program a network of its own that stands for a host's, with a network behind it in which
// all that is outside answers. Nothing that the tests do touches the machine's own network.
package hostnet

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"pangaea/driver/egress"
	"pangaea/driver/thread"
)

const (
	// Address is the host's, on a LAN.
	Address = "192.168.1.2"
	// OutsidePort is where everybody outside, and the host, accepts connections and closes them.
	OutsidePort = "8080"

	// inside says that this process stands in the network already.
	inside = "PANGAEA_HOSTNET"
)

// outside are the addresses of whoever is behind the host: somebody on the internet, the LAN's router, a cloud's metadata.
func outside() []string { return []string{"8.8.8.8", "192.168.1.1", "169.254.169.254"} }

// Run runs tests in the network: the program starts itself again there. It returns the status for os.Exit.
func Run(tests func() int) int {
	if os.Getenv(inside) == "" {
		return again()
	}
	name := fmt.Sprintf("pgh%d", os.Getpid())
	status := 1
	err := build(name)
	if err == nil {
		status = tests()
	}
	err = errors.Join(err, ip("netns del "+name))
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot make the host's network, or remove it:", err)
		return 1
	}
	return status
}

func again() int {
	runtime.LockOSThread()                                // whose end would be this process's to the kernel
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...) //nolint:gosec // it is this program, with its own arguments
	cmd.Env = append(os.Environ(), inside+"=yes")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "cannot run the tests in a network of their own:", err)
	}
	return cmd.ProcessState.ExitCode()
}

// build makes the network behind the host's, in a namespace of a name.
func build(name string) error {
	words := []string{
		"link set lo up", "netns add " + name, "link add eth0 type veth peer name lan0 netns " + name,
		"addr add " + Address + "/24 dev eth0", "link set eth0 up", "-n " + name + " link set lo up",
		"-n " + name + " addr add 192.168.1.1/24 dev lan0", "-n " + name + " link set lan0 up", "route add default via 192.168.1.1",
	}
	for _, address := range outside() {
		words = append(words, "-n "+name+" addr replace "+address+"/32 dev lo")
	}
	for _, w := range words {
		err := ip(w)
		if err != nil {
			return err
		}
	}
	var err error
	thread.Throwaway(func() {
		err = egress.Enter("/run/netns/" + name)
		if err == nil {
			err = greet("0.0.0.0")
		}
	})
	return errors.Join(err, greet(Address))
}

// greet answers in the calling thread's network until this process ends.
func greet(address string) error {
	listener, err := net.Listen("tcp4", net.JoinHostPort(address, OutsidePort))
	if err != nil {
		return fmt.Errorf("cannot listen: %w", err)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	return nil
}

func ip(words string) error {
	out, err := exec.Command("ip", strings.Fields(words)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot run ip %s: %w: %s", words, err, out)
	}
	return nil
}
