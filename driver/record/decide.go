package record

// Verdict is what is left of a task.
type Verdict string

// The verdicts of Decide.
const (
	// Running means that the task's program runs, or is held by its lease, under its shim.
	Running Verdict = "running"
	// Adopt means that the task's program runs but its shim is gone: a new one must take over its pipes.
	Adopt Verdict = "adopt"
	// Ending means that the task's program is gone and its shim is about to write how it ended.
	Ending Verdict = "ending"
	// Exited means that the exit record tells how the task ended.
	Exited Verdict = "exited"
	// Orphan means that processes are left which nobody can account for: they must be killed.
	Orphan Verdict = "orphan"
	// Gone means that nothing is left and that the exit code is lost.
	Gone Verdict = "gone"
)

// Facts are what Decide needs to know about a task.
type Facts struct {
	// HasState and HasExit say whether those records exist and can be read.
	HasState, HasExit bool
	// SameBoot says that the machine has not been restarted since the records were written.
	SameBoot bool
	// InitAlive and ShimAlive say that the process with the recorded pid and start time exists and is no zombie.
	InitAlive, ShimAlive bool
	// Started says that the sandbox's init was told to run the task's program.
	Started bool
	// Populated says that the task's cgroup holds processes.
	Populated bool
}

// Decide says what is left of a task. A task whose program was never started and that has lost its shim
// is an orphan: nobody was ever told that it runs, and nobody is left to start it.
func Decide(f Facts) Verdict {
	if f.HasExit {
		return Exited
	}
	if !f.SameBoot {
		return Gone
	}
	if !f.HasState {
		return orphanOrGone(f.Populated)
	}
	switch {
	case f.InitAlive && f.ShimAlive:
		return Running
	case f.InitAlive && f.Started:
		return Adopt
	case f.InitAlive:
		return Orphan
	case f.ShimAlive:
		return Ending
	}
	return orphanOrGone(f.Populated)
}

func orphanOrGone(populated bool) Verdict {
	if populated {
		return Orphan
	}
	return Gone
}
