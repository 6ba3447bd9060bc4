package bench

import "slices"

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
	// helpers are the programs that run on the host for each task, by their name or first argument.
	helpers []string
}

// ours runs tasks with a loopback interface of their own; the peers' share the host's network, which costs nothing.
func ours() driver {
	return driver{
		name: "runc", busybox: "/usr/bin/busybox", fromImage: true, config: map[string]any{"network_mode": "none"},
		helpers: []string{"pangaea-shim", "pangaea-runtime"},
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
		helpers: []string{"containerd-shim-runc-v2", "docker_logger"},
	}
}

// helps says whether a process with that command line runs on the host for one task of the driver.
func (d driver) helps(argv []string) bool {
	for _, arg := range argv[:min(2, len(argv))] {
		if slices.Contains(d.helpers, base(arg)) {
			return true
		}
	}
	return false
}
