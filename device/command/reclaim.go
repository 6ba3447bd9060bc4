package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"
	"time"

	"pangaea/device/control"
)

// reclaim leaves the owner's word, and waits until his GPUs are free.
func (d *desk) reclaim(ctx context.Context) error {
	_, uuids, stale, err := d.asked()
	if err != nil {
		return err
	}
	r := control.Reclaim{By: who(), Since: time.Now(), Note: d.note, Keep: d.keep}
	for _, uuid := range uuids {
		err = d.dir.Reclaim(uuid, r)
		if err != nil {
			return err
		}
	}
	if stale {
		return fmt.Errorf("reclaimed, but %w Tasks that are on the GPUs go on until it does", control.ErrStale)
	}
	return d.await(ctx, uuids, "are not free yet", d.holdsBack)
}

// release takes the owner's word back, and waits until the GPUs are offered or for what keeps them from it.
func (d *desk) release(ctx context.Context) error {
	_, uuids, stale, err := d.asked()
	if err != nil {
		return err
	}
	for _, uuid := range uuids {
		_, err = d.dir.Release(uuid)
		if err != nil {
			return fmt.Errorf("cannot release GPU %s: %w", uuid, err)
		}
	}
	if stale {
		return fmt.Errorf("released, but %w", control.ErrStale)
	}
	return d.await(ctx, uuids, "are not offered yet", func(g control.GPU) string {
		switch {
		case g.Reclaim != nil:
			return "the device plugin has not heard of it yet"
		case !g.Healthy && strings.HasPrefix(g.Reason, "recovering"):
			return g.Reason
		}
		return "" // sick or busy with the owner's own programs is not for this command to wait for
	})
}

// holdsBack is why a reclaimed GPU is not the owner's alone yet, "" when it is.
func (d *desk) holdsBack(g control.GPU) string {
	switch {
	case g.Reclaim == nil || g.Healthy:
		return "the device plugin has not heard of it yet"
	case d.keep:
		return ""
	case g.Asking:
		return "asking Nomad which tasks have it"
	case len(g.Tasks) == 0:
		return ""
	case g.Problem != "":
		return "its tasks cannot be stopped: " + g.Problem
	}
	var names []string
	for _, t := range g.Tasks {
		names = append(names, taskName(t))
	}
	return "stopping " + strings.Join(names, ", ")
}

// await waits until nothing holds back any of the GPUs, and tells of each change on the way.
func (d *desk) await(ctx context.Context, uuids []string, unfinished string, holdsBack func(control.GPU) string) error {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	began, said := time.Now(), make(map[string]string)
	for {
		s, stale, err := d.current()
		if err != nil {
			return err
		}
		if stale {
			return fmt.Errorf("the GPUs %s: %w", unfinished, control.ErrStale)
		}
		gpus := of(s, uuids)
		waiting := 0
		for _, g := range gpus {
			reason := holdsBack(g)
			if reason != "" {
				waiting++
			}
			d.tell(g, reason, said, time.Since(began))
		}
		if waiting == 0 && len(gpus) > 0 {
			return d.finish(s, gpus)
		}
		select {
		case <-time.After(look):
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return errInterrupted
			}
			return fmt.Errorf("%d GPUs %s after %s; what was asked stays in force", waiting, unfinished, d.timeout)
		}
	}
}

// tell says what a GPU waits for, once, and when it has ended.
func (d *desk) tell(g control.GPU, reason string, said map[string]string, after time.Duration) {
	last, known := said[g.UUID]
	if d.json || known && last == reason {
		return
	}
	said[g.UUID] = reason
	if reason == "" {
		reason = "offered: " + offered(g)
		if g.Problem != "" {
			reason += "; a task that is about to start on it would not be known: " + g.Problem
		}
	}
	fmt.Fprintf(d.out, "%5.1fs  %s  %s\n", after.Seconds(), g.UUID, printable(reason))
}

func (d *desk) finish(s control.Status, gpus []control.GPU) error {
	if !d.json {
		return nil
	}
	s.GPUs = gpus
	return d.print(s)
}

// who asks: the one behind sudo, if it was used.
func who() string {
	name := os.Getenv("SUDO_USER")
	if name != "" {
		return name
	}
	u, err := user.Current()
	if err != nil {
		return ""
	}
	return u.Username
}
