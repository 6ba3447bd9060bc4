package image

import (
	"bufio"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/shoenig/test/must"
)

// TestRootKilledProcess is not a test but the process that the tests below kill: it pulls and mounts, again
// and again, until its end.
func TestRootKilledProcess(t *testing.T) {
	ref, dir := os.Getenv("PANGAEA_TEST_REF"), os.Getenv("PANGAEA_TEST_STORE")
	if ref == "" {
		return // only the tests below start it so
	}
	registry, _, _ := strings.Cut(ref, "/")
	s, err := Open(dir, Options{InsecureRegistries: []string{registry}})
	must.NoError(t, err)
	_, _ = os.Stdout.WriteString("ready\n")
	for i := 0; ; i++ {
		img, err := s.Pull(t.Context(), PullRequest{Ref: ref, Policy: PolicyAlways})
		must.NoError(t, err)
		_, err = s.Mount(t.Context(), MountRequest{ID: "killed", Image: img, HostUID: base, HostGID: base, IDCount: 65536, DiskBytes: 8 << 20})
		must.NoError(t, err)
		must.NoError(t, s.Unmount("killed"))
		_, err = s.GC(t.Context(), GCPolicy{MaxAge: time.Nanosecond, MinIdle: time.Nanosecond})
		must.NoError(t, err)
	}
}

// TestRootStoreSurvivesKill kills a process at many points of pull, mount, unmount and GC, and checks each
// time that a new one finds a whole store and can clean up.
func TestRootStoreSurvivesKill(t *testing.T) {
	h := serve(t, nil)
	ref := h.push(t, "app:v1", imageOf(t, v1.Config{}, tarOf(t, file("big", noise(t, 2<<20))), tarOf(t, file("own", "app"))))
	dir := t.TempDir()
	for i := range 25 {
		killAfter(t, ref, dir, time.Duration(i)*3*time.Millisecond)
		s, err := Open(dir, Options{InsecureRegistries: []string{h.addr}})
		must.NoError(t, err)
		<-s.swept
		tmp, err := os.ReadDir(s.path("tmp"))
		must.NoError(t, err)
		must.Eq(t, 0, len(tmp))
		ids, err := s.Mounts()
		must.NoError(t, err)
		for _, id := range ids {
			must.NoError(t, s.Unmount(id))
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		must.NoError(t, err)
		must.StrNotContains(t, string(mounts), s.root)
		must.StrNotContains(t, string(mounts), s.rootfsDir(""))
		img, err := s.Pull(t.Context(), PullRequest{Ref: ref})
		must.NoError(t, err)
		for j, l := range img.Layers {
			name, size := "big", int64(2<<20)
			if j == 1 {
				name, size = "own", 3
			}
			st, err := os.Stat(s.path("layers", hexOf(l), "fs", name))
			must.NoError(t, err)
			must.Eq(t, size, st.Size())
		}
		must.NoError(t, s.Close())
	}
	must.Wait(t, waitFor(func() bool { // a loop device goes with its last user
		loops, err := exec.Command("losetup", "-l", "-n", "-O", "BACK-FILE").Output()
		must.NoError(t, err)
		return !strings.Contains(string(loops), dir)
	}))
}

func killAfter(t *testing.T, ref, dir string, d time.Duration) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestRootKilledProcess$")
	cmd.Env = append(os.Environ(), "PANGAEA_TEST_REF="+ref, "PANGAEA_TEST_STORE="+dir)
	out, err := cmd.StdoutPipe()
	must.NoError(t, err)
	must.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	must.NoError(t, err)
	must.Eq(t, "ready\n", line)
	time.Sleep(d) // the moment of the kill is the test's parameter, not a wait for anything
	must.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
}

// TestRootLayersOfAnotherBoot pretends that the machine went down: layers that were never synced are pulled
// again, even while something still mounts them, and synced ones are kept.
func TestRootLayersOfAnotherBoot(t *testing.T) {
	c := &counter{word: "/blobs/"}
	h := serve(t, c.wrap)
	ref := h.push(t, "app:v1", simple(t))
	for _, synced := range []bool{true, false} {
		dir := t.TempDir()
		s := openAt(t, dir, Options{}, h)
		img, err := s.Pull(t.Context(), PullRequest{Ref: ref})
		must.NoError(t, err)
		s.wg.Wait() // for the sync
		for _, l := range img.Layers {
			must.True(t, s.synced(hexOf(l)))
			at := s.path("layers", hexOf(l), "meta.json")
			var meta layerMeta
			must.NoError(t, readJSON(at, &meta))
			meta.Boot = "another"
			body, err := json.Marshal(meta)
			must.NoError(t, err)
			must.NoError(t, os.WriteFile(at, body, 0o600))
			if !synced {
				must.NoError(t, os.Remove(s.path("layers", hexOf(l), syncedMark)))
			}
		}
		later := openAt(t, dir, Options{}, h)
		c.n.Store(0)
		_, err = later.Pull(t.Context(), PullRequest{Ref: ref})
		must.NoError(t, err)
		must.Eq(t, synced, c.n.Load() == 0)
	}
}

// TestRootDamagedRecords counts every record that power loss might have emptied as missing.
func TestRootDamagedRecords(t *testing.T) {
	h := serve(t, nil)
	ref := h.push(t, "app:v1", simple(t))
	dir := t.TempDir()
	for _, kind := range []string{"images", "refs", "layers"} {
		s := openAt(t, dir, Options{}, h)
		_, err := s.Pull(t.Context(), PullRequest{Ref: ref})
		must.NoError(t, err)
		entries, err := os.ReadDir(s.path(kind))
		must.NoError(t, err)
		for _, e := range entries {
			at := s.path(kind, e.Name())
			if kind == "layers" {
				at = filepath.Join(at, "meta.json")
			}
			must.NoError(t, os.WriteFile(at, nil, 0o600))
		}
		again := openAt(t, dir, Options{}, h)
		_, err = again.Pull(t.Context(), PullRequest{Ref: ref, Policy: PolicyNever})
		must.ErrorIs(t, err, ErrNotPresent)
		img, err := again.Pull(t.Context(), PullRequest{Ref: ref})
		must.NoError(t, err)
		_, err = again.Mount(t.Context(), MountRequest{ID: "m", Image: img})
		must.NoError(t, err)
		must.NoError(t, again.Unmount("m"))
	}
}

// TestRootSweepSparesTheLiving opens a second store while the first is in the middle of a layer.
func TestRootSweepSparesTheLiving(t *testing.T) {
	started, release := make(chan struct{}, 4), make(chan struct{})
	h := serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				started <- struct{}{}
				<-release
			}
			next.ServeHTTP(w, r)
		})
	})
	ref := h.push(t, "app:v1", simple(t))
	dir := t.TempDir()
	s := openAt(t, dir, Options{}, h)
	done := make(chan error, 1)
	go func() {
		_, err := s.Pull(t.Context(), PullRequest{Ref: ref})
		done <- err
	}()
	<-started             // the config
	release <- struct{}{} // is let through,
	<-started             // and the first layer has a directory now
	openAt(t, dir, Options{}, h)
	close(release)
	must.NoError(t, <-done)
}
