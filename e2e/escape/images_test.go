package escape

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/e2e/node"
	"pangaea/e2e/registry"
)

// trick is an image that has the host follow it: a link in it, or a working directory. HOST is a directory of the host's
// that it leads to, UP the same by way of "..", and FD by way of a descriptor.
type trick struct {
	name     string
	link, to string
	workDir  string
	user     string
	refused  string // part of the driver's reason, or "" if the task runs and reaches nothing
}

func tricks() []trick {
	return []trick{
		{name: "dev", link: "dev", to: "HOST", refused: "/dev is not a directory"},
		{name: "proc", link: "proc", to: "HOST", refused: "/proc is not a directory"},
		{name: "sys", link: "sys", to: "UP", refused: "/sys is not a directory"},
		{name: "null", link: "dev/null", to: "HOST/secret"},
		{name: "console", link: "dev/console", to: "HOST/secret"},
		{name: "pts", link: "dev/pts", to: "HOST"},
		{name: "shm", link: "dev/shm", to: "UP"},
		{name: "etc", link: "etc", to: "HOST"},
		{name: "etc-up", link: "etc", to: "UP"},
		{name: "hosts", link: "etc/hosts", to: "HOST/secret"},
		{name: "resolv", link: "etc/resolv.conf", to: "UP/secret"},
		{name: "hostname", link: "etc/hostname", to: "HOST/secret"},
		{name: "passwd", link: "etc/passwd", to: "HOST/secret", user: "alice", refused: "no such user"},
		{name: "passwd-up", link: "etc/passwd", to: "UP/secret", user: "alice", refused: "no such user"},
		{name: "tmp", link: "tmp", to: "HOST"},
		{name: "local", link: "local", to: "HOST"},
		{name: "alloc", link: "alloc", to: "UP"},
		{name: "secrets", link: "secrets", to: "HOST"},
		{name: "work", link: "work", to: "HOST", workDir: "/work", refused: "file exists"},
		{name: "work-proc", link: "work", to: "/proc/1/root/HOST", workDir: "/work", refused: "file exists"},
		{name: "work-fd", workDir: "FD", refused: "image refused"},
		{name: "work-up", workDir: "/UP", refused: "image refused"},
		{name: "work-relative", workDir: "UP", refused: "image refused"},
	}
}

// bait is a directory of the host's that an image leads to.
type bait struct {
	dir   string
	open  *os.File
	token string
}

func newBait(t *testing.T, o *outside, name string) *bait {
	t.Helper()
	b := &bait{dir: filepath.Join(o.dir, name), token: o.token}
	must.NoError(t, os.Mkdir(b.dir, 0o777))
	must.NoError(t, os.Chmod(b.dir, 0o777)) // nothing but the sandbox may be in the way
	must.NoError(t, os.WriteFile(filepath.Join(b.dir, "secret"), []byte(b.text()), 0o666))
	must.NoError(t, os.Chmod(filepath.Join(b.dir, "secret"), 0o666))
	var err error
	b.open, err = os.Open(b.dir)
	must.NoError(t, err)
	t.Cleanup(func() { _ = b.open.Close() })
	return b
}

// text is what is in the bait's file: the token, by which it is known, in the form of a user.
func (b *bait) text() string { return "alice:" + b.token + ":0:0::/:/\n" }

func (b *bait) words(text string) string {
	up := strings.Repeat("../", 16) + strings.TrimPrefix(b.dir, "/")
	return strings.NewReplacer("HOST", b.dir, "UP", up, "FD", fmt.Sprintf("/proc/self/fd/%d", b.open.Fd())).Replace(text)
}

// taken says what has become of the bait.
func (b *bait) taken(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir(b.dir)
	must.NoError(t, err)
	var what strings.Builder
	for _, e := range entries {
		if e.Name() != "secret" {
			fmt.Fprintln(&what, e.Name(), "was made;")
		}
	}
	content, err := os.ReadFile(filepath.Join(b.dir, "secret"))
	if err != nil || string(content) != b.text() {
		fmt.Fprintln(&what, "the file is now:", string(content), err)
	}
	return what.String()
}

// careless does with an image's link what a runtime does that does not look where it goes: it makes a file there, or
// writes to what is there.
func (b *bait) careless(t *testing.T, c trick) {
	t.Helper()
	rootfs := filepath.Join(t.TempDir(), "rootfs")
	at := filepath.Join(rootfs, c.link)
	must.NoError(t, os.MkdirAll(filepath.Dir(at), 0o755))
	if c.link == "" {
		must.NoError(t, os.MkdirAll(rootfs, 0o755))
		at = b.words(c.workDir)
		if !strings.HasPrefix(at, "/proc/") {
			at = rootfs + "/" + at // which Join would clean
		}
	} else {
		must.NoError(t, os.Symlink(strings.TrimPrefix(b.words(c.to), "/proc/1/root/"), at))
	}
	if os.WriteFile(at+"/made", nil, 0o600) != nil {
		must.NoError(t, os.WriteFile(at, []byte("nameserver 192.0.2.1\n"), 0o600))
	}
}

func (b *bait) image(t *testing.T, base v1.Image, c trick) v1.Image {
	t.Helper()
	var layer bytes.Buffer
	if c.link != "" {
		w := tar.NewWriter(&layer)
		must.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: c.link, Linkname: b.words(c.to), Mode: 0o777}))
		must.NoError(t, w.Close())
		added, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
		must.NoError(t, err)
		base, err = mutate.AppendLayers(base, added)
		must.NoError(t, err)
	}
	file, err := base.ConfigFile()
	must.NoError(t, err)
	config := file.Config
	config.WorkingDir = b.words(c.workDir)
	image, err := mutate.Config(base, config)
	must.NoError(t, err)
	return image
}

// TestRootImagesLeadNowhere runs tasks of images whose links lead to the host, and a careless runtime in their stead.
func TestRootImagesLeadNowhere(t *testing.T) {
	program, o := build(t), newOutside(t)
	base, err := registry.FromBinary(program)
	must.NoError(t, err)
	baits := map[string]*bait{}
	for _, c := range tricks() {
		b := newBait(t, o, c.name)
		baits[c.name] = b
		_, err := shared.Registry.Push(t.Context(), "trick-"+c.name+":1", b.image(t, base, c))
		must.NoError(t, err)
		start(t, "trick-"+c.name, "trick-"+c.name, c.user, "", memory/2, o.told(t, "Look", "/"+c.link))
	}
	for _, c := range tricks() {
		t.Run(c.name, func(t *testing.T) { baits[c.name].judge(t, c) })
	}
}

// judge waits for the end of an image's task, and sees that the bait is untouched; and then that it need not be.
func (b *bait) judge(t *testing.T, c trick) {
	t.Helper()
	a, err := shared.Await(t.Context(), "trick-"+c.name, "at its end", func(a *api.Allocation) bool {
		return a.ClientStatus == api.AllocClientStatusComplete || a.ClientStatus == api.AllocClientStatusFailed
	})
	must.NoError(t, err)
	reason := ""
	for _, event := range node.Events(a, api.TaskDriverFailure) {
		reason += event.DisplayMessage
	}
	must.Eq(t, "", b.taken(t))
	if c.refused == "" {
		must.Eq(t, "", reason)
		text, err := shared.AwaitLog(t.Context(), a.ID, "t", "looked\n")
		must.NoError(t, err)
		must.Eq(t, "looked\n", text)
	} else {
		must.StrContains(t, reason, c.refused)
	}
	b.careless(t, c)
	must.NotEq(t, "", b.taken(t), must.Sprint("the trick leads nowhere at all"))
}
