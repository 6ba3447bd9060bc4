package driver

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
)

// withGVisor is a world whose operator has gVisor besides the driver's own runtime.
func withGVisor(t *testing.T, change func(*Config)) *world {
	t.Helper()
	if os.Getenv("PANGAEA_BIN") == "" {
		t.Skip("PANGAEA_BIN names no directory with runsc")
	}
	return newWorld(t, func(c *Config) {
		c.Runtimes = map[string]OtherRuntime{"gvisor": otherRuntime("runsc")}
		c.DefaultRuntime = ""
		if change != nil {
			change(c)
		}
	})
}

// roomy gives a task the memory that a kernel of its own takes.
func roomy(cfg *drivers.TaskConfig) *drivers.TaskConfig {
	cfg.Resources.LinuxResources.MemoryLimitBytes = 192 << 20
	cfg.Resources.NomadResources.Memory.MemoryMB = 192
	return cfg
}

// cable is two network namespaces with a wire between them: the group's, as a bridge would have made it, and its
// neighbour's.
type cable struct {
	t                *testing.T
	group, neighbour string
}

func newCable(t *testing.T) *cable {
	t.Helper()
	c := &cable{t: t, group: fmt.Sprintf("pgg%d", os.Getpid()), neighbour: fmt.Sprintf("pgn%d", os.Getpid())}
	for _, name := range []string{c.group, c.neighbour} {
		c.ip("netns", "add", name)
		t.Cleanup(func() { c.ip("netns", "del", name) })
		c.ip("-n", name, "link", "set", "lo", "up")
	}
	c.ip("-n", c.group, "link", "add", "eth0", "type", "veth", "peer", "name", "wire", "netns", c.neighbour)
	c.ip("-n", c.group, "addr", "add", "172.26.80.5/24", "dev", "eth0")
	c.ip("-n", c.neighbour, "addr", "add", "172.26.80.1/24", "dev", "wire")
	c.ip("-n", c.group, "link", "set", "eth0", "up")
	c.ip("-n", c.neighbour, "link", "set", "wire", "up")
	c.ip("-n", c.group, "route", "add", "default", "via", "172.26.80.1")
	return c
}

func (c *cable) ip(args ...string) string {
	c.t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	must.NoError(c.t, err, must.Sprint(string(out)))
	return string(out)
}

// has tells whether the group's interface has its address and route, as the host's kernel sees it.
func (c *cable) has() bool {
	c.t.Helper()
	address := strings.Contains(c.ip("-n", c.group, "-o", "addr", "show", "dev", "eth0"), "172.26.80.5/24")
	route := strings.Contains(c.ip("-n", c.group, "route"), "default via 172.26.80.1 dev eth0")
	must.Eq(c.t, address, route)
	return address
}

// join puts a task into the group's network.
func (c *cable) join(cfg *drivers.TaskConfig) *drivers.TaskConfig {
	cfg.NetworkIsolation = &drivers.NetworkIsolationSpec{Mode: drivers.NetIsolationModeGroup, Path: "/run/netns/" + c.group}
	return cfg
}

// answers waits for the task's service to answer the neighbour.
func (c *cable) answers(want string) {
	c.t.Helper()
	said := ""
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		out, _ := exec.Command("ip", "netns", "exec", c.neighbour, "busybox", "nc", "-w", "10", "172.26.80.5", "80").Output()
		said = string(out)
		if said == want {
			return
		}
	}
	must.Eq(c.t, want, said)
}

// service answers on a port below 1024, without privileges.
func service(word string) JobConfig {
	return sh("exec /bin/busybox nc -ll -p 80 -e /bin/echo " + word)
}

// A task's own network stack serves the group's address. Afterwards the group has it back, for the task's next start.
func TestRootOwnStack(t *testing.T) {
	w := withGVisor(t, nil)
	c := newCable(t)
	for _, word := range []string{"first", "second"} {
		must.True(t, c.has(), must.Sprint("the group has its address before each start"))
		job := service(word)
		job.Runtime = "gvisor"
		cfg := c.join(roomy(w.task(t, job)))
		cfg.User = "alice"
		w.start(t, cfg)
		c.answers(word + "\n")
		must.False(t, c.has(), must.Sprint("the task's own stack has taken it over"))
		if word == "first" {
			w.refuses(t, c.join(roomy(w.prepare(t, job, false))), "takes the group's addresses for itself")
			w.refuses(t, c.join(w.prepare(t, sh("true"), false)), "takes the group's addresses for itself")
			// A plugin that starts anew must know it as well.
			h, _ := w.driver.task(cfg.ID)
			handle, err := h.export()
			must.NoError(t, err)
			w.restart(t)
			must.NoError(t, w.harness.RecoverTask(handle))
			w.refuses(t, c.join(w.prepare(t, sh("true"), false)), "takes the group's addresses for itself")
		}
		must.NoError(t, w.driver.StopTask(cfg.ID, 0, "SIGKILL"))
		w.wait(t, cfg.ID)
		must.NoError(t, w.driver.DestroyTask(cfg.ID, true))
	}
	must.True(t, c.has())
	// Under the host's stack the address stays where it is.
	cfg := c.join(w.task(t, service("plain")))
	w.start(t, cfg)
	c.answers("plain\n")
	must.True(t, c.has())
}

// refuses wants a task not to start for a reason.
func (w *world) refuses(t *testing.T, cfg *drivers.TaskConfig, reason string) {
	t.Helper()
	_, _, err := w.driver.StartTask(cfg)
	must.ErrorContains(t, err, reason)
}

// By the operator's leave gVisor's tasks use the host kernel's stack in the group's namespace, and share it.
func TestRootHostStack(t *testing.T) {
	w := withGVisor(t, func(c *Config) {
		r := c.Runtimes["gvisor"]
		r.AllowHostStack = true
		c.Runtimes["gvisor"] = r
	})
	c := newCable(t)
	job := service("shared")
	job.Runtime = "gvisor"
	w.start(t, c.join(roomy(w.task(t, job))))
	c.answers("shared\n")
	must.True(t, c.has())
	w.start(t, c.join(w.task(t, sh("sleep 600"))))
}

// The way out of a task without a group network is walled on the host's side as well: a stack that sends its packets
// past the namespace's own rules gets no further than any other.
func TestRootOwnStackUplink(t *testing.T) {
	onHost(t, func(t *testing.T) {
		internet(t)
		w := withGVisor(t, online)
		job := sh(fetch("8.8.8.8") + "fetch 8.8.8.8 192.168.1.1 192.168.1.2 169.254.169.254")
		job.Runtime = "gvisor"
		w.run(t, job, func(c *drivers.TaskConfig) { roomy(c) },
			"hello from 8.8.8.8:8080\nno 192.168.1.1\nno 192.168.1.2\nno 169.254.169.254\n")
	})
}
