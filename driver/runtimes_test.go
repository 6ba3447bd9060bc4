package driver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/hashicorp/hcl"
	"github.com/hashicorp/nomad/helper/pluginutils/hclspecutils"
	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"github.com/zclconf/go-cty/cty/msgpack"

	"pangaea/driver/gpu"
)

const runtimeBlocks = `
	runtime "gvisor" {
		path = "/opt/runsc"
		kind = "runsc"
		args = ["--platform=kvm"]
	}
	runtime "other" {
		path = "/opt/runc"
		kind = "oci"
	}
	default_runtime = "other"
	require_runtime {
		namespaces = ["pool-*", "strangers"]
		runtime = "gvisor"
	}
`

func wantRuntimes() Config {
	return Config{
		Runtimes: map[string]OtherRuntime{
			"gvisor": {Path: "/opt/runsc", Kind: "runsc", Args: []string{"--platform=kvm"}}, "other": {Path: "/opt/runc", Kind: "oci"},
		},
		DefaultRuntime: "other",
		RequireRuntime: []RequireRuntime{{Namespaces: []string{"pool-*", "strangers"}, Runtime: "gvisor"}},
	}
}

func TestRuntimeBlocks(t *testing.T) {
	var c Config
	hclutils.NewConfigParser(configSpec()).ParseHCL(t, "config {"+runtimeBlocks+"}", &c)
	must.Eq(t, wantRuntimes(), Config{Runtimes: c.Runtimes, DefaultRuntime: c.DefaultRuntime, RequireRuntime: c.RequireRuntime})
}

// An agent's configuration takes another way than a job's: HCL of the first version, parsed without a schema.
func TestRuntimeBlocksOfAnAgent(t *testing.T) {
	var raw map[string]any
	must.NoError(t, hcl.Decode(&raw, runtimeBlocks))
	spec, diag := hclspecutils.Convert(configSpec())
	must.False(t, diag.HasErrors(), must.Sprint(diag))
	value, diag, errs := hclutils.ParseHclInterface(raw, spec, nil)
	must.False(t, diag.HasErrors(), must.Sprint(diag, errs))
	data, err := msgpack.Marshal(value, value.Type())
	must.NoError(t, err)
	var c Config
	must.NoError(t, base.MsgPackDecode(data, &c))
	must.Eq(t, wantRuntimes(), Config{Runtimes: c.Runtimes, DefaultRuntime: c.DefaultRuntime, RequireRuntime: c.RequireRuntime})
}

func TestRuntimeFor(t *testing.T) {
	plain, full := newSettings(Config{}), newSettings(wantRuntimes())
	must.SliceEmpty(t, full.problems)
	cases := []struct {
		name             string
		s                *settings
		namespace, asked string
		want, fail       string
	}{
		{"nothing said", plain, "default", "", "runc", ""},
		{"ours by name", plain, "default", "runc", "runc", ""},
		{"not on the list", plain, "default", "gvisor", "", `cannot use runtime "gvisor": on this host it is "runc"`},
		{"the default", full, "default", "", "other", ""},
		{"the job's choice", full, "default", "gvisor", "gvisor", ""},
		{"ours instead of the default", full, "default", "runc", "runc", ""},
		{"unknown", full, "default", "/bin/sh", "", `cannot use runtime "/bin/sh": on this host it is "runc" or "gvisor" or "other"`},
		{"demanded", full, "pool-a", "", "gvisor", ""},
		{"demanded and asked for", full, "strangers", "gvisor", "gvisor", ""},
		{"demanded, ours asked for", full, "pool-a", "runc", "", `cannot use runtime "runc": this host's operator demands "gvisor" of jobs in namespace "pool-a"`},
		{"demanded, another asked for", full, "strangers", "other", "", `demands "gvisor"`},
		{"a namespace that only looks like it", full, "mypool-a", "runc", "runc", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.s.runtimeFor(c.namespace, c.asked)
			must.Eq(t, c.want, got)
			if c.fail != "" {
				must.ErrorContains(t, err, c.fail)
			}
		})
	}
}

// What the operator demands by a name that leads nowhere must not be lost: then nothing starts.
func TestRuntimeProblems(t *testing.T) {
	demand := func(runtime string, namespaces ...string) Config {
		return Config{RequireRuntime: []RequireRuntime{{Namespaces: namespaces, Runtime: runtime}}}
	}
	for text, c := range map[string]Config{
		`default_runtime "gvisor" is not "runc"`: {DefaultRuntime: "gvisor"},
		`runtime "gvisor" is not "runc"`:         demand("gvisor", "*"),
		`runtime "" is not "runc"`:               demand("", "*"),
		"name at least one namespace":            demand("runc"),
		`namespace "[" is no pattern`:            demand("runc", "["),
	} {
		s := newSettings(c)
		must.Len(t, 1, s.problems, must.Sprint(text))
		must.StrContains(t, s.problems[0], text)
	}
}

