package scheduler

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"pangaea/federation/pool"
)

// TestPlaceProperties checks what must hold for any pool and job: never more than was offered, a gang whole or not at
// all, ranks without hole or overlap, and the same answer twice.
func TestPlaceProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var specs []spec
		free := map[string]int{}
		for i := range rapid.IntRange(0, 6).Draw(t, "members") {
			s := spec{
				alias: fmt.Sprintf("m%d", i), country: rapid.SampledFrom([]string{"FR", "DE", "JP"}).Draw(t, "country"), continent: "EU",
				price: float64(rapid.IntRange(0, 3).Draw(t, "price")), nodes: rapid.IntRange(1, 5).Draw(t, "nodes"), gpus: rapid.IntRange(0, 8).Draw(t, "gpus"),
			}
			specs = append(specs, s)
			free[s.alias] = s.nodes * s.gpus
		}
		each := rapid.IntRange(1, 4).Draw(t, "each")
		gang := rapid.Bool().Draw(t, "gang")
		colocate := rapid.SampledFrom([]string{"", "member", "country"}).Draw(t, "colocate")
		edits := []func(*api.Job){task(func(k *api.Task) { k.Resources.Devices[0].Count = ptr(uint64(each)) })}
		if gang {
			edits = append(edits, groupMeta(pool.MetaGang, "true"))
		}
		if colocate != "" {
			edits = append(edits, groupMeta(pool.MetaColocate, colocate))
		}
		if rapid.Bool().Draw(t, "spread") {
			edits = append(edits, func(j *api.Job) { j.Spreads = []*api.Spread{api.NewSpread("${meta.pool.country}", 50, nil)} })
		}
		want := rapid.IntRange(0, 40).Draw(t, "count")
		request := Request{Job: job(want, edits...), Members: members(specs...)}
		result := Place(request)
		if !reflect.DeepEqual(result, Place(request)) {
			t.Fatalf("two answers to one request")
		}
		placed, countries := 0, map[string]bool{}
		for _, share := range result.Shares {
			if share.Offset != placed || share.Count < 1 || share.Total != want {
				t.Fatalf("share %+v begins at %d", share, placed)
			}
			placed += share.Count
			if share.Count*each > free[share.Member] {
				t.Fatalf("%s was given %d GPUs and has %d", share.Member, share.Count*each, free[share.Member])
			}
			for _, s := range specs {
				if s.alias == share.Member {
					countries[s.country] = true
				}
			}
		}
		switch {
		case placed > want || (placed < want) != (result.Failed["g"] != nil):
			t.Fatalf("placed %d of %d, failed %v", placed, want, result.Failed)
		case gang && placed != 0 && placed != want:
			t.Fatalf("a gang of %d was cut to %d", want, placed)
		case colocate == "member" && len(result.Shares) > 1, colocate == "country" && len(countries) > 1:
			t.Fatalf("not colocated: %+v", result.Shares)
		}
	})
}

// TestPlaceUsesAllRoom checks that what is called exhausted is: with identical asks, whatever fits is placed.
func TestPlaceUsesAllRoom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var specs []spec
		each, room := rapid.IntRange(1, 4).Draw(t, "each"), 0
		for i := range rapid.IntRange(1, 6).Draw(t, "members") {
			s := spec{alias: fmt.Sprintf("m%d", i), nodes: rapid.IntRange(1, 5).Draw(t, "nodes"), gpus: rapid.IntRange(1, 8).Draw(t, "gpus")}
			specs = append(specs, s)
			room += s.nodes * (s.gpus / each)
		}
		want := rapid.IntRange(0, 60).Draw(t, "count")
		result := Place(Request{Job: job(want, task(func(k *api.Task) { k.Resources.Devices[0].Count = ptr(uint64(each)) })), Members: members(specs...)})
		placed := 0
		for _, share := range result.Shares {
			placed += share.Count
		}
		if placed != min(want, room) {
			t.Fatalf("placed %d of %d where %d fit", placed, want, room)
		}
	})
}

// large is a pool of 1,000 members with 100 classes of nodes each.
func large() []Member {
	out := make([]Member, 0, 1000)
	for i := range 1000 {
		offer := pool.Offer{Member: fmt.Sprintf("m%04d", i), Price: float64(i % 7), Place: pool.Place{Country: []string{"FR", "JP", "US", "DE"}[i%4]}}
		for c := range 100 {
			one := spec{alias: offer.Member, nodes: 10, gpus: 1 + c%8, model: fmt.Sprintf("GPU%d", c%5)}.member()
			offer.Classes = append(offer.Classes, pool.NodeClass{
				Node: &api.Node{
					Datacenter: "dc1", NodePool: "default", NodeClass: fmt.Sprint(c), Attributes: one.Offer.classes[0].node.Attributes,
					Drivers: map[string]*api.DriverInfo{"runc": {Detected: true, Healthy: true}}, NodeResources: &api.NodeResources{
						Devices: []*api.NodeDeviceResource{{Vendor: "nvidia", Type: "gpu", Name: fmt.Sprintf("GPU%d", c%5), Instances: []*api.NodeDevice{{ID: "a", Healthy: true}}}},
					},
				},
				Free: []pool.Capacity{{Count: 10, CPU: 4000, MemoryMB: 8000, DiskMB: 10000, Devices: map[string]int{fmt.Sprintf("nvidia/gpu/GPU%d", c%5): 1}}},
			})
		}
		out = append(out, Member{Alias: offer.Member, State: pool.MemberReady, Offer: NewOffer(offer)})
	}
	return out
}

func BenchmarkPlace(b *testing.B) {
	pools := large()
	for name, spec := range map[string]*api.Job{
		"any":     job(100),
		"country": job(100, constrain("${meta.pool.country}", "=", "FR")),
		"spread":  job(900, func(j *api.Job) { j.Spreads = []*api.Spread{api.NewSpread("${meta.pool.country}", 100, nil)} }),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				result := Place(Request{Job: spec, Members: pools})
				must.MapEmpty(b, result.Failed)
			}
		})
	}
}
