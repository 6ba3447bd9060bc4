package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"pangaea/driver/image/rootfs"
	"pangaea/e2e/node"
)

// engine is the daemon of a peer, of the bench's own, so that the machine's, if there is one, is left alone. It never
// touches the machine's firewall.
type engine struct {
	name string
	dir  string
	cmd  *exec.Cmd
	done chan struct{}
	// leaves are patterns of what the daemon makes elsewhere and did not find there.
	leaves []string
	// prepare, if set, writes configuration into the daemon's directory and returns environment.
	prepare func(dir string) ([]string, error)
}

// cgroups is where the daemons make cgroups of theirs.
const cgroups = "/sys/fs/cgroup/"

// peerDir is where e2e/tools/peers puts the programs of other engines, below the directory of ours.
const peerDir = "peers"

// findPeer finds a peer's program where make peers has put it, or on PATH; "" if it is not there.
func findPeer(bin, name string) string {
	for _, dir := range append(peerPath(bin), "") {
		path, err := exec.LookPath(filepath.Join(dir, name))
		if err == nil {
			return path
		}
	}
	return ""
}

func peerPath(bin string) []string {
	return []string{filepath.Join(bin, peerDir, "usr/sbin"), filepath.Join(bin, peerDir, "usr/bin")}
}

// peerEnvironment lets a peer's programs find each other and their libraries.
func peerEnvironment(bin string) ([]string, error) {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return nil, fmt.Errorf("cannot find the peers' programs: %w", err)
	}
	dirs := peerPath(bin)
	libraries, _ := filepath.Glob(filepath.Join(bin, peerDir, "usr/lib/*-linux-gnu"))
	env := append(os.Environ(), "PATH="+dirs[0]+":"+dirs[1]+":"+os.Getenv("PATH"))
	if len(libraries) == 1 {
		env = append(env, "LD_LIBRARY_PATH="+libraries[0])
	}
	return env, nil
}

// start runs the daemon, whose arguments it gets with the directory that is the daemon's, and waits until it answers
// on its socket there.
func (e *engine) start(ctx context.Context, bin, program string, arguments func(dir string) []string) error {
	err := e.run(bin, program, arguments)
	if err != nil {
		return errors.Join(fmt.Errorf("cannot start %s: %w", e.name, err), os.RemoveAll(e.dir))
	}
	err = e.await(ctx)
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(e.dir, "log"))
		return errors.Join(fmt.Errorf("cannot reach %s: %w; its log ends with:\n%s", e.name, err, log[max(0, len(log)-2000):]), e.stop())
	}
	return nil
}

func (e *engine) run(bin, program string, arguments func(dir string) []string) (err error) {
	e.leaves = slices.DeleteFunc(e.leaves, func(pattern string) bool {
		found, _ := filepath.Glob(pattern)
		return len(found) > 0
	})
	e.dir, err = os.MkdirTemp("/var/tmp", "pangaea-"+e.name+"-")
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(e.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	e.cmd = exec.Command(program, arguments(e.dir)...)
	e.cmd.Stdout, e.cmd.Stderr = log, log
	// Ctrl-C must reach only the bench, which ends the daemon after its containers.
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	e.cmd.Env, err = peerEnvironment(bin)
	if err == nil && e.prepare != nil {
		var env []string
		env, err = e.prepare(e.dir)
		e.cmd.Env = append(e.cmd.Env, env...)
	}
	if err != nil {
		return err
	}
	err = e.cmd.Start()
	if err != nil {
		return err
	}
	e.done = make(chan struct{})
	go func() {
		defer close(e.done)
		_ = e.cmd.Wait() // its exit status says nothing that matters here
	}()
	return nil
}

func (e *engine) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		conn, err := net.Dial("unix", e.socket())
		if err == nil {
			return conn.Close()
		}
		select {
		case <-e.done:
			return errors.New("it ended at once")
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (e *engine) socket() string { return filepath.Join(e.dir, "socket") }

// stop ends the daemon, which ends its containers, and removes what it stored.
func (e *engine) stop() error {
	err := e.cmd.Process.Signal(syscall.SIGTERM)
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("cannot stop %s: %w", e.name, err)
	}
	select {
	case <-e.done:
	case <-time.After(time.Minute):
		_ = e.cmd.Process.Kill()
		<-e.done
		err = fmt.Errorf("%s did not end and was killed; see what it has left below %s", e.name, e.dir)
	}
	// What failed to start may run on: it has the directory, which is nobody else's, in its command line.
	left, leftErr := naming(e.dir + "/")
	for _, p := range left {
		leftErr = errors.Join(leftErr, syscall.Kill(p.PID, syscall.SIGKILL))
	}
	if leftErr != nil {
		err = errors.Join(err, fmt.Errorf("cannot end what %s has left: %w", e.name, leftErr))
	}
	// Removal must not walk into what is mounted.
	unmountErr := rootfs.UnmountAll(e.dir)
	if unmountErr != nil {
		return errors.Join(err, unmountErr)
	}
	for _, pattern := range e.leaves {
		found, _ := filepath.Glob(pattern)
		for _, path := range found {
			remove := os.Remove
			if strings.HasPrefix(path, cgroups) {
				remove = node.RemoveCgroup
			}
			err = errors.Join(err, remove(path))
		}
	}
	return errors.Join(err, os.RemoveAll(e.dir))
}

// puller pulls through the API, so that no client's own time counts.
func (e *engine) puller() puller {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", e.socket())
	}}
	call := func(ctx context.Context, method, path string) error {
		request, err := http.NewRequestWithContext(ctx, method, "http://engine"+path, nil)
		if err != nil {
			return err
		}
		answer, err := transport.RoundTrip(request)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		return readReport(answer)
	}
	return puller{
		name: e.name,
		pull: func(ctx context.Context, ref string) (time.Duration, error) {
			began := time.Now()
			err := call(ctx, http.MethodPost, "/images/create?fromImage="+url.QueryEscape(ref))
			return time.Since(began), err
		},
		forget: func(ctx context.Context, ref string) error { return call(ctx, http.MethodDelete, "/images/"+ref) },
	}
}

// readReport reads an answer to its end, which comes when the work is done, and fails if the answer tells of a failure.
func readReport(answer *http.Response) error {
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(answer.Body)
		return fmt.Errorf("%s: %s", answer.Status, text)
	}
	decoder := json.NewDecoder(answer.Body)
	for {
		var line any
		err := decoder.Decode(&line)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		object, _ := line.(map[string]any) // a deletion answers with a list
		if told, failed := object["error"]; failed {
			return fmt.Errorf("%v", told)
		}
	}
}
