package owner

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"pangaea/device/nvml"
)

func TestHours(t *testing.T) {
	at := func(day, hour, minute int) time.Time {
		return time.Date(2026, 11, 15+day, hour, minute, 0, 0, time.UTC)
	} // 15th: a Sunday
	cases := []struct {
		rules []string
		now   time.Time
		want  bool
	}{
		{nil, at(0, 3, 0), true},
		{[]string{"22:00-08:00"}, at(3, 22, 0), true},
		{[]string{"22:00-08:00"}, at(3, 7, 59), true},
		{[]string{"22:00-08:00"}, at(3, 8, 0), false},
		{[]string{"22:00-08:00"}, at(3, 21, 59), false},
		{[]string{"Mon-Fri 18:00-08:00"}, at(5, 23, 0), true},  // Friday night
		{[]string{"Mon-Fri 18:00-08:00"}, at(6, 7, 0), true},   // and on into Saturday
		{[]string{"Mon-Fri 18:00-08:00"}, at(6, 19, 0), false}, // Saturday night
		{[]string{"Mon-Fri 18:00-08:00"}, at(1, 7, 0), false},  // Monday morning: Sunday is no day of it
		{[]string{"Sat,Sun"}, at(6, 12, 0), true},
		{[]string{"Sat,Sun"}, at(1, 12, 0), false},
		{[]string{"Fri-Mon"}, at(0, 12, 0), true},
		{[]string{"Fri-Mon"}, at(2, 12, 0), false},
		{[]string{"sat", "monday 12:00-24:00"}, at(1, 23, 59), true},
	}
	for _, c := range cases {
		h, err := ParseHours(c.rules)
		must.NoError(t, err)
		must.Eq(t, c.want, h.Offered(c.now), must.Sprintf("%v at %s", c.rules, c.now.Format("Mon 15:04")))
	}
	for _, bad := range []string{"", "Someday", "25:00-26:00", "Mon 18:00", "08:00-08:00", "18:00-08:00 Mon", "Mon Tue Wed"} {
		_, err := ParseHours([]string{bad})
		must.Error(t, err, must.Sprint(bad))
	}
}

// process writes what /proc shows of one.
func process(t *testing.T, proc string, pid int, comm, cgroup, environ string) {
	t.Helper()
	dir := filepath.Join(proc, strconv.Itoa(pid))
	must.NoError(t, os.MkdirAll(dir, 0o755))
	for name, text := range map[string]string{"comm": comm + "\n", "cgroup": cgroup, "environ": environ, "stat": stat(comm, 0x400000)} {
		must.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
}

// stat is what /proc shows of a process with these flags of the kernel's.
func stat(comm string, flags int) string {
	return fmt.Sprintf("42 (%s) S 1 42 42 0 -1 %d 0 0\n", comm, flags)
}

// foreign is the owner's processes as words.
func foreign(h Host, processes []nvml.Process, names []string) string {
	var words []string
	for _, u := range Owners(h.Users(processes), names) {
		words = append(words, fmt.Sprintf("%s (%d)", u.Name, u.PID))
	}
	return strings.Join(words, ", ")
}

// A task's process that is ending has left its cgroup on v1 and has no environment any more; a GPU's memory takes
// seconds to free. It must not pass for the owner's, who would get the GPU and have the task's node evicted.
func TestForeignIsNotWhatEnds(t *testing.T) {
	cases := []struct{ name, stat, want string }{
		{"runs", stat("python", 0x400000), "python (42)"},
		{"ends", stat("python", 0x400004), ""},
		{"a name that looks like fields", stat("a) S 1 1 1 1 1 4 (b", 0x400000), "python (42)"},
		{"gone", "", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			proc := t.TempDir()
			process(t, proc, 42, "python", "12:devices:/\n", "")
			must.NoError(t, os.WriteFile(filepath.Join(proc, "42", "stat"), []byte(c.stat), 0o644))
			must.Eq(t, c.want, foreign(Host{Proc: proc}, []nvml.Process{{PID: 42}}, nil))
		})
	}
}

