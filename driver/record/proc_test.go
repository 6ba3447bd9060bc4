package record

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

func TestParseStat(t *testing.T) {
	tail := " S 1 2 3 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 2 3" + strings.Repeat(" 0", 25) + " 9 512"
	tests := []struct {
		name, text string
		want       stat
		fails      bool
	}{
		{"plain", "7 (sh)" + tail, stat{startTime: 4242, exitCode: 512}, false},
		{"spaces and brackets in the name", "7 (a) Z (b)" + tail, stat{startTime: 4242, exitCode: 512}, false},
		{"zombie", "7 (sh)" + strings.Replace(tail, "S", "Z", 1), stat{zombie: true, startTime: 4242, exitCode: 512}, false},
		{"short", "7 (sh) S 1 2", stat{}, true},
		{"empty", "", stat{}, true},
		{"no start time", "7 (sh)" + strings.Replace(tail, "4242", "x", 1), stat{}, true},
		{"no exit code", "7 (sh)" + strings.Replace(tail, "512", "x", 1), stat{}, true},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parseStat(tc.text)
			must.Eq(t, tc.fails, err != nil)
			must.Eq(t, tc.want, got)
		})
	}
}

func TestProcesses(t *testing.T) {
	own, err := StartTime(os.Getpid())
	must.NoError(t, err)
	must.True(t, Alive(os.Getpid(), own))
	must.False(t, Alive(os.Getpid(), own+1), must.Sprint("a reused pid is another process"))
	must.False(t, Alive(1, 0))
	must.False(t, Alive(0, own))
	_, err = OpenPidfd(os.Getpid(), own+1)
	must.ErrorIs(t, err, ErrNotSameProcess)
	_, err = OpenPidfd(1, 0)
	must.ErrorIs(t, err, ErrNotSameProcess)
	_, err = StartTime(1 << 30)
	must.Error(t, err)
	boot, err := BootID()
	must.NoError(t, err)
	must.Len(t, 36, []byte(boot))
}

// The exit status is known to one who is not the parent, before and after the parent has reaped.
func TestRootExitStatus(t *testing.T) {
	tests := []struct {
		name, script string
		want         Exit
	}{
		{"code", "exit 9", Exit{Code: 9}},
		{"signal", "kill -TERM $$", Exit{Code: 143, Signal: 15}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			cmd := exec.Command("/bin/sh", "-c", "read wait; "+tc.script)
			in, err := cmd.StdinPipe()
			must.NoError(t, err)
			must.NoError(t, cmd.Start())
			start, err := StartTime(cmd.Process.Pid)
			must.NoError(t, err)
			fd, err := OpenPidfd(cmd.Process.Pid, start)
			must.NoError(t, err)
			defer unix.Close(fd)
			_, known := ExitStatus(fd, cmd.Process.Pid, start)
			must.False(t, known, must.Sprint("it still runs"))
			must.NoError(t, in.Close())
			for Alive(cmd.Process.Pid, start) {
				time.Sleep(time.Millisecond)
			}
			check := func() {
				status, known := ExitStatus(fd, cmd.Process.Pid, start)
				must.True(t, known)
				var got Exit
				got.FromStatus(status)
				must.Eq(t, tc.want, got)
			}
			check()
			_ = cmd.Wait()
			check()
		})
	}
}
