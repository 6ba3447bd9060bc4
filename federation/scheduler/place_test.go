package scheduler

import (
	"fmt"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/federation/pool"
)

func ptr[T any](v T) *T { return &v }

// spec is a member as a test writes it.
type spec struct {
	alias, country, continent string
	price                     float64
	nodes, gpus               int // nodes with so many free GPUs each
	total                     int // GPUs of a node, busy ones included; gpus when 0
	model                     string
	memory                    string // GPU memory, "80 GiB" when empty
	state                     pool.MemberState
	edit                      func(*api.Node)
}

func (s spec) member() Member {
	if s.model == "" {
		s.model = "H100"
	}
	if s.state == "" {
		s.state = pool.MemberReady
	}
	node := &api.Node{
		Datacenter: "dc1", NodePool: "default", NodeClass: "gpu", Attributes: map[string]string{"kernel.name": "linux"},
		Drivers:       map[string]*api.DriverInfo{"runc": {Detected: true, Healthy: true}},
		NodeResources: &api.NodeResources{},
	}
	group := &api.NodeDeviceResource{Vendor: "nvidia", Type: "gpu", Name: s.model, Attributes: map[string]*api.Attribute{
		"memory": {IntVal: ptr(int64(80)), Unit: "GiB"},
	}}
	if s.memory == "24" {
		group.Attributes["memory"].IntVal = ptr(int64(24))
	}
	for i := range max(s.gpus, s.total) {
		group.Instances = append(group.Instances, &api.NodeDevice{ID: fmt.Sprint(i), Healthy: true})
	}
	if len(group.Instances) > 0 {
		node.NodeResources.Devices = []*api.NodeDeviceResource{group}
	}
	if s.edit != nil {
		s.edit(node)
	}
	return Member{Alias: s.alias, State: s.state, Offer: NewOffer(pool.Offer{
		Member: s.alias, Price: s.price, Place: pool.Place{Country: s.country, Continent: s.continent, Region: "r-" + s.alias},
		Classes: []pool.NodeClass{{Node: node, Free: []pool.Capacity{{
			Count: s.nodes, CPU: 4000, MemoryMB: 8000, DiskMB: 10000, Devices: map[string]int{"nvidia/gpu/" + s.model: s.gpus},
		}}}},
	})}
}

func members(specs ...spec) []Member {
	var out []Member
	for _, s := range specs {
		out = append(out, s.member())
	}
	return out
}

func three() []Member {
	return members(
		spec{alias: "fr", country: "FR", continent: "EU", price: 2, nodes: 2, gpus: 4},
		spec{alias: "jp", country: "JP", continent: "AS", price: 1, nodes: 1, gpus: 4},
		spec{alias: "us", country: "US", continent: "NA", price: 3, nodes: 4, gpus: 8, model: "A100", memory: "24"},
	)
}

// job asks for count allocations of one GPU each, changed by edits.
func job(count int, edits ...func(*api.Job)) *api.Job {
	task := &api.Task{Name: "t", Driver: "runc", Resources: &api.Resources{
		CPU: ptr(100), MemoryMB: ptr(100), Devices: []*api.RequestedDevice{{Name: "nvidia/gpu", Count: ptr(uint64(1))}},
	}}
	out := &api.Job{ID: ptr("j"), Datacenters: []string{"*"}, TaskGroups: []*api.TaskGroup{{Name: ptr("g"), Count: &count, Tasks: []*api.Task{task}}}}
	for _, edit := range edits {
		edit(out)
	}
	out.Canonicalize()
	return out
}

func constrain(left, op, right string) func(*api.Job) {
	return func(j *api.Job) { j.Constraints = append(j.Constraints, api.NewConstraint(left, op, right)) }
}

func groupMeta(key, value string) func(*api.Job) {
	return func(j *api.Job) {
		if j.TaskGroups[0].Meta == nil {
			j.TaskGroups[0].Meta = map[string]string{}
		}
		j.TaskGroups[0].Meta[key] = value
	}
}

func task(edit func(*api.Task)) func(*api.Job) {
	return func(j *api.Job) { edit(j.TaskGroups[0].Tasks[0]) }
}

func counts(r Result) map[string]int {
	out := map[string]int{}
	for _, share := range r.Shares {
		out[share.Member] += share.Count
	}
	return out
}

