package doctor

import (
	"context"
	"slices"
	"strings"
)

const cgroups = "/sys/fs/cgroup"

// checkCgroups looks for the controllers that tasks' limits need.
func checkCgroups(_ context.Context, h Host, _ nomad) []Finding {
	const a = area("cgroups")
	if h.exists(cgroups + "/cgroup.controllers") {
		have := strings.Fields(h.read(cgroups + "/cgroup.controllers"))
		return a.controllers("v2", []string{"cpu", "cpuset", "memory", "pids"}, func(c string) bool { return slices.Contains(have, c) })
	}
	mode := "v1"
	if h.exists(cgroups + "/unified/cgroup.controllers") {
		mode = "hybrid: v1, with an empty v2 tree beside it"
	}
	return a.controllers(mode, []string{"cpu", "cpuset", "memory", "pids", "devices", "freezer"}, func(c string) bool { return h.exists(cgroups + "/" + c) })
}

func (a area) controllers(mode string, wanted []string, has func(string) bool) []Finding {
	missing := slices.DeleteFunc(slices.Clone(wanted), has)
	if len(missing) == len(wanted) {
		return []Finding{a.fail("controllers", "mount -t cgroup2 none "+cgroups, "no cgroup file system at %s", cgroups)}
	}
	if len(missing) > 0 {
		return []Finding{
			a.ok("version", "%s", mode),
			a.fail("controllers", "enable them on the kernel's command line, such as cgroup_enable=memory", "%s is missing", strings.Join(missing, ", ")),
		}
	}
	return []Finding{a.ok("version", "%s", mode), a.ok("controllers", "%s", strings.Join(wanted, ", "))}
}
