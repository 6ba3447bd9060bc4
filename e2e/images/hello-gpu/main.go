// Command hello-gpu prints what GPUs its task was given: the environment, the device nodes that it can open and the
// driver libraries that it finds. Called as "hello-gpu stay" it then goes on until it is killed, whatever it is asked.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
)

// libraryDir is where CUDA images look for the host's driver libraries.
const libraryDir = "/usr/local/nvidia/lib64"

func main() {
	signals := make(chan os.Signal, 1)
	stays := len(os.Args) > 1 && os.Args[1] == "stay"
	if stays {
		signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	}
	fmt.Printf("hello from allocation %s\n", os.Getenv("NOMAD_ALLOC_ID"))
	printGrant()
	printNodes()
	printLibraries()
	if os.Getenv("NVIDIA_VISIBLE_DEVICES") == "" {
		fmt.Println("no GPU was granted")
		os.Exit(1)
	}
	for stays { // it does not listen
		fmt.Printf("asked to end by %v\n", <-signals)
	}
}

// printGrant shows each granted GPU's UUID.
func printGrant() {
	for _, uuid := range strings.Split(os.Getenv("NVIDIA_VISIBLE_DEVICES"), ",") {
		fmt.Printf("gpu %s\n", uuid)
	}
}

// printNodes opens every NVIDIA device node of the sandbox. ENXIO counts as allowed: a simulated GPU's node has no
// driver behind it, and the kernel asks the device cgroup before it looks for one.
func printNodes() {
	nodes, err := filepath.Glob("/dev/nvidia[0-9]*")
	if err != nil {
		fmt.Printf("cannot list device nodes: %v\n", err)
		return
	}
	sort.Strings(nodes)
	for _, node := range nodes {
		fd, err := syscall.Open(node, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
		if err == nil {
			_ = syscall.Close(fd)
		}
		allowed := err == nil || errors.Is(err, syscall.ENXIO)
		fmt.Printf("node %s allowed=%t\n", node, allowed)
	}
}

// printLibraries lists the driver libraries.
func printLibraries() {
	entries, err := os.ReadDir(libraryDir)
	if err != nil {
		fmt.Printf("no driver libraries: %v\n", err)
		return
	}
	for _, entry := range entries {
		fmt.Printf("library %s\n", entry.Name())
	}
}
