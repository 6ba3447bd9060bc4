// Package bench measures what the project promises, side by side with peers in the same run, and prints one table.
//
// Node measures the driver on one Nomad node beside Nomad's own drivers and those of other engines that the machine has;
// Pool measures what the pool adds to a job's way. The sides of a comparison take turns, so that a machine that slows
// down does so for all of them, and the first turn of each does not count.
//
// It is for a machine that does nothing else meanwhile: on a busy one the figures say little, the ratios a bit more.
package bench
