package doctor

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// port is one that Nomad or a pool's gateway listens on unless told otherwise, and the programs that may.
type port struct {
	number int
	use    string
	owners []string
}

func ports() []port {
	return []port{
		{4646, "Nomad's HTTP, or a gateway's", []string{"nomad", "pangaea"}},
		{4647, "Nomad's RPC", []string{"nomad"}},
		{4648, "Nomad's gossip", []string{"nomad"}},
		{4649, "a gateway's tunnel", []string{"pangaea"}},
	}
}

// checkPorts tells who listens where Nomad and the pool want to.
func checkPorts(_ context.Context, h Host, _ nomad) []Finding {
	const a = area("ports")
	listeners := h.listeners()
	var all []Finding
	for _, p := range ports() {
		name := strconv.Itoa(p.number)
		inode, taken := listeners[p.number]
		if !taken {
			all = append(all, a.ok(name, "free (%s)", p.use))
			continue
		}
		who, pid := h.holder(inode)
		switch {
		case who == "" && h.UID != 0:
			all = append(all, a.warn(name, asRoot, "in use (%s), but by whom could not be seen", p.use))
		case who == "":
			all = append(all, a.warn(name, "look with ss -ltnp, in the host's own namespaces", "in use (%s) by a process that is not seen from here", p.use))
		case !contains(p.owners, who):
			all = append(all, a.fail(name, fmt.Sprintf("stop process %d, or move Nomad with its ports block, or a gateway with its own", pid), "taken from %s by %s (process %d)", p.use, who, pid))
		default:
			all = append(all, a.ok(name, "%s (process %d) listens (%s)", who, pid, p.use))
		}
	}
	return all
}

func contains(owners []string, who string) bool {
	for _, owner := range owners {
		if who == owner || strings.HasPrefix(who, owner+"-") {
			return true
		}
	}
	return false
}

// listeners are the TCP ports that somebody listens on, and the sockets' inodes.
func (h Host) listeners() map[int]string {
	const listen = "0A"
	found := make(map[int]string)
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		lines := bufio.NewScanner(strings.NewReader(h.read(file)))
		for lines.Scan() {
			fields := strings.Fields(lines.Text())
			if len(fields) < 10 || fields[3] != listen {
				continue
			}
			number, err := strconv.ParseInt(fields[1][strings.LastIndex(fields[1], ":")+1:], 16, 32)
			if err == nil {
				found[int(number)] = fields[9]
			}
		}
	}
	return found
}

// holder is the process that has a socket open.
func (h Host) holder(inode string) (name string, pid int) {
	for _, fd := range h.glob("/proc/[0-9]*/fd/*") {
		target, err := os.Readlink(h.path(fd))
		if err != nil || target != "socket:["+inode+"]" {
			continue
		}
		process := filepath.Dir(filepath.Dir(fd))
		pid, _ = strconv.Atoi(filepath.Base(process))
		return h.read(filepath.Join(process, "comm")), pid
	}
	return "", 0
}
