package driver

import (
	"context"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	pstructs "github.com/hashicorp/nomad/plugins/shared/structs"
)

const fingerprintInterval = 30 * time.Second

// probe is what the fingerprint asks the machine. Tests stand in for it.
type probe struct {
	exists  func(path string) bool
	read    func(path string) (string, error)
	version func(ctx context.Context, runtime string) (string, error)
	euid    int
}

func newProbe() probe {
	return probe{
		exists: func(path string) bool { _, err := os.Stat(path); return err == nil },
		read: func(path string) (string, error) {
			text, err := os.ReadFile(path)
			return strings.TrimSpace(string(text)), err
		},
		version: runtimeVersion,
		euid:    os.Geteuid(),
	}
}

// Fingerprint streams what the driver is and whether it works, until the caller goes.
func (d *Driver) Fingerprint(ctx context.Context) (<-chan *drivers.Fingerprint, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.swept {
		// Nomad asks this only of the plugin process that it goes on to use.
		d.swept = true
		err := d.spawnLocked(d.sweep)
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
			case ch <- d.addExposure(d.settings().fingerprint(ctx, newProbe())):
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

// requirement is something that this machine must have, and what to do if it has not.
type requirement struct {
	ok   bool
	text string
}

func (s *settings) fingerprint(ctx context.Context, p probe) *drivers.Fingerprint {
	shim, runtime := s.programs()
	filesystems, _ := p.read("/proc/filesystems")
	maxUsers, _ := p.read("/proc/sys/user/max_user_namespaces")
	release, _ := p.read("/proc/sys/kernel/osrelease")
	needs := []requirement{
		{len(s.problems) == 0, strings.Join(s.problems, "; ") + ": correct the driver's plugin block"},
		{p.euid == 0, "the Nomad client does not run as root: the driver needs it to make sandboxes"},
		{p.exists(shim), fmt.Sprintf("%s is missing: install it beside the plugin, or set shim_path", shim)},
		{p.exists(runtime), fmt.Sprintf("%s is missing: install it beside the plugin, or set runtime_path", runtime)},
		{maxUsers != "" && maxUsers != "0", "this kernel allows no user namespaces: raise the sysctl user.max_user_namespaces"},
		{strings.Contains(filesystems, "\toverlay\n") || strings.HasSuffix(filesystems, "\toverlay"), "this kernel has no overlayfs: load the module overlay"},
		{kernelAtLeast(release, 6, 3), fmt.Sprintf("kernel %s is too old: 6.3 is the first that maps the owners of files in memory file systems", release)},
	}
	for _, n := range needs {
		if !n.ok {
			return sick(n.text)
		}
	}
	version, err := p.version(ctx, runtime)
	if err != nil {
		return sick(err.Error())
	}
	cgroup := "v1"
	if p.exists("/sys/fs/cgroup/cgroup.controllers") {
		cgroup = "v2"
	}
	attributes := map[string]*pstructs.Attribute{
		"driver.runc.cgroup": pstructs.NewStringAttribute(cgroup),
		"driver.runc.userns": pstructs.NewBoolAttribute(true), "driver.runc.idmap": pstructs.NewBoolAttribute(true),
		"driver.runc.libcontainer":       pstructs.NewStringAttribute(version),
		"driver.runc.allow_host_network": pstructs.NewBoolAttribute(s.AllowHostNetwork),
		"driver.runc.allow_volumes":      pstructs.NewBoolAttribute(s.AllowVolumes),
	}
	maps.Copy(attributes, identity())
	return &drivers.Fingerprint{Attributes: attributes, Health: drivers.HealthStateHealthy, HealthDescription: drivers.DriverHealthy}
}

func identity() map[string]*pstructs.Attribute {
	return map[string]*pstructs.Attribute{
		"driver.runc": pstructs.NewBoolAttribute(true), "driver.runc.version": pstructs.NewStringAttribute(pluginVersion),
	}
}

func sick(reason string) *drivers.Fingerprint {
	return &drivers.Fingerprint{Attributes: identity(), Health: drivers.HealthStateUnhealthy, HealthDescription: reason}
}

// kernelAtLeast compares a kernel release such as 6.18.5-amd64.
func kernelAtLeast(release string, major, minor int) bool {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return false
	}
	a, err := strconv.Atoi(parts[0])
	if err != nil {
		return false
	}
	digits := strings.IndexFunc(parts[1], func(r rune) bool { return r < '0' || r > '9' })
	if digits >= 0 {
		parts[1] = parts[1][:digits]
	}
	b, err := strconv.Atoi(parts[1])
	return err == nil && (a > major || (a == major && b >= minor))
}
