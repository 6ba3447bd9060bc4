package doctor

import (
	"bufio"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// unit looks at how systemd ends Nomad: by default with everything that Nomad started, tasks included.
func (a area) unit(h Host, n nomad) Finding {
	name := h.unitOf(n.pid)
	text := h.unitText(name)
	if text == "" {
		return a.ok("unit", "systemd has no %s; whatever starts Nomad must leave its children alone when it stops", name)
	}
	mode := "control-group"
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		if value, ok := strings.CutPrefix(strings.TrimSpace(lines.Text()), "KillMode="); ok {
			mode = value
		}
	}
	if mode != "process" {
		return a.fail("unit", "systemctl edit "+name+", add [Service] KillMode=process, then systemctl daemon-reload", "%s has KillMode=%s: tasks die whenever the agent is restarted", name, mode)
	}
	return a.ok("unit", "%s has KillMode=process", name)
}

// unitOf is the unit that a process runs in.
func (h Host) unitOf(pid int) string {
	for line := range strings.Lines(h.read(fmt.Sprintf("/proc/%d/cgroup", pid))) {
		base := filepath.Base(strings.TrimSpace(line))
		if strings.HasSuffix(base, ".service") {
			return base
		}
	}
	return "nomad.service"
}

// unitText is the unit's file with its drop-ins behind it, in the order in which systemd reads them.
func (h Host) unitText(name string) string {
	dirs := []string{"/etc/systemd/system/", "/run/systemd/system/", "/usr/local/lib/systemd/system/", "/usr/lib/systemd/system/", "/lib/systemd/system/"}
	text := ""
	for _, dir := range dirs {
		text = h.read(dir + name)
		if text != "" {
			break
		}
	}
	dropIns := make(map[string]string) // of one name, the first directory's counts
	for _, dir := range dirs {
		for _, file := range h.glob(dir + name + ".d/*.conf") {
			if dropIns[filepath.Base(file)] == "" {
				dropIns[filepath.Base(file)] = h.read(file)
			}
		}
	}
	names := make([]string, 0, len(dropIns))
	for file := range dropIns {
		names = append(names, file)
	}
	slices.Sort(names)
	for _, file := range names {
		text += "\n" + dropIns[file]
	}
	return text
}
