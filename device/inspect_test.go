package device

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/shoenig/test/must"

	"pangaea/e2e/nvmlsim"
)

func inspectWith(t *testing.T, s nvmlsim.State, config Config) []Finding {
	t.Helper()
	must.NoError(t, nvmlsim.WriteState(statePath(), s))
	config.Enabled, config.LibraryPath, config.ControlDir = true, library, filepath.Join(t.TempDir(), "control")
	config.HangAfter = soon.String()
	p := New(t.Context(), hclog.NewNullLogger())
	var packed []byte
	must.NoError(t, base.MsgPackEncode(&packed, &config))
	must.NoError(t, p.SetConfig(&base.Config{PluginConfig: packed}))
	found := p.Inspect(t.Context())
	must.DirNotExists(t, config.ControlDir, must.Sprint("it only looks"))
	return found
}

func TestInspect(t *testing.T) {
	two := func(change func(*nvmlsim.State)) nvmlsim.State {
		s := nvmlsim.Host("inspect", nvmlsim.H100SXM(), 2)
		change(&s)
		return s
	}
	uuid := two(func(*nvmlsim.State) {}).GPUs[1].UUID
	cases := []struct {
		name    string
		state   nvmlsim.State
		config  Config
		line    string
		verdict string
		seen    string
		offered string
	}{
		{"all well", two(func(*nvmlsim.State) {}), Config{}, uuid, "ok", "NVIDIA H100 80GB HBM3 at 0000:2b:00.0: healthy", "2 of 2 GPUs"},
		{"library", two(func(*nvmlsim.State) {}), Config{}, "library", "ok", "driver 570.86.15, CUDA 12.8", "2 of 2 GPUs"},
		{"lost", two(func(s *nvmlsim.State) { s.GPUs[1].Lose() }), Config{}, "unknown-1", "fail", "fallen off the bus", "1 of 2 GPUs"},
		{"remap pending", two(func(s *nvmlsim.State) { s.GPUs[1].Set("RemappedRows", 0, 1, 1, 0) }), Config{}, uuid, "fail", "row remap pending: reset the GPU", "1 of 2 GPUs"},
		{"persistence", two(func(s *nvmlsim.State) { s.GPUs[1].Set("PersistenceMode", 0) }), Config{}, "persistence", "warn", "off", "2 of 2 GPUs"},
		{"MIG without instances", two(func(s *nvmlsim.State) { s.GPUs[1].Set("MigMode", 1, 1) }), Config{}, uuid, "warn", "in MIG mode without instances", "1 of 2 GPUs"},
		{"MIG", two(func(s *nvmlsim.State) {
			s.GPUs[1].Set("MigMode", 1, 1)
			s.GPUs[1].MIG = []nvmlsim.MIG{{UUID: "MIG-1", Profile: "1g.10gb", MemoryMiB: 9728, GI: 7}}
		}), Config{}, uuid, "ok", "1 MIG instances", "2 of 2 GPUs"},
		{"ignored", two(func(*nvmlsim.State) {}), Config{IgnoredGPUIDs: []string{uuid}}, uuid, "ok", "by ignored_gpu_ids", "1 of 2 GPUs"},
		{"the owner's", two(func(s *nvmlsim.State) {
			s.GPUs[1].Processes = []nvmlsim.Process{{Kind: "compute", PID: os.Getppid(), Bytes: 1}}
		}), Config{}, uuid, "ok", "not offered: in use by its owner", "1 of 2 GPUs"},
		{"bad option", two(func(*nvmlsim.State) {}), Config{GroupBy: "colour"}, "options", "warn", `not "colour"`, "2 of 2 GPUs"},
		{"bad owner block", two(func(*nvmlsim.State) {}), Config{Owner: &Owner{Hours: []string{"late"}}}, "options", "fail", "until the plugin's owner block is right", "0 of 2 GPUs"},
		{"no driver", nvmlsim.State{Faults: []nvmlsim.Fault{{Call: "*", Code: 9}}}, Config{}, "library", "warn", "NVIDIA driver not loaded", ""},
		{"no GPU", nvmlsim.State{}, Config{}, "offer", "warn", "lists no GPU", "the driver lists no GPU"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			all := inspectWith(t, c.state, c.config)
			f := line(t, all, c.line)
			must.Eq(t, c.verdict, f.Verdict, must.Sprint(all))
			must.StrContains(t, f.Seen, c.seen)
			if c.offered != "" {
				must.Eq(t, c.offered, line(t, all, "offer").Seen)
			}
		})
	}
}

func line(t *testing.T, all []Finding, name string) Finding {
	t.Helper()
	for _, f := range all {
		if f.Name == name {
			return f
		}
	}
	t.Fatalf("no finding %s in %v", name, all)
	return Finding{}
}

func TestInspectKernel(t *testing.T) {
	const text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\nGCC version: 12\n"
	cases := []struct {
		name          string
		bus           map[string]string // bus id to driver
		proc, library string
		verdict, seen string
	}{
		{"all well", map[string]string{"0000:01:00.0": "nvidia"}, text, "570.86.15", "ok", "version 570.86.15"},
		{"older wording", nil, "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.1  Thu\n", "470.1", "ok", "version 470.1"},
		{"library upgraded", nil, text, "575.1", "fail", "version 570.86.15, but the library's is 575.1"},
		{"library silent", nil, text, "", "ok", "version 570.86.15"},
		{"nouveau", map[string]string{"0000:01:00.0": "nouveau"}, "", "", "fail", "nouveau, which cannot compute"},
		{"no driver", map[string]string{"0000:01:00.0": ""}, "", "", "fail", "the GPU at 0000:01:00.0 has no driver"},
		{"a virtual machine's", map[string]string{"0000:01:00.0": "vfio-pci"}, "", "", "warn", "belongs to vfio-pci"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			for id, driver := range c.bus {
				dir := filepath.Join(root, "sys/bus/pci/devices", id)
				must.NoError(t, os.MkdirAll(dir, 0o755))
				must.NoError(t, os.WriteFile(filepath.Join(dir, "vendor"), []byte("0x10de\n"), 0o644))
				must.NoError(t, os.WriteFile(filepath.Join(dir, "class"), []byte("0x030200\n"), 0o644))
				if driver != "" {
					must.NoError(t, os.Symlink("../../../drivers/"+driver, filepath.Join(dir, "driver")))
				}
			}
			if c.proc != "" {
				must.NoError(t, os.MkdirAll(filepath.Join(root, "proc/driver/nvidia"), 0o755))
				must.NoError(t, os.WriteFile(filepath.Join(root, "proc/driver/nvidia/version"), []byte(c.proc), 0o644))
			}
			f := line(t, inspectKernel(root, c.library), "kernel driver")
			must.Eq(t, c.verdict, f.Verdict, must.Sprint(f))
			must.StrContains(t, f.Seen, c.seen)
			want := "warn"
			if len(c.bus) > 0 {
				want = "fail"
			}
			must.Eq(t, want, unanswered(root, "no answer").Verdict)
		})
	}
}
