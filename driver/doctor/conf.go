package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/hashicorp/hcl"
)

// conf is the part of Nomad's configuration that matters here.
type conf struct {
	dataDir, pluginDir, cniPath string
	plugins                     map[string]map[string]any // config blocks, by the file name of the plugin
}

// readConf reads files and directories in order, what comes later winning, as Nomad does.
func (h Host) readConf(paths []string) (conf, error) {
	c := conf{cniPath: "/opt/cni/bin", plugins: make(map[string]map[string]any)}
	var failed error
	for _, path := range paths {
		files := []string{path}
		info, err := os.Stat(h.path(path))
		if err == nil && info.IsDir() {
			files = append(h.glob(filepath.Join(path, "*.hcl")), h.glob(filepath.Join(path, "*.json"))...)
			slices.Sort(files)
		}
		for _, file := range files {
			err := c.merge(h.path(file))
			if err != nil && failed == nil {
				failed = err
			}
		}
	}
	if c.pluginDir == "" && c.dataDir != "" {
		c.pluginDir = filepath.Join(c.dataDir, "plugins")
	}
	return c, failed
}

func (c *conf) merge(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("cannot read Nomad's configuration: %w", err)
	}
	var all map[string]any
	err = hcl.Decode(&all, string(text))
	if err != nil {
		return fmt.Errorf("cannot understand Nomad's configuration %s: %w", file, err)
	}
	set(&c.dataDir, all["data_dir"])
	set(&c.pluginDir, all["plugin_dir"])
	for _, client := range blocks(all["client"]) {
		set(&c.cniPath, client["cni_path"])
	}
	for _, plugin := range blocks(all["plugin"]) {
		for name, body := range plugin {
			c.plugins[name] = map[string]any{}
			for _, b := range blocks(body) {
				for _, config := range blocks(b["config"]) {
					c.plugins[name] = config
				}
			}
		}
	}
	return nil
}

func set(field *string, value any) {
	text, ok := value.(string)
	if ok && text != "" {
		*field = text
	}
}

// blocks are the bodies of all blocks of one name, as this library gives them.
func blocks(value any) []map[string]any {
	all, _ := value.([]map[string]any)
	return all
}
