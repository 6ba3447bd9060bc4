// Package holder reads which task has which GPU, of tasks that Pangaea's driver runs on this machine: from a directory
// where the driver notes it before a task runs. Nomad tells a device plugin neither for whom it asks for a device nor when
// that is given back.
//
// It writes nothing there, and knows nothing of tasks that other drivers run.
package holder
