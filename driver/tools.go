package driver

import (
	"fmt"
	"os"
	"path/filepath"

	"pangaea/driver/egress"
	"pangaea/driver/gpu"
	"pangaea/driver/hold"
	"pangaea/driver/image"
	"pangaea/driver/sandbox"
	"pangaea/driver/supervisor"
)

// Names of the sibling programs.
const (
	shimName    = "pangaea-shim"
	runtimeName = "pangaea-runtime"
)

// tools are what tasks are made with. They are opened on first use and not in SetConfig, because Nomad configures two
// plugin processes at start that it never uses.
type tools struct {
	images     *image.Store
	supervisor *supervisor.Supervisor
	gpus       *gpu.Injector
	ids        *idRanges
	holds      hold.Registry
	outlines   *outlines
	uplinks    *egress.Network // nil if disabled
	host       sandbox.Host
}

// open returns the tools, opening them if need be.
func (d *Driver) open() (*tools, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.tools != nil {
		return d.tools, nil
	}
	if d.ctx.Err() != nil {
		return nil, errShutdown
	}
	s := d.conf
	images, err := image.Open(s.StateDir, image.Options{
		Logger:             d.log.Named("image"),
		InsecureRegistries: s.InsecureRegistries,
		AllowedRegistries:  s.AllowedRegistries,
		Mirrors:            s.mirrorMap(),
		AuthFile:           s.Auth.Config,
		LocalDirs:          s.AllowImageDirs,
		PullTimeout:        s.pullTimeout,
		StallTimeout:       s.stallTimeout,
		MaxImageBytes:      s.maxImage,
		KeepUnused:         s.GC.Disabled,
	})
	if err != nil {
		return nil, fmt.Errorf("cannot open the image store (see the driver's option state_dir): %w", err)
	}
	shim, runtime := s.programs()
	d.tools = &tools{
		images:     images,
		supervisor: supervisor.New(supervisor.Config{ShimPath: shim, RuntimePath: runtime, Others: s.others(), Logger: d.log.Named("supervisor")}),
		gpus:       gpu.New(gpu.Config{Root: s.DriverRoot, Dir: filepath.Join(s.StateDir, "gpu"), Logger: d.log.Named("gpu")}),
		ids:        &idRanges{dir: idRegistry, start: s.idStart, slots: s.idSlots},
		holds:      hold.Registry{Dir: s.HoldsDir},
		outlines:   &outlines{dir: filepath.Join(s.StateDir, "outlines")},
		host:       readHost(),
		uplinks:    d.egressLocked(),
	}
	err = d.tools.outlines.Clear()
	if err != nil {
		d.log.Warn("cannot tidy up after an earlier driver", "error", err)
	}
	return d.tools, d.spawnLocked(func() { d.collectImages(images, s) })
}

// programs finds the shim and the runtime: as configured, or beside this program, whatever link Nomad started it by.
func (s *settings) programs() (shim, runtime string) {
	dir := ""
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
		if err == nil {
			dir = filepath.Dir(self)
		}
	}
	shim, runtime = filepath.Join(dir, shimName), filepath.Join(dir, runtimeName)
	if s.ShimPath != "" {
		shim = s.ShimPath
	}
	if s.RuntimePath != "" {
		runtime = s.RuntimePath
	}
	return shim, runtime
}

func (s *settings) mirrorMap() map[string][]string {
	mirrors := map[string][]string{}
	for _, m := range s.Mirrors {
		mirrors[m.Registry] = append(mirrors[m.Registry], m.Hosts...)
	}
	return mirrors
}
