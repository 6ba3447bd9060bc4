package driver

import (
	"cmp"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/plugins/drivers"

	"pangaea/driver/gpu"
	"pangaea/driver/sandbox"
)

// imageFacts is what the driver reads of an image's configuration.
type imageFacts struct {
	Entrypoint, Cmd, Env   []string
	WorkingDir, User, Stop string
	Labels                 map[string]string
}

// command is what the task runs: as with Docker, a job's command replaces the image's Cmd and its args follow.
func command(job *JobConfig, image imageFacts) []string {
	argv := slices.Clone(image.Entrypoint)
	if job.Entrypoint != nil {
		argv = slices.Clone(job.Entrypoint)
	}
	switch {
	case job.Command != "":
		argv = append(argv, job.Command)
		argv = append(argv, job.Args...)
	case len(job.Args) > 0:
		argv = append(argv, job.Args...)
	case job.Entrypoint == nil:
		argv = append(argv, image.Cmd...)
	}
	return argv
}

// plan fills in what the job and its allocation say. The rest (root file system, identifiers, user, GPUs, network
// files) comes from the steps of the start.
func plan(cfg *drivers.TaskConfig, job *JobConfig, image imageFacts, s *settings, h *sandbox.Host) (sandbox.Task, error) {
	t := sandbox.Task{
		ReadonlyRootfs: job.ReadonlyRootfs,
		Args:           command(job, image),
		Cwd:            workDir(job, image),
		ImageEnv:       image.Env,
		Env:            cfg.Env,
		HostUsers:      job.UsernsMode == "host",
		CgroupsPath:    cgroupPath(cfg, h),
		Labels:         labels(cfg, job, s),
		OOMScoreAdj:    job.OOMScoreAdj,
		Terminal:       job.TTY,
	}
	if job.Init {
		t.Init, _ = s.programs()
	}
	if job.UsernsMode != "" && job.UsernsMode != "host" {
		return t, fmt.Errorf(`cannot use userns_mode %q: it is "host", or left out`, job.UsernsMode)
	}
	var err error
	t.Hostname, err = hostName(cfg, job)
	if err != nil {
		return t, err
	}
	err = planLimits(&t, cfg, job, s, h)
	if err != nil {
		return t, err
	}
	err = joinNetwork(&t, cfg, job)
	if err != nil {
		return t, err
	}
	t.Sysctls, _ = splitSysctls(job.Sysctl, t.Netns != "")
	err = checkPorts(cfg, job, t.Netns != "" || t.HostNetwork)
	if err != nil {
		return t, err
	}
	err = planMounts(&t, cfg, job)
	if err != nil {
		return t, err
	}
	return t, planDevices(&t, cfg.Devices, job.Devices)
}

// planLimits fills in what bounds the task.
func planLimits(t *sandbox.Task, cfg *drivers.TaskConfig, job *JobConfig, s *settings, h *sandbox.Host) error {
	var err error
	t.ShmBytes, err = parseSize(job.ShmSize)
	if err != nil {
		return fmt.Errorf("cannot use shm_size: %w", err)
	}
	t.Capabilities, err = jobCaps(job)
	if err != nil {
		return err
	}
	t.Rlimits, err = rlimits(job.Ulimit)
	if err != nil {
		return err
	}
	// The steps that mount the root and pull have use for these.
	_, err = diskBytes(job, s)
	if err == nil {
		_, err = pullTimeout(job)
	}
	if err != nil {
		return err
	}
	t.Resources, err = resources(cfg, job, s, h)
	return err
}

// workDir is the job's choice, else the image's. Images that Docker has built may end it in a slash.
func workDir(job *JobConfig, image imageFacts) string {
	dir := cmp.Or(job.WorkDir, image.WorkingDir)
	return cmp.Or(strings.TrimSuffix(dir, "/"), "/")
}

// jobCaps is what the job adds less what it drops. Nothing is given by default, so drops matter only for "all".
func jobCaps(job *JobConfig) ([]string, error) {
	var caps []string
	for _, name := range job.CapAdd {
		c, ok := capability(name)
		if !ok {
			return nil, fmt.Errorf("cannot add capability %q: there is none of that name", name)
		}
		if !slices.ContainsFunc(job.CapDrop, func(d string) bool { dropped, _ := capability(d); return dropped == c }) {
			caps = append(caps, c)
		}
	}
	return caps, nil
}

// cgroupPath is where Nomad wants the task: on v2 the directory that it hands over, on v1 the directory that it makes
// for the task in each of its controllers beside the cpuset that it hands over.
func cgroupPath(cfg *drivers.TaskConfig, h *sandbox.Host) string {
	scope := cfg.AllocID + "." + cfg.Name
	given := ""
	if cfg.Resources != nil && cfg.Resources.LinuxResources != nil {
		given = cfg.Resources.LinuxResources.CpusetCgroupPath
	}
	if h.CgroupV2 {
		if p, ok := strings.CutPrefix(given, "/sys/fs/cgroup"); ok {
			return path.Clean(p)
		}
		return "/nomad.slice/share.slice/" + scope + ".scope"
	}
	parent := "/nomad"
	if p, ok := strings.CutPrefix(given, "/sys/fs/cgroup/cpuset"); ok {
		p = strings.TrimSuffix(path.Clean(p), "/"+scope)
		parent = path.Dir(p)
	}
	return path.Join(parent, scope)
}

// cpusetCgroup is the cpuset directory that a task joins on cgroup v1.
func cpusetCgroup(cfg *drivers.TaskConfig, h *sandbox.Host) string {
	if h.CgroupV2 || cfg.Resources == nil || cfg.Resources.LinuxResources == nil {
		return ""
	}
	return cfg.Resources.LinuxResources.CpusetCgroupPath
}

// reserveCores gives the task its own cores in the cpuset that Nomad's client has made for it on cgroup v1 and left
// empty, which nothing can join. On v2 they are among the limits of the task's one cgroup.
func reserveCores(cfg *drivers.TaskConfig, h *sandbox.Host) error {
	dir := cpusetCgroup(cfg, h)
	if dir == "" || cfg.Resources.LinuxResources.CpusetCpus == "" {
		return nil
	}
	err := os.WriteFile(filepath.Join(dir, "cpuset.cpus"), []byte(cfg.Resources.LinuxResources.CpusetCpus), 0)
	if err != nil {
		return fmt.Errorf("cannot reserve the task's cores: %w", err)
	}
	return nil
}

// grantGPUs adds what the grant needs.
func grantGPUs(t *sandbox.Task, e gpu.Edits) {
	if len(e.UUIDs) == 0 {
		return
	}
	t.GPUs = sandbox.GPUs{Visible: strings.Join(e.UUIDs, ","), Driver: e.Driver, Masked: e.Masked}
	for _, d := range e.Devices {
		t.Device = append(t.Device, sandbox.Device{Source: d.Source, Target: d.Target, Type: "c", Major: d.Major, Minor: d.Minor, Access: "rw"})
	}
}
