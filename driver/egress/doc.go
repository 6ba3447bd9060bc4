// Package egress gives a task a network namespace with a policed way out: the public internet, and nothing of what is
// near: not the owner's LAN, not the host, not other tasks, not the metadata service of a cloud. Nothing gets in.
//
// A namespace hangs on the host by a veth pair of its own, with an address out of a pool that no route of the host's
// uses. Two walls stand in the way, each in nftables and neither in a place that the task can write:
//
//	host wall   one table per driver, pangaea-<name>, in the host's namespace: it lets through what the task may reach,
//	            drops the rest, new connections towards the task and forged source addresses, bounds connections and
//	            their rate per task, and those of all tasks to half of what the host keeps track of, and translates addresses.
//	inner wall  the table pangaea in the task's namespace, which belongs to the host's users: the same list of
//	            forbidden addresses. It holds while the owner, Docker or a firewall daemon has flushed the host's rules,
//	            until [Network.Watch] has put them back, and it refuses at once what the host's wall lets time out.
//
// The rules name no task: they match the interfaces by the beginning of their name, which the driver's directory
// decides, so there is nothing to add for a task, nothing to forget, and two drivers on one host never touch each
// other's. A task's address is claimed by its route, which the kernel gives to one interface only.
//
// What a namespace consists of ends with it. It is held by a descriptor until its task runs and by the task's
// processes from then on: when the last one has gone, by whatever death of whichever process, the kernel removes the
// namespace, the pair, the address and the route. What stays after a plugin is the host wall alone, until the host
// restarts; without interfaces that match it says nothing about anything.
//
// Names are resolved by the servers in the task's resolv.conf: the operator's, or the host's own. Those are reachable
// at port 53 wherever they are, a home's router for example. There is no forwarder of ours: it would have to outlive
// the plugin as the tasks do, and would protect nothing, because a name that is bound to an address of the LAN leads
// to a packet that the walls drop like any other. What a LAN's own server tells about that LAN's names a task can ask;
// an operator who minds sets public servers.
//
// Another firewall on the host, above all Docker's, may drop what the walls let through. [Network.Blocked] names it, and
// Config.PassFirewalls puts a rule for the tasks' interfaces, each way, in front of its own.
//
// [Network.Police] gives a network that Nomad has made for a group of tasks the same way out by one wall, the table
// pangaea in that network's namespace, written before the task starts and whenever the host's network changes. The bridge
// behind it is Nomad's and gets no rules of ours. All tasks of the group are behind the wall, those of other drivers
// too; it ends with the namespace. It does not hold what bypasses the kernel's own stack, as gVisor's does.
//
// IPv6 is off in the namespaces of the package's own, and the walls drop all of it.
//
// On the host the package changes forwarding of the interfaces that lead to the internet (net.ipv4.conf.<name>.forwarding),
// not that of the host as a whole; while the host as a whole does not forward, the wall also keeps neighbours from
// using it as a router. Nothing of that is put back, because others may have come to rely on it.
package egress
