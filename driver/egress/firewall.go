package egress

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// firewall is a chain of somebody else's, such as Docker's, ufw's or firewalld's, that drops what the host would forward for
// tasks. It decides after our wall about what that has let through, and the packet is gone without a word.
type firewall struct {
	chain *nftables.Chain
	rules []*nftables.Rule // all of its table
}

func (f firewall) String() string {
	family := map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyINet: "inet"}
	return fmt.Sprintf("chain %s of %s %s", f.chain.Name, family[f.chain.Table.Family], f.chain.Table.Name)
}

// firewalls lists those that have no rule about a driver's interfaces, each way.
func firewalls(conn *nftables.Conn, interfaces string) ([]firewall, error) {
	chains, err := conn.ListChains()
	if err != nil {
		return nil, fmt.Errorf("cannot list the host's firewalls: %w", err)
	}
	var list []firewall
	for _, c := range chains {
		if !forwards(c) {
			continue
		}
		f := firewall{chain: c}
		own, err := conn.GetRules(c.Table, c)
		if err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", f, err)
		}
		if *c.Policy != nftables.ChainPolicyDrop && (len(own) == 0 || !refusesAll(own[len(own)-1])) {
			continue
		}
		f.rules, err = rulesOf(conn, c.Table, chains)
		if err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", f, err)
		}
		if !f.admits(expr.MetaKeyIIFNAME, interfaces) || !f.admits(expr.MetaKeyOIFNAME, interfaces) {
			list = append(list, f)
		}
	}
	return list, nil
}

// forwards tells whether a chain decides about what the host forwards of IPv4.
func forwards(c *nftables.Chain) bool {
	ipv4 := c.Table.Family == nftables.TableFamilyIPv4 || c.Table.Family == nftables.TableFamilyINet
	return ipv4 && c.Type == nftables.ChainTypeFilter && c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward && c.Policy != nil
}

// rulesOf are all rules of a table: a chain may leave its decisions to others.
func rulesOf(conn *nftables.Conn, t *nftables.Table, chains []*nftables.Chain) ([]*nftables.Rule, error) {
	var all []*nftables.Rule
	for _, c := range chains {
		if c.Table.Name != t.Name || c.Table.Family != t.Family {
			continue
		}
		rules, err := conn.GetRules(t, c)
		if err != nil {
			return nil, err
		}
		all = append(all, rules...)
	}
	return all, nil
}

// admits tells whether a rule is about the interfaces, which is whoever wrote it's business then.
func (f firewall) admits(key expr.MetaKey, interfaces string) bool {
	return slices.ContainsFunc(f.rules, func(r *nftables.Rule) bool {
		if len(r.Exprs) < 2 {
			return false
		}
		meta, loads := r.Exprs[0].(*expr.Meta)
		cmp, compares := r.Exprs[1].(*expr.Cmp)
		return loads && compares && meta.Key == key && cmp.Op == expr.CmpOpEq && len(cmp.Data) > 0 && bytes.HasPrefix([]byte(interfaces), cmp.Data)
	})
}

// refusesAll tells whether a rule has no condition and lets nothing by.
func refusesAll(r *nftables.Rule) bool {
	refuses := false
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Counter:
		case *expr.Reject:
			refuses = true
		case *expr.Target:
			refuses = e.Name == "REJECT"
		case *expr.Verdict:
			refuses = e.Kind == expr.VerdictDrop
		default:
			return false
		}
	}
	return refuses
}

// admit puts a rule of each way in front of all of a firewall's, written as iptables itself writes them.
func (f firewall) admit(conn *nftables.Conn, interfaces string) error {
	for _, match := range []rule{from(interfaces), to(interfaces)} {
		conn.InsertRule(&nftables.Rule{Table: f.chain.Table, Chain: f.chain, Exprs: when(match, rule{&expr.Counter{}}, accept())})
	}
	err := conn.Flush()
	if err != nil {
		return fmt.Errorf("cannot add an exception to %s: %w", f, err)
	}
	return nil
}

// passFirewalls looks for firewalls in the way whenever rules have changed, and gets past them if the operator wants that.
func (n *Network) passFirewalls() error {
	now, err := generation()
	if err != nil || now == n.passed {
		return err
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("cannot reach nftables: %w", err)
	}
	found, err := firewalls(conn, n.conf.interfaces())
	if err != nil {
		return err
	}
	var blocked []string
	for _, f := range found {
		if n.conf.PassFirewalls {
			err = f.admit(conn, n.conf.interfaces())
			if err == nil {
				n.conf.Logger.Info("made an exception for tasks in the host's firewall", "firewall", f.String())
				continue
			}
			n.conf.Logger.Warn("tasks have no way past the host's firewall", "error", err)
		}
		blocked = append(blocked, f.String())
	}
	n.blocked, n.passed = strings.Join(blocked, " and "), now
	return nil
}

// Blocked names the host's firewalls that keep tasks from the internet, as far as that can be told; "" means none.
func (n *Network) Blocked() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.blocked
}

// Firewalls names those that would keep the tasks of a driver from the internet.
func Firewalls(owner string) (string, error) {
	conn, err := nftables.New()
	if err != nil {
		return "", fmt.Errorf("cannot reach nftables: %w", err)
	}
	found, err := firewalls(conn, Config{Owner: owner}.interfaces())
	var names []string
	for _, f := range found {
		names = append(names, f.String())
	}
	return strings.Join(names, " and "), err
}
