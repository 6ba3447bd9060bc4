package supervisor

import (
	"context"
	"os/exec"
	"path/filepath"

	"pangaea/driver/record"
)

// runtimeCommand is a command of the runtime that a task was started with; after an upgrade the program may lie
// elsewhere, so this process's configuration wins if it is the same kind of runtime.
func (s *Supervisor) runtimeCommand(ctx context.Context, dir string, launch *record.Launch, args ...string) *exec.Cmd {
	path, first := launch.Runtime, launch.RuntimeArgs
	if s.conf.RuntimePath != "" && s.conf.RuntimeKind == launch.RuntimeKind {
		path, first = s.conf.RuntimePath, s.conf.RuntimeArgs
	}
	all := append([]string{}, first...)
	all = append(all, "--root", filepath.Join(dir, runtimeDir), "--log", filepath.Join(dir, "runtime.log"))
	cmd := exec.CommandContext(ctx, path, append(all, args...)...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	return cmd
}

// deleteOCI has the runtime forget a container; it may never have known it.
func (s *Supervisor) deleteOCI(ctx context.Context, dir string, launch *record.Launch) {
	err := s.runtimeCommand(ctx, dir, launch, "delete", "--force", launch.ID).Run()
	if err != nil {
		s.conf.Logger.Debug("the runtime could not delete the container", "task_id", launch.ID, "error", err)
	}
}
