package driver

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/plugins/drivers"

	"pangaea/driver/hold"
	"pangaea/driver/sandbox"
)

// rule is one thing that weakens a sandbox, and the operator's option that it needs.
type rule struct {
	// option is the plugin's option.
	option string
	// asked names what the job asks for that is not allowed, or is "".
	asked func(*JobConfig, *settings) string
}

// rules is the one place where a job is held to what the operator allowed. Everything is denied by default.
func rules() []rule { //nolint:cyclop // a table, whose entries are functions of their own
	return []rule{
		{"allow_host_network = true", func(j *JobConfig, s *settings) string {
			return unless(s.AllowHostNetwork || j.NetworkMode != "host", `network_mode = "host"`)
		}},
		{"allow_userns_host = true", func(j *JobConfig, s *settings) string {
			return unless(s.AllowHostUsers || j.UsernsMode != "host", `userns_mode = "host"`)
		}},
		{"allow_volumes = true", func(j *JobConfig, s *settings) string {
			hostMount := slices.ContainsFunc(j.Mounts, func(m JobMount) bool { return m.Type == "bind" })
			return unless(s.AllowVolumes || (len(j.Volumes) == 0 && !hostMount), "host paths in mount or volumes")
		}},
		{"allow_caps", func(j *JobConfig, s *settings) string {
			for _, name := range j.CapAdd {
				c, _ := capability(name)
				if !slices.Contains(s.caps, c) {
					return fmt.Sprintf("capability %q", name)
				}
			}
			return ""
		}},
		{"allow_sysctls", func(j *JobConfig, s *settings) string {
			for key := range j.Sysctl {
				key = strings.ReplaceAll(key, "/", ".")
				if !sandbox.SafeSysctl(key) && !slices.Contains(s.AllowSysctls, key) {
					return fmt.Sprintf("sysctl %q", key)
				}
			}
			return ""
		}},
		{"allow_devices", func(j *JobConfig, s *settings) string {
			for _, d := range j.Devices {
				if !slices.Contains(s.AllowDevices, d.HostPath) {
					return fmt.Sprintf("device %q", d.HostPath)
				}
			}
			return ""
		}},
		{"allow_seccomp_profiles", func(j *JobConfig, s *settings) string {
			return unless(s.AllowSeccompProfiles != "" || j.SeccompProfile == "", "seccomp_profile")
		}},
		{"allow_apparmor_profiles", func(j *JobConfig, s *settings) string {
			ok := j.AppArmor == "" || slices.Contains(s.AllowAppArmor, j.AppArmor)
			return unless(ok, fmt.Sprintf("apparmor_profile %q", j.AppArmor))
		}},
		{"allow_swap = true", func(j *JobConfig, s *settings) string {
			return unless(s.AllowSwap || (j.MemorySwap == "" && j.Swappiness == nil), "swap by memory_swap or memory_swappiness")
		}},
	}
}

// refusal is something that other drivers do and no operator can allow here.
type refusal struct {
	asked func(*JobConfig) bool
	text  string
}

// refusals says what to do instead.
func refusals() []refusal {
	shared := func(mode string) bool { return mode != "" && mode != "private" }
	return []refusal{
		{func(j *JobConfig) bool { return j.Privileged }, "privileged: such a task owns its host; name the devices or capabilities that it needs (devices, cap_add)"},
		{func(j *JobConfig) bool { return shared(j.PIDMode) }, "pid_mode: a task outside its own pid namespace sees and signals other tenants' processes"},
		{func(j *JobConfig) bool { return shared(j.IPCMode) }, "ipc_mode: a task outside its own ipc namespace reaches other tenants' memory; shm_size makes its own larger"},
		{func(j *JobConfig) bool { return shared(j.UTSMode) }, "uts_mode: a task outside its own uts namespace could rename the host; hostname names the task's own"},
		{func(j *JobConfig) bool { return shared(j.CgroupNS) }, "cgroupns: a task outside its own cgroup namespace sees the host's and other tenants' cgroups"},
		{func(j *JobConfig) bool { return j.ForcePull }, `force_pull: write image_pull_policy = "always"`},
		{func(j *JobConfig) bool { return j.Load != "" }, `load: write image = "docker-archive:local/NAME.tar", or oci-archive, for an archive that an artifact block has brought`},
		{func(j *JobConfig) bool { return j.Logging != nil }, "logging: output goes to Nomad's logs (nomad alloc logs); the task's logs block bounds them"},
		{func(j *JobConfig) bool { return len(j.SecurityOpt) > 0 }, "security_opt: name a profile of the operator's by seccomp_profile or apparmor_profile; a task never gains privileges anyway"},
		{func(j *JobConfig) bool { return len(j.StorageOpt) > 0 }, `storage_opt: write disk_limit = "10GiB"`},
		{func(j *JobConfig) bool {
			return len(j.NetworkAliases) > 0 || j.MacAddress+j.IPv4Address+j.IPv6Address != ""
		}, "network_aliases and addresses of the task's own: the group's network decides, by a CNI configuration of the operator's"},
		{func(j *JobConfig) bool { return j.CpusetCpus != "" }, "cpuset_cpus: ask for cores in the task's resources"},
		{func(j *JobConfig) bool { return j.MemoryHardLimit != 0 }, "memory_hard_limit: write memory_max in the task's resources"},
		{func(j *JobConfig) bool { return j.VolumeDriver != "" }, "volume_driver: use Nomad's host and CSI volumes, by a volume block of the group"},
		{func(j *JobConfig) bool { return len(j.PortMap) > 0 }, `port_map: map ports in the group's network block, as in port "http" { to = 80 }`},
	}
}

func unless(ok bool, what string) string {
	if ok {
		return ""
	}
	return what
}

// permit refuses a job that asks for more than the operator allows.
func permit(j *JobConfig, s *settings) error {
	for _, r := range refusals() {
		if r.asked(j) {
			return fmt.Errorf("cannot use %s", r.text)
		}
	}
	for _, r := range rules() {
		what := r.asked(j, s)
		if what != "" {
			return fmt.Errorf("%s is not allowed on this host; its operator can allow it with the runc driver's option %s", what, r.option)
		}
	}
	return nil
}

// permitMemory refuses a task without a memory limit, which a job asks for in its resources and not in its config.
func permitMemory(cfg *drivers.TaskConfig, s *settings) error {
	if s.AllowUnlimitedMemory || cfg.Resources == nil || cfg.Resources.NomadResources == nil || cfg.Resources.NomadResources.Memory.MemoryMaxMB != noMemoryLimit {
		return nil
	}
	return errors.New("memory_max = -1 is not allowed on this host; its operator can allow it with the runc driver's option allow_unlimited_memory = true")
}

// permitHold tells a tenant what to do about a GPU that he was granted and must not have.
func permitHold(err error) error {
	switch {
	case errors.Is(err, hold.ErrNamespace):
		return fmt.Errorf("%w, which is not allowed on this host; ask for a whole GPU or a MIG instance, or its operator can allow it with the runc driver's option allow_cross_namespace_gpus = true", err)
	case errors.Is(err, hold.ErrTaken):
		return fmt.Errorf("%w, and may be about to end", err)
	}
	return err
}

// capabilityNames are Linux's, as of 6.x.
func capabilityNames() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK",
		"CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN",
		"CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE",
		"CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
		"CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
	}
}
