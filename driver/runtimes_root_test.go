package driver

import (
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// An owner who demands gVisor of strangers gets it, whatever the strangers' jobs say; who is no stranger chooses.
func TestRootRuntimeDemanded(t *testing.T) {
	w := withGVisor(t, func(c *Config) {
		c.RequireRuntime = []RequireRuntime{{Namespaces: []string{"pool-*"}, Runtime: "gvisor"}}
		c.Runtimes["broken"] = OtherRuntime{Path: "/nonexistent/runc", Kind: kindOCI}
	})
	var host unix.Utsname
	must.NoError(t, unix.Uname(&host))
	release := unix.ByteSliceToString(host.Release[:])
	kernel := func(namespace, runtime string) string {
		job := sh("/bin/busybox uname -r")
		job.Runtime = runtime
		cfg := roomy(w.task(t, job))
		cfg.Namespace = namespace
		w.start(t, cfg)
		w.wait(t, cfg.ID)
		status, err := w.driver.InspectTask(cfg.ID)
		must.NoError(t, err)
		eventually(t, func() bool { return w.output(cfg) != "" })
		return status.DriverAttributes["runtime"] + " " + w.output(cfg)
	}
	must.Eq(t, "runc "+release+"\n", kernel("default", ""))
	for _, ask := range [][2]string{{"pool-a", ""}, {"pool-a", "gvisor"}, {"default", "gvisor"}} {
		text := kernel(ask[0], ask[1])
		must.StrHasPrefix(t, "gvisor ", text)
		must.StrNotContains(t, text, release)
	}
	for namespace, c := range map[string][2]string{
		"pool-a":  {"runc", `demands "gvisor" of jobs in namespace "pool-a"`},
		"pool-b":  {"podman", `on this host it is "runc" or "broken" or "gvisor"`},
		"default": {"broken", `cannot use runtime "broken" on this host: /nonexistent/runc is missing`},
	} {
		job := sh("true")
		job.Runtime = c[0]
		cfg := w.prepare(t, job, false)
		cfg.Namespace = namespace
		w.refuses(t, cfg, c[1])
	}
}
