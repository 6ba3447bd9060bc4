// Command exit waits for as many seconds as its first argument says and ends with the code that its second one says:
// a task for tests of what happens to exit codes.
package main

import (
	"fmt"
	"os"
	"strconv"
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
	time.Sleep(time.Duration(seconds * float64(time.Second)))
	os.Exit(code)
}
