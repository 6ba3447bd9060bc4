// Package strangers is a contributor's host among strangers: one Nomad in a network of its own, whose operator demands
// gVisor for the jobs of some namespaces and polices the networks of groups for others. It promises that a stranger's
// job under gVisor lives as any other, that none gets around what is demanded, and that a group's network leads to the
// internet and to nothing of the owner's.
package strangers
