package gpu

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"
)

// Config says where the NVIDIA driver is.
type Config struct {
	// Root is where the driver is installed: "/" or "" for the host itself.
	Root string
	// Dir is where prepared driver files go. It should lie on the same file system as the driver's libraries, or
	// they are copied.
	Dir string
	// Proc is the host's /proc, and "" means that.
	Proc   string
	Logger hclog.Logger
}

// Device is a device node.
type Device struct {
	// Source is the node on the host, Target where programs expect it.
	Source, Target string
	Major, Minor   int64
}

// Edits are what a sandbox needs for its granted GPUs.
type Edits struct {
	// UUIDs are the granted devices, sorted.
	UUIDs   []string
	Devices []Device
	// Driver is a host directory with lib64, lib and bin.
	Driver string
	// Version is the driver's version.
	Version string
	// Masked are kernel files about GPUs of others.
	Masked []string
}

// generator computes what NVIDIA's driver wants for all devices and for one.
type generator interface {
	common() (nodes []string, files []string, err error)
	device(uuid string) (nodes []string, err error)
}

// Injector computes edits and remembers them for as long as the driver and its nodes stay the same: initialising NVML
// takes seconds on machines without persistence mode. It is safe for concurrent use.
type Injector struct {
	conf Config
	// newGenerator is nvcdi's, except in tests.
	newGenerator func(Config) (generator, error)

	mu      sync.Mutex
	state   string
	shared  *shared
	devices map[string][]Device
}

// shared is what every GPU task gets.
type shared struct {
	nodes []Device
	dir   string
}

// New returns an injector. It does no I/O: a host without a driver is one that grants no GPU.
func New(conf Config) *Injector {
	if conf.Root == "" {
		conf.Root = "/"
	}
	if conf.Proc == "" {
		conf.Proc = "/proc"
	}
	if conf.Logger == nil {
		conf.Logger = hclog.NewNullLogger()
	}
	return &Injector{conf: conf, newGenerator: newToolkit}
}

// Edits returns what the granted devices need. No grant needs nothing, and touches neither NVML nor the disk.
func (i *Injector) Edits(uuids []string) (Edits, error) {
	if len(uuids) == 0 {
		return Edits{}, nil
	}
	if !i.Installed() {
		// NVIDIA's generator would look for it everywhere first.
		return Edits{}, fmt.Errorf("cannot find the NVIDIA driver: is it installed? Its kernel module is not loaded")
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	err := i.refresh(uuids)
	if err != nil {
		return Edits{}, err
	}
	edits := Edits{UUIDs: uuids, Driver: i.shared.dir, Version: version(i.shared.dir)}
	seen := map[string]bool{}
	add := func(list []Device) {
		for _, d := range list {
			if !seen[d.Target] {
				seen[d.Target] = true
				edits.Devices = append(edits.Devices, d)
			}
		}
	}
	add(i.shared.nodes)
	for _, uuid := range uuids {
		add(i.devices[uuid])
	}
	edits.Masked = foreignProc(i.conf.Proc, edits.Devices)
	return edits, nil
}

// refresh fills the memory for these devices, and forgets it first if the driver has changed. The caller holds mu.
func (i *Injector) refresh(uuids []string) error {
	state := driverState(i.conf)
	if state != i.state {
		i.state, i.shared, i.devices = state, nil, map[string][]Device{}
	}
	var g generator
	for _, uuid := range uuids {
		if _, ok := i.devices[uuid]; ok && i.shared != nil {
			continue
		}
		if g == nil {
			var err error
			g, err = i.newGenerator(i.conf)
			if err != nil {
				return fmt.Errorf("cannot use the NVIDIA driver below %s: %w", i.conf.Root, err)
			}
		}
		err := i.learn(g, uuid)
		if err != nil {
			return err
		}
	}
	return nil
}

func (i *Injector) learn(g generator, uuid string) error {
	if i.shared == nil {
		nodes, files, err := g.common()
		if err != nil {
			return fmt.Errorf("cannot find the NVIDIA driver below %s (is it installed?): %w", i.conf.Root, err)
		}
		dir, err := prepare(i.conf, files)
		if err != nil {
			return err
		}
		devices, err := openNodes(i.conf.Root, nodes, controlNode)
		if err != nil {
			return err
		}
		i.shared = &shared{nodes: devices, dir: dir}
	}
	nodes, err := g.device(uuid)
	if err != nil {
		return fmt.Errorf("cannot find GPU %s, which was granted (has it fallen off the bus?): %w", uuid, err)
	}
	devices, err := openNodes(i.conf.Root, nodes, deviceNode)
	if err != nil {
		return err
	}
	if len(devices) == 0 {
		return fmt.Errorf("cannot find a device node for GPU %s below %s", uuid, filepath.Join(i.conf.Root, "dev"))
	}
	i.devices[uuid] = devices
	i.conf.Logger.Debug("learned a GPU's device nodes", "gpu", uuid, "nodes", len(devices))
	return nil
}

// version is the driver's, which starts the name of its prepared directory.
func version(dir string) string {
	v, _, _ := strings.Cut(filepath.Base(dir), "_")
	return v
}
