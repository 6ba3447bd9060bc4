package egress

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// Config is the operator's choice. Its zero value is the policy with its usual bounds.
type Config struct {
	// Owner tells the drivers of one host apart: the directory that only this one uses.
	Owner string
	// Subnet is where the tasks' addresses come from; the zero value takes one that the host has no route to.
	Subnet netip.Prefix
	// Allow are the exceptions from what is forbidden, Deny is what is forbidden beyond the usual.
	Allow []Exception
	Deny  []netip.Prefix
	// Resolvers tells who may be asked for names now, wherever they are; a laptop's change. It may be nil.
	Resolvers func() []netip.Addr
	// Connections is how many a task may have open at a time, Rate how many it may open per second in the long run. All
	// tasks together have at most half of what the host keeps track of.
	Connections, Rate uint32
	// PassFirewalls makes an exception for tasks in firewalls of the host's that would drop what it forwards.
	PassFirewalls bool
	Logger        hclog.Logger

	tracked uint32 // how many connections the host keeps track of, in tests
}

const (
	defaultConnections = 2048
	defaultRate        = 100
	burst              = 10 // seconds' worth of new connections at once
)

func (c Config) withDefaults() Config {
	c.Connections = cmp.Or(c.Connections, defaultConnections)
	c.Rate = cmp.Or(c.Rate, defaultRate)
	if c.Resolvers == nil {
		c.Resolvers = func() []netip.Addr { return nil }
	}
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	return c
}

const (
	// ownPart of the connections that a host keeps track of are never the tasks': with a full table nobody gets a new one.
	ownPart = 2
	// maxLists bounds in how many lists the tasks' connections are counted.
	maxLists = 64
	// perList is how many tasks with all the connections that they may have fit in one list.
	perList = 4
)

// shares divides what tasks may have of a host's tracked connections among as many lists, a power of 2, as leave each
// enough for several tasks: one alone can't keep those from the internet that are counted with it.
func (c Config) shares(tracked uint32) (lists, each uint32) {
	budget := max(1, tracked/ownPart)
	for lists = 1; lists < maxLists && budget/(2*lists) >= perList*c.Connections; {
		lists *= 2
	}
	return lists, budget / lists
}

// tag is what all of a driver's objects in the kernel carry in their names.
func (c Config) tag() string {
	sum := sha256.Sum256([]byte(c.Owner))
	return hex.EncodeToString(sum[:3])
}

// Exception is a destination that tasks may reach although it is forbidden: a range of addresses, at one port or all.
type Exception struct {
	Prefix netip.Prefix
	Port   uint16 // 0 means all
}

// ParseException reads 10.0.5.7, 10.0.5.0/24 or 10.0.5.0/24:443.
func ParseException(text string) (Exception, error) {
	place, port, limited := strings.Cut(text, ":")
	if strings.Count(text, ":") > 1 {
		return Exception{}, fmt.Errorf("cannot read %q: only IPv4 leads out; write it like 10.0.5.0/24:443", text)
	}
	prefix, err := ParsePrefix(place)
	if err != nil {
		return Exception{}, err
	}
	if !limited {
		return Exception{Prefix: prefix}, nil
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 {
		return Exception{}, fmt.Errorf("cannot read %q: the port must be 1 to 65535", text)
	}
	return Exception{Prefix: prefix, Port: uint16(number)}, nil
}

// ParsePrefix reads an IPv4 address or range.
func ParsePrefix(text string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		var address netip.Addr
		address, err = netip.ParseAddr(text)
		if err == nil {
			prefix = netip.PrefixFrom(address, address.BitLen())
		}
	}
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("cannot read %q: write an address or a range like 10.0.5.0/24", text)
	case !prefix.Addr().Is4():
		return netip.Prefix{}, fmt.Errorf("cannot use %q: only IPv4 leads out", text)
	case prefix != prefix.Masked():
		return netip.Prefix{}, fmt.Errorf("cannot use %q: the range starts at %s", text, prefix.Masked().Addr())
	}
	return prefix, nil
}

// CheckSubnet tells why tasks cannot have addresses out of a range.
func CheckSubnet(subnet netip.Prefix) error {
	if subnet.Bits() > 28 {
		return errors.New("it has room for too few tasks: use a /28 or larger")
	}
	if subnet.Bits() < 8 {
		return errors.New("it is too large: use a /8 or smaller")
	}
	if !subnet.Addr().IsGlobalUnicast() || subnet.Addr().As4()[0] == 0 {
		return errors.New("no task can use such addresses")
	}
	if !slices.ContainsFunc(forbidden(), func(p netip.Prefix) bool { return contains(p, subnet) }) {
		return errors.New("it is part of the public internet")
	}
	return nil
}

func contains(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}