func TestPlace(t *testing.T) {
	type want = map[string]int
	for _, one := range []struct {
		name    string
		members []Member
		job     *api.Job
		want    want
		missing string // of the failure's constraints and dimensions, as "name=nodes"
	}{
		{name: "cheapest first", job: job(2), want: want{"jp": 2}},
		{name: "split when one has too few", job: job(10), want: want{"jp": 4, "fr": 6}},
		{name: "all of the pool", job: job(44), want: want{"jp": 4, "fr": 8, "us": 32}},
		{name: "more than the pool", job: job(46), want: want{"jp": 4, "fr": 8, "us": 32}, missing: "devices=7"},
		{name: "country", job: job(2, constrain("${meta.pool.country}", "=", "US")), want: want{"us": 2}},
		{name: "one of two countries", job: job(12, constrain("${meta.pool.country}", "set_contains_any", "FR,DE")), want: want{"fr": 8}, missing: "devices=2"},
		{name: "country by regexp", job: job(1, constrain("${meta.pool.country}", "regexp", "^(FR|DE)$")), want: want{"fr": 1}},
		{name: "no such country", job: job(1, constrain("${meta.pool.country}", "=", "DE")), want: want{}, missing: "${meta.pool.country} = DE=7"},
		{name: "member's own name for its region", job: job(1, constrain("${meta.pool.region}", "=", "r-us")), want: want{"us": 1}},
		{name: "region pins a member", job: job(1, func(j *api.Job) { j.Region = ptr("us") }), want: want{"us": 1}},
		{name: "region anywhere", job: job(1, func(j *api.Job) { j.Region = ptr("*") }), want: want{"jp": 1}},
		{name: "unknown region", job: job(1, func(j *api.Job) { j.Region = ptr("mars") }), want: want{}, missing: "region = mars=7"},
		{name: "multiregion limits members", job: job(1, func(j *api.Job) {
			j.Multiregion = &api.Multiregion{Regions: []*api.MultiregionRegion{{Name: "us"}, {Name: "fr"}}}
		}), want: want{"fr": 1}},
		{name: "highest price", job: job(9, groupMeta(pool.MetaMaxPrice, "1.5")), want: want{"jp": 4}, missing: "pool_max_price = 1.5=6"},
		{name: "device constraint", job: job(1, task(func(k *api.Task) {
			k.Resources.Devices[0].Constraints = []*api.Constraint{api.NewConstraint("${device.attr.memory}", "<", "40 GiB")}
		})), want: want{"us": 1}},
		{name: "device model", job: job(1, task(func(k *api.Task) { k.Resources.Devices[0].Name = "nvidia/gpu/A100" })), want: want{"us": 1}},
		{name: "no such device", job: job(1, task(func(k *api.Task) { k.Resources.Devices[0].Name = "amd/gpu" })), want: want{}, missing: "missing devices=7"},
		{name: "more GPUs than any node has", job: job(1, task(func(k *api.Task) { k.Resources.Devices[0].Count = ptr(uint64(9)) })), want: want{}, missing: "missing devices=7"},
		{name: "whole nodes", job: job(3, task(func(k *api.Task) { k.Resources.Devices[0].Count = ptr(uint64(4)) })), want: want{"jp": 1, "fr": 2}},
		{name: "unknown driver", job: job(1, task(func(k *api.Task) { k.Driver = "qemu" })), want: want{}, missing: "missing drivers=7"},
		{name: "memory", job: job(1, task(func(k *api.Task) { k.Resources.MemoryMB = ptr(9000) })), want: want{}, missing: "memory=7"},
		{name: "cpu", job: job(3, task(func(k *api.Task) { k.Resources.CPU = ptr(3000) })), want: want{"jp": 1, "fr": 2}},
		{name: "disk", job: job(1, func(j *api.Job) { j.TaskGroups[0].EphemeralDisk = &api.EphemeralDisk{SizeMB: ptr(20000)} }), want: want{}, missing: "disk=7"},
		{name: "no such datacenter", job: job(1, func(j *api.Job) { j.Datacenters = []string{"dc9"} }), want: want{}, missing: ""},
		{name: "datacenter by glob", job: job(1, func(j *api.Job) { j.Datacenters = []string{"dc*"} }), want: want{"jp": 1}},
		{name: "other node pool", job: job(1, func(j *api.Job) { j.NodePool = ptr("big") }), want: want{}},
		{name: "all node pools", job: job(1, func(j *api.Job) { j.NodePool = ptr("all") }), want: want{"jp": 1}},
		{name: "host volume", job: job(1, func(j *api.Job) {
			j.TaskGroups[0].Volumes = map[string]*api.VolumeRequest{"v": {Type: "host", Source: "data"}}
		}), want: want{}, missing: "missing compatible host volumes=7"},
		{name: "unique attributes are the member's to judge", job: job(1, constrain("${attr.unique.hostname}", "=", "x")), want: want{"jp": 1}},
		{name: "affinity beats price", job: job(1, func(j *api.Job) {
			j.Affinities = []*api.Affinity{api.NewAffinity("${meta.pool.continent}", "=", "EU", 50)}
		}), want: want{"fr": 1}},
		{name: "anti-affinity", job: job(1, func(j *api.Job) {
			j.Affinities = []*api.Affinity{api.NewAffinity("${meta.pool.country}", "=", "JP", -50)}
		}), want: want{"fr": 1}},
		{name: "even spread", job: job(6, func(j *api.Job) { j.Spreads = []*api.Spread{api.NewSpread("${meta.pool.country}", 100, nil)} }), want: want{"fr": 2, "jp": 2, "us": 2}},
		{name: "spread with targets", job: job(10, func(j *api.Job) {
			j.Spreads = []*api.Spread{api.NewSpread("${meta.pool.country}", 100, []*api.SpreadTarget{{Value: "FR", Percent: 70}, {Value: "US", Percent: 30}})}
		}), want: want{"fr": 7, "us": 3}},
		{name: "distinct property", job: job(4, constrain("${meta.pool.country}", "distinct_property", "1")), want: want{"fr": 1, "jp": 1, "us": 1}},
		{name: "distinct hosts", job: job(8, func(j *api.Job) { j.Constraints = []*api.Constraint{api.NewConstraint("", "distinct_hosts", "true")} }), want: want{"fr": 2, "jp": 1, "us": 4}},
		{name: "gang whole", job: job(10, groupMeta(pool.MetaGang, "true")), want: want{"jp": 4, "fr": 6}},
		{name: "gang that does not fit", job: job(46, groupMeta(pool.MetaGang, "true")), want: want{}},
		{name: "colocated in one member", job: job(6, groupMeta(pool.MetaColocate, "member")), want: want{"fr": 6}},
		{name: "colocated gang, too large for any member", job: job(33, groupMeta(pool.MetaColocate, "member"), groupMeta(pool.MetaGang, "true")), want: want{}},
		{name: "colocated in a continent takes what fits best", job: job(33, groupMeta(pool.MetaColocate, "continent")), want: want{"us": 32}, missing: ""},
		{name: "only ready members get more", members: members(
			spec{alias: "a", nodes: 1, gpus: 8, state: pool.MemberSuspect}, spec{alias: "b", nodes: 1, gpus: 8, state: pool.MemberDetached}, spec{alias: "c", nodes: 1, gpus: 1},
		), job: job(2), want: want{"c": 1}, missing: "devices=1"},
		{name: "busy GPUs", members: members(spec{alias: "a", nodes: 1, gpus: 1, total: 8}), job: job(2), want: want{"a": 1}, missing: "devices=1"},
		{name: "fewest members, then the fullest", members: members(
			spec{alias: "a", nodes: 1, gpus: 2}, spec{alias: "b", nodes: 1, gpus: 8}, spec{alias: "c", nodes: 1, gpus: 4},
		), job: job(3), want: want{"c": 3}},
		{name: "no members", members: []Member{}, job: job(1), want: want{}},
		{name: "system job on every member that fits", job: job(1, func(j *api.Job) { j.Type = ptr("system") }, constrain("${meta.pool.continent}", "!=", "AS")), want: want{"fr": 1, "us": 1}},
	} {
		t.Run(one.name, func(t *testing.T) {
			if one.members == nil {
				one.members = three()
			}
			result := Place(Request{Job: one.job, Members: one.members})
			must.Eq(t, one.want, counts(result))
			placed := 0
			for _, n := range one.want {
				placed += n
			}
			if *one.job.Type != "system" {
				must.Eq(t, placed < *one.job.TaskGroups[0].Count, result.Failed["g"] != nil)
			}
			if one.missing != "" {
				metric, reasons := result.Failed["g"], map[string]bool{}
				for name, n := range metric.ConstraintFiltered {
					reasons[fmt.Sprintf("%s=%d", name, n)] = true
				}
				for name, n := range metric.DimensionExhausted {
					reasons[fmt.Sprintf("%s=%d", name, n)] = true
				}
				must.MapContainsKey(t, reasons, one.missing)
			}
		})
	}
}

