package health

import (
	"fmt"
	"time"
)

// class is what an Xid asks for.
type class int

const (
	application class = iota // the program's own fault: the GPU is well
	suspect                  // may pass by itself: out for a while
	reset                    // the GPU must be reset
	replace                  // the GPU or its board is broken: out until the plugin is restarted
)

// quarantine is how long a GPU with no better way to tell stays out after an Xid of class suspect or reset. Drivers from 570 on
// tell themselves whether a reset is still needed.
const (
	suspectFor = 2 * time.Minute
	resetFor   = 10 * time.Minute
)

// entry is what NVIDIA's catalogue says of an Xid, as far as it decides anything here.
type entry struct {
	class class
	what  string
}

// classify sorts Xids by NVIDIA's catalogue of them. Unknown ones are suspect: NVIDIA adds new ones with every driver, and
// a GPU that is out for two minutes costs less than jobs that fail on it.
func classify(xid uint64) (class, string) {
	catalogue := map[uint64]entry{
		13:  {application, "graphics engine exception"},
		31:  {application, "GPU memory page fault"},
		43:  {application, "GPU stopped processing"},
		45:  {application, "preemptive cleanup"},
		48:  {reset, "double-bit ECC error"},
		62:  {reset, "micro-controller halt"},
		63:  {application, "row remapping recorded"}, // the pending remap itself is read from the GPU
		64:  {replace, "row remapping failed"},
		68:  {application, "video processor exception"},
		69:  {application, "graphics engine class error"},
		74:  {reset, "NVLink error"},
		79:  {reset, "fallen off the bus"},
		92:  {application, "high single-bit ECC rate"}, // all corrected
		94:  {application, "contained ECC error"},      // hits only the program that read it; the remap is read from the GPU
		95:  {reset, "uncontained ECC error"},
		109: {application, "context switch timeout"},
		110: {reset, "security fault"},
		119: {reset, "GSP firmware error"},
		120: {reset, "GSP firmware error"},
		121: {application, "corrected error of the link to the CPU"},
		137: {application, "access to a peer's memory that is not its own"},
		140: {reset, "unrecovered ECC error"},
		143: {reset, "GPU initialisation failed"},
		154: {reset, "recovery action needed"},
		160: {replace, "channel repair failed"},
		161: {replace, "row repair failed"},
	}
	e, ok := catalogue[xid]
	if !ok {
		return suspect, "unknown to Pangaea"
	}
	return e.class, e.what
}

func xidReason(xid uint64, what string) string { return fmt.Sprintf("Xid %d: %s", xid, what) }
