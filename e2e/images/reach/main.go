// Command reach tells which of the addresses in its arguments answer a connection, and then answers those that come in
// at port 8080 until it is ended: a task for tests of what a network reaches.
package main

import (
	"fmt"
	"net"
	"os"
	"time"
)

// patience is far longer than an answer takes; a wall refuses at once.
const patience = 3 * time.Minute

func main() {
	for _, address := range os.Args[1:] {
		fmt.Println(address, verdict(address))
	}
	listener, err := net.Listen("tcp", ":8080") //nolint:gosec // in a sandbox
	if err != nil {
		fmt.Fprintln(os.Stderr, "reach: cannot listen:", err)
		os.Exit(1)
	}
	fmt.Println("serving")
	for {
		conn, err := listener.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, "reach: cannot accept:", err)
			os.Exit(1)
		}
		fmt.Fprintln(conn, "hello")
		_ = conn.Close()
	}
}

func verdict(address string) string {
	conn, err := net.DialTimeout("tcp", address, patience) //nolint:gosec // that is what it is for
	if err != nil {
		return "closed"
	}
	defer conn.Close()
	return "open"
}
