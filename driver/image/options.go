package image

import (
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	defaultPullTimeout  = 30 * time.Minute
	defaultStallTimeout = time.Minute
	defaultMaxBytes     = 64 << 30
	maxEntries          = 4_000_000
	maxLayers           = 400 // overlayfs takes 500
	parallelLayers      = 2
)

// Options are the operator's choices; every field's zero value is safe.
type Options struct {
	// Logger gets what no error tells; nil for none.
	Logger hclog.Logger
	// InsecureRegistries lists host[:port] that may be spoken to over plain HTTP, loopback included.
	InsecureRegistries []string
	// AllowedRegistries are globs of what may be pulled, "registry.example" or "registry.example/team/*"; a
	// final "/**" takes everything below. Empty allows all. Registries named here without a glob, in
	// InsecureRegistries or in Mirrors may be at private addresses; all others may not.
	AllowedRegistries []string
	// Mirrors maps a registry to host[:port][/prefix] of its mirrors, asked in order before itself.
	Mirrors map[string][]string
	// AuthFile is a Docker config.json; credential helpers in it are run.
	AuthFile string
	// LocalDirs lists directories that jobs may read layouts and archives from by absolute path. Empty
	// allows none; a path relative to PullRequest.Dir is always fine.
	LocalDirs []string
	// PullTimeout bounds one pull, 30 minutes if 0.
	PullTimeout time.Duration
	// StallTimeout bounds how long a registry may send nothing, one minute if 0.
	StallTimeout time.Duration
	// MaxImageBytes bounds what an image unpacks to, 64 GiB if 0.
	MaxImageBytes int64
	// KeepUnused has a pull fail on a full disk rather than delete what nobody uses. GC is its caller's own choice.
	KeepUnused bool

	keepFrom int64 // smaller in tests
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	if o.PullTimeout <= 0 {
		o.PullTimeout = defaultPullTimeout
	}
	if o.StallTimeout <= 0 {
		o.StallTimeout = defaultStallTimeout
	}
	if o.MaxImageBytes <= 0 {
		o.MaxImageBytes = defaultMaxBytes
	}
	if o.keepFrom <= 0 {
		o.keepFrom = keepFrom
	}
	return o
}

// Policy says when a pull asks the registry.
type Policy string

// The policies. An empty one means PolicyMissing, and for the tag latest, written or not, PolicyAlways: as in Nomad's
// Docker driver, whoever writes that wants what it means today.
const (
	PolicyMissing Policy = "missing" // only if the store does not have the image
	PolicyAlways  Policy = "always"  // always, unless a digest names the image
	PolicyNever   Policy = "never"   // the store has it, or the pull fails
)

func (p Policy) check(r reference) (Policy, error) {
	switch p {
	case "":
		if r.latest() {
			return PolicyAlways, nil
		}
		return PolicyMissing, nil
	case PolicyMissing, PolicyAlways, PolicyNever:
		return p, nil
	}
	return p, fmt.Errorf("unknown pull policy %.20q, use missing, always or never", p)
}

// PullRequest says what to pull.
type PullRequest struct {
	// Ref is name[:tag], name@sha256:..., oci:/path[:tag], oci-archive:/path[:tag] or docker-archive:/path[:name:tag].
	Ref string
	// Username and Password are the job's own credentials, for the registry in Ref only.
	Username, Password string
	// SoftFail pulls without credentials if the operator's file or a credential helper in it fails.
	SoftFail bool
	Policy   Policy
	// Tenant is whose pull it is. Those of one tenant take turns.
	Tenant string
	// Signatures say which images must be signed by whom; none asks for no signatures.
	Signatures []SignatureRule
	// Dir is a directory that the job may read archives from by relative path, its task directory, say.
	Dir string
	// Progress, if set, is called from another goroutine, one call at a time, a few times a second.
	Progress func(Progress)
}

// Progress tells how far a pull is.
type Progress struct {
	Ref                string
	Layers, LayersDone int
	Bytes, TotalBytes  int64 // as downloaded; the total counts only what was missing
}

// MountRequest says what to mount as which task's root.
type MountRequest struct {
	// ID names the task: 1 to 128 of a-z, 0-9 and '-'.
	ID    string
	Image *Image
	// HostUID, HostGID and IDCount are the task's range of IDs; both 0 for no user namespace.
	HostUID, HostGID, IDCount uint32
	// Targets are directories to make in the root file system before it is used, for mounts.
	Targets []string
	// ReadOnly mounts the root file system read-only if Targets are given; without them the runtime, which
	// still has to make mount points, must do that.
	ReadOnly bool
	// DiskBytes bounds the writable layer; 0 means no bound of its own.
	DiskBytes int64
}
