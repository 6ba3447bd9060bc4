package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pangaea/driver/image"
	"pangaea/e2e/registry"
)

// puller gets an image that it does not have, tells how long that took, and forgets the image again.
type puller struct {
	name   string
	pull   func(ctx context.Context, ref string) (time.Duration, error)
	forget func(ctx context.Context, ref string) error
}

// bigImage is made while the node starts: it takes long to compress.
type bigImage chan func(context.Context, *registry.Registry) (string, error)

func makeBigImage() bigImage {
	made := make(bigImage, 1)
	go func() {
		img, err := registry.Big()
		made <- func(ctx context.Context, in *registry.Registry) (string, error) {
			if err == nil {
				_, err = in.Push(ctx, "big:1", img)
			}
			return in.Address() + "/big:1", err
		}
	}()
	return made
}

// pulls measures the pull of a big image from a registry on this machine, checked and unpacked.
func (n *site) pulls(ctx context.Context, ref string, others []puller) ([]Row, error) {
	row := Row{What: "pull and unpack of 656 MB, 6 layers, 20,000 files", Unit: "s", Promises: []Promise{{Limit: 0.8, Of: "docker"}}}
	row.Note = "digests checked, flushed to the disk by none; ours in a process of its own, the engines through their APIs"
	fmt.Fprintf(n.out, "==> %s\n", row.What)
	for round := range longRounds + 1 {
		for i, p := range append([]puller{ownPuller()}, others...) {
			err := row.take(ctx, p.name, i > 0, round > 0, func() (float64, error) {
				took, err := p.measure(ctx, ref)
				return took.Seconds(), err
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return []Row{row}, nil
}

func (p puller) measure(ctx context.Context, ref string) (time.Duration, error) {
	// What the last one has written must not reach the disk during this one's time.
	unix.Sync()
	took, err := p.pull(ctx, ref)
	if err == nil {
		err = p.forget(ctx, ref)
	}
	if err != nil {
		return 0, fmt.Errorf("%s cannot pull: %w", p.name, err)
	}
	return took, nil
}

// ownPuller pulls into a new image store of ours each time, in a process of its own: in the bench's, which holds the
// image that it offers, the memory would be collected less often than in the plugin.
func ownPuller() puller {
	var dir string
	return puller{
		name: "runc",
		pull: func(ctx context.Context, ref string) (took time.Duration, err error) {
			dir, err = os.MkdirTemp("/var/tmp", "pangaea-pull-")
			if err != nil {
				return 0, err
			}
			self, err := os.Executable()
			if err != nil {
				return 0, err
			}
			output, err := exec.CommandContext(ctx, self, PullVerb, dir, ref).CombinedOutput()
			if err != nil {
				return 0, fmt.Errorf("%w: %s", err, output)
			}
			return time.ParseDuration(string(output))
		},
		forget: func(context.Context, string) error { return os.RemoveAll(dir) },
	}
}

// PullVerb is what the bench calls itself with to have Pull done.
const PullVerb = "pull-image"

// Pull pulls an image from a registry on this machine into a new store of ours and prints how long it took.
func Pull(ctx context.Context, out io.Writer, dir, ref string) error {
	host, _, _ := strings.Cut(ref, "/")
	began := time.Now()
	store, err := image.Open(dir, image.Options{InsecureRegistries: []string{host}})
	if err != nil {
		return err
	}
	_, err = store.Pull(ctx, image.PullRequest{Ref: ref})
	took := time.Since(began)
	err = errors.Join(err, store.Close())
	fmt.Fprint(out, took)
	return err
}
