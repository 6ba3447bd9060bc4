package device

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/plugins/device"

	"pangaea/device/mps"
)

// cleanWithin is how long a reservation waits for a GPU to be known and clean. Nomad hands a GPU out as soon as its last task has
// exited; the kernel may take seconds more.
const cleanWithin = 15 * time.Second

// Reserve grants devices to a task as environment variables. Any number of tasks may ask at once.
func (p *Plugin) Reserve(ids []string) (*device.ContainerReservation, error) {
	if len(ids) == 0 {
		return &device.ContainerReservation{}, nil
	}
	asked := time.Now()
	s := p.snapshotSince(asked)
	for {
		r, unclean, err := s.reserve(ids)
		if unclean == "" || time.Since(asked) >= p.cleanWithin || p.ctx.Err() != nil {
			return r, err
		}
		p.log.Debug("a GPU is not ready yet for its next task", "gpu", unclean, "error", err)
		timer := time.NewTimer(patience / 2)
		select {
		case <-timer.C:
		case <-p.ctx.Done():
		}
		timer.Stop()
		s = p.snapshotSince(time.Now())
	}
}

// reserve grants what a snapshot allows; unclean names a GPU that is not clean or not known, and may yet become so.
func (s *snapshot) reserve(ids []string) (r *device.ContainerReservation, unclean string, err error) {
	env := make(map[string]string, len(ids)+1)
	cards := make([]string, 0, len(ids))
	var shares []unit // by MPS
	for _, id := range ids {
		u, ok := s.find(id)
		switch {
		case !ok:
			unclean, err = s.missing(id)
			if unclean == "" {
				return nil, "", err
			}
		case env[envKey(id)] != "":
			return nil, "", reservationError(id, "asked for twice")
		case slices.Contains(cards, card(id)):
			return nil, "", reservationError(id, "the task has another share of the same GPU; ask for one, or constrain ${device.attr.replicas}")
		case !u.healthy:
			return nil, "", reservationError(id, "it is unhealthy: "+u.reason)
		case u.left != "":
			unclean = id
			err = reservationError(id, "it is not clean after its last task: "+u.left)
		}
		env[envKey(id)] = card(id)
		cards = append(cards, card(id))
		if u.mps != nil {
			shares = append(shares, u)
		}
	}
	if unclean != "" {
		return nil, unclean, err
	}
	env["NVIDIA_VISIBLE_DEVICES"] = strings.Join(cards, ",")
	r = &device.ContainerReservation{Envs: env}
	shareByMPS(r, shares)
	return r, "", nil
}

// missing says why there is no GPU with an id, and names it if it may yet come.
func (s *snapshot) missing(id string) (unclean string, err error) {
	switch {
	case s.problem != "":
		return "", reservationError(id, s.problem)
	case len(s.units) == 0:
		// This process has just begun, and a driver without persistence mode takes seconds to come up.
		return id, reservationError(id, "NVML has told of no GPU since the plugin started")
	}
	return "", reservationError(id, "no such GPU here; it may have been reconfigured")
}

// shareByMPS makes tasks clients of the control daemon. The bounds are the server's, which these variables can only lower: so no
// harm is done where Nomad keeps those of the last of several device blocks alone. Pangaea's own driver tells by the first of
// them, which no job can forge, that it has to refuse the task.
func shareByMPS(r *device.ContainerReservation, shares []unit) {
	if len(shares) == 0 {
		return
	}
	clients := shares[0].mps
	var limits []string
	for _, u := range shares {
		limits = append(limits, card(u.id)+"="+mps.Limit(u.traits.Memory.Value/mib))
	}
	r.Envs["CUDA_MPS_PIPE_DIRECTORY"] = clients.dir
	r.Envs["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = strconv.Itoa(percent(shares[0].replicas))
	r.Envs["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] = strings.Join(limits, ",")
	if clients.mount {
		r.Mounts = []*device.Mount{{TaskPath: clients.dir, HostPath: clients.dir}}
	}
}

// snapshotSince is one whose round began after a moment, or the latest when none comes in time: what a GPU's last task
// left may be younger than the latest round.
func (p *Plugin) snapshotSince(moment time.Time) *snapshot {
	m := p.watching()
	timer := time.NewTimer(3 * patience)
	defer timer.Stop()
	for {
		s := m.published.Load()
		if !s.began.Before(moment) {
			return s
		}
		select {
		case m.pokes <- struct{}{}:
		default: // one is under way, and the round after it sees everything
		}
		select {
		case <-s.changed:
		case <-timer.C:
			return m.published.Load()
		case <-p.ctx.Done():
			return m.published.Load()
		}
	}
}
