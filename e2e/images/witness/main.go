// Command witness testifies how often it runs and what it has printed: a task for tests of faults. It works in the
// directory that it is given, which all of its copies share, by the clock that it is given, "boottime" or "realtime":
//
//	lock        is locked by the one copy that may run
//	violations  gets a line from each copy that finds another one alive
//	life.START  is written by the copy that started at START, in ns; its last line says until when it lived
//	hold        makes a copy that gets SIGTERM wait for its order; it says so in "terminating"
//	exit        holds the code to end with; the copy that obeys removes it and makes "done"
//	done        has every copy that starts end at once, with 0: Nomad starts a task again that has failed
//
// On standard output it numbers its lines, "START 1", "START 2", ..., until "START N last".
package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	beat  = 10 * time.Millisecond
	lines = 5 // beats from one line to the next
	// terminated is the code of a copy that is told to end and not how.
	terminated = 3
)

func main() {
	// No change of the time of day moves the clock since boot, but each of gVisor's sandboxes has one of its own.
	clocks := map[string]clock{"boottime": unix.CLOCK_BOOTTIME, "realtime": unix.CLOCK_REALTIME}
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: witness DIRECTORY boottime|realtime")
		os.Exit(2)
	}
	err := os.Chdir(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "witness:", err)
		os.Exit(2)
	}
	chosen, ok := clocks[os.Args[2]]
	if !ok {
		fmt.Fprintln(os.Stderr, "witness: there is no clock", os.Args[2])
		os.Exit(2)
	}
	code, err := chosen.testify()
	if err != nil {
		fmt.Fprintln(os.Stderr, "witness:", err)
		os.Exit(2)
	}
	os.Exit(code)
}

// clock is one that all copies share.
type clock int32

func (c clock) now() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(int32(c), &ts)
	return ts.Nano()
}

// claim takes the lock, or says that somebody else has it. It is never given back: the kernel does that.
func claim(start int64) error {
	lock, err := unix.Open("lock", unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o666)
	if err != nil {
		return err
	}
	if unix.Flock(lock, unix.LOCK_EX|unix.LOCK_NB) == nil {
		return nil
	}
	return appendTo("violations", fmt.Sprintf("the copy that started at %d found another\n", start))
}

func appendTo(name, text string) error {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	_ = file.Close()
	return err
}

func (c clock) testify() (int, error) {
	start := c.now()
	terms := make(chan os.Signal, 1)
	signal.Notify(terms, syscall.SIGTERM)
	err := claim(start)
	if err != nil {
		return 0, err
	}
	_, err = os.Stat("done")
	if err == nil {
		return 0, nil
	}
	life, err := os.Create(filepath.Clean("life." + strconv.FormatInt(start, 10)))
	if err != nil {
		return 0, err
	}
	// Lines go out beside the beats: a log that stalls must not look like a death.
	out := make(chan string, 1<<16)
	printed := make(chan struct{})
	go func() {
		defer close(printed)
		for line := range out {
			fmt.Println(line)
		}
	}()
	number := 0
	for n := 0; ; n++ {
		fmt.Fprintln(life, c.now())
		if n%lines == 0 {
			number++
			out <- fmt.Sprint(start, " ", number)
		}
		code, over := order(terms)
		if over {
			out <- fmt.Sprint(start, " ", number+1, " last")
			close(out)
			<-printed
			fmt.Fprintln(life, c.now())
			return code, nil
		}
		time.Sleep(beat)
	}
}

// order says whether to end, and with which code.
func order(terms <-chan os.Signal) (int, bool) {
	select {
	case <-terms:
		_, err := os.Stat("hold")
		if err != nil {
			return terminated, true
		}
		_ = appendTo("terminating", "yes\n")
	default:
	}
	text, err := os.ReadFile("exit")
	if err != nil {
		return 0, false
	}
	code, err := strconv.Atoi(strings.TrimSpace(string(text)))
	// What another copy takes first, or what is not whole yet, is not for us.
	if err != nil || os.Remove("exit") != nil {
		return 0, false
	}
	_ = appendTo("done", "yes\n")
	return code, true
}
