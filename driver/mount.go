package driver

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/client/allocdir"
	"github.com/hashicorp/nomad/plugins/drivers"

	"pangaea/driver/sandbox"
	"pangaea/driver/supervisor"
)

// minLeaseTTL leaves the writer of a lease time for one hiccup.
const minLeaseTTL = 2 * time.Second

// planMounts lists the task's own directories, the volumes that Nomad resolved, and what the job asks for, which
// rules.go has already judged.
func planMounts(t *sandbox.Task, cfg *drivers.TaskConfig, job *JobConfig) error {
	dir := cfg.TaskDir()
	t.Binds = []sandbox.Bind{
		{Source: dir.SharedAllocDir, Target: allocdir.SharedAllocContainerPath, Mapped: true},
		{Source: dir.LocalDir, Target: allocdir.TaskLocalContainerPath, Mapped: true},
		{Source: dir.SecretsDir, Target: allocdir.TaskSecretsContainerPath, Mapped: true},
	}
	for _, m := range cfg.Mounts {
		b := sandbox.Bind{Source: m.HostPath, Target: path.Join("/", m.TaskPath), ReadOnly: m.Readonly, Mapped: true}
		var err error
		b.Propagation, err = propagation(m.PropagationMode)
		if err != nil {
			return fmt.Errorf("cannot mount volume at %q: %w", m.TaskPath, err)
		}
		t.Binds = append(t.Binds, b)
	}
	for _, v := range job.Volumes {
		b, err := parseVolume(v)
		if err != nil {
			return err
		}
		t.Binds = append(t.Binds, b)
	}
	for _, m := range job.Mounts {
		err := planMount(t, m)
		if err != nil {
			return err
		}
	}
	return nil
}

// propagation tells whether what the host mounts later below a volume shows in the task. The other direction would have
// a task's mounts show on the host.
func propagation(mode string) (string, error) {
	switch mode {
	case "", "private", "rprivate":
		return "rprivate", nil
	case "host-to-task", "rslave":
		return "rslave", nil
	}
	return "", fmt.Errorf(`propagation %q is not possible: use "private" or "host-to-task"; a sandbox mounts nothing on its host`, mode)
}

func planMount(t *sandbox.Task, m JobMount) error {
	switch m.Type {
	case "bind":
		mode, err := propagation(m.Propagation)
		if err != nil {
			return fmt.Errorf("cannot mount at %q: %w", m.Target, err)
		}
		t.Binds = append(t.Binds, sandbox.Bind{Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly, Mapped: true, Propagation: mode})
	case "tmpfs", "":
		size, err := parseSize(m.Size)
		if err != nil {
			return fmt.Errorf("cannot mount at %q: %w", m.Target, err)
		}
		mode := uint64(0)
		if m.Mode != "" {
			mode, err = strconv.ParseUint(m.Mode, 8, 12)
			if err != nil {
				return fmt.Errorf("cannot mount at %q: mode %q is not octal", m.Target, m.Mode)
			}
		}
		t.Tmpfs = append(t.Tmpfs, sandbox.Tmpfs{Target: m.Target, SizeBytes: size, Mode: uint32(mode)})
	default:
		return fmt.Errorf(`cannot mount at %q: type %q is neither "tmpfs" nor "bind"`, m.Target, m.Type)
	}
	return nil
}

// parseVolume reads /host:/task[:ro]. A relative source would lead through directories that tenants write.
func parseVolume(text string) (sandbox.Bind, error) {
	parts := strings.Split(text, ":")
	if len(parts) < 2 || len(parts) > 3 || !filepath.IsAbs(parts[0]) || (len(parts) == 3 && parts[2] != "ro" && parts[2] != "rw") {
		return sandbox.Bind{}, fmt.Errorf("cannot read volume %q: write it like /host/path:/task/path:ro", text)
	}
	return sandbox.Bind{Source: parts[0], Target: parts[1], ReadOnly: len(parts) == 3 && parts[2] == "ro", Mapped: true}, nil
}

// lease is the task's dead-man's switch. Its file lies in the task's directory on the host, where Nomad's templates
// write, but in none of the directories that the task itself sees, so the task can't renew it.
func lease(cfg *drivers.TaskConfig, job *JobConfig) (supervisor.Lease, error) {
	if job.Lease.File == "" && job.Lease.TTL == "" {
		return supervisor.Lease{}, nil
	}
	ttl, err := time.ParseDuration(job.Lease.TTL)
	if err != nil || ttl < minLeaseTTL {
		return supervisor.Lease{}, fmt.Errorf("cannot use lease ttl %q: it must be a duration of at least %s", job.Lease.TTL, minLeaseTTL)
	}
	first, _, _ := strings.Cut(job.Lease.File, "/")
	if !filepath.IsLocal(job.Lease.File) || filepath.Clean(job.Lease.File) != job.Lease.File ||
		slices.Contains([]string{allocdir.SharedAllocName, allocdir.TaskLocal, allocdir.TaskSecrets, "tmp", "private", "."}, first) {
		return supervisor.Lease{}, fmt.Errorf("cannot use lease file %q: it must be a path below the task's directory that the task itself does not see", job.Lease.File)
	}
	return supervisor.Lease{File: filepath.Join(cfg.TaskDir().Dir, job.Lease.File), TTL: ttl}, nil
}
