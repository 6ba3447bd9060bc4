package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

func goodSpec() *specs.Spec {
	return &specs.Spec{
		Root:    &specs.Root{Path: "/r"},
		Process: &specs.Process{Args: []string{"/bin/true"}, Cwd: "/"},
		Linux:   &specs.Linux{CgroupsPath: "/a/b"},
	}
}

func TestCheck(t *testing.T) {
	tests := []struct {
		name   string
		change func(*specs.Spec)
		want   string
	}{
		{"good", func(*specs.Spec) {}, ""},
		{"hooks", func(s *specs.Spec) { s.Hooks = &specs.Hooks{} }, "hooks"},
		{"no process", func(s *specs.Spec) { s.Process = nil }, "lacks"},
		{"no root", func(s *specs.Spec) { s.Root = nil }, "lacks"},
		{"no linux", func(s *specs.Spec) { s.Linux = nil }, "lacks"},
		{"no program", func(s *specs.Spec) { s.Process.Args = nil }, "names no program"},
		{"relative directory", func(s *specs.Spec) { s.Process.Cwd = "x" }, "not absolute"},
		{"no cgroup", func(s *specs.Spec) { s.Linux.CgroupsPath = "" }, "cgroupsPath"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			spec := goodSpec()
			tc.change(spec)
			err := check(spec)
			if tc.want == "" {
				must.NoError(t, err)
				return
			}
			must.ErrorContains(t, err, tc.want)
		})
	}
}

func TestRestrict(t *testing.T) {
	var own unix.Rlimit
	must.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &own))
	p := &specs.Process{
		Rlimits: []specs.POSIXRlimit{
			{Type: "RLIMIT_NOFILE", Soft: 1<<64 - 1, Hard: 1<<64 - 1},
			{Type: "RLIMIT_CORE", Soft: 0, Hard: 0},
			{Type: "RLIMIT_NOVELTY", Soft: 5, Hard: 5},
		},
		Capabilities: &specs.LinuxCapabilities{
			Bounding: []string{"CAP_CHOWN", "CAP_NOVELTY"}, Effective: []string{"CAP_NOVELTY"}, Ambient: []string{"chown"},
		},
	}
	restrict(p)
	must.Eq(t, specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Soft: own.Max, Hard: own.Max}, p.Rlimits[0])
	must.Eq(t, specs.POSIXRlimit{Type: "RLIMIT_CORE"}, p.Rlimits[1])
	must.Eq(t, []string{"CAP_CHOWN"}, p.Capabilities.Bounding)
	must.SliceEmpty(t, p.Capabilities.Effective)
	must.SliceEmpty(t, p.Capabilities.Ambient)
	_, err := newProcess(p)
	must.ErrorContains(t, err, "RLIMIT_NOVELTY")
}

// What this process can't pass on, it does not try to: here CAP_SYS_RESOURCE, if it lacks it.
func TestRootInBounds(t *testing.T) {
	for name, number := range map[string]uintptr{"CAP_SYS_RESOURCE": unix.CAP_SYS_RESOURCE, "CAP_CHOWN": unix.CAP_CHOWN} {
		in, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, number, 0, 0, 0)
		must.NoError(t, err)
		must.Eq(t, in == 1, inBounds(name))
	}
}

func TestNewProcess(t *testing.T) {
	p, err := newProcess(&specs.Process{
		Args: []string{"a", "b"}, Env: []string{"C=d"}, Cwd: "/e", NoNewPrivileges: true,
		User:         specs.User{UID: 1, GID: 2, AdditionalGids: []uint32{3}},
		ConsoleSize:  &specs.Box{Width: 80, Height: 24},
		Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN"}},
		Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Hard: 2, Soft: 1}},
	})
	must.NoError(t, err)
	must.Eq(t, []string{"a", "b"}, p.Args)
	must.Eq(t, []string{"C=d"}, p.Env)
	must.Eq(t, "/e", p.Cwd)
	must.True(t, *p.NoNewPrivileges)
	must.Eq(t, []int{1, 2, 3}, []int{p.UID, p.GID, p.AdditionalGroups[0]})
	must.Eq(t, []uint16{80, 24}, []uint16{p.ConsoleWidth, p.ConsoleHeight})
	must.Eq(t, []string{"CAP_CHOWN"}, p.Capabilities.Bounding)
	must.Eq(t, unix.RLIMIT_CORE, p.Rlimits[0].Type)
}

func TestParseSignal(t *testing.T) {
	for name, want := range map[string]unix.Signal{"TERM": 15, "SIGKILL": 9, "usr1": 10, "2": 2, "64": 64} {
		got, err := parseSignal(name)
		must.NoError(t, err)
		must.Eq(t, want, got)
	}
	for _, name := range []string{"", "0", "-9", "65", "NOVELTY"} {
		_, err := parseSignal(name)
		must.ErrorContains(t, err, "is no signal")
	}
}

func TestExecFailure(t *testing.T) {
	for text, want := range map[string]int{
		`exec: "x": executable file not found in $PATH`: 127,
		"exec: /x: no such file or directory":           127,
		"exec: /x: permission denied":                   126,
		"exec /x: exec format error":                    126,
		"the moon is full":                              1,
	} {
		code, err := execFailure(errors.New(text))
		must.Eq(t, want, code)
		must.ErrorContains(t, err, text)
	}
}

func TestCommandLine(t *testing.T) {
	tests := []struct {
		args []string
		code int
		want string
	}{
		{nil, exitUsage, "say what to do"},
		{[]string{"--nonsense"}, exitUsage, "not defined"},
		{[]string{"create"}, exitUsage, "needs --root"},
		{[]string{"--root", "/x", "create"}, exitUsage, "needs --root"},
		{[]string{"--root", "/x", "dance", "id"}, exitUsage, "is not one of"},
		{[]string{"--root", "/nonexistent", "start", "id"}, exitFailed, "cannot load sandbox id"},
		{[]string{"--root", "/nonexistent", "state", "id"}, exitFailed, "cannot load sandbox id"},
		{[]string{"--root", "/nonexistent", "kill", "id", "TERM"}, exitFailed, "cannot load sandbox id"},
		{[]string{"--root", "/nonexistent", "kill", "id", "DANCE"}, exitFailed, "is no signal"},
		{[]string{"--root", "/nonexistent", "delete", "id"}, 0, ""},
		{[]string{"--root", "/x", "exec", "--process", "/nonexistent", "id"}, exitFailed, "cannot read the process"},
		{[]string{"--root", "/x", "create", "--bundle", "/nonexistent", "id"}, exitFailed, "cannot read the bundle"},
	}
	for _, tc := range tests {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			code, err := run(tc.args)
			must.Eq(t, tc.code, code)
			if tc.want != "" {
				must.ErrorContains(t, err, tc.want)
			}
		})
	}
}

// A spec from disk is checked like any other.
func TestLoadSpecRefusesHooks(t *testing.T) {
	dir := t.TempDir()
	text := `{"root":{"path":"/r"},"process":{"args":["x"],"cwd":"/"},"linux":{"cgroupsPath":"/a/b"},"hooks":{"prestart":[{"path":"/evil"}]}}`
	must.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600))
	_, err := loadSpec(dir)
	must.ErrorContains(t, err, "hooks")
}
