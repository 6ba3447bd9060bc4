package signals

import (
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// A program that is started after Heed has the default for a signal that this process was told to ignore.
func TestHeed(t *testing.T) {
	signal.Ignore(unix.SIGUSR2)
	t.Cleanup(func() { signal.Reset(unix.SIGUSR2) })
	must.StrContains(t, ignored(t), "SIGUSR2")
	Heed()
	must.Eq(t, "", ignored(t))
}

// ignored names the watched signal if a program that this process starts would ignore it.
func ignored(t *testing.T) string {
	t.Helper()
	status, err := exec.Command("grep", "SigIgn", "/proc/self/status").Output()
	must.NoError(t, err)
	_, mask, _ := strings.Cut(strings.TrimSpace(string(status)), "\t")
	must.NotEq(t, "", mask, must.Sprint(os.Getpid()))
	// SIGUSR2 is signal 12: bit 11, the 8 in the third hexadecimal digit from the right.
	if strings.ContainsRune("89abcdef", rune(mask[len(mask)-3])) {
		return "SIGUSR2"
	}
	return ""
}
