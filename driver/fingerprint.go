package driver

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	pstructs "github.com/hashicorp/nomad/plugins/shared/structs"
)

const fingerprintInterval = 30 * time.Second

// Fingerprint streams what the driver is and whether it works, until the caller goes.
func (d *Driver) Fingerprint(ctx context.Context) (<-chan *drivers.Fingerprint, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.swept {
		// Nomad asks this only of the plugin process that it goes on to use.
		d.swept = true
		err := d.spawnLocked(d.sweep)
		if network := d.egressLocked(); err == nil && network != nil {
			err = d.spawnLocked(func() { network.Watch(d.ctx) })
		}
		if err != nil {
			return nil, err
		}
	}
	ch := make(chan *drivers.Fingerprint)
	err := d.spawnLocked(func() {
		defer close(ch)
		ticker := time.NewTicker(fingerprintInterval)
		defer ticker.Stop()
		for {
			select {
			case ch <- d.addEgress(d.addExposure(d.addConfinement(ctx, d.settings().fingerprint(ctx, newProbe(&d.runtimes))))):
			case <-ctx.Done():
				return
			case <-d.ctx.Done():
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-d.ctx.Done():
				return
			case <-ticker.C:
			}
		}
	})
	return ch, err
}

func (s *settings) fingerprint(ctx context.Context, p probe) *drivers.Fingerprint {
	needs, libcontainer := s.requirements(ctx, p)
	for _, n := range needs {
		if !n.ok {
			return sick(n.problem())
		}
	}
	cgroup := "v1"
	if p.exists("/sys/fs/cgroup/cgroup.controllers") {
		cgroup = "v2"
	}
	attributes := map[string]*pstructs.Attribute{
		"driver.runc.cgroup": pstructs.NewStringAttribute(cgroup),
		"driver.runc.userns": pstructs.NewBoolAttribute(true), "driver.runc.idmap": pstructs.NewBoolAttribute(true),
		"driver.runc.libcontainer":       pstructs.NewStringAttribute(libcontainer),
		"driver.runc.allow_host_network": pstructs.NewBoolAttribute(s.AllowHostNetwork),
		"driver.runc.allow_volumes":      pstructs.NewBoolAttribute(s.AllowVolumes),
	}
	maps.Copy(attributes, identity())
	f := &drivers.Fingerprint{Attributes: attributes, Health: drivers.HealthStateHealthy, HealthDescription: drivers.DriverHealthy}
	s.addRuntimes(ctx, p, libcontainer, f)
	return f
}

// runtimeAttribute begins the attributes that tell the runtimes' versions.
const runtimeAttribute = "driver.runc.runtime."

// addRuntimes completes a fingerprint with the runtimes that jobs may ask for. One that can't be used is told by its
// name, and takes the driver along only if it is the one that jobs get without asking.
func (s *settings) addRuntimes(ctx context.Context, p probe, own string, f *drivers.Fingerprint) {
	f.Attributes[runtimeAttribute+ownRuntime] = pstructs.NewStringAttribute(own)
	for _, name := range slices.Sorted(maps.Keys(s.Runtimes)) {
		version, err := p.other(ctx, name, s.Runtimes[name])
		switch {
		case err == nil:
			f.Attributes[runtimeAttribute+name] = pstructs.NewStringAttribute(version)
		case name == s.DefaultRuntime:
			*f = *sick(fmt.Sprintf("default_runtime %q can't be used: %v", name, err))
			return
		default:
			f.HealthDescription += fmt.Sprintf(", but runtime %q can't be used: %v", name, err)
		}
	}
}

func identity() map[string]*pstructs.Attribute {
	return map[string]*pstructs.Attribute{
		"driver.runc": pstructs.NewBoolAttribute(true), "driver.runc.version": pstructs.NewStringAttribute(pluginVersion),
	}
}

func sick(reason string) *drivers.Fingerprint {
	return &drivers.Fingerprint{Attributes: identity(), Health: drivers.HealthStateUnhealthy, HealthDescription: reason}
}
