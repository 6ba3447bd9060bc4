package egress

import (
	"errors"
	"fmt"
	"os"
	"reflect"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"pangaea/driver/thread"
)

// group is a network of Nomad's that is policed.
type group struct {
	file os.FileInfo // which namespace it was: its path may be another's later
	host host        // that its wall was written for
}

// Police puts a wall into the network namespace that Nomad has made for a group of tasks, for as long as that lasts. It
// may be repeated. The namespace belongs to the host's users, so that no task can take the wall down.
func (n *Network) Police(path string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return errClosed
	}
	file, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("cannot find the group's network namespace: %w", err)
	}
	h, err := n.look()
	if err == nil {
		err = n.wallIn(path, h)
	}
	if err != nil {
		return fmt.Errorf("cannot police the group's network: %w", err)
	}
	n.groups[path] = group{file, h}
	return nil
}

// follow writes the walls of groups anew that no longer fit the host, and forgets those that are gone.
func (n *Network) follow(h host) {
	for path, g := range n.groups {
		file, err := os.Stat(path)
		if err != nil || !os.SameFile(file, g.file) {
			delete(n.groups, path)
			continue
		}
		if reflect.DeepEqual(h, g.host) {
			continue
		}
		err = n.wallIn(path, h)
		if err != nil {
			// The old one stands: what is never the internet stays closed.
			n.conf.Logger.Warn("cannot fit a group's wall to the host's network", "namespace", path, "error", err)
			continue
		}
		n.groups[path] = group{file, h}
	}
}

func (n *Network) wallIn(path string, h host) (err error) {
	thread.Throwaway(func() {
		err = Enter(path)
		if err != nil {
			return
		}
		var conn *nftables.Conn
		conn, err = nftables.New()
		if err == nil {
			err = n.groupWall(conn, h).write()
		}
	})
	return err
}

// Enter moves the calling thread to a network namespace, which must not be the host's.
func Enter(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open the group's network namespace: %w", err)
	}
	defer f.Close()
	group, err := f.Stat()
	if err != nil {
		return fmt.Errorf("cannot read the group's network namespace: %w", err)
	}
	host, err := os.Stat("/proc/thread-self/ns/net")
	if err != nil || os.SameFile(group, host) {
		return errors.New("cannot join the group's network: its namespace is the host's")
	}
	err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
	if err != nil {
		return fmt.Errorf("cannot enter the group's network namespace: %w", err)
	}
	return nil
}

// groupWall describes the wall in a group's namespace. It stands alone: the bridge behind it is not ours. What tasks open
// goes by the same rules as from a network of their own. What was opened towards them, by the ports that Nomad maps or
// from the bridge, they may answer, wherever it came from.
func (n *Network) groupWall(conn *nftables.Conn, h host) *table {
	t := newTable(conn, innerTable)
	rules := []rule{
		when(to("lo\x00"), accept()),
		when(replies(), accept()),
	}
	// An answer over IPv6 has to find its way on the bridge. Tasks can't send these themselves: they get no raw sockets.
	for _, kind := range []byte{neighborSolicitation, neighborAdvertisement} {
		rules = append(rules, when(protocol(unix.IPPROTO_ICMPV6), icmpType(kind), accept()))
	}
	t.chain("output", nftables.ChainHookOutput, nftables.ChainPriority(0), nftables.ChainPolicyDrop, append(rules, n.taskRules(t, h, refuse())...)...)
	return t
}

const (
	neighborSolicitation  = 135
	neighborAdvertisement = 136
)

// replies matches what answers a connection, whichever way that was opened. Going out, that is the answer to one from
// outside.
func replies() rule {
	const reply = 1 // IP_CT_DIR_REPLY
	return rule{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: register}, equals([]byte{reply})}
}
