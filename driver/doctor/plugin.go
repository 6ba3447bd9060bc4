package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/nomad/helper/pluginutils/hclspecutils"
	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/zclconf/go-cty/cty/msgpack"
)

// Plugin is one of the two plugins, as far as the doctor knows them.
type Plugin interface {
	base.BasePlugin
	Inspect(ctx context.Context) []Finding
}

// The file names that Nomad loads the plugins by.
const (
	driverName = "pangaea-driver"
	deviceName = "pangaea-device"
	peerName   = "nomad-device-nvidia"
)

// checkInstall looks at what Nomad's agent reads when it starts.
func checkInstall(_ context.Context, h Host, n nomad) []Finding {
	const a = area("nomad")
	if n.err != nil {
		fix := "correct it, or name another with -config"
		if forbidden(n.err) {
			fix = asRoot
		}
		return []Finding{a.warn("configuration", fix, "%v", n.err)}
	}
	if n.conf.dataDir == "" {
		return []Finding{a.warn("configuration", "name Nomad's configuration with -config", "none found, so that data_dir and plugin_dir are not known")}
	}
	return append(a.pluginDir(h, n.conf), a.dataDir(h, n.conf), a.unit(h, n))
}

func (a area) pluginDir(h Host, c conf) []Finding {
	entries, err := os.ReadDir(h.path(c.pluginDir))
	if forbidden(err) && h.UID != 0 {
		return []Finding{a.warn("plugin_dir", asRoot, "%s could not be looked at", c.pluginDir)}
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return []Finding{a.fail("plugin_dir", "make "+c.pluginDir+" a directory", "%v: Nomad's agent does not start", err)}
	}
	all, there := a.entries(h, c.pluginDir, entries)
	for _, name := range []string{driverName, deviceName} {
		all = append(all, a.installed(c, name, there[name]))
	}
	if _, used := c.plugins[peerName]; used && there[peerName] {
		all = append(all, a.fail(peerName, "take one of them out of the configuration", "is loaded beside %s: both offer the same GPUs", deviceName))
	}
	return all
}

// entries are what Nomad stumbles over, and the programs that it finds.
func (a area) entries(h Host, dir string, entries []os.DirEntry) (all []Finding, there map[string]bool) {
	there = make(map[string]bool)
	for _, entry := range entries {
		name := filepath.Join(dir, entry.Name())
		info, err := os.Stat(h.path(name))
		switch {
		case err != nil:
			target, _ := os.Readlink(h.path(name))
			all = append(all, a.fail("plugin_dir", "rm "+name+", or put "+target+" back", "%s is a dangling link: Nomad's agent does not start", name))
		case !info.IsDir() && info.Mode()&0o111 == 0:
			all = append(all, a.warn("plugin_dir", "chmod +x "+name, "%s is not executable, so that Nomad leaves it out", name))
		default:
			there[entry.Name()] = true
		}
	}
	return all, there
}

func (a area) installed(c conf, name string, there bool) Finding {
	_, configured := c.plugins[name]
	block := fmt.Sprintf("add plugin %q { config {} } to Nomad's configuration", name)
	switch {
	case !there:
		program, _ := os.Executable()
		return a.fail(name, fmt.Sprintf("ln -s %s %s/%s, and %s", program, c.pluginDir, name, block), "not in %s", c.pluginDir)
	case !configured:
		return a.fail(name, block, "in %s, but Nomad loads no plugin without a block of its name", c.pluginDir)
	}
	return a.ok(name, "in %s and configured", c.pluginDir)
}

func (a area) dataDir(h Host, c conf) Finding {
	info, err := os.Stat(h.path(c.dataDir))
	tasks := c.dataDir
	if h.exists(c.dataDir + "/alloc") {
		tasks += "/alloc"
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		return a.ok("data_dir", "%s is not there yet", c.dataDir)
	case err != nil:
		return a.warn("data_dir", asRoot, "%s could not be looked at", c.dataDir)
	case h.Exposed(h.path(tasks)):
		return a.fail("data_dir", "chmod 0700 "+c.dataDir, "%s has mode %04o: other users of this host reach the tasks' directories, where what a task makes setuid is the host's root's", c.dataDir, info.Mode().Perm())
	}
	return a.ok("data_dir", "%s is closed to other users", c.dataDir)
}

// examine configures a plugin as Nomad's agent would at start, and asks it.
func examine(ctx context.Context, name string, p Plugin, config map[string]any) []Finding {
	err := configure(p, config)
	if err != nil {
		return []Finding{area(name).fail("configuration", "correct the plugin's block", "Nomad's agent does not start: %v", err)}
	}
	return p.Inspect(ctx)
}

func configure(p Plugin, config map[string]any) error {
	schema, err := p.ConfigSchema()
	if err != nil {
		return err
	}
	spec, diags := hclspecutils.Convert(schema)
	if diags.HasErrors() {
		return diags
	}
	if config == nil {
		config = map[string]any{}
	}
	value, diags, errs := hclutils.ParseHclInterface(config, spec, nil)
	if diags.HasErrors() {
		return errors.Join(errs...)
	}
	packed, err := msgpack.Marshal(value, value.Type())
	if err != nil {
		return fmt.Errorf("cannot encode the configuration: %w", err)
	}
	return p.SetConfig(&base.Config{PluginConfig: packed})
}
