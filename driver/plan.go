package driver

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/plugins/drivers"

	"pangaea/driver/gpu"
	"pangaea/driver/sandbox"
)

const cpuPeriod = 100_000 // microseconds

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
		Sysctls:        job.Sysctl,
		CgroupsPath:    cgroupPath(cfg, h),
		Labels:         job.Labels,
	}
	if job.UsernsMode != "" && job.UsernsMode != "host" {
		return t, fmt.Errorf(`cannot use userns_mode %q: it is "host", or left out`, job.UsernsMode)
	}
	var err error
	t.Hostname, err = hostName(cfg, job)
	if err != nil {
		return t, err
	}
	t.ShmBytes, err = parseSize(job.ShmSize)
	if err != nil {
		return t, fmt.Errorf("cannot use shm_size: %w", err)
	}
	t.Capabilities, err = jobCaps(job)
	if err != nil {
		return t, err
	}
	t.Rlimits, err = rlimits(job.Ulimit)
	if err != nil {
		return t, err
	}
	t.Resources, err = resources(cfg, job, s, h)
	if err != nil {
		return t, err
	}
	err = joinNetwork(&t, cfg, job)
	if err != nil {
		return t, err
	}
	err = planMounts(&t, cfg, job)
	return t, err
}

func workDir(job *JobConfig, image imageFacts) string {
	for _, d := range []string{job.WorkDir, image.WorkingDir} {
		if d != "" {
			return d
		}
	}
	return "/"
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

// rlimits reads limits like nofile = "1024:4096".
func rlimits(in map[string]string) (map[string]sandbox.Limit, error) {
	out := map[string]sandbox.Limit{}
	for name, text := range in {
		soft, hard, two := strings.Cut(text, ":")
		if !two {
			hard = soft
		}
		s, err := limitValue(soft)
		if err != nil {
			return nil, fmt.Errorf("cannot read ulimit %s = %q: %w", name, text, err)
		}
		h, err := limitValue(hard)
		if err != nil {
			return nil, fmt.Errorf("cannot read ulimit %s = %q: %w", name, text, err)
		}
		key := "RLIMIT_" + strings.TrimPrefix(strings.ToUpper(name), "RLIMIT_")
		if !slices.Contains(sandbox.RlimitNames(), key) {
			return nil, fmt.Errorf("cannot set ulimit %q: there is no such limit for tasks", name)
		}
		out[key] = sandbox.Limit{Soft: s, Hard: h}
	}
	return out, nil
}

func limitValue(text string) (uint64, error) {
	if text == "unlimited" || text == "-1" {
		return ^uint64(0), nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("write a number, soft:hard, or unlimited")
	}
	return n, nil
}

// resources are Nomad's, with the operator's bound on processes.
func resources(cfg *drivers.TaskConfig, job *JobConfig, s *settings, h *sandbox.Host) (sandbox.Resources, error) {
	r := sandbox.Resources{Pids: s.pids}
	if job.PidsLimit < 0 || job.PidsLimit > s.pids {
		return r, fmt.Errorf("cannot set pids_limit to %d: this host's operator allows 1 to %d", job.PidsLimit, s.pids)
	}
	if job.PidsLimit > 0 {
		r.Pids = job.PidsLimit
	}
	if cfg.Resources == nil || cfg.Resources.LinuxResources == nil {
		return r, fmt.Errorf("internal error: Nomad handed over no resources")
	}
	l := cfg.Resources.LinuxResources
	r.MemoryBytes, r.CPUShares = l.MemoryLimitBytes, l.CPUShares
	if n := cfg.Resources.NomadResources; n != nil {
		r.MemoryReservation = n.Memory.MemoryMB << 20
		if r.MemoryBytes == 0 {
			r.MemoryBytes = max(n.Memory.MemoryMB, n.Memory.MemoryMaxMB) << 20
		}
	}
	if h.CgroupV2 {
		// On v1 the cores are in the cpuset that Nomad made.
		r.Cpus = l.CpusetCpus
	}
	if job.CPUHardLimit && l.PercentTicks > 0 {
		r.CPUPeriod, r.CPUQuota = cpuPeriod, int64(l.PercentTicks*cpuPeriod*float64(hostCPUs()))
	}
	return r, nil
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
