package driver

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"

	"pangaea/driver/apparmor"
)

// armed is a machine with AppArmor, the profiles given, and a parser that does as said; "" is none.
func armed(t *testing.T, profiles, parser string) apparmor.Host {
	t.Helper()
	root := t.TempDir()
	write := func(name, text string) {
		must.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
		must.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o755))
	}
	write("sys/module/apparmor/parameters/enabled", "Y\n")
	write("sys/kernel/security/apparmor/profiles", profiles)
	if parser != "" {
		write("sbin/apparmor_parser", "#!/bin/sh\n"+parser)
	}
	return apparmor.Host{Root: root}
}

func TestProfileFor(t *testing.T) {
	none, hidden := apparmor.Host{Root: t.TempDir()}, armed(t, "", "true")
	must.NoError(t, os.RemoveAll(filepath.Join(hidden.Root, "sys/kernel")))
	cases := []struct {
		name            string
		host            apparmor.Host
		operator, asked string
		want, problem   string
	}{
		{name: "no AppArmor", host: none},
		{name: "no AppArmor, and none wanted", host: none, operator: unconfined},
		{name: "no AppArmor, but the operator's", host: none, operator: "x", problem: "kernel has no AppArmor"},
		{name: "no AppArmor, but the driver's demanded", host: none, operator: apparmor.OwnProfile, problem: "kernel has no AppArmor"},
		{name: "no AppArmor, but the job's", host: none, asked: "x", problem: "kernel has no AppArmor"},
		{name: "the driver's own", host: armed(t, "", "cat >/dev/null"), want: apparmor.OwnProfile},
		{name: "no parser", host: armed(t, "", "")},
		{name: "no parser, but the driver's demanded", host: armed(t, "", ""), operator: apparmor.OwnProfile, problem: "apt install apparmor"},
		{name: "no securityfs", host: hidden},
		{name: "no securityfs, but a profile demanded", host: hidden, operator: "x", problem: "mount -t securityfs"},
		{name: "a parser that fails", host: armed(t, "", "echo no >&2; exit 1"), problem: "exit status 1: no"},
		{name: "the operator's", host: armed(t, "x (enforce)\n", ""), operator: "x", want: "x"},
		{name: "the operator's, not loaded", host: armed(t, "x (complain)\n", ""), operator: "x", problem: "not loaded on this host, or only complains"},
		{name: "the operator's none", host: armed(t, "", "exit 1"), operator: unconfined},
		{name: "the job's", host: armed(t, "x (enforce)\ny (enforce)\n", ""), operator: "x", asked: "y", want: "y"},
		{name: "the job's, not loaded", host: armed(t, "x (enforce)\n", ""), operator: "x", asked: "y", problem: "not loaded on this host"},
		{name: "the job's none", host: armed(t, "x (enforce)\n", ""), operator: "x", asked: unconfined},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			a := armor{host: c.host}
			s := newSettings(Config{AppArmor: c.operator})
			got, err := a.profileFor(context.Background(), s, c.asked)
			if c.problem != "" {
				must.ErrorContains(t, err, c.problem)
			} else {
				must.NoError(t, err)
				must.Eq(t, c.want, got)
			}
			if c.asked != "" {
				return
			}
			// What the fingerprint and the doctor say must be what tasks meet.
			d := New(hclog.New(&hclog.LoggerOptions{Output: io.Discard}))
			defer d.Shutdown()
			d.armor.host, d.conf = c.host, s
			f := d.addConfinement(context.Background(), s.fingerprint(context.Background(), good()))
			seen := s.inspectAppArmor(c.host)
			if c.problem != "" {
				must.Eq(t, drivers.HealthStateUnhealthy, f.Health)
				must.StrContains(t, f.HealthDescription, c.problem)
				must.StrContains(t, f.HealthDescription, `apparmor_profile = "unconfined"`)
			} else {
				must.Eq(t, drivers.HealthStateHealthy, f.Health)
				value, ok := f.Attributes["driver.runc.apparmor"]
				must.Eq(t, c.want != "", ok)
				must.True(t, !ok || *value.String == c.want)
			}
			if c.name == "a parser that fails" {
				return // the doctor loads nothing
			}
			must.Eq(t, c.problem != "", seen.Verdict == verdictFail, must.Sprint(seen))
			must.Eq(t, seen.Verdict != verdictOK, seen.Fix != "", must.Sprint(seen))
		})
	}
}

