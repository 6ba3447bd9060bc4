package supervisor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // has the managers set device rules
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runtime-spec/specs-go"

	"pangaea/driver/cgroup"
	"pangaea/driver/record"
)

// reserve makes the task's cgroups with its limits. runsc would set none on those that Nomad's client has made: it
// takes a cgroup that exists for its caller's business, and knows no rules for devices at all.
func reserve(launch *record.Launch, spec *specs.Spec, group cgroup.Task) error {
	if launch.RuntimeKind != KindRunsc {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
	defer cancel()
	err := group.KillAll(ctx)
	if err != nil {
		return err
	}
	limits := limitsOf(spec.Linux.Resources)
	// runsc's own processes are in there too, and have it for their stdio.
	limits.Devices = append(limits.Devices, &devices.Rule{Type: devices.CharDevice, Major: 1, Minor: 3, Permissions: "rw", Allow: true})
	if launch.CpusetCgroup != "" {
		// The sandbox moves there later; what its kernel shows as processors is decided before.
		cpus, err := os.ReadFile(filepath.Join(launch.CpusetCgroup, "cpuset.cpus"))
		if err != nil {
			return fmt.Errorf("cannot read the task's cpuset: %w", err)
		}
		limits.CpusetCpus = strings.TrimSpace(string(cpus))
	}
	m, err := manager.New(&cgroups.Cgroup{Path: launch.CgroupsPath, Resources: limits})
	if err == nil {
		err = m.Apply(-1)
	}
	if err == nil {
		err = m.Set(limits)
	}
	if err != nil {
		return fmt.Errorf("cannot make the task's cgroups: %w", err)
	}
	return nil
}

// limitsOf translates a spec's resources, those that our specs have.
func limitsOf(r *specs.LinuxResources) *cgroups.Resources {
	limits := &cgroups.Resources{}
	if r == nil {
		return limits
	}
	for _, d := range r.Devices {
		limits.Devices = append(limits.Devices, deviceRule(d))
	}
	if m := r.Memory; m != nil {
		limits.Memory, limits.MemorySwap, limits.MemoryReservation = value(m.Limit), value(m.Swap), value(m.Reservation)
		limits.MemorySwappiness = m.Swappiness
	}
	if c := r.CPU; c != nil {
		limits.CpuShares, limits.CpuQuota, limits.CpuPeriod = value(c.Shares), value(c.Quota), value(c.Period)
		limits.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(limits.CpuShares)
		limits.CpusetCpus = c.Cpus
	}
	if r.Pids != nil {
		limits.PidsLimit = r.Pids.Limit
	}
	return limits
}

func value[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}

// deviceRule translates a rule; what it does not name is all.
func deviceRule(d specs.LinuxDeviceCgroup) *devices.Rule {
	rule := &devices.Rule{
		Type: devices.WildcardDevice, Major: devices.Wildcard, Minor: devices.Wildcard,
		Permissions: devices.Permissions(d.Access), Allow: d.Allow,
	}
	if d.Type != "" {
		rule.Type = devices.Type(d.Type[0])
	}
	if d.Major != nil {
		rule.Major = *d.Major
	}
	if d.Minor != nil {
		rule.Minor = *d.Minor
	}
	return rule
}
