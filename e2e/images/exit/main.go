// Command exit waits for as many seconds as its first argument says, or until it gets the signal USR1, and ends with the
// code that its second one says: a task for tests of what happens to exit codes.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: exit SECONDS CODE")
		os.Exit(2)
	}
	seconds, err := strconv.ParseFloat(os.Args[1], 64)
	if err != nil {
		fmt.Fprintln(os.Stderr, "exit: cannot read the seconds:", err)
		os.Exit(2)
	}
	code, err := strconv.Atoi(os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, "exit: cannot read the code:", err)
		os.Exit(2)
	}
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGUSR1)
	select {
	case <-time.After(time.Duration(seconds * float64(time.Second))):
	case <-told:
	}
	os.Exit(code)
}
