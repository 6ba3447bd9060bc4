package scheduler

import (
	"maps"

	"pangaea/federation/pool"
)

// fit returns how many allocations of the group one node with this capacity takes, at most limit.
func (g *group) fit(capacity pool.Capacity, devices [][]string, limit int) int {
	if g.perNode {
		limit = min(limit, 1)
	}
	limit = min(limit, bound(capacity.CPU, g.cpu, limit), bound(capacity.MemoryMB, g.memory, limit), bound(capacity.DiskMB, g.disk, limit))
	if len(g.devices) == 0 || limit <= 0 {
		return max(limit, 0)
	}
	if len(g.devices) == 1 && len(devices[0]) == 1 { // by far the most jobs: no need to try
		want := max(int(g.devices[0].Count), 1)
		return min(limit, max(capacity.Devices[devices[0][0]], 0)/want)
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

// room counts the allocations that fit into what is free, at most limit.
func (g *group) room(free []pool.Capacity, devices [][]string, limit int) int {
	total := 0
	for _, capacity := range free {
		total += capacity.Count * g.fit(capacity, devices, limit)
		if total >= limit {
			return limit
		}
	}
	return total
}

// take returns what is left of a class when n allocations fill its nodes one after the other, and how many fit.
func (g *group) take(free []pool.Capacity, devices [][]string, n int) (out []pool.Capacity, taken int) {
	for _, capacity := range free {
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
	return out, taken
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
