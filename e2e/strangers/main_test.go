package strangers

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/nomad/api"

	"pangaea/driver/egress"
	"pangaea/driver/thread"
	"pangaea/e2e/node"
)

var shared *node.Node

// inside says that this process stands in the network that stands for the host's.
const inside = "PANGAEA_STRANGERS"

const (
	hostAddress = "192.168.1.2"
	outsidePort = "8080"
)

// outside are the addresses of whoever is behind the host: somebody on the internet, the LAN's router, a cloud's metadata.
func outside() []string { return []string{"8.8.8.8", "192.168.1.1", "169.254.169.254"} }

func TestMain(m *testing.M) {
	if os.Getenv(inside) == "" {
		os.Exit(again())
	}
	remove, err := world()
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot make the host's network:", errors.Join(err, remove()))
		os.Exit(1)
	}
	runsc, err := exec.LookPath(filepath.Join(os.Getenv("PANGAEA_BIN"), "runsc"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "PANGAEA_BIN must name the directory of our programs and of runsc:", errors.Join(err, remove()))
		os.Exit(1)
	}
	status := node.Main(m, node.Options{
		Programs: []string{"exit", "reach"},
		Egress:   `police_namespaces = ["pool-*"]`,
		Driver: fmt.Sprintf(`
    dns { servers = ["192.168.1.53"] }
    runtime "runsc" {
      kind = "runsc"
      path = %q
    }
    require_runtime {
      namespaces = ["sandboxed"]
      runtime    = "runsc"
    }`, runsc),
	}, func(n *node.Node) { shared = n })
	err = remove()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

// again runs this program in a network namespace of its own: the machine's network is never touched.
func again() int {
	runtime.LockOSThread() // whose end would be this process's to the kernel
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
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

// world puts a network behind the host's, in which all that is outside answers. What it returns removes it.
func world() (remove func() error, err error) {
	name := fmt.Sprintf("pgs%d", os.Getpid())
	remove = func() error { return ip("netns del " + name) }
	words := []string{
		"link set lo up", "netns add " + name, "link add eth0 type veth peer name lan0 netns " + name,
		"addr add " + hostAddress + "/24 dev eth0", "link set eth0 up", "-n " + name + " link set lo up",
		"-n " + name + " addr add 192.168.1.1/24 dev lan0", "-n " + name + " link set lan0 up", "route add default via 192.168.1.1",
	}
	for _, address := range outside() {
		words = append(words, "-n "+name+" addr replace "+address+"/32 dev lo")
	}
	for _, w := range words {
		err = ip(w)
		if err != nil {
			return remove, err
		}
	}
	thread.Throwaway(func() {
		err = egress.Enter("/run/netns/" + name)
		if err == nil {
			err = greet("0.0.0.0")
		}
	})
	return remove, errors.Join(err, greet(hostAddress))
}

// greet answers in the calling thread's network until this process ends.
func greet(address string) error {
	listener, err := net.Listen("tcp4", net.JoinHostPort(address, outsidePort))
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

// inNamespace makes a namespace of Nomad's that a jobspec names.
func inNamespace(t *testing.T, name string) {
	t.Helper()
	_, err := shared.API().Namespaces().Register(&api.Namespace{Name: name}, nil)
	if err != nil {
		t.Fatal("cannot make a namespace: ", err)
	}
}
