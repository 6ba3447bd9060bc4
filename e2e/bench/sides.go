package bench

import (
	"maps"
	"slices"
)

// busybox is Debian's static busybox: the same program for every driver.
const busybox = "/bin/busybox"

// driver is a task driver to be measured.
type driver struct {
	name string
	// busybox is where the program lies in a task.
	busybox string
	// fromImage says that the driver runs the image; others run the program of the host.
	fromImage bool
	// config is what the driver wants to know besides.
	config map[string]any
	// memory is in MiB; 0 is 16.
	memory int
	// helpers are the programs that run on the host for each task, by their name or first argument.
	helpers []string
	// daemons are the programs that run once for all tasks. The drivers in Nomad itself have none.
	daemons []string
	// foreign says that the driver works for an engine that is neither ours nor Nomad's: where it fails, the others go on.
	foreign bool
}

// ours runs tasks with a loopback interface of their own; the peers' share the host's network, which costs nothing.
func ours() driver {
	return driver{
		name: "runc", busybox: "/usr/bin/busybox", fromImage: true, config: map[string]any{"network_mode": "none"},
		helpers: []string{"pangaea-shim", "pangaea-runtime"}, daemons: []string{"pangaea-driver"},
	}
}

// oursByDefault has the network that the driver makes for a task that says nothing of it.
func oursByDefault() driver {
	d := ours()
	d.config = nil
	return d
}

// nomads are Nomad's own drivers that need nothing else.
func nomads() []driver {
	return []driver{
		{name: "exec", busybox: busybox, helpers: []string{"executor"}},
		{name: "raw_exec", busybox: busybox, helpers: []string{"executor"}},
	}
}

// docker is Nomad's docker driver.
func docker() driver {
	return driver{
		name: "docker", busybox: "/usr/bin/busybox", fromImage: true, config: map[string]any{"network_mode": "host"},
		helpers: []string{"containerd-shim-runc-v2", "docker_logger"}, daemons: []string{"dockerd", "containerd"}, foreign: true,
	}
}

// underRunsc is a driver whose tasks run under gVisor.
func underRunsc(d driver) driver {
	d.name += "+runsc"
	d.config = maps.Clone(d.config)
	d.config["runtime"], d.config["network_mode"] = "runsc", "none"
	d.memory = 128 // gVisor's own kernel is in it
	return d
}

// helps says whether a process with that command line runs on the host for one task of the driver.
func (d driver) helps(argv []string) bool { return runs(argv, d.helpers) }

// serves says whether a process with that command line runs on the host for the driver's tasks.
func (d driver) serves(argv []string) bool { return d.helps(argv) || runs(argv, d.daemons) }

func runs(argv, programs []string) bool {
	return slices.ContainsFunc(argv[:min(2, len(argv))], func(arg string) bool { return slices.Contains(programs, base(arg)) })
}
