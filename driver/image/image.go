package image

import (
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"pangaea/driver/image/strict"
)

// Image is one image in the store, for this machine's platform.
type Image struct {
	// Ref is the reference that the image was asked for by.
	Ref string
	// Digest is the manifest's; of a docker-archive, which has none, the config's.
	Digest string
	// Config is what the image says about running it.
	Config v1.Config
	// Layers are the diff IDs, bottom first, each once.
	Layers []string
	// Signers are the IDs of the keys by which it was found to be signed.
	Signers []string
	// Size is what the image's layers unpacked to, in bytes of file content.
	Size int64
}

// parseConfig checks a config that a stranger wrote and takes what matters from it.
func parseConfig(body []byte) (*v1.ConfigFile, error) {
	var c v1.ConfigFile
	err := strict.Decode(body, &c)
	if err != nil {
		return nil, fmt.Errorf("%w: its config is no valid JSON: %w", ErrHostile, err)
	}
	if c.RootFS.Type != "layers" {
		return nil, fmt.Errorf("%w: its config has no layers", ErrHostile)
	}
	if c.OS != "" && c.OS != "linux" || c.Architecture != "" && c.Architecture != runtime.GOARCH {
		return nil, fmt.Errorf("%w: it is for %.20s/%.20s, this machine is linux/%s", ErrPlatform, c.OS, c.Architecture, runtime.GOARCH)
	}
	for _, d := range c.RootFS.DiffIDs {
		if !validDigest(d.String()) {
			return nil, fmt.Errorf("%w: diff ID %.80q", ErrHostile, d)
		}
	}
	return &c, checkConfig(c.Config)
}

// checkConfig refuses what would reach the runtime as something else than it looks: a working directory
// such as /proc/self/fd/7 led out of the container once (CVE-2024-21626).
func checkConfig(c v1.Config) error {
	wd := strings.TrimSuffix(c.WorkingDir, "/")
	if wd != "" && (!path.IsAbs(wd) || path.Clean(wd) != wd || wd == "/proc" || strings.HasPrefix(wd, "/proc/")) {
		return fmt.Errorf("%w: its working directory %.80q is not a clean absolute path", ErrHostile, c.WorkingDir)
	}
	for _, list := range [][]string{c.Env, c.Entrypoint, c.Cmd, {c.WorkingDir, c.User, c.StopSignal}} {
		for _, s := range list {
			if strings.ContainsRune(s, 0) {
				return fmt.Errorf("%w: its config has a zero byte in %.80q", ErrHostile, s)
			}
		}
	}
	for _, e := range c.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return fmt.Errorf("%w: its config has the environment entry %.80q without a name and '='", ErrHostile, e)
		}
	}
	return nil
}

// validDigest must hold before a digest becomes a path.
func validDigest(d string) bool {
	hex, ok := strings.CutPrefix(d, "sha256:")
	return ok && len(hex) == 64 && strings.Trim(hex, "0123456789abcdef") == ""
}

func hexOf(digest string) string { return strings.TrimPrefix(digest, "sha256:") }

// checkTree looks at the merged tree of layers, bottom first, for places that the sandbox mounts over: one
// that is a symbolic link would move the mount elsewhere (CVE-2026-41579).
func (s *Store) checkTree(layers []string) error {
	for _, name := range []string{"dev", "proc", "sys"} {
		for i := len(layers) - 1; i >= 0; i-- {
			at := s.path("layers", hexOf(layers[i]), "fs", name)
			var st unix.Stat_t
			err := unix.Lstat(at, &st)
			if errors.Is(err, unix.ENOENT) {
				continue
			}
			if err != nil {
				return &os.PathError{Op: "lstat", Path: at, Err: err}
			}
			whiteout := st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
			if st.Mode&unix.S_IFMT != unix.S_IFDIR && !whiteout {
				return fmt.Errorf("%w: its /%s is not a directory", ErrHostile, name)
			}
			break
		}
	}
	return nil
}

// refRecord is what a reference meant when it was last pulled.
type refRecord struct {
	Ref    string
	Digest string
	Time   time.Time
}

// lookup finds what the store holds under a reference, without the network. What is not known to be signed as it
// must be is as good as missing.
func (s *Store) lookup(r reference, t trust) (*Image, error) {
	if r.remote == nil {
		return nil, ErrNotPresent
	}
	var rec refRecord
	err := readJSON(s.path("refs", r.key()), &rec)
	if err != nil || !validDigest(rec.Digest) || rec.Ref != r.remote.Name() {
		return nil, ErrNotPresent
	}
	img, err := s.lookupDigest(r.text, rec.Digest)
	if err == nil && !t.accepts(img.Signers) {
		return nil, fmt.Errorf("%w: it was not when it was pulled", ErrUnsigned)
	}
	return img, err
}

// lookupDigest finds an image whose layers are all whole, and notes that it was used.
func (s *Store) lookupDigest(ref, digest string) (*Image, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	at := s.path("images", hexOf(digest))
	var img Image
	err := readJSON(at, &img)
	if err != nil || img.Digest != digest {
		return nil, ErrNotPresent
	}
	for _, l := range img.Layers {
		if !validDigest(l) || !s.whole(hexOf(l)) {
			return nil, ErrNotPresent
		}
	}
	now := time.Now()
	_ = os.Chtimes(at, now, now)
	img.Ref = ref
	return &img, nil
}

// record makes an image known; its layers must be whole and pinned.
func (s *Store) record(r reference, img *Image) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	err := s.writeJSON(s.path("images", hexOf(img.Digest)), img)
	if err != nil || r.remote == nil {
		return err
	}
	return s.writeJSON(s.path("refs", r.key()), refRecord{Ref: r.remote.Name(), Digest: img.Digest, Time: time.Now()})
}
