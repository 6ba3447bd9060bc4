package driver

import (
	"testing"

	"github.com/google/nftables"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"

	"pangaea/driver/egress"
	"pangaea/driver/thread"
)

// The operator's policy holds in the networks of groups of the namespaces that it names, from before the task runs and
// after a restart of the plugin, and it holds for gVisor's tasks or they are refused.
func TestRootPolicedGroup(t *testing.T) {
	onHost(t, func(t *testing.T) {
		internet(t)
		w := withGVisor(t, func(c *Config) {
			online(c)
			c.DefaultRuntime, c.Egress.PoliceNamespaces = ownRuntime, []string{"pool-*"}
			c.Runtimes["shared"] = OtherRuntime{Kind: kindRunsc, Path: c.Runtimes["gvisor"].Path, AllowHostStack: true}
		})
		const everywhere = "fetch 8.8.8.8 192.168.1.1 169.254.169.254"
		everything := fetch("8.8.8.8", "192.168.1.1", "169.254.169.254") + everywhere
		internetOnly := fetch("8.8.8.8") + everywhere
		open := "hello from 8.8.8.8:8080\nhello from 192.168.1.1:8080\nhello from 169.254.169.254:8080\n"
		policed := "hello from 8.8.8.8:8080\nno 192.168.1.1\nno 169.254.169.254\n"
		cases := []struct{ name, namespace, runtime, script, want string }{
			{"another namespace", "default", "", everything, open},
			{"policed", "pool-1", "", internetOnly, policed},
			{"policed, gVisor on the host's stack", "pool-1", "shared", internetOnly, policed},
		}
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				group := newGroup(t)
				job := sh(c.script)
				job.Runtime = c.runtime
				w.run(t, job, func(cfg *drivers.TaskConfig) { group.join(roomy(cfg)).Namespace = c.namespace }, c.want)
			})
		}
		t.Run("gVisor with a stack of its own", func(t *testing.T) {
			group := newGroup(t)
			job := sh("true")
			job.Runtime = "gvisor"
			cfg := group.join(w.prepare(t, job, false))
			cfg.Namespace = "pool-1"
			w.refuses(t, cfg, "passes by what polices it")
			job.NetworkMode = "none"
			w.run(t, job, func(cfg *drivers.TaskConfig) { group.join(roomy(cfg)).Namespace = "pool-1" }, "")
		})
		t.Run("after a restart", func(t *testing.T) {
			group := newGroup(t)
			cfg := group.join(w.task(t, sh("sleep 600")))
			cfg.Namespace = "pool-1"
			handle := w.start(t, cfg)
			thread.Throwaway(func() {
				must.NoError(t, egress.Enter("/run/netns/"+group.group))
				conn, err := nftables.New()
				must.NoError(t, err)
				conn.FlushRuleset()
				must.NoError(t, conn.Flush())
			})
			w.restart(t)
			must.NoError(t, w.driver.RecoverTask(handle))
			result, err := w.driver.ExecTask(cfg.ID, []string{"/bin/sh", "-c", internetOnly}, patience)
			must.NoError(t, err)
			must.Eq(t, policed, string(result.Stdout))
		})
	})
}

// newGroup is a group's network whose neighbour is the world.
func newGroup(t *testing.T) *cable {
	t.Helper()
	c := newCable(t)
	for _, a := range []string{"8.8.8.8", "192.168.1.1", "169.254.169.254"} {
		c.ip("-n", c.neighbour, "addr", "add", a+"/32", "dev", "wire")
	}
	greet(t, c.neighbour)
	return c
}
