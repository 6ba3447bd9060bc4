package scheduler

import (
	"maps"

	"pangaea/federation/pool"
)

// stock is what is left on the nodes of one class while a job is being placed. A stock is shared by the job's groups,
// so that together they never ask for more than was offered.
type stock struct {
	free []pool.Capacity
}

// fit returns how many allocations of the group one node with this capacity takes, at most limit.
func (g *group) fit(capacity pool.Capacity, devices [][]string, limit int) int {
	if g.perNode {
		limit = min(limit, 1)
	}
	limit = min(limit, bound(capacity.CPU, g.cpu, limit), bound(capacity.MemoryMB, g.memory, limit), bound(capacity.DiskMB, g.disk, limit))
	if len(g.devices) == 0 || limit <= 0 {
		return max(limit, 0)
	}
	left := maps.Clone(capacity.Devices)
	n := 0
	for n < limit && g.takeDevices(left, devices) {
		n++
	}
	return n
}

func bound(have, want int64, limit int) int {
	if want <= 0 {
		return limit
	}
	return int(min(max(have, 0)/want, int64(limit)))
}

// takeDevices takes one allocation's devices. Nomad meets a request inside one device group, so this does too. The
// group with the least left that still satisfies goes first, which keeps large ones whole.
func (g *group) takeDevices(left map[string]int, devices [][]string) bool {
	for i, request := range g.devices {
		want, best := int(request.Count), ""
		for _, name := range devices[i] {
			if left[name] >= want && (best == "" || left[name] < left[best]) {
				best = name
			}
		}
		if best == "" {
			return false
		}
		left[best] -= want
	}
	return true
}

// room counts the allocations that the stock takes, at most limit.
func (s *stock) room(g *group, devices [][]string, limit int) int {
	total := 0
	for _, capacity := range s.free {
		total += capacity.Count * g.fit(capacity, devices, limit)
		if total >= limit {
			return limit
		}
	}
	return total
}

// take removes n allocations from the stock, filling the fullest fitting nodes first, and returns how many it took.
func (s *stock) take(g *group, devices [][]string, n int) int {
	taken := 0
	var out []pool.Capacity
	for _, capacity := range s.free {
		want := n - taken
		each := g.fit(capacity, devices, want)
		if want <= 0 || each == 0 {
			out = append(out, capacity)
			continue
		}
		full := min(want/each, capacity.Count)
		rest := 0
		if full < capacity.Count {
			rest = min(want-full*each, each)
		}
		out = append(out, g.split(capacity, devices, full, each, rest)...)
		taken += full*each + rest
	}
	s.free = out
	return taken
}

// split divides a bucket into nodes that got each, one that got rest, and those that got nothing.
func (g *group) split(c pool.Capacity, devices [][]string, full, each, rest int) []pool.Capacity {
	var out []pool.Capacity
	untouched := c.Count - full
	if g.perNode { // a node that has one gets no other, from any later round
		if untouched > 0 {
			c.Count = untouched
			out = append(out, c)
		}
		return out
	}
	if full > 0 {
		used := g.subtract(c, devices, each)
		used.Count = full
		out = append(out, used)
	}
	if rest > 0 {
		used := g.subtract(c, devices, rest)
		used.Count = 1
		out = append(out, used)
		untouched--
	}
	if untouched > 0 {
		c.Count = untouched
		out = append(out, c)
	}
	return out
}

func (g *group) subtract(c pool.Capacity, devices [][]string, n int) pool.Capacity {
	c.CPU -= int64(n) * g.cpu
	c.MemoryMB -= int64(n) * g.memory
	c.DiskMB -= int64(n) * g.disk
	if len(g.devices) > 0 {
		c.Devices = maps.Clone(c.Devices)
		for range n {
			g.takeDevices(c.Devices, devices)
		}
	}
	return c
}

// shortage names the dimension that keeps an allocation off a node that has this much left, in Nomad's words.
func (g *group) shortage(c pool.Capacity, devices [][]string) string {
	switch {
	case c.CPU < g.cpu:
		return "cpu"
	case c.MemoryMB < g.memory:
		return "memory"
	case c.DiskMB < g.disk:
		return "disk"
	case !g.takeDevices(maps.Clone(c.Devices), devices):
		return "devices"
	case g.perNode:
		return "distinct_hosts"
	}
	return ""
}