// TestProfileIsKept loads the driver's own profile once, and again when somebody has unloaded it.
func TestProfileIsKept(t *testing.T) {
	host := armed(t, "", "")
	profiles := filepath.Join(host.Root, "sys/kernel/security/apparmor/profiles")
	parser := filepath.Join(host.Root, "sbin/apparmor_parser")
	must.NoError(t, os.MkdirAll(filepath.Dir(parser), 0o755))
	script := "#!/bin/sh\necho loaded >>" + host.Root + "/log; echo '" + apparmor.OwnProfile + " (enforce)' >" + profiles + "\n"
	must.NoError(t, os.WriteFile(parser, []byte(script), 0o755))
	must.NoError(t, os.WriteFile(profiles, []byte(apparmor.OwnProfile+" (enforce)\n"), 0o644))
	a := armor{host: host}
	for range 3 {
		must.NoError(t, a.ensure(context.Background()))
	}
	loads := func() int {
		text, err := os.ReadFile(filepath.Join(host.Root, "log"))
		must.NoError(t, err)
		return strings.Count(string(text), "loaded")
	}
	must.Eq(t, 1, loads(), must.Sprint("an earlier version's was there, and is replaced once"))
	must.NoError(t, os.WriteFile(profiles, nil, 0o644))
	must.NoError(t, a.ensure(context.Background()))
	must.Eq(t, 2, loads())
}

// denying is a profile of an operator's that denies one thing more.
const denying = `profile pangaea-test flags=(attach_disconnected) { file, network, capability, signal, ptrace, unix, mount, deny /etc/passwd r, }`

// TestRootAppArmor runs tasks under the kernel's own profiles. Where it has none, TestProfileFor is what can be said.
func TestRootAppArmor(t *testing.T) {
	host := apparmor.Host{Root: "/"}
	if !host.Enabled() || host.CanLoad() != nil {
		t.Skip("this machine has no AppArmor, or no apparmor_parser: make test-guest has both")
	}
	if gvisor() {
		t.Skip("gVisor's tasks make no system calls of the host's")
	}
	load := exec.Command("apparmor_parser", "--replace", "--skip-cache")
	load.Stdin = strings.NewReader(denying)
	output, err := load.CombinedOutput()
	must.NoError(t, err, must.Sprint(string(output)))
	unload := func(text string) {
		remove := exec.Command("apparmor_parser", "--remove")
		remove.Stdin = strings.NewReader(text)
		output, err := remove.CombinedOutput()
		must.NoError(t, err, must.Sprint(string(output)))
	}
	t.Cleanup(func() { unload(denying) })

	// Without its other walls a task could mount: the operator lets it have the capability and the call.
	seccomp := t.TempDir()
	open := `{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["mount", ` + allCalls + `], "action": "SCMP_ACT_ALLOW"}]}`
	must.NoError(t, os.WriteFile(filepath.Join(seccomp, "mounting.json"), []byte(open), 0o644))
	w := newWorld(t, func(c *Config) {
		c.AllowCaps, c.AllowSeccompProfiles = []string{"sys_admin"}, seccomp
		c.AllowAppArmor = []string{"pangaea-test", "pangaea-missing", unconfined}
	})
	const profile = "cat /proc/self/attr/current"
	const mount = "mount -t tmpfs none /tmp 2>/dev/null && echo mounted || echo refused"
	under := func(name string, job JobConfig) JobConfig { job.AppArmor = name; return job }
	mounting := func() JobConfig {
		job := sh(mount)
		job.CapAdd, job.SeccompProfile = []string{"sys_admin"}, "mounting"
		return job
	}
	w.run(t, sh(profile), nil, "pangaea-task (enforce)\n")
	w.run(t, mounting(), nil, "refused\n")
	w.run(t, under(unconfined, mounting()), nil, "mounted\n")
	w.run(t, under("pangaea-test", mounting()), nil, "mounted\n")
	w.run(t, under("pangaea-test", sh("cat /etc/passwd 2>/dev/null || echo refused")), nil, "refused\n")

	for name, text := range map[string]string{"pangaea-missing": "is not loaded on this host", "docker-default": "allow_apparmor_profiles"} {
		_, _, err := w.harness.StartTask(w.prepare(t, under(name, sh("true")), false))
		must.ErrorContains(t, err, text)
	}

	// What is run beside the task is under its profile; what comes from outside reaches it.
	cfg := w.task(t, sh("trap 'echo asked; exit 3' TERM; while :; do sleep 0.1; done"))
	w.start(t, cfg)
	result, err := w.harness.ExecTask(cfg.ID, []string{"/bin/sh", "-c", profile}, patience)
	must.NoError(t, err)
	must.Eq(t, "pangaea-task (enforce)\n", string(result.Stdout))
	must.NoError(t, w.harness.StopTask(cfg.ID, patience, "SIGTERM"))
	must.Eq(t, 3, w.wait(t, cfg.ID).ExitCode)

	unload("profile pangaea-task { }")
	w.run(t, sh(profile), nil, "pangaea-task (enforce)\n")
}
