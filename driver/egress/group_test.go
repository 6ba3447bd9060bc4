package egress

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/nftables"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

const (
	bridgeGateway = "172.26.64.1"
	mappedPort    = 20080
)

// bridged makes a group's network as Nomad does: a namespace that its CNI plugins put on the bridge nomad. It returns
// where it is mounted, and its address.
func bridged(t *testing.T, alloc, state string, hostPort int) (p *place, path string, address string) {
	t.Helper()
	p = newPlace(t)
	p.do(func() { sysctl(t, "ipv4/ping_group_range", "0 2147483647") })
	path = filepath.Join(t.TempDir(), alloc)
	must.NoError(t, (&Namespace{file: p.file}).Attach(path))
	t.Cleanup(func() { must.NoError(t, Detach(path)) })
	plugins := []map[string]any{
		{"type": "loopback"},
		{"type": "bridge", "bridge": "nomad", "ipMasq": true, "isGateway": true, "forceAddress": true, "ipam": map[string]any{
			"type": "host-local", "dataDir": state, "ranges": [][]any{{map[string]any{"subnet": "172.26.64.0/20"}}},
			"routes": []any{map[string]any{"dst": "0.0.0.0/0"}},
		}},
		{"type": "firewall", "backend": "iptables", "iptablesAdminChainName": "NOMAD-ADMIN"},
		{"type": "portmap", "snat": true, "runtimeConfig": map[string]any{"portMappings": []any{
			map[string]any{"hostPort": hostPort, "containerPort": webPort, "protocol": "tcp"},
			map[string]any{"hostPort": hostPort, "containerPort": webPort, "protocol": "udp"},
		}}},
	}
	var result json.RawMessage
	for _, conf := range plugins {
		conf["cniVersion"], conf["name"] = "0.4.0", "nomad"
		if result != nil {
			conf["prevResult"] = result
		}
		result = cni(t, conf, alloc, path)
	}
	var found struct {
		IPs []struct{ Address netip.Prefix }
	}
	must.NoError(t, json.Unmarshal(result, &found))
	return p, path, found.IPs[len(found.IPs)-1].Address.Addr().String()
}

func cni(t *testing.T, conf map[string]any, alloc, path string) []byte {
	t.Helper()
	name, ok := conf["type"].(string)
	must.True(t, ok)
	cmd := exec.CommandContext(t.Context(), "/usr/lib/cni/"+name)
	text, err := json.Marshal(conf)
	must.NoError(t, err)
	cmd.Stdin = bytes.NewReader(text)
	cmd.Env = append(os.Environ(), "CNI_COMMAND=ADD", "CNI_CONTAINERID="+alloc, "CNI_NETNS="+path, "CNI_IFNAME="+inside, "CNI_PATH=/usr/lib/cni")
	if name == "loopback" {
		cmd.Env = append(cmd.Env, "CNI_IFNAME=lo")
	}
	// What else the plugin has to say, such as a warning of iptables', is no part of its result.
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	must.NoError(t, err, must.Sprint(string(out), said.String()))
	return out
}

// admit is what Nomad's client does before it calls the CNI plugins.
func admit(t *testing.T) {
	t.Helper()
	run(t, "iptables -N NOMAD-ADMIN")
	run(t, "iptables -A NOMAD-ADMIN -o nomad -d 172.26.64.0/20 -j ACCEPT")
}

