package sandbox

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// applyNamespaces makes all namespaces private. The user namespace maps the task's 65,536 identifiers to a range
// that no other live task has, so even a task that breaks out owns nothing here, nor anything of its neighbours'.
func applyNamespaces(s *specs.Spec, t *Task, _ *Host) error {
	s.Linux.Namespaces = []specs.LinuxNamespace{
		{Type: specs.PIDNamespace},
		{Type: specs.MountNamespace},
		{Type: specs.IPCNamespace},
		{Type: specs.UTSNamespace},
		{Type: specs.CgroupNamespace},
	}
	if !t.HostNetwork {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: t.Netns})
	}
	if t.HostUsers {
		return nil
	}
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings = idMapping(t)
	s.Linux.GIDMappings = idMapping(t)
	return nil
}

func idMapping(t *Task) []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{ContainerID: 0, HostID: t.IDStart, Size: IDRangeSize}}
}

// applySysctls lets through what lies within the task's own namespaces. A kernel.core_pattern would be the host's.
func applySysctls(s *specs.Spec, t *Task, _ *Host) error {
	if !t.HostNetwork && t.Netns == "" && !t.HostUsers {
		// In a network of its own a task needs no privilege to serve port 80 or to ping.
		s.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 65535"}
	}
	for key, value := range t.Sysctls {
		key = strings.ReplaceAll(key, "/", ".")
		if !NamespacedSysctl(key) {
			return fmt.Errorf("sysctl %q is not the task's own but the host's", key)
		}
		if strings.HasPrefix(key, "net.") && (t.HostNetwork || t.Netns != "") {
			return fmt.Errorf("sysctl %q belongs to a network namespace that the task shares", key)
		}
		if s.Linux.Sysctl == nil {
			s.Linux.Sysctl = map[string]string{}
		}
		s.Linux.Sysctl[key] = value
	}
	return nil
}

// SafeSysctl tells whether a kernel setting can harm neither the host nor other tenants, whatever its value: those that
// Kubernetes lets pods have without their operator's word, for the same reasons.
func SafeSysctl(key string) bool {
	return slices.Contains([]string{
		"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports",
		"net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range", "net.ipv4.tcp_fin_timeout",
		"net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_keepalive_time",
		"net.ipv4.tcp_rmem", "net.ipv4.tcp_syncookies", "net.ipv4.tcp_wmem",
	}, key)
}

// NamespacedSysctl tells whether a kernel setting belongs to a namespace that every task has for itself.
func NamespacedSysctl(key string) bool {
	own := []string{"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"}
	if strings.Contains(key, "..") {
		return false
	}
	return slices.Contains(own, key) || strings.HasPrefix(key, "fs.mqueue.") || strings.HasPrefix(key, "net.")
}
