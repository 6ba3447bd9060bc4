package pool

import (
	"time"

	"github.com/hashicorp/nomad/api"
)

// Node metadata keys that a member agent sets on each of its nodes, so that a jobspec can say
// ${meta.pool.country} in a constraint, an affinity or a spread and stay valid on any Nomad.
const (
	MetaMember    = "pool.member"
	MetaCountry   = "pool.country"
	MetaContinent = "pool.continent"
	MetaRegion    = "pool.region"
	MetaPrice     = "pool.price"
)

// Place is where a member's nodes stand.
type Place struct {
	Country   string // ISO 3166-1 alpha-2, upper case, such as "FR"
	Continent string // two letters: AF, AN, AS, EU, NA, OC or SA
	Region    string // the owner's own name for the region, such as "eu-west"; may be empty
}

// Offer is what a member has to give now: classes of identical nodes with what is free on them.
// It lives on the tunnel and in the gateway's memory, never in Consul.
type Offer struct {
	Member   string // alias; the gateway overwrites it with the one in the member's certificate
	Sequence uint64 // grows with every offer of one tunnel session
	Place    Place
	Price    float64 // asked price of one GPU for one hour, in the pool's unit; 0 means free of charge
	Classes  []NodeClass
}

// NodeClass is a set of nodes that are alike in everything a constraint can ask about.
type NodeClass struct {
	// Node is a representative: datacenter, node pool, class, attributes, metadata, drivers, host volumes and
	// device groups with their attributes. The agent removes addresses, instance IDs and everything named unique.
	Node *api.Node
	// Free lists what is left on the nodes of the class.
	Free []Capacity
}

// Capacity is what is free on Count nodes that have exactly as much left as each other.
type Capacity struct {
	Count    int            // nodes with this much left, at least 1
	CPU      int64          // MHz, as Nomad counts it
	MemoryMB int64          // MiB
	DiskMB   int64          // MiB
	Devices  map[string]int // free healthy instances by device group, "nvidia/gpu/<model>"
}

// MemberState is how far the pool trusts that a member is still there.
type MemberState string

// The three clocks of a member, and the state before they start.
const (
	MemberReady    MemberState = "ready"    // connected, its offer is fresh
	MemberSuspect  MemberState = "suspect"  // silent for a moment: nothing new goes there
	MemberDetached MemberState = "detached" // silent for longer: its allocations show "unknown", work goes on
	MemberLost     MemberState = "lost"     // silent past a job's own lost_after: that job is placed elsewhere
)

// MemberRecord is what the pool keeps about a member in Consul, under KeyMembers + alias.
type MemberRecord struct {
	Alias     string
	Place     Place
	Price     float64
	JoinedAt  time.Time
	AgentInfo string // version of the member agent that joined last
}
