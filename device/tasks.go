package device

import (
	"cmp"
	"slices"

	"pangaea/device/control"
	"pangaea/device/holder"
	"pangaea/device/owner"
)

// meetHolders takes in who has which device, as far as Pangaea's driver knows.
func (m *monitor) meetHolders() {
	tasks, err := m.settings.holders.Tasks()
	if err != nil && err.Error() != m.unread {
		m.unread = err.Error()
		m.log.Warn("not every task that has a GPU is known", "error", err)
	}
	m.holders = tasks
}

// attribute names those who have the units. What one of several tasks on a shared GPU does cannot be told from its processes:
// they have the card, not a share.
func attribute(units []unit, holders []holder.Task) {
	for i := range units {
		t, ok := holder.Of(holders, units[i].id)
		if ok || units[i].replicas > 0 {
			units[i].task = t
		}
	}
}

// tasks are all that have the card or a part of it, by what the driver noted, by their processes and, while its owner wants it,
// by Nomad's word: a task that was granted a GPU may take minutes to pull its image.
func (g *gpu) tasks(ids []string, holders []holder.Task) []control.Task {
	var all []control.Task
	add := func(t control.Task) *control.Task {
		i := slices.IndexFunc(all, func(o control.Task) bool { return o.AllocID == t.AllocID && o.Task == t.Task })
		if i < 0 {
			i = len(all)
			all = append(all, t)
		}
		all[i].Namespace, all[i].JobID = cmp.Or(all[i].Namespace, t.Namespace), cmp.Or(all[i].JobID, t.JobID)
		return &all[i]
	}
	for _, h := range holders {
		if slices.ContainsFunc(h.Devices, func(id string) bool { return slices.ContainsFunc(ids, of(card(id))) }) {
			add(control.Task{AllocID: h.AllocID, Task: h.Task, Namespace: h.Namespace, JobID: h.JobID})
		}
	}
	for _, t := range g.eviction.holders() {
		add(t)
	}
	if g.live {
		for _, u := range g.users {
			if u.OfNomad {
				t := add(control.Task{AllocID: u.Alloc, Task: u.Task})
				t.Processes = append(t.Processes, control.Process{PID: u.PID, Name: u.Name})
			}
		}
	}
	slices.SortFunc(all, func(a, b control.Task) int {
		return cmp.Or(cmp.Compare(a.AllocID, b.AllocID), cmp.Compare(a.Task, b.Task))
	})
	return all
}

// of tells the IDs of a card, or of shares of it.
func of(uuid string) func(string) bool {
	return func(id string) bool { return card(id) == uuid }
}

// firstTask is the one that the first of a card's processes belongs to.
func firstTask(users []owner.User) holder.Task {
	alloc, task := owner.Task(users)
	return holder.Task{AllocID: alloc, Task: task}
}
