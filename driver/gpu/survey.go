package gpu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Survey is what a driver installation has to offer to tasks.
type Survey struct {
	Version   string
	Libraries int
	Nodes     []string // those that every CUDA program needs
	Missing   []string // of these, with paths
}

// Installed tells whether a driver is loaded, or at least its installation was pointed at.
func (i *Injector) Installed() bool {
	_, err := os.Stat(filepath.Join(i.conf.Proc, "driver/nvidia/version"))
	return err == nil || i.conf.Root != "/"
}

// Survey looks at the driver as [Injector.Edits] would for a first grant, and changes nothing on the disk.
func (i *Injector) Survey() (Survey, error) {
	g, err := i.newGenerator(i.conf)
	if err != nil {
		return Survey{}, err
	}
	_, files, err := g.common()
	if err != nil {
		return Survey{}, err
	}
	libraries, bins := sortFiles(files)
	if len(libraries) == 0 {
		return Survey{}, errors.New("cannot find the NVIDIA driver's libraries")
	}
	name, err := dirName(append(libraries, bins...))
	if err != nil {
		return Survey{}, fmt.Errorf("cannot tell the driver's version: %w", err)
	}
	s := Survey{Version: version(name), Libraries: len(libraries)}
	for _, node := range []string{"nvidiactl", "nvidia-uvm"} {
		path := filepath.Join(i.conf.Root, "dev", node)
		_, err := os.Stat(path)
		if err != nil {
			s.Missing = append(s.Missing, path)
			continue
		}
		s.Nodes = append(s.Nodes, path)
	}
	return s, nil
}
