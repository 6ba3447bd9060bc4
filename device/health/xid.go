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

// classify sorts Xids by NVIDIA's catalogue of them. Unknown ones are suspect: NVIDIA adds new ones with every driver, and
// a GPU that is out for two minutes costs less than jobs that fail on it.
func classify(xid uint64) (class, string) {
	switch xid {
	case 13:
		return application, "graphics engine exception"
	case 31:
		return application, "GPU memory page fault"
	case 43:
		return application, "GPU stopped processing"
	case 45:
		return application, "preemptive cleanup"
	case 68:
		return application, "video processor exception"
	case 69:
		return application, "graphics engine class error"
	case 109:
		return application, "context switch timeout"
	case 63:
		return application, "row remapping recorded" // the pending remap itself is read from the GPU
	case 92:
		return application, "high single-bit ECC rate" // corrected
	case 94:
		return application, "contained ECC error" // hits only the program that read it; the remap is read from the GPU
	case 48:
		return reset, "double-bit ECC error"
	case 62:
		return reset, "micro-controller halt"
	case 64:
		return replace, "row remapping failed"
	case 74:
		return reset, "NVLink error"
	case 79:
		return reset, "fallen off the bus"
	case 95:
		return reset, "uncontained ECC error"
	case 119, 120:
		return reset, "GSP firmware error"
	case 140:
		return reset, "unrecovered ECC error"
	case 143:
		return reset, "GPU initialisation failed"
	case 154:
		return reset, "recovery action needed"
	case 160, 161:
		return replace, "channel or row repair failed"
	}
	return suspect, "unknown to Pangaea"
}

func xidReason(xid uint64, what string) string { return fmt.Sprintf("Xid %d: %s", xid, what) }
