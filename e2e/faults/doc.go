// Package faults kills and stops, at chosen moments of a task's life, every process that has to do with it, on a real
// Nomad, and then holds Pangaea to its word:
//
//   - the exit code that Nomad reports is the task's own;
//   - at most one copy of a task lives at any instant, by a lock and by clocks of the tasks themselves;
//   - what the task printed is complete;
//   - nothing is left: no process, mount, loop device, cgroup, network namespace or interface, table of nftables, claim
//     of user IDs or descriptor;
//   - the GPUs are free for the next one.
//
// The moments are failpoints (driver/failpoint) at which a process waits in the middle of its own work, so no cell of the
// matrix can be missed by a race; that takes the build tag "faults", which is also what the tests here are built with.
// The tests run in a network of their own, so that tasks may have the driver's.
// The test program is its own plugin: Nomad finds it under the names pangaea-driver and pangaea-device.
package faults
