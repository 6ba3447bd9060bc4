package egress

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/shoenig/test/must"
)

// docker is what Docker does to a host's FORWARD chain.
var docker = []string{
	"iptables -P FORWARD DROP", "iptables -N DOCKER-USER", "iptables -A DOCKER-USER -j RETURN", "iptables -I FORWARD -j DOCKER-USER",
	"iptables -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", "iptables -A FORWARD -i docker0 -j ACCEPT",
}

func TestRootFirewalls(t *testing.T) {
	cases := []struct {
		name    string
		rules   []string
		blocked string
	}{
		{"none", nil, ""},
		{"Docker", docker, "chain FORWARD of ip filter"},
		{"Docker, with the owner's exception", append(docker, "iptables -I DOCKER-USER -i pg+ -j ACCEPT", "iptables -I DOCKER-USER -o pg+ -j ACCEPT"), ""},
		{"Docker, with half an exception", append(docker, "iptables -I DOCKER-USER -i pg+ -j ACCEPT"), "chain FORWARD of ip filter"},
		{"a rule that refuses the rest", []string{"iptables -A FORWARD -i docker0 -j ACCEPT", "iptables -A FORWARD -j REJECT"}, "chain FORWARD of ip filter"},
		{"nftables, as firewalld", []string{firewalld}, "chain filter_FORWARD of inet firewalld"},
		{"a chain about what comes to the host", []string{"iptables -P INPUT DROP", "iptables -A INPUT -i lo -j ACCEPT"}, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			inHost(t, func(t *testing.T) {
				newWorld(t)
				for _, words := range c.rules {
					if words == firewalld {
						refuseForwarding(t)
						continue
					}
					run(t, words)
				}
				public := []target{{"tcp", "8.8.8.8", webPort}, {"udp", "8.8.8.8", webPort}}
				n := newNetwork(t, nil)
				must.Eq(t, c.blocked, n.Blocked())
				task, _ := take(t, n)
				if c.blocked == "" {
					all(t, task, public)
					return
				}
				none(t, task, public)
				named, err := Firewalls(t.Name())
				must.NoError(t, err)
				must.Eq(t, c.blocked, named)

				passing := newNetwork(t, func(c *Config) { c.PassFirewalls = true })
				must.Eq(t, "", passing.Blocked())
				all(t, task, public)
				none(t, task, []target{{"tcp", "192.168.1.10", webPort}, {"tcp", annexServer, webPort}})
				before := rules(t)
				must.NoError(t, passing.Ensure())
				must.Eq(t, before, rules(t), must.Sprint("it is made once"))
			})
		})
	}
}

// firewalld is what firewalld does with nftables of its own.
const firewalld = "firewalld"

func refuseForwarding(t *testing.T) {
	t.Helper()
	conn, err := nftables.New()
	must.NoError(t, err)
	f := newTable(conn, firewalld)
	const after = nftables.ChainPriority(10)
	f.chain("filter_FORWARD", nftables.ChainHookForward, after, nftables.ChainPolicyAccept, when(from("virbr0\x00"), accept()), refuse())
	must.NoError(t, f.write())
}

// The firewall's restart takes the exception away, and the watch over the walls puts it back.
func TestRootFirewallStartsAnew(t *testing.T) {
	inHost(t, func(t *testing.T) {
		newWorld(t)
		n := newNetwork(t, func(c *Config) { c.PassFirewalls = true })
		task, _ := take(t, n)
		for range 2 {
			for _, words := range []string{"iptables -F FORWARD", "iptables -P FORWARD DROP"} {
				run(t, words)
			}
			none(t, task, []target{{"tcp", "8.8.8.8", webPort}})
			must.NoError(t, n.Ensure())
			all(t, task, []target{{"tcp", "8.8.8.8", webPort}})
		}
		// What iptables itself makes of it.
		must.StrContains(t, run(t, "iptables -S FORWARD"), "-A FORWARD -i "+n.conf.interfaces()+"+ -j ACCEPT\n")
		must.StrContains(t, run(t, "iptables -S FORWARD"), "-A FORWARD -o "+n.conf.interfaces()+"+ -j ACCEPT\n")
	})
}

func run(t *testing.T, words string) string {
	t.Helper()
	fields := strings.Fields(words)
	out, err := exec.CommandContext(t.Context(), fields[0], fields[1:]...).CombinedOutput()
	must.NoError(t, err, must.Sprint(words, string(out)))
	return string(out)
}

func rules(t *testing.T) string { return run(t, "iptables -S") }
