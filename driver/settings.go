package driver

import (
	"fmt"
	"math"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"pangaea/driver/egress"
	"pangaea/driver/hold"
	"pangaea/driver/sandbox"
)

// settings is the operator's configuration, understood. A bad option leaves its default and a problem: the plugin
// still configures, because Nomad's agent would not start otherwise, and says in its fingerprint what is wrong.
type settings struct {
	Config
	pullTimeout, stallTimeout, gcInterval, gcMaxAge time.Duration
	maxImage, diskLimit                             int64
	pids                                            int64
	idStart, idSlots                                uint32
	caps                                            []string
	egress                                          egress.Config
	problems                                        []string
}

const (
	defaultGCInterval = time.Hour
	defaultGCMaxAge   = 14 * 24 * time.Hour
	defaultGCHigh     = 85
	defaultGCLow      = 75
)

func newSettings(c Config) *settings {
	s := &settings{Config: c}
	if s.StateDir == "" {
		s.StateDir = defaultStateDir
	}
	if !filepath.IsAbs(s.StateDir) || filepath.Clean(s.StateDir) != s.StateDir {
		s.problem("state_dir %q must be a clean absolute path", s.StateDir)
		s.StateDir = defaultStateDir
	}
	if s.HoldsDir == "" {
		s.HoldsDir = hold.Default
	}
	if !filepath.IsAbs(s.HoldsDir) {
		s.problem("holds_dir %q must be an absolute path", s.HoldsDir)
		s.HoldsDir = hold.Default
	}
	if s.DriverRoot != "" && !filepath.IsAbs(s.DriverRoot) {
		s.problem("driver_root %q must be an absolute path", s.DriverRoot)
	}
	s.pullTimeout = s.duration("pull_timeout", c.PullTimeout, 0)
	s.stallTimeout = s.duration("stall_timeout", c.StallTimeout, 0)
	s.gcInterval = s.duration("gc interval", c.GC.Interval, defaultGCInterval)
	s.gcMaxAge = s.duration("gc max_age", c.GC.MaxAge, defaultGCMaxAge)
	s.maxImage = s.size("max_image_size", c.MaxImageSize)
	s.diskLimit = s.size("disk_limit", c.DiskLimit)
	s.pids = c.PidsLimit
	if s.pids == 0 {
		s.pids = defaultPids
	}
	if s.pids < 0 {
		s.problem("pids_limit must be positive")
		s.pids = defaultPids
	}
	s.watermarks()
	s.userRange()
	s.allowedCaps()
	s.allowedLists()
	s.signatureBlocks()
	s.egressPolicy()
	s.namedRuntimes()
	return s
}

func (s *settings) problem(format string, args ...any) {
	s.problems = append(s.problems, fmt.Sprintf(format, args...))
}

func (s *settings) duration(name, text string, otherwise time.Duration) time.Duration {
	if text == "" {
		return otherwise
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		s.problem("%s %q must be a positive duration such as 30m", name, text)
		return otherwise
	}
	return d
}

func (s *settings) size(name, text string) int64 {
	n, err := parseSize(text)
	if err != nil {
		s.problem("%s: %v", name, err)
	}
	return n
}

func (s *settings) watermarks() {
	if s.GC.HighWatermark == 0 {
		s.GC.HighWatermark = defaultGCHigh
	}
	if s.GC.LowWatermark == 0 {
		s.GC.LowWatermark = min(defaultGCLow, s.GC.HighWatermark)
	}
	if s.GC.HighWatermark < 0 || s.GC.HighWatermark > 100 || s.GC.LowWatermark < 0 || s.GC.LowWatermark > s.GC.HighWatermark {
		s.problem("gc watermarks must be percentages, the low one not above the high one")
		s.GC.HighWatermark, s.GC.LowWatermark = defaultGCHigh, defaultGCLow
	}
}

// userRange checks that the tasks' identifiers stay clear of those that the host itself may use.
func (s *settings) userRange() {
	start, count := s.Userns.Start, s.Userns.Count
	if start == 0 {
		start = defaultIDStart
	}
	if count == 0 {
		count = defaultIDCount
	}
	if start < 1<<17 || start > 1<<31 || count < sandbox.IDRangeSize || count > 1<<31-start {
		s.problem("userns range %d+%d must start at 131072 or above, hold at least 65536 and end below 2^31", start, count)
		start, count = defaultIDStart, defaultIDCount
	}
	s.idStart, s.idSlots = uint32(start), uint32(count/sandbox.IDRangeSize)
}

func (s *settings) allowedCaps() {
	for _, name := range s.AllowCaps {
		c, ok := capability(name)
		if !ok {
			s.problem("allow_caps: there is no capability %q", name)
			continue
		}
		s.caps = append(s.caps, c)
	}
}

// allowedLists checks what would otherwise never match and seem to have been allowed.
func (s *settings) allowedLists() {
	if s.AllowSeccompProfiles != "" && !filepath.IsAbs(s.AllowSeccompProfiles) {
		s.problem("allow_seccomp_profiles %q must be the absolute path of a directory", s.AllowSeccompProfiles)
	}
	for _, device := range s.AllowDevices {
		if !strings.HasPrefix(device, "/dev/") || filepath.Clean(device) != device {
			s.problem("allow_devices: %q must be a clean path below /dev", device)
		}
	}
	for _, pattern := range s.ExtraLabels {
		_, err := path.Match(pattern, "")
		if err != nil {
			s.problem("extra_labels: %q is no pattern: write a name such as job_name, or task*", pattern)
		}
	}
}

// parseSize reads 64MiB, 1g or a number of bytes; "" is 0.
func parseSize(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := humanize.ParseBytes(text)
	if err != nil || n > math.MaxInt64 {
		return 0, fmt.Errorf("cannot read size %q: write it like 64MiB", text)
	}
	return int64(n), nil
}

// capability gives the kernel's name of a capability written as chown, CHOWN or CAP_CHOWN.
func capability(name string) (string, bool) {
	c := "CAP_" + strings.TrimPrefix(strings.ToUpper(name), "CAP_")
	return c, slices.Contains(capabilityNames(), c)
}
