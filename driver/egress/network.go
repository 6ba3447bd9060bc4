package egress

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// watchInterval is how long a host wall may be missing: meanwhile the inner walls hold.
const watchInterval = 5 * time.Second

// Network makes namespaces with a way out, behind a wall that it keeps in force. Its methods may be called concurrently.
type Network struct {
	conf Config

	mu      sync.Mutex // guards all below, and orders what is written to the kernel
	route   *netlink.Handle
	host    host
	pool    netip.Prefix
	slot    uint32
	rules   map[string]int // of the host wall, per chain, as written
	seen    uint32         // nftables' generation in which the host wall was seen whole
	spare   *Namespace
	closed  bool
	groups  map[string]group // policed networks of Nomad's, by their path
	passed  uint32           // nftables' generation in which the host's firewalls were looked at
	blocked string           // which of them are in the way
	problem error            // why there is no way out
}

// New returns a network that does not exist yet. It does no I/O.
func New(c Config) *Network {
	return &Network{conf: c.withDefaults(), groups: map[string]group{}, problem: errors.New("the network was not looked at yet")}
}

func (c Config) table() string      { return "pangaea-" + c.tag() }
func (c Config) interfaces() string { return "pg" + c.tag() + "-" }

// ErrNoWayOut says that tasks of this host can have no way to the internet now.
var ErrNoWayOut = errors.New("there is no policed way to the internet")

var errClosed = errors.New("the network is closed")

// Ensure sees to it that the host wall is in force and fits the host. An error means that there is no way out for tasks
// on this host now; it says why.
func (n *Network) Ensure() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ensure()
}

func (n *Network) ensure() error {
	if n.closed {
		return errClosed
	}
	n.problem = n.build()
	return n.problem
}

// look reads what the walls depend on, and has the groups' walls follow it.
func (n *Network) look() (host, error) {
	if n.route == nil {
		handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return host{}, fmt.Errorf("cannot reach the host's network: %w", err)
		}
		n.route = handle
	}
	h, err := readHost(n.route, n.conf.Resolvers())
	h.tracked = cmp.Or(n.conf.tracked, h.tracked)
	if err == nil {
		n.follow(h)
	}
	return h, err
}

func (n *Network) build() error {
	h, err := n.look()
	if err != nil {
		return err
	}
	if !n.pool.IsValid() {
		n.pool, err = choosePool(n.conf.Subnet, h)
		if err != nil {
			return err
		}
		// Addresses of tasks that have just ended rest: what is still on its way to them must not reach others.
		n.slot = rand.Uint32N(slots(n.pool)) //nolint:gosec // a place to start, not a secret
	}
	if !reflect.DeepEqual(h, n.host) || !n.intact() {
		err = n.writeWall(h)
		if err != nil {
			return err
		}
	}
	err = n.passFirewalls()
	if err != nil {
		n.conf.Logger.Debug("cannot tell what the host's firewall does to tasks", "error", err)
	}
	return h.forward(func(name string) {
		n.conf.Logger.Info("made an interface forward for tasks", "interface", name)
	})
}

func (n *Network) writeWall(h host) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("cannot reach nftables: %w", err)
	}
	wall := n.hostWall(conn, h)
	err = wall.write()
	if err != nil {
		return err
	}
	if n.rules != nil {
		n.conf.Logger.Info("wrote the wall around tasks' networks anew", "table", n.conf.table(), "uplinks", h.uplinks)
		// What waits has the old inner wall.
		n.spare.Close()
		n.spare = nil
	}
	n.host, n.rules = h, wall.rules
	return nil
}

// intact tells whether the host wall is as it was written: others may flush all rules of a host, as the restart of a
// firewall does.
func (n *Network) intact() bool {
	if n.rules == nil {
		return false
	}
	now, err := generation()
	if err != nil {
		return false
	}
	if now == n.seen {
		return true
	}
	conn, err := nftables.New()
	if err != nil {
		return false
	}
	t := &nftables.Table{Name: n.conf.table(), Family: nftables.TableFamilyINet}
	for chain, count := range n.rules {
		rules, err := conn.GetRules(t, &nftables.Chain{Name: chain, Table: t})
		if err != nil || len(rules) != count {
			return false
		}
	}
	n.seen = now
	return true
}

// Take returns a namespace with a way out for one task: the one that waits, or a new one. The interface on the host
// tells whose it is.
func (n *Network) Take(owner string) (*Namespace, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.problem != nil || !n.intact() {
		err := n.ensure()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoWayOut, err)
		}
	}
	ns := n.spare
	n.spare = nil
	if ns == nil {
		var err error
		ns, err = n.make(n.host)
		if err != nil {
			return nil, err
		}
	}
	err := n.route.LinkSetAlias(ns.link, owner)
	if err != nil {
		ns.Close()
		return nil, fmt.Errorf("cannot name the task's interface: %w", err)
	}
	return ns, nil
}

// Warm has a namespace waiting, so that the next task need not wait for its making. It ends with Close or with this
// process.
func (n *Network) Warm() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || n.spare != nil {
		return
	}
	err := n.problem
	if err != nil {
		err = n.ensure()
	}
	if err == nil {
		n.spare, err = n.make(n.host)
	}
	if err != nil {
		// The next task will fail for the same reason, and there is somebody to tell.
		n.conf.Logger.Debug("cannot make a network ahead of its task", "error", err)
	}
}

// Watch keeps the wall in force and fitting, and a namespace waiting, until ctx ends.
func (n *Network) Watch(ctx context.Context) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	before := ""
	for {
		problem := ""
		err := n.Ensure()
		if err != nil {
			problem = err.Error()
		}
		if problem != before && problem != "" {
			n.conf.Logger.Warn("tasks have no way to the internet", "problem", problem)
		}
		before = problem
		n.Warm()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Close ends the waiting namespace. The wall stays, for the tasks that run behind it.
func (n *Network) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	n.spare.Close()
	n.spare = nil
	if n.route != nil {
		n.route.Close()
	}
}