func TestForeign(t *testing.T) {
	cases := []struct {
		name                  string
		comm, cgroup, environ string
		names                 []string
		want                  string
	}{
		{"a game", "eldenring.exe", "0::/user.slice/user-1000.slice", "HOME=/home/x\x00", nil, "eldenring.exe (42)"},
		{"the desktop", "gnome-shell", "0::/user.slice", "", nil, ""},
		{"a task, v2", "python", "0::/nomad.slice/share.slice/1a2b.train.scope\n", "", nil, ""},
		{"a task, v1", "python", "12:devices:/nomad/1a2b.train\n1:name=systemd:/system.slice\n", "", nil, ""},
		{"a task in docker's cgroup", "python", "0::/docker/abc\n", "A=1\x00NOMAD_ALLOC_ID=1a2b\x00", nil, ""},
		{"a path that only looks so", "python", "0::/user.slice/nomadic\n", "XNOMAD_ALLOC_ID=1\x00", nil, "python (42)"},
		{"a user's own cgroup with Nomad's name", "python", "0::/user.slice/user-1000.slice/user@1000.service/nomad/x\n", "", nil, "python (42)"},
		{"a name for the terminal", "\x1b[2Jgame", "0::/user.slice", "", nil, "?[2Jgame (42)"},
		{"named", "blender", "0::/user.slice", "", []string{"blender"}, "blender (42)"},
		{"not named", "firefox", "0::/user.slice", "", []string{"blender"}, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			proc := t.TempDir()
			process(t, proc, 42, c.comm, c.cgroup, c.environ)
			must.Eq(t, c.want, foreign(Host{Proc: proc}, []nvml.Process{{PID: 41}, {PID: 42}, {PID: 42, Graphics: true}}, c.names))
		})
	}
}

func TestClaimEndsAfterIdleTime(t *testing.T) {
	proc := t.TempDir()
	process(t, proc, 42, "game", "0::/user.slice", "")
	h, busy := Host{Proc: proc}, []nvml.Process{{PID: 42}}
	r := Rules{IdleAfter: time.Minute}
	steps := []struct {
		at        int64
		processes []nvml.Process
		want      string
	}{
		{0, nil, ""},
		{1, busy, "in use by its owner: game (42)"},
		{2, nil, "was in use by its owner: game (42)"},
		{60, nil, "was in use by its owner: game (42)"},
		{61, nil, ""},
	}
	var c Claim
	for _, s := range steps {
		must.Eq(t, s.want, c.Reason(r, "GPU-a", h.Users(s.processes), time.Unix(1e9+s.at, 0)), must.Sprintf("at %d s", s.at))
	}
	r.Ignore = true
	must.Eq(t, "", c.Reason(r, "GPU-a", h.Users(busy), time.Unix(2e9, 0)))
}

// A GPU's use is booked on the task that the kernel says, not on what a process says of itself.
func TestTask(t *testing.T) {
	const alloc = "b2a1c3d4-0000-1111-2222-333344445555"
	cases := []struct{ cgroup, environ, alloc, task string }{
		{"4:devices:/nomad/" + alloc + ".train\n", "", alloc, "train"},
		{"0::/nomad.slice/share.slice/" + alloc + ".train.v2.scope/inner\n", "", alloc, "train.v2"},
		{"0::/user.slice/" + alloc + ".train.scope\n", "", "", ""},
		{"0::/user.slice/user-1000.slice/user@1000.service/nomad.slice/" + alloc + ".train.scope\n", "", "", ""},
		{"0::/nomad.slice/share.slice/" + alloc + ".train.scope/c1a1c3d4-0000-1111-2222-333344445555.other.scope\n", "", alloc, "train"},
		{"0::/docker/x\n", "NOMAD_ALLOC_ID=" + alloc + "\x00", "", ""},
		{"0::/nomad.slice/share.slice\n", "", "", ""},
	}
	for _, c := range cases {
		proc := t.TempDir()
		process(t, proc, 7, "python", c.cgroup, c.environ)
		a, task := Task(Host{Proc: proc}.Users([]nvml.Process{{PID: 6}, {PID: 7}}))
		must.Eq(t, [2]string{c.alloc, c.task}, [2]string{a, task})
	}
}
