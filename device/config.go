package device

import (
	"cmp"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"pangaea/device/control"
	"pangaea/device/evict"
	"pangaea/device/health"
	"pangaea/device/holder"
	"pangaea/device/owner"
)

// Config is the plugin's block in a Nomad client's configuration. Every option may be left out.
type Config struct {
	Enabled             bool     `codec:"enabled"`
	LibraryPath         string   `codec:"library_path"`          // another libnvidia-ml.so.1 than the system's
	IgnoredGPUIDs       []string `codec:"ignored_gpu_ids"`       // UUIDs never offered
	FingerprintPeriod   string   `codec:"fingerprint_period"`    // 1.5s, so that an owner's program is noticed within 2 s
	HangAfter           string   `codec:"hang_after"`            // 10s: a call that takes longer makes its GPU unhealthy
	RecoverAfter        int      `codec:"recover_after"`         // 3 clean rounds before a GPU comes back
	StrainAfter         string   `codec:"strain_after"`          // 1m of heat or power brake makes a GPU unhealthy
	MaxUncorrectableECC uint64   `codec:"max_uncorrectable_ecc"` // 0
	GroupBy             string   `codec:"group_by"`              // "numa" or "nvlink": a task's GPUs all lie in one
	AllowReplicas       int      `codec:"allow_replicas"`        // 0: how many tasks may share each GPU, taking turns
	Sharing             *Sharing `codec:"sharing"`
	AllowResidue        bool     `codec:"allow_residue"`   // false: a GPU that its last task left something on waits until it is clean
	MetricsAddress      string   `codec:"metrics_address"` // none: where Prometheus may ask, such as 127.0.0.1:9400
	ControlDir          string   `codec:"control_dir"`     // /var/lib/pangaea/device: where "pangaea gpu" leaves word, see package control
	HoldsDir            string   `codec:"holds_dir"`       // /run/pangaea/gpus: where the driver, with the same option, notes whose each GPU is
	Owner               *Owner   `codec:"owner"`
}

// Sharing is how tasks share a GPU where allow_replicas lets them.
type Sharing struct {
	Mode          string `codec:"mode"`           // "time-sliced": they take turns; "mps": at once, by CUDA's multi-process service
	PipeDirectory string `codec:"pipe_directory"` // /tmp/nvidia-mps: where the operator's MPS control daemon is found, with "mps" only
	Mount         bool   `codec:"mount"`          // false: reservations mount it for drivers that heed that, with "mps" only; see the package's comment on volumes
}

// mpsClients is how clients find the MPS control daemon.
type mpsClients struct {
	dir   string
	mount bool
}

// defaultPipeDirectory is MPS's own.
const defaultPipeDirectory = "/tmp/nvidia-mps"

// Owner is when the machine's owner wants its GPUs for himself.
type Owner struct {
	Hours           []string `codec:"hours"`            // when they are offered: "Mon-Fri 18:00-08:00"
	IdleAfter       string   `codec:"idle_after"`       // 0s: how long he must have left a GPU alone
	Processes       []string `codec:"processes"`        // only these programs of his count
	IgnoreProcesses bool     `codec:"ignore_processes"` // his programs do not count
	ReclaimFile     string   `codec:"reclaim_file"`     // while it exists, the GPUs that it lists, or all, are his
	Evict           bool     `codec:"evict"`            // stop tasks on a GPU that he claims
	NomadAddress    string   `codec:"nomad_address"`    // http://127.0.0.1:4646: whom to ask for that
	NomadTokenFile  string   `codec:"nomad_token_file"` // and with what token
}

// settings is a Config that was understood, as far as it could be.
type settings struct {
	enabled     bool
	libraryPath string
	ignored     map[string]bool
	period      time.Duration
	hangAfter   time.Duration
	groupBy     string
	replicas    int
	mps         *mpsClients // nil when replicas take turns
	metrics     string

	allowResidue bool
	control      control.Dir
	holders      holder.Dir
	evict        bool
	nomad        evict.Nomad
	limits       health.Limits
	owner        owner.Rules
	warnings     []string // mistakes with a safe default
	closed       string   // a mistake with none: nothing is offered, for this reason
}

const (
	defaultPeriod       = 1500 * time.Millisecond
	defaultHangAfter    = 10 * time.Second
	defaultRecoverAfter = 3
	defaultStrainAfter  = time.Minute
	leastPeriod         = 100 * time.Millisecond
	mostReplicas        = 48 // CUDA's own limit of contexts under MPS
)

