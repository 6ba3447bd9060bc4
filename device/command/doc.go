// Package command is "pangaea gpu": a machine's owner takes GPUs back from Nomad and gives them again, from any shell.
//
// It speaks to the device plugin only through the control directory (package control), so that it needs no token and works
// with Nomad stopped: a reclaim then holds as soon as the plugin runs again. It returns when what was asked has happened,
// and says what keeps it from happening.
package command
