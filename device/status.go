package device

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"pangaea/device/control"
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
func (g *gpu) ids(replicas int) []string {
	var ids []string
	for _, u := range replicate(g.units(nil), replicas) {
		ids = append(ids, u.id)
	}
	return ids
}

// entry is what the machine's owner is told of the card.
func (g *gpu) entry(s settings) control.GPU {
	e := control.GPU{
		UUID: g.uuid, Model: g.name, BusID: g.busID, Index: g.index, Devices: g.ids(s.replicas),
		Healthy: g.verdict.Healthy, Reason: g.verdict.Reason, Reclaim: g.reclaim,
	}
	if g.eviction != nil {
		e.Problem, _ = g.eviction.failed.Load().(string)
	}
	if g.live {
		for _, u := range owner.Owners(g.users, s.owner.Names) {
			e.OwnerProcesses = append(e.OwnerProcesses, control.Process{PID: u.PID, Name: u.Name})
		}
		e.Tasks = tasks(g.users)
	}
	return e
}

// tasks sorts the tasks' processes by task.
func tasks(users []owner.User) []control.Task {
	var all []control.Task
	for _, u := range users {
		if !u.OfNomad {
			continue
		}
		i := slices.IndexFunc(all, func(t control.Task) bool { return t.AllocID == u.Alloc && t.Task == u.Task })
		if i < 0 {
			i = len(all)
			all = append(all, control.Task{AllocID: u.Alloc, Task: u.Task})
		}
		all[i].Processes = append(all[i].Processes, control.Process{PID: u.PID, Name: u.Name})
	}
	slices.SortFunc(all, func(a, b control.Task) int { return strings.Compare(a.AllocID+a.Task, b.AllocID+b.Task) })
	return all
}