// understand never fails: Nomad's agent would not start. What it cannot read gets its default, or closes the offer
// where the default would give away what the owner meant to keep.
func (c Config) understand() settings {
	s := settings{enabled: c.Enabled, libraryPath: c.LibraryPath, ignored: make(map[string]bool), groupBy: c.GroupBy, replicas: c.AllowReplicas, metrics: c.MetricsAddress}
	s.control = control.Dir(c.ControlDir)
	if c.ControlDir == "" {
		s.control = control.Default
	}
	s.holders = cmp.Or(holder.Dir(c.HoldsDir), holder.Default)
	if !filepath.IsAbs(string(s.holders)) {
		s.warnings = append(s.warnings, fmt.Sprintf("holds_dir %q is no absolute path; %s it is", s.holders, holder.Default))
		s.holders = holder.Default
	}
	for _, id := range c.IgnoredGPUIDs {
		s.ignored[id] = true
	}
	s.allowResidue = c.AllowResidue
	s.period = s.duration("fingerprint_period", c.FingerprintPeriod, defaultPeriod)
	if s.period < leastPeriod {
		s.warnings = append(s.warnings, fmt.Sprintf("fingerprint_period is at least %s", leastPeriod))
		s.period = leastPeriod
	}
	s.hangAfter = s.duration("hang_after", c.HangAfter, defaultHangAfter)
	s.limits = health.Limits{RecoverAfter: c.RecoverAfter, MaxUncorrectable: c.MaxUncorrectableECC}
	if c.RecoverAfter <= 0 {
		s.limits.RecoverAfter = defaultRecoverAfter
	}
	s.limits.StrainAfter = s.duration("strain_after", c.StrainAfter, defaultStrainAfter)
	if c.GroupBy != "" && c.GroupBy != "numa" && c.GroupBy != "nvlink" {
		s.warnings = append(s.warnings, fmt.Sprintf(`group_by is "numa" or "nvlink", not %q`, c.GroupBy))
		s.groupBy = ""
	}
	if c.AllowReplicas < 0 || c.AllowReplicas > mostReplicas {
		s.warnings = append(s.warnings, fmt.Sprintf("allow_replicas is at most %d; GPUs are not shared", mostReplicas))
		s.replicas = 0
	}
	s.understandMetrics()
	s.understandSharing(c.Sharing)
	if c.Owner != nil {
		s.understandOwner(*c.Owner)
	}
	return s
}

// understandSharing offers nothing rather than less than was meant: with MPS the memory of each is bounded.
func (s *settings) understandSharing(sharing *Sharing) {
	if sharing == nil {
		return
	}
	problem := ""
	switch sharing.Mode {
	case "mps":
		problem = s.understandMPS(*sharing)
	case "", "time-sliced":
		if sharing.PipeDirectory != "" || sharing.Mount {
			problem = `pipe_directory and mount are of mode "mps" alone`
		}
	default:
		problem = fmt.Sprintf(`mode is "time-sliced" or "mps", not %q`, sharing.Mode)
	}
	if problem != "" {
		s.closed = "not offered until the plugin's sharing block is right: " + problem
	}
}

func (s *settings) understandMPS(sharing Sharing) (problem string) {
	dir := filepath.Clean(cmp.Or(sharing.PipeDirectory, defaultPipeDirectory))
	switch {
	case s.replicas < 2:
		return fmt.Sprintf(`mode "mps" needs allow_replicas of 2 to %d, how many tasks share each GPU`, mostReplicas)
	case !filepath.IsAbs(dir) || dir == "/":
		return fmt.Sprintf("pipe_directory %q is no absolute path of a directory; MPS's own is %s", sharing.PipeDirectory, defaultPipeDirectory)
	}
	s.mps = &mpsClients{dir: dir, mount: sharing.Mount}
	return ""
}

// understandMetrics warns of an address that others can reach: whoever asks learns whose tasks run here, unasked who
// he is, and each question costs calls to the driver.
func (s *settings) understandMetrics() {
	if s.metrics == "" {
		return
	}
	host, _, err := net.SplitHostPort(s.metrics)
	if err != nil {
		s.warnings = append(s.warnings, fmt.Sprintf(`metrics_address %q is not an address such as "127.0.0.1:9400"; there are no metrics`, s.metrics))
		s.metrics = ""
		return
	}
	if host != "localhost" && !net.ParseIP(host).IsLoopback() {
		s.warnings = append(s.warnings, fmt.Sprintf("metrics_address %q may be reached from other machines, and asks nobody who he is", s.metrics))
	}
}

func (s *settings) understandOwner(o Owner) {
	hours, err := owner.ParseHours(o.Hours)
	if err != nil {
		s.closed = "not offered until the plugin's owner block is right: " + err.Error()
	}
	s.owner = owner.Rules{Hours: hours, Names: o.Processes, Ignore: o.IgnoreProcesses, ReclaimFile: o.ReclaimFile}
	s.evict, s.nomad = o.Evict, evict.Nomad{Address: o.NomadAddress, TokenFile: o.NomadTokenFile}
	if o.IdleAfter == "" {
		return
	}
	s.owner.IdleAfter, err = time.ParseDuration(o.IdleAfter)
	if err != nil {
		s.closed = fmt.Sprintf("not offered until the plugin's owner block is right: idle_after %q is no duration", o.IdleAfter)
	}
}

func (s *settings) duration(name, text string, otherwise time.Duration) time.Duration {
	if text == "" {
		return otherwise
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		s.warnings = append(s.warnings, fmt.Sprintf("%s: %q is no duration; %s it is", name, text, otherwise))
		return otherwise
	}
	return d
}
