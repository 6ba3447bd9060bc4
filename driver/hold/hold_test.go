package hold

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/shoenig/test/must"

	"pangaea/driver/gpu"
	"pangaea/driver/record"
)

// task is a hold of a task whose directory is there.
func task(t *testing.T, name, namespace string, devices ...string) Hold {
	t.Helper()
	h := Hold{Namespace: namespace, AllocID: "alloc-" + name, Task: name, TaskDir: filepath.Join(t.TempDir(), name)}
	must.NoError(t, os.Mkdir(h.TaskDir, 0o700))
	for _, id := range devices {
		h.Grant([]gpu.Grant{{ID: id, UUID: id[:5]}})
	}
	return h
}

func TestTake(t *testing.T) {
	cases := []struct {
		name         string
		first, then  []string
		other, cross bool // the second is of another namespace, and that is allowed
		fail         error
	}{
		{name: "other GPUs", first: []string{"GPU-a"}, then: []string{"GPU-b", "MIG-a"}, other: true},
		{name: "shares within a namespace", first: []string{"GPU-a::0"}, then: []string{"GPU-a::1"}},
		{name: "shares across namespaces", first: []string{"GPU-a::0"}, then: []string{"GPU-a::1"}, other: true, fail: ErrNamespace},
		{name: "shares of one among several", first: []string{"GPU-a::0", "GPU-c::1"}, then: []string{"GPU-b::0", "GPU-c::0"}, other: true, fail: ErrNamespace},
		{name: "shares of a MIG instance", first: []string{"MIG-a::0"}, then: []string{"MIG-a::1"}, other: true, fail: ErrNamespace},
		{name: "shares across namespaces, allowed", first: []string{"GPU-a::0"}, then: []string{"GPU-a::1"}, other: true, cross: true},
		{name: "the same share", first: []string{"GPU-a::0"}, then: []string{"GPU-a::0"}, cross: true, fail: ErrTaken},
		{name: "a whole GPU", first: []string{"GPU-a"}, then: []string{"GPU-a"}, fail: ErrTaken},
		{name: "a whole GPU beside a share", first: []string{"GPU-a::0"}, then: []string{"GPU-a"}, cross: true, fail: ErrTaken},
		{name: "a share of a whole GPU", first: []string{"GPU-a"}, then: []string{"GPU-a::0"}, cross: true, fail: ErrTaken},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := Registry{Dir: filepath.Join(t.TempDir(), "holds")}
			first, then := task(t, "first", "team", c.first...), task(t, "then", "team", c.then...)
			if c.other {
				then.Namespace = "rival"
			}
			must.NoError(t, r.Take(first, false))
			err := r.Take(then, c.cross)
			must.ErrorIs(t, err, c.fail)
			if c.fail == nil {
				return
			}
			must.StrNotContains(t, err.Error(), "team")
			must.StrNotContains(t, err.Error(), "first")
			_, statErr := os.Stat(r.file(then.TaskDir))
			must.ErrorIs(t, statErr, os.ErrNotExist)
			r.Release(first.TaskDir)
			must.NoError(t, r.Take(then, false))
		})
	}
}

func TestHoldEnds(t *testing.T) {
	ends := map[string]func(h Hold) error{
		"released":          func(Hold) error { return nil },
		"task is gone":      func(h Hold) error { return os.RemoveAll(h.TaskDir) },
		"task has ended":    func(h Hold) error { return record.WriteExit(h.TaskDir, &record.Exit{Version: 1}) },
		"taken by its task": nil,
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			r := Registry{Dir: t.TempDir()}
			first, then := task(t, "first", "team", "GPU-a::0"), task(t, "then", "rival", "GPU-a::1")
			must.NoError(t, r.Take(first, false))
			must.ErrorIs(t, r.Take(then, false), ErrNamespace)
			switch {
			case end == nil:
				must.NoError(t, r.Take(first, false), must.Sprint("a start that is repeated"))
				return
			case name == "released":
				r.Release(first.TaskDir)
			default:
				must.NoError(t, end(first))
			}
			must.NoError(t, r.Take(then, false))
		})
	}
}

// What nobody can read may be a task that runs.
func TestUnreadableHold(t *testing.T) {
	r := Registry{Dir: t.TempDir()}
	file := filepath.Join(r.Dir, "x.json")
	must.NoError(t, os.WriteFile(file, []byte("{"), 0o600))
	must.ErrorContains(t, r.Take(task(t, "t", "team", "GPU-a::0"), false), "remove "+file)
	must.ErrorContains(t, Registry{Dir: file}.Take(task(t, "u", "team", "GPU-a::0"), false), "cannot make the directory")
}

func TestKeepAsksNobody(t *testing.T) {
	r := Registry{Dir: t.TempDir()}
	must.NoError(t, r.Take(task(t, "first", "team", "GPU-a::0"), false))
	must.NoError(t, r.Keep(task(t, "second", "rival", "GPU-a::1")))
	must.ErrorIs(t, r.Take(task(t, "third", "team", "GPU-a::2"), false), ErrNamespace)
}

// Of many namespaces that come at once, through drivers that know nothing of each other, one has the GPU.
func TestOneNamespaceWins(t *testing.T) {
	dir := t.TempDir()
	for round := range 20 {
		var wg sync.WaitGroup
		var won, held atomic.Int64
		var failed atomic.Value
		for n := range 8 {
			h := task(t, fmt.Sprintf("t%d-%d", round, n), fmt.Sprint("team", n), fmt.Sprintf("GPU-a::%d", n))
			wg.Go(func() {
				err := Registry{Dir: dir}.Take(h, false)
				switch {
				case err == nil:
					won.Add(1)
					if held.Add(1) != 1 {
						failed.Store(errors.New("two namespaces have the GPU"))
					}
					held.Add(-1)
					must.NoError(t, os.RemoveAll(h.TaskDir))
				case !errors.Is(err, ErrNamespace):
					failed.Store(err)
				}
			})
		}
		wg.Wait()
		must.Nil(t, failed.Load())
		must.Positive(t, won.Load())
	}
}