func TestPlaceKeepsWhatRuns(t *testing.T) {
	share := func(member string, offset, count int) Share {
		return Share{Member: member, Group: "g", GroupShare: pool.GroupShare{Count: count, Offset: offset, Total: 9}}
	}
	for _, one := range []struct {
		name    string
		current []Share
		job     *api.Job
		want    []Share
		failed  bool
	}{
		{name: "nothing to do", current: []Share{share("us", 0, 2)}, job: job(2), want: []Share{share("us", 0, 2)}},
		{name: "grows where it is", current: []Share{share("us", 0, 2)}, job: job(3, groupMeta(pool.MetaColocate, "member")), want: []Share{share("us", 0, 3)}},
		{name: "grows at the cheapest", current: []Share{share("us", 0, 2)}, job: job(3), want: []Share{share("us", 0, 2), share("jp", 2, 1)}},
		{name: "shrinks from the end", current: []Share{share("us", 0, 2), share("fr", 2, 2)}, job: job(3), want: []Share{share("us", 0, 2), share("fr", 2, 1)}},
		{name: "shrinks whole shares away", current: []Share{share("us", 0, 2), share("fr", 2, 2)}, job: job(1), want: []Share{share("us", 0, 1)}},
		{name: "to none", current: []Share{share("us", 0, 2)}, job: job(0), want: nil},
		{name: "a hole is closed", current: []Share{share("fr", 4, 2)}, job: job(4), want: []Share{share("fr", 0, 2), share("jp", 2, 2)}},
		{name: "a gang's rest waits, what runs stays", current: []Share{share("fr", 0, 2)}, job: job(99, groupMeta(pool.MetaGang, "true")), want: []Share{share("fr", 0, 2)}, failed: true},
		{name: "a silent member keeps its share", current: []Share{share("gone", 0, 2)}, job: job(2), want: []Share{share("gone", 0, 2)}},
		{name: "stays in its country", current: []Share{share("fr", 0, 8)}, job: job(10, groupMeta(pool.MetaColocate, "country")), want: []Share{share("fr", 0, 10)}},
	} {
		t.Run(one.name, func(t *testing.T) {
			result := Place(Request{Job: one.job, Members: three(), Current: one.current})
			for i := range one.want {
				one.want[i].Total = *one.job.TaskGroups[0].Count
			}
			must.Eq(t, one.want, result.Shares)
			must.Eq(t, one.failed, result.Failed["g"] != nil)
		})
	}
}

