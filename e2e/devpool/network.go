package devpool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// The pool's network: a bridge in the machine's own namespace, and one namespace per member on an isolated port of it.
const (
	bridgeName    = "pangaea0"
	subnetBits    = "/24"
	BridgeAddress = "10.199.0.1" // gateway, Consul and registry listen here
	portPrefix    = "pangaea-m"
	netnsPrefix   = "pangaea-"
	netnsDir      = "/run/netns"
)

// memberAddress is the address of the member with this index.
func memberAddress(index int) string { return fmt.Sprintf("10.199.0.%d", 11+index) }

// netnsPath is the file that names a member's network namespace.
func netnsPath(alias string) string { return filepath.Join(netnsDir, netnsPrefix+alias) }

// ip runs iproute2's ip with words separated by spaces.
func ip(ctx context.Context, words string) error {
	output, err := exec.CommandContext(ctx, "ip", strings.Fields(words)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot run ip %s: %w: %s", words, err, strings.TrimSpace(string(output)))
	}
	return nil
}

// makeBridge makes the bridge that the members hang on.
func makeBridge(ctx context.Context) error {
	for _, words := range []string{
		"link add " + bridgeName + " type bridge",
		"addr add " + BridgeAddress + subnetBits + " dev " + bridgeName,
		"link set " + bridgeName + " up",
	} {
		err := ip(ctx, words)
		if err != nil {
			return err
		}
	}
	return nil
}

// makeNamespace makes a member's network namespace with one interface, eth0, on an isolated port of the bridge.
func makeNamespace(ctx context.Context, alias string, index int) error {
	netns := netnsPrefix + alias
	port := portPrefix + strconv.Itoa(index)
	for _, words := range []string{
		"netns add " + netns,
		"link add " + port + " type veth peer name eth0 netns " + netns,
		"link set " + port + " master " + bridgeName,
		"link set " + port + " type bridge_slave isolated on",
		"link set " + port + " up",
		"-n " + netns + " addr add " + memberAddress(index) + subnetBits + " dev eth0",
		"-n " + netns + " link set eth0 up",
		"-n " + netns + " link set lo up",
		"-n " + netns + " route add default via " + BridgeAddress,
	} {
		err := ip(ctx, words)
		if err != nil {
			return err
		}
	}
	return nil
}

// removeNetwork deletes the bridge and every namespace of ours.
func removeNetwork(ctx context.Context) error {
	var all error
	names, err := filepath.Glob(filepath.Join(netnsDir, netnsPrefix+"*"))
	if err != nil {
		return fmt.Errorf("cannot list network namespaces: %w", err)
	}
	for _, name := range names {
		all = errors.Join(all, ip(ctx, "netns delete "+filepath.Base(name)))
	}
	// A namespace lives on while a process is in it, and its cable with it.
	links, err := filepath.Glob("/sys/class/net/" + portPrefix + "*")
	if err != nil {
		return fmt.Errorf("cannot list links: %w", err)
	}
	_, err = os.Stat(filepath.Join("/sys/class/net", bridgeName))
	if err == nil {
		links = append(links, bridgeName)
	}
	for _, link := range links {
		err = ip(ctx, "link delete "+filepath.Base(link))
		if err != nil && !errors.Is(exists(link), os.ErrNotExist) {
			all = errors.Join(all, err)
		}
	}
	return all
}

// exists fails when a link has gone: the kernel deletes that of a dead namespace by itself, at its own pace.
func exists(link string) error {
	_, err := os.Stat(filepath.Join("/sys/class/net", filepath.Base(link)))
	return err
}

// Dial opens a TCP connection from inside the cluster's network namespace, and closes it again.
func (c *Cluster) Dial(ctx context.Context, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	script := fmt.Sprintf("exec 3<>/dev/tcp/%s/%s", host, port)
	output, err := exec.CommandContext(ctx, "nsenter", "--net="+netnsPath(c.Alias), "timeout", "2", "bash", "-c", script).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot dial %s from %s: %w: %s", address, c.Alias, err, output)
	}
	return nil
}
