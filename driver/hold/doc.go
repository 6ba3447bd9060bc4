// Package hold keeps which task of this host has which GPU, so that no two have one that should not: a GPU as a whole has
// one task, and the shares of a GPU belong to tasks of one namespace.
//
// The device plugin cannot see to that: Nomad asks it for devices by their IDs alone, once for each device block, and never
// tells it for whom, nor when they are given back. The driver learns all of it. It takes its holds when a task starts,
// before anything of the task runs, under one lock for all drivers of the host, whichever Nomad client they belong to.
//
// On disk a hold is a file of its own, <task>.json, in a directory that is root's alone, on a file system that a reboot
// empties as it ends all tasks. It stands from the start of a task until the task has ended or its directory is gone,
// whatever happens to the processes that made it, and is replaced whole. Pangaea's device plugin reads the files, for the
// names of those who have its GPUs; a field that it knows keeps its name and meaning.
package hold
