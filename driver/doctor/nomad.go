package doctor

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// nomad is what is known of the Nomad on this host before any check.
type nomad struct {
	pid    int   // of its agent, 0 if none runs
	others []int // further agents
	files  []string
	conf   conf
	err    error // why the configuration could not be read

	client  *api.Client
	address string // of the agent's HTTP
	server  string // of a server's HTTP, "" if not known
	consul  string // of Consul's HTTP, "" if not asked for
}

// defaultConfig is where packages put it.
const defaultConfig = "/etc/nomad.d"

// findNomad looks for the agent's process and reads the configuration that it was started with; files says otherwise.
func (h Host) findNomad(files []string) nomad {
	var n nomad
	for _, dir := range h.glob("/proc/[0-9]*") {
		args := strings.Split(strings.TrimRight(h.read(dir+"/cmdline"), "\x00"), "\x00")
		if h.read(dir+"/comm") != "nomad" || !slices.Contains(args, "agent") {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if n.pid != 0 {
			n.others = append(n.others, pid)
			continue
		}
		n.pid, n.files = pid, h.configArgs(dir, args)
	}
	if len(files) > 0 {
		n.files = files
	}
	if len(n.files) == 0 && h.exists(defaultConfig) {
		n.files = []string{defaultConfig}
	}
	n.conf, n.err = h.readConf(n.files)
	return n
}

// configArgs are the -config arguments of a process.
func (h Host) configArgs(process string, args []string) []string {
	cwd, _ := os.Readlink(h.path(process + "/cwd"))
	var files []string
	for i, arg := range args {
		flag, value, assigned := strings.Cut(strings.TrimPrefix(arg, "-"), "=")
		if flag != "-config" && flag != "config" || !strings.HasPrefix(arg, "-") {
			continue
		}
		if !assigned && i+1 < len(args) {
			value = args[i+1]
		}
		if !filepath.IsAbs(value) {
			value = filepath.Join(cwd, value)
		}
		files = append(files, value)
	}
	return files
}
