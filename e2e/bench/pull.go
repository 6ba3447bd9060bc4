package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"pangaea/driver/image"
	"pangaea/e2e/registry"
)

// puller gets an image that it does not have, and forgets it again.
type puller struct {
	name   string
	pull   func(ctx context.Context, ref string) error
	forget func(ctx context.Context, ref string) error
}

// pulls measures the pull of a big image from a registry on this machine, checked and unpacked.
func (n *site) pulls(ctx context.Context, from *registry.Registry, engine *dockerEngine) ([]Row, error) {
	row := Row{What: "pull and unpack of 656 MB, 6 layers, 20,000 files", Unit: "s", Promises: []Promise{{Limit: 0.8, Of: "docker"}}}
	fmt.Fprintf(n.out, "==> %s\n", row.What)
	img, err := registry.Big()
	if err == nil {
		_, err = from.Push(ctx, "big:1", img)
	}
	if err != nil {
		return nil, err
	}
	pullers := []puller{ownPuller(from.Address())}
	if engine != nil {
		pullers = append(pullers, engine.puller())
	}
	for round := range longRounds + 1 {
		for _, p := range pullers {
			took, err := p.measure(ctx, from.Address()+"/big:1")
			if err != nil {
				return nil, err
			}
			if round > 0 {
				row.add(p.name, took)
			}
		}
	}
	return []Row{row}, nil
}

func (p puller) measure(ctx context.Context, ref string) (float64, error) {
	// What the last one has written must not reach the disk during this one's time.
	unix.Sync()
	began := time.Now()
	err := p.pull(ctx, ref)
	took := time.Since(began).Seconds()
	if err == nil {
		err = p.forget(ctx, ref)
	}
	if err != nil {
		return 0, fmt.Errorf("%s cannot pull: %w", p.name, err)
	}
	return took, nil
}

// ownPuller pulls into a new image store of ours each time.
func ownPuller(address string) puller {
	var dir string
	return puller{
		name: "runc",
		pull: func(ctx context.Context, ref string) (err error) {
			dir, err = os.MkdirTemp("/var/tmp", "pangaea-pull-")
			if err != nil {
				return err
			}
			store, err := image.Open(dir, image.Options{InsecureRegistries: []string{address}})
			if err != nil {
				return err
			}
			_, err = store.Pull(ctx, image.PullRequest{Ref: ref})
			return errors.Join(err, store.Close())
		},
		forget: func(context.Context, string) error { return os.RemoveAll(dir) },
	}
}

func (e *dockerEngine) puller() puller {
	run := func(ctx context.Context, args ...string) error {
		output, err := exec.CommandContext(ctx, "docker", append([]string{"--host", "unix://" + e.socket()}, args...)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("docker %s: %w: %s", args[0], err, output)
		}
		return nil
	}
	return puller{
		name:   "docker",
		pull:   func(ctx context.Context, ref string) error { return run(ctx, "pull", "--quiet", ref) },
		forget: func(ctx context.Context, ref string) error { return run(ctx, "rmi", ref) },
	}
}