func TestPlaceExcluded(t *testing.T) {
	result := Place(Request{Job: job(2), Members: three(), Excluded: map[string]Exclusion{"jp": {Reason: "not today"}}})
	must.Eq(t, map[string]int{"fr": 2}, counts(result))

	all := map[string]Exclusion{
		"fr": {Reason: "owner forbids driver"}, "us": {Reason: "full"},
		"jp": {Reason: "plan failed", Failed: map[string]*api.AllocationMetric{"g": {NodesExhausted: 1, DimensionExhausted: map[string]int{"network: port collision": 1}}}},
	}
	result = Place(Request{Job: job(2), Members: three(), Excluded: all})
	must.SliceEmpty(t, result.Shares)
	metric := result.Failed["g"]
	must.Eq(t, 7, metric.NodesEvaluated)
	must.Eq(t, 6, metric.NodesFiltered)
	must.Eq(t, 2, metric.ConstraintFiltered["member fr: owner forbids driver"])
	must.Eq(t, 1, metric.DimensionExhausted["network: port collision"])
	must.Eq(t, 1, metric.CoalescedFailures)
}

func TestPlaceGroupsShareNodes(t *testing.T) {
	two := job(4, func(j *api.Job) {
		second := *j.TaskGroups[0]
		second.Name = ptr("h")
		j.TaskGroups = append(j.TaskGroups, &second)
	})
	result := Place(Request{Job: two, Members: members(spec{alias: "a", nodes: 1, gpus: 6})})
	must.Eq(t, map[string]int{"a": 6}, counts(result))
	must.NotNil(t, result.Failed["h"])
	must.Nil(t, result.Failed["g"])
	must.Eq(t, map[string]pool.GroupShare{"g": {Count: 4, Total: 4}, "h": {Count: 2, Total: 4}}, result.Groups("a"))
}

func TestOfferNamesItself(t *testing.T) {
	liar := spec{alias: "liar", country: "FR", nodes: 1, gpus: 1, edit: func(n *api.Node) {
		n.Meta = map[string]string{pool.MetaMember: "fr-par-1", pool.MetaPrice: "0"}
	}}
	result := Place(Request{Job: job(1, constrain("${meta.pool.member}", "=", "fr-par-1")), Members: members(liar)})
	must.SliceEmpty(t, result.Shares)
}
