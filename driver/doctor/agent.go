package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/api"

	"pangaea/driver"
)

// Versions of Nomad: the driver lives in the cgroups that 1.7 introduced; the tests run 1.11.
const leastNomad, testedNomad = "1.7.0", "1.11"

// checkAgent asks the agent how it is, and what it believes of this host.
func checkAgent(ctx context.Context, h Host, n nomad) []Finding {
	const a = area("nomad")
	var all []Finding
	if len(n.others) > 0 {
		all = append(all, a.warn("process", "choose with -config and -address", "several agents run here; this is about process %d", n.pid))
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	var self api.AgentSelf
	_, err := n.client.Raw().Query("/v1/agent/self", &self, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return append(all, a.silent(n, err))
	}
	all = append(all, a.version(n, self))
	node := self.Stats["client"]["node_id"]
	if node == "" {
		return append(all, a.warn("client", "point -address at this host's own client", "the agent at %s is no client, so that it runs no tasks", n.address))
	}
	return append(all, a.node(ctx, n, node)...)
}

func (a area) silent(n nomad, err error) Finding {
	var refused api.UnexpectedResponseError
	switch {
	case errors.As(err, &refused) && refused.StatusCode() == http.StatusForbidden:
		return a.warn("agent", "give a token with agent:read and node:read in NOMAD_TOKEN, or its file with -token-file", "%s answers, but not to this token", n.address)
	case n.pid == 0:
		return a.fail("agent", "systemctl start nomad, and journalctl -u nomad if it does not stay up", "no Nomad agent runs here, nor answers at %s", n.address)
	}
	return a.fail("agent", "set NOMAD_ADDR or -address, and NOMAD_CACERT if it speaks TLS", "process %d runs, but %s does not answer: %v", n.pid, n.address, err)
}

func (a area) version(n nomad, self api.AgentSelf) Finding {
	version := "unknown"
	if v, ok := self.Config["Version"].(map[string]any); ok {
		version, _ = v["Version"].(string)
	}
	if !versionAtLeast(version, leastNomad) {
		return a.fail("agent", "upgrade Nomad to "+testedNomad, "version %s at %s: the driver needs %s", version, n.address, leastNomad)
	}
	return a.ok("agent", "version %s at %s (tested with %s)", version, n.address, testedNomad)
}

// versionAtLeast compares major and minor version.
func versionAtLeast(version, least string) bool {
	number := func(v string) int {
		major, rest, _ := strings.Cut(strings.TrimPrefix(v, "v"), ".")
		minor, _, _ := strings.Cut(rest, ".")
		a, errA := strconv.Atoi(major)
		b, errB := strconv.Atoi(minor)
		if errA != nil || errB != nil {
			return 0
		}
		return a*1000 + b
	}
	return number(version) >= number(least)
}

// node is what the servers were told of this host.
func (a area) node(ctx context.Context, n nomad, id string) []Finding {
	node, _, err := n.client.Nodes().Info(id, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return []Finding{a.warn("node", "give a token with node:read, or see why the servers do not answer", "cannot be read: %v", err)}
	}
	var all []Finding
	if node.Status == api.NodeStatusReady && node.SchedulingEligibility == api.NodeSchedulingEligible {
		all = append(all, a.ok("node", "ready, as the servers see it"))
	} else {
		all = append(all, a.warn("node", "nomad node status -self; nomad node eligibility -enable -self", "%s and %s, as the servers see it", node.Status, node.SchedulingEligibility))
	}
	info := node.Drivers["runc"]
	switch {
	case info == nil || !info.Detected:
		all = append(all, a.fail("driver runc", "see what this says of plugin_dir, then restart Nomad", "not known to Nomad"))
	case !info.Healthy:
		all = append(all, a.fail("driver runc", "see below", "unhealthy, as Nomad sees it: %s", info.HealthDescription))
	default:
		all = append(all, a.ok("driver runc", "healthy, as Nomad sees it"))
	}
	return append(all, a.devices(node))
}

func (a area) devices(node *api.Node) Finding {
	healthy, total := 0, 0
	if node.NodeResources != nil {
		for _, group := range node.NodeResources.Devices {
			for _, instance := range group.Instances {
				if group.Vendor != "nvidia" {
					continue
				}
				total++
				if instance.Healthy {
					healthy++
				}
			}
		}
	}
	if healthy < total {
		return a.warn("GPUs", "nomad node status -self -verbose says why", "%d of %d healthy, as Nomad sees it", healthy, total)
	}
	return a.ok("GPUs", "%d, as Nomad sees it", total)
}

// checkProcess looks at what the agent may do, which is what its plugins may do.
func checkProcess(_ context.Context, h Host, n nomad) []Finding {
	const a = area("nomad")
	process, who := "/proc/self", "this process, as no agent runs,"
	if n.pid != 0 {
		process, who = fmt.Sprintf("/proc/%d", n.pid), fmt.Sprintf("the agent (process %d)", n.pid)
	}
	status := h.read(process + "/status")
	if status == "" {
		return []Finding{a.warn("rights", asRoot, "%s could not be looked at", who)}
	}
	if !strings.Contains(status, "\nUid:\t0\t") {
		return []Finding{a.fail("rights", "run Nomad's client as root: User=root in its unit", "%s is not root: the driver cannot make sandboxes", who)}
	}
	have := driver.Capabilities(status, "CapBnd")
	if missing := without(needed(), have); len(missing) > 0 {
		return []Finding{a.fail("rights", "take CapabilityBoundingSet out of Nomad's unit, or run it outside of a container", "%s lacks %s", who, strings.Join(missing, ", "))}
	}
	if missing := without([]string{"CAP_SYS_RESOURCE", "CAP_SYS_PTRACE"}, have); len(missing) > 0 {
		return []Finding{a.warn("rights", "give Nomad's unit all capabilities", "%s lacks %s: tasks' limits cannot be raised above its own", who, strings.Join(missing, ", "))}
	}
	return []Finding{a.ok("rights", "%s is root with all capabilities that the driver uses", who)}
}

// needed are the capabilities without which no sandbox starts.
func needed() []string {
	return []string{
		"CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETFCAP", "CAP_CHOWN", "CAP_FOWNER", "CAP_DAC_OVERRIDE",
		"CAP_KILL", "CAP_MKNOD", "CAP_SYS_CHROOT", "CAP_NET_ADMIN",
	}
}

func without(wanted, have []string) []string {
	var missing []string
	for _, name := range wanted {
		found := false
		for _, h := range have {
			found = found || h == name
		}
		if !found {
			missing = append(missing, name)
		}
	}
	return missing
}