func TestCheckRuntime(t *testing.T) {
	runsc := func(args ...string) OtherRuntime { return OtherRuntime{Path: "/r", Kind: "runsc", Args: args} }
	cases := []struct {
		name, as string
		given    OtherRuntime
		fail     string
	}{
		{"runsc", "gvisor", runsc("--platform=kvm", "--directfs=false"), ""},
		{"runc", "peer", OtherRuntime{Path: "/r", Kind: "oci", Args: []string{"--debug"}}, ""},
		{"our own name", "runc", runsc(), "is the driver's own runtime's"},
		{"a name that is none", "g/../v", runsc(), "small letters"},
		{"kata", "vm", OtherRuntime{Path: "/r", Kind: "kata"}, "no OCI command line"},
		{"no kind", "x", OtherRuntime{Path: "/r"}, `kind "" is not "runsc" or "oci"`},
		{"relative path", "x", OtherRuntime{Path: "runsc", Kind: "runsc"}, "must be absolute"},
		{"host's stack elsewhere", "x", OtherRuntime{Path: "/r", Kind: "oci", AllowHostStack: true}, "is for runsc"},
		{"an option that opens the sandbox", "x", runsc("--host-uds=all"), "is not an option"},
		{"annotations as options", "x", runsc("--allow-flag-override"), "is not an option"},
		{"a shared network", "x", runsc("--network=host"), "is not an option"},
		{"one dash", "x", runsc("-platform=kvm"), "is not an option"},
		{"a value of its own", "x", runsc("--platform", "kvm"), `"kvm" is not an option`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := checkRuntime(c.as, c.given)
			if c.fail == "" {
				must.NoError(t, err)
				return
			}
			must.ErrorContains(t, err, c.fail)
		})
	}
}

func TestFingerprintRuntimes(t *testing.T) {
	p := good()
	p.other = func(_ context.Context, name string, _ OtherRuntime) (string, error) {
		if name == "gvisor" {
			return "", errors.New("/opt/runsc is missing")
		}
		return "1.5.2", nil
	}
	got := newSettings(wantRuntimes()).fingerprint(context.Background(), p)
	must.Eq(t, drivers.HealthStateHealthy, got.Health, must.Sprint("the others still run"))
	must.StrContains(t, got.HealthDescription, `runtime "gvisor" can't be used: /opt/runsc is missing`)
	version, _ := got.Attributes["driver.runc.runtime.other"].GetString()
	must.Eq(t, "1.5.2", version)
	version, _ = got.Attributes["driver.runc.runtime.runc"].GetString()
	must.Eq(t, "1.5.2", version)
	must.MapNotContainsKey(t, got.Attributes, "driver.runc.runtime.gvisor")

	conf := wantRuntimes()
	conf.DefaultRuntime = "gvisor"
	got = newSettings(conf).fingerprint(context.Background(), p)
	must.Eq(t, drivers.HealthStateUnhealthy, got.Health)
	must.StrContains(t, got.HealthDescription, `default_runtime "gvisor" can't be used: /opt/runsc is missing`)
}

