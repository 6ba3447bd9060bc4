package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// dockerEngine is a Docker daemon of the bench's own, so that the machine's, if there is one, is left alone.
type dockerEngine struct {
	dir string
	cmd *exec.Cmd
}

// startDocker starts the daemon if the machine has one, without a network of its own; else it returns nil.
func startDocker(ctx context.Context) (*dockerEngine, error) {
	program, err := exec.LookPath("dockerd")
	if err != nil {
		return nil, nil // a machine without Docker is measured without it
	}
	dir, err := os.MkdirTemp("/var/tmp", "pangaea-docker-")
	if err != nil {
		return nil, fmt.Errorf("cannot make Docker's directory: %w", err)
	}
	e := &dockerEngine{dir: dir}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, fmt.Errorf("cannot open Docker's log: %w", err)
	}
	defer log.Close()
	// Registries on loopback need no certificate.
	e.cmd = exec.Command(program, "--host", "unix://"+e.socket(), "--data-root", filepath.Join(dir, "data"),
		"--exec-root", filepath.Join(dir, "run"), "--pidfile", filepath.Join(dir, "pid"), "--bridge=none", "--iptables=false", "--ip6tables=false")
	e.cmd.Stdout, e.cmd.Stderr = log, log
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = e.cmd.Start()
	if err != nil {
		return nil, fmt.Errorf("cannot start Docker: %w", err)
	}
	for deadline := time.Now().Add(time.Minute); ; {
		conn, err := net.Dial("unix", e.socket())
		if err == nil {
			return e, conn.Close()
		}
		if time.Now().After(deadline) {
			return nil, errors.Join(fmt.Errorf("cannot reach Docker, see %s/log: %w", dir, err), e.stop())
		}
		err = pause(ctx, 100*time.Millisecond)
		if err != nil {
			return nil, errors.Join(err, e.stop())
		}
	}
}

func (e *dockerEngine) socket() string { return filepath.Join(e.dir, "docker.sock") }

// stop ends the daemon, which ends its containers, and removes what it stored.
func (e *dockerEngine) stop() error {
	err := e.cmd.Process.Signal(syscall.SIGTERM)
	if err == nil {
		_ = e.cmd.Wait() // its exit status says nothing that matters here
		err = os.RemoveAll(e.dir)
	}
	if err != nil {
		return fmt.Errorf("cannot stop Docker: %w", err)
	}
	return nil
}

// clientConfig is what Nomad has to know of it.
func (e *dockerEngine) clientConfig() string {
	return fmt.Sprintf(`
plugin "docker" {
  config {
    endpoint = %q
    gc {
      image = false
    }
  }
}
`, "unix://"+e.socket())
}
