// Package owner decides whether a GPU's owner wants it for himself: outside the hours that he offers it in, or while
// his own processes use it. It reads /proc and the clock that it is handed, and nothing else.
//
// A process counts as the owner's unless it belongs to a Nomad task. Tasks are told by their cgroup, which Nomad's
// drivers place below nomad.slice or a nomad directory, or, for drivers that use cgroups of their own, by the allocation
// in the environment that the kernel holds for the process. Neither can be put on by a process that Nomad did not start, short
// of root or the owner's will; both fail towards the owner. Desktop compositors, which hold every GPU of a desktop all day, do not count.
package owner
