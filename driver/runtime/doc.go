// Command pangaea-runtime is the OCI runtime that tasks run under: libcontainer behind a small command line.
//
// It is the only program that links libcontainer, which promises no API: the rest of the driver gives it an OCI
// bundle and could give it to another runtime instead. Its verbs take the OCI runtime command line's form:
// create, start, exec, kill, delete, state, version. With create --control FD it does create and start in one
// process: it writes the init's pid to that descriptor, waits for the word go, starts, and writes how that went.
//
// On disk it owns --root DIR/ID, libcontainer's state of one sandbox.
//
// It must never run a hook, start a sandbox in a cgroup that has processes, or keep a limit or capability that
// this process itself has not. It is started by the shim with the sandbox's stdio and an empty environment.
package main