func TestRootGroupReachesNothingNear(t *testing.T) {
	inHost(t, func(t *testing.T) {
		w := newWorld(t)
		n := newNetwork(t, nil)
		admit(t)
		state := t.TempDir()
		group, path, address := bridged(t, "alloc-1", state, mappedPort)
		other, otherPath, otherAddress := bridged(t, "alloc-2", state, mappedPort+1)
		w.openIPv6(t, group, "nomad")
		for _, p := range []*place{group, other} {
			p.do(func() { serve(t, webPort) })
		}
		closed := append(forbiddenTargets(netip.MustParseAddr(bridgeGateway), netip.MustParseAddr(otherAddress)),
			target{"tcp", "fd01::1", webPort}, target{"tcp", "fe80::1", webPort}, target{"tcp", lanHost, mappedPort + 1})
		t.Logf("%d forbidden targets, %d allowed", len(closed), len(allowedTargets()))
		inward := []target{
			{"tcp", lanHost, mappedPort}, {"udp", lanHost, mappedPort}, {"tcp", publicHost, mappedPort},
		}
		near := []target{{"tcp", address, webPort}, {"udp", address, webPort}, {"icmp", address, 0}}
		here := &place{t: t, file: ownNamespace(t)}
		here.do(func() { sysctl(t, "ipv4/ping_group_range", "0 2147483647") })
		served := func(t *testing.T) {
			all(t, w.router, inward)
			all(t, here, append(near, inward[0], target{"tcp", "fd01::2", webPort}))
			all(t, group, append(near, target{"tcp", "127.0.0.1", webPort}, target{"tcp", "::1", webPort}, target{"tcp", "fd01::2", webPort}))
		}

		t.Run("no wall", func(t *testing.T) {
			all(t, group, closed)
			all(t, group, allowedTargets())
			served(t)
		})
		must.NoError(t, n.Police(path))
		must.NoError(t, n.Police(path), must.Sprint("it may be repeated"))
		t.Run("policed", func(t *testing.T) {
			none(t, group, closed)
			all(t, group, allowedTargets())
			served(t)
			all(t, other, near)
		})
		t.Run("it is refused at once", func(t *testing.T) {
			group.do(func() {
				_, err := net.DialTimeout("tcp4", "169.254.169.254:8080", patient)
				must.ErrorIs(t, err, unix.EHOSTUNREACH)
			})
		})
		t.Run("no task can take it down", func(t *testing.T) {
			must.ErrorContains(t, flushInUserNamespace(t, group), "operation not permitted")
			none(t, group, []target{{"tcp", "192.168.1.10", webPort}})
		})
		t.Run("the host moves to a LAN with public addresses", func(t *testing.T) {
			all(t, group, []target{{"tcp", "8.8.8.8", webPort}})
			up(t, w.host, "eth0", "8.8.4.4/16")
			must.NoError(t, n.Ensure())
			none(t, group, []target{{"tcp", "8.8.8.8", webPort}, {"tcp", "8.8.4.4", webPort}})
			all(t, group, []target{{"tcp", "1.1.1.1", webPort}})
		})
		t.Run("a group that has gone is forgotten", func(t *testing.T) {
			must.NoError(t, n.Police(otherPath))
			must.MapLen(t, 2, n.groups)
			must.NoError(t, Detach(path))
			must.NoError(t, n.Ensure())
			must.MapLen(t, 1, n.groups)
		})
	})
}

func TestRootGroupExceptionsAndCaps(t *testing.T) {
	inHost(t, func(t *testing.T) {
		newWorld(t)
		n := newNetwork(t, func(c *Config) {
			e, err := ParseException("192.168.1.10:8080")
			must.NoError(t, err)
			c.Allow, c.Deny, c.Connections = []Exception{e}, []netip.Prefix{netip.MustParsePrefix("1.1.1.0/24")}, 2
		})
		admit(t)
		group, path, _ := bridged(t, "alloc-1", t.TempDir(), mappedPort)
		must.NoError(t, n.Police(path))
		all(t, group, []target{{"tcp", "192.168.1.10", webPort}})
		none(t, group, []target{{"tcp", "192.168.1.10", 53}, {"tcp", "1.1.1.1", webPort}})
		many := []target{{"tcp", "8.8.8.8", webPort}, {"tcp", "8.8.8.8", 53}, {"tcp", "151.101.1.6", webPort}, {"tcp", "151.101.1.6", 53}}
		must.SliceNotEmpty(t, split(reachable(group, many, brief), false), must.Sprint("more connections than it may have"))
	})
}

func TestRootOnlyGroupsArePoliced(t *testing.T) {
	inHost(t, func(t *testing.T) {
		newWorld(t)
		n := newNetwork(t, nil)
		must.ErrorContains(t, n.Police("/proc/self/ns/net"), "is the host's")
		must.ErrorContains(t, n.Police(filepath.Join(t.TempDir(), "gone")), "cannot find")
		must.MapEmpty(t, n.groups)
		must.NoError(t, reach("tcp", "192.168.1.10", webPort, patient), must.Sprint("the host itself"))
		n.Close()
		must.ErrorIs(t, n.Police("/proc/self/ns/net"), errClosed)
	})
}

// flushInUserNamespace tries to take a wall down as a task's root: with all capabilities, but in a user namespace.
func flushInUserNamespace(t *testing.T, p *place) error {
	t.Helper()
	var out []byte
	p.do(func() {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFlush$")
		cmd.Env = append(os.Environ(), "PANGAEA_EGRESS_FLUSH=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: 0, Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: 0, Size: 1}},
		}
		out, _ = cmd.CombinedOutput()
	})
	return fmt.Errorf("%s", out)
}

// TestFlush is the task of flushInUserNamespace.
func TestFlush(t *testing.T) {
	if os.Getenv("PANGAEA_EGRESS_FLUSH") == "" {
		return
	}
	conn, err := nftables.New()
	must.NoError(t, err)
	conn.FlushRuleset()
	must.NoError(t, conn.Flush())
}
