package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	until "github.com/shoenig/test/wait"
)

// attendVerb has this test's program attend to itself.
const attendVerb = "attend"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == attendVerb {
		status, err := attend(os.Args[2:])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(status)
	}
	if len(os.Args) > 1 && os.Args[1] == workVerb {
		surviveReader()
		os.Exit(work(os.Args[2]))
	}
	os.Exit(m.Run())
}

// work says in its directory that it has begun, and what it was told; to clean up, it writes to those who may have gone.
func work(dir string) int {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	err := os.WriteFile(filepath.Join(dir, "begun"), nil, 0o600)
	if err != nil {
		return 1
	}
	<-told
	fmt.Println("cleaning up")
	err = os.WriteFile(filepath.Join(dir, "cleaned"), nil, 0o600)
	if err != nil {
		return 1
	}
	return 7
}

// However the program is ended, the work is told to clean up, and does so although nobody reads what it prints.
func TestAttend(t *testing.T) {
	signals := []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL}
	if !signal.Ignored(syscall.SIGHUP) { // these tests may run under nohup
		signals = append(signals, syscall.SIGHUP)
	}
	for _, sig := range signals {
		t.Run(sig.String(), func(t *testing.T) {
			dir := t.TempDir()
			there := func(name string) func() bool {
				return func() bool {
					_, err := os.Stat(filepath.Join(dir, name))
					return err == nil
				}
			}
			reader, writer, err := os.Pipe()
			must.NoError(t, err)
			program := exec.Command(os.Args[0], attendVerb, dir)
			program.Stdout = writer
			must.NoError(t, program.Start())
			must.NoError(t, writer.Close())
			must.Wait(t, until.InitialSuccess(until.BoolFunc(there("begun")), until.Timeout(5*time.Minute), until.Gap(10*time.Millisecond)))
			must.NoError(t, reader.Close())
			must.NoError(t, program.Process.Signal(sig))
			must.Error(t, program.Wait())
			if sig != syscall.SIGKILL {
				must.Eq(t, 7, program.ProcessState.ExitCode(), must.Sprint("the work's own exit status"))
			}
			must.Wait(t, until.InitialSuccess(until.BoolFunc(there("cleaned")), until.Timeout(5*time.Minute), until.Gap(10*time.Millisecond)))
		})
	}
}