func TestInspector(t *testing.T) {
	dir, programs := t.TempDir(), 0
	program := func(text string, mode os.FileMode) string {
		programs++
		path := filepath.Join(dir, strconv.Itoa(programs))
		must.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text), mode))
		must.NoError(t, os.Chmod(path, mode))
		return path
	}
	says := func(line string) string { return program("test -z \"$HOME\" && echo '"+line+"'", 0o755) }
	cases := []struct {
		name, kind, path string
		want, fail       string
	}{
		{"missing", "runsc", "/nonexistent/runsc", "", "/nonexistent/runsc is missing"},
		{"a directory", "oci", dir, "", "is not an executable file"},
		{"not executable", "oci", program("", 0o644), "", "is not an executable file"},
		{"gVisor for root only", "runsc", program("", 0o700), "", "executable for all"},
		{"does not run", "oci", program("exit 1", 0o755), "", "does not run"},
		{"says nothing", "oci", says(""), "", "does not tell its version"},
		{"a release of gVisor", "runsc", says("runsc version release-20260914.0"), "release-20260914.0", ""},
		{"gVisor's module", "runsc", says("runsc version 0.0.0-20260905035102-160fafc42237"), "0.0.0-20260905035102-160fafc42237", ""},
		{"old gVisor", "runsc", says("runsc version release-20231113.0"), "", "is gVisor of 20231113, which lacks id-mapped mounts"},
		{"gVisor without a version", "runsc", says("runsc version VERSION_MISSING"), "", "does not tell its version"},
		{"gVisor by another kind", "oci", says("runsc version release-20260914.0"), "", `its kind is "runsc"`},
		{"runc as gVisor", "runsc", says("runc version 1.5.2"), "", "is runc and not runsc"},
		{"runc", "oci", says("runc version 1.5.2"), "1.5.2", ""},
		{"Debian's runc", "oci", says("runc version 1.1.5+ds1"), "", "is runc 1.1.5+ds1, under which an image can write into the host's directories (CVE-2026-41579): install 1.5.2"},
		{"runc of no release", "oci", says("runc version dev"), "", "CVE-2026-41579"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := new(inspector).version(t.Context(), "x", OtherRuntime{Path: c.path, Kind: c.kind})
			must.Eq(t, c.want, got)
			if c.fail != "" {
				must.ErrorContains(t, err, c.fail)
			}
		})
	}
}

// A runtime is asked once, and again when it has been replaced: the fingerprint comes by twice a minute.
func TestInspectorRemembers(t *testing.T) {
	dir := t.TempDir()
	path, calls := filepath.Join(dir, "runc"), filepath.Join(dir, "calls")
	write := func(version string) {
		must.NoError(t, os.WriteFile(path+"~", []byte("#!/bin/sh\necho >>"+calls+"\necho runc version "+version+"\n"), 0o755))
		must.NoError(t, os.Rename(path+"~", path))
	}
	var i inspector
	ask := func() string {
		version, err := i.version(t.Context(), "x", OtherRuntime{Path: path, Kind: "oci"})
		must.NoError(t, err)
		return version
	}
	write("1.5.2")
	must.Eq(t, "1.5.2", ask())
	must.Eq(t, "1.5.2", ask())
	write("1.6.0")
	must.Eq(t, "1.6.0", ask())
	text, err := os.ReadFile(calls)
	must.NoError(t, err)
	must.Eq(t, "\n\n", string(text))
}

// crun, of any version that Debian has, fails on the first cgroup of a host that is not all v2.
func TestJudgeCrun(t *testing.T) {
	_, err := judgeOCI("/usr/bin/crun", "crun", "1.8.1", false)
	must.ErrorContains(t, err, "is crun 1.8.1, which can't run on this host's cgroup v1")
	got, err := judgeOCI("/usr/bin/crun", "crun", "1.8.1", true)
	must.NoError(t, err)
	must.Eq(t, "1.8.1", got)
}

func TestAcceptsGPUs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runsc")
	must.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\nif test \"$1\" = nvproxy; then printf '535.183.06\\n610.57.04\\n'; else echo runsc version release-20260914.0; fi\n"), 0o755))
	runsc := OtherRuntime{Path: path, Kind: kindRunsc}
	cases := []struct {
		name, version, fail string
		runtime             OtherRuntime
		uuids               []string
	}{
		{"a driver that it knows", "610.57.04", "", runsc, []string{"GPU-1"}},
		{"one that it does not know", "610.57", "does not know NVIDIA driver 610.57: install", runsc, []string{"GPU-1"}},
		{"as the operator says", "610.57", "", OtherRuntime{Path: path, Kind: kindRunsc, Args: []string{"--nvproxy-driver-version=610.57.04"}}, []string{"GPU-1"}},
		{"a MIG instance", "610.57.04", "gVisor passes on whole GPUs only", runsc, []string{"GPU-1", "MIG-2"}},
		{"no grant", "", "", runsc, nil},
		{"another runtime", "1", "", OtherRuntime{Path: "/nonexistent", Kind: kindOCI}, []string{"MIG-2"}},
		{"ours", "1", "", OtherRuntime{}, []string{"MIG-2"}},
		{"no answer", "1", "cannot learn which NVIDIA drivers", OtherRuntime{Path: "/nonexistent", Kind: kindRunsc}, []string{"GPU-1"}},
	}
	var i inspector
	_, err := i.version(t.Context(), "x", runsc)
	must.NoError(t, err)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := i.acceptsGPUs(t.Context(), c.runtime, gpu.Edits{UUIDs: c.uuids, Version: c.version})
			if c.fail == "" {
				must.NoError(t, err)
				return
			}
			must.ErrorContains(t, err, c.fail)
		})
	}
}
