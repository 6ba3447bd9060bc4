package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/nomad/plugins/drivers"
	pstructs "github.com/hashicorp/nomad/plugins/shared/structs"

	"pangaea/driver/apparmor"
)

// unconfined is what an operator, or a job that he lets, writes to do without a profile of AppArmor's.
const unconfined = "unconfined"

// armor is the host's AppArmor as this plugin process knows it.
type armor struct {
	host apparmor.Host

	mu    sync.Mutex
	fresh bool // the driver's own profile was loaded by this process, so that it is this version's
}

// errNoAppArmor says that a profile was named where none can be had.
var errNoAppArmor = errors.New("this host's kernel has no AppArmor")

// profileFor is the profile that a task runs under, and "" for none: the job's choice, else the operator's, else the
// driver's own where the host can load it.
func (a *armor) profileFor(ctx context.Context, s *settings, asked string) (string, error) {
	profile := cmp.Or(asked, s.AppArmor)
	switch {
	case profile == unconfined:
		return "", nil
	case !a.host.Enabled():
		if profile == "" {
			return "", nil
		}
		return "", fmt.Errorf("cannot use AppArmor's profile %q: %w", profile, errNoAppArmor)
	case profile == "" && !a.loadable():
		return "", nil
	case profile == "" || profile == apparmor.OwnProfile:
		return apparmor.OwnProfile, a.ensure(ctx)
	}
	loaded, err := a.host.Loaded(profile)
	if err == nil && !loaded {
		err = fmt.Errorf("cannot use AppArmor's profile %q: it is not loaded on this host, or only complains (apparmor_parser --replace FILE loads and enforces it)", profile)
	}
	return profile, err
}

// loadable tells whether the driver's own profile could be loaded here.
func (a *armor) loadable() bool { return a.host.CanLoad() == nil }

// ensure loads the driver's own profile if this process has not, or if somebody has unloaded it.
func (a *armor) ensure(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	loaded, err := a.host.Loaded(apparmor.OwnProfile)
	if err != nil || (loaded && a.fresh) {
		return err
	}
	err = a.host.Load(ctx)
	if err != nil {
		return err
	}
	a.fresh = true
	return nil
}

// confine decides on the task's profiles. gVisor's tasks make no system calls of the host's, and it takes none of
// AppArmor's.
func (s *startup) confine() (err error) {
	s.plan.Seccomp, err = s.conf.seccompProfile(s.job.SeccompProfile)
	if err != nil {
		return err
	}
	if s.conf.Runtimes[s.runtime].Kind != kindRunsc {
		s.plan.AppArmor, err = s.d.armor.profileFor(s.ctx, s.conf, s.job.AppArmor)
		return err
	}
	if s.job.AppArmor != "" {
		return fmt.Errorf("cannot use apparmor_profile under runtime %q: gVisor is the task's kernel, and takes no profile", s.runtime)
	}
	return nil
}

// addConfinement tells what tasks run under, and takes the driver along if the profile that it is to be can't be had: a
// task that is promised a wall must not run without.
func (d *Driver) addConfinement(ctx context.Context, f *drivers.Fingerprint) *drivers.Fingerprint {
	if f.Health != drivers.HealthStateHealthy {
		return f
	}
	profile, err := d.armor.profileFor(ctx, d.settings(), "")
	if err != nil {
		return sick(fmt.Sprintf(`%v: mend it, or set the driver's option apparmor_profile = %q`, err, unconfined))
	}
	if profile != "" {
		f.Attributes["driver.runc.apparmor"] = pstructs.NewStringAttribute(profile)
	}
	return f
}

// inspectAppArmor tells what tasks would run under, and loads nothing.
func (s *settings) inspectAppArmor(host apparmor.Host) Finding {
	f := Finding{Area: inspectArea, Name: "AppArmor", Verdict: verdictOK}
	warn := func(verdict, seen, fix string) Finding { f.Verdict, f.Seen, f.Fix = verdict, seen, fix; return f }
	switch {
	case s.AppArmor == unconfined:
		f.Seen = "tasks run without a profile, as configured"
	case !host.Enabled() && s.AppArmor == "":
		f.Seen = "not in this kernel; tasks do not rely on it"
	case !host.Enabled():
		return warn(verdictFail, errNoAppArmor.Error(), "take apparmor_profile out of the driver's options")
	case s.AppArmor == "" && host.CanLoad() != nil:
		return warn(verdictWarn, "the kernel has it, but tasks run without a profile: "+host.CanLoad().Error(), `do what it says, or set the driver's option apparmor_profile = "unconfined"`)
	case s.AppArmor == "":
		f.Seen = "tasks run under the driver's own profile " + apparmor.OwnProfile
	default:
		err := s.demandedProfile(host)
		if err != nil {
			return warn(verdictFail, err.Error(), "load it as root with apparmor_parser --replace FILE, or take apparmor_profile out of the driver's options")
		}
		f.Seen = fmt.Sprintf("tasks run under profile %q, as configured", s.AppArmor)
	}
	return f
}

// demandedProfile tells what is wrong with the profile that the operator names.
func (s *settings) demandedProfile(host apparmor.Host) error {
	if s.AppArmor == apparmor.OwnProfile {
		return host.CanLoad()
	}
	loaded, err := host.Loaded(s.AppArmor)
	if err == nil && !loaded {
		err = fmt.Errorf("profile %q is not loaded, or only complains", s.AppArmor)
	}
	return err
}
