package supervisor

import (
	"context"
	"os/exec"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	"pangaea/driver/record"
)

// runtime is the one of a name; "" is the configured one.
func (s *Supervisor) runtime(name string) (Runtime, bool) {
	if name == "" {
		return Runtime{Path: s.conf.RuntimePath, Kind: s.conf.RuntimeKind, Args: s.conf.RuntimeArgs}, true
	}
	r, ok := s.conf.Others[name]
	return r, ok
}

// suit makes the task's spec one that its runtime takes, and completes what is recorded of how to run it.
func (s *Supervisor) suit(l Launch, launch *record.Launch) (*specs.Spec, error) {
	if launch.RuntimeKind == KindPangaea {
		return l.Spec, nil
	}
	spec := *l.Spec
	// Runtimes take orders from annotations, and these are the job's.
	spec.Annotations = nil
	if launch.RuntimeKind == KindRunsc {
		r, _ := s.runtime(l.Runtime)
		return &spec, suitRunsc(&spec, r, launch, l.Dir)
	}
	return &spec, nil
}

// runtimeCommand is a command of the runtime that a task was started with; after an upgrade the program may lie
// elsewhere, so this process's configuration wins if it is the same kind of runtime.
func (s *Supervisor) runtimeCommand(ctx context.Context, dir string, launch *record.Launch, args ...string) *exec.Cmd {
	path := launch.Runtime
	now, ok := s.runtime(launch.RuntimeName)
	if ok && now.Path != "" && now.Kind == launch.RuntimeKind {
		path = now.Path
	}
	all := append([]string{}, launch.RuntimeArgs...)
	all = append(all, "--root", launch.Root(dir), "--log", filepath.Join(dir, runtimeLog))
	cmd := exec.CommandContext(ctx, path, append(all, args...)...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	return cmd
}

// deleteOCI has the runtime forget a container; it may never have known it.
func (s *Supervisor) deleteOCI(ctx context.Context, dir string, launch *record.Launch) {
	err := s.runtimeCommand(ctx, dir, launch, "delete", "--force", launch.Container()).Run()
	if err != nil {
		s.conf.Logger.Debug("the runtime could not delete the container", "task_id", launch.ID, "error", err)
	}
}
