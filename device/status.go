package device

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"time"

	"pangaea/device/control"
	"pangaea/device/holder"
	"pangaea/device/owner"
)

// report writes what the monitor knows where the machine's owner can read it, until the context ends.
func (m *monitor) report(ctx context.Context) {
	var publisher *control.Publisher
	defer func() {
		if publisher != nil {
			_ = publisher.Close() // the lock goes with the process at the latest
		}
	}()
	said := ""
	var last []control.GPU
	var at time.Time
	for {
		s := m.published.Load()
		var err error
		if publisher == nil {
			publisher, err = m.settings.control.Publisher()
		}
		if publisher != nil && s.round > 0 && (time.Since(at) >= control.StatusEvery || !reflect.DeepEqual(last, s.gpus)) {
			last, at = s.gpus, time.Now()
			err = publisher.Publish(s.status(at))
		}
		if err != nil && err.Error() != said {
			said = err.Error()
			m.log.Warn("the status for the machine's owner is not written", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
		}
	}
}

func (s *snapshot) status(at time.Time) control.Status {
	status := control.Status{PID: os.Getpid(), At: at, DriverVersion: s.machine.DriverVersion, Problem: s.problem, GPUs: s.gpus}
	if s.machine.CUDAVersion > 0 {
		status.CUDAVersion = fmt.Sprintf("%d.%d", s.machine.CUDAVersion/1000, s.machine.CUDAVersion%1000/10)
	}
	return status
}

// ids are those that Nomad knows the card by.
func (g *gpu) ids(s settings) []string {
	var ids []string
	for _, u := range replicate(g.units(nil), s) {
		ids = append(ids, u.id)
	}
	return ids
}

// entry is what the machine's owner is told of the card.
func (g *gpu) entry(s settings, holders []holder.Task) control.GPU {
	e := control.GPU{
		UUID: g.uuid, Model: g.name, BusID: g.busID, Index: g.index, Devices: g.ids(s),
		Healthy: g.verdict.Healthy, Reason: g.verdict.Reason, Reclaim: g.reclaim,
	}
	e.Tasks = g.tasks(e.Devices, holders)
	e.Asking, e.Problem = g.asking(), g.eviction.problem()
	if g.live {
		for _, u := range owner.Owners(g.users, s.owner.Names) {
			e.OwnerProcesses = append(e.OwnerProcesses, control.Process{PID: u.PID, Name: u.Name})
		}
	}
	return e
}
