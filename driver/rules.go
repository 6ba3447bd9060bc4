package driver

import (
	"fmt"
	"slices"
	"strings"
)

// rule is one thing that weakens a sandbox, and the operator's option that it needs.
type rule struct {
	// option is the plugin's option.
	option string
	// asked names what the job asks for that is not allowed, or is "".
	asked func(*JobConfig, *settings) string
}

// rules is the one place where a job is held to what the operator allowed. Everything is denied by default.
func rules() []rule {
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
				if !slices.Contains(s.AllowSysctls, strings.ReplaceAll(key, "/", ".")) {
					return fmt.Sprintf("sysctl %q", key)
				}
			}
			return ""
		}},
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
	for _, r := range rules() {
		what := r.asked(j, s)
		if what != "" {
			return fmt.Errorf("%s is not allowed on this host; its operator can allow it with the runc driver's option %s", what, r.option)
		}
	}
	return nil
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
