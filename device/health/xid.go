package health

import (
	"fmt"
	"time"
)

// class is what an Xid asks for.
type class int

const (
	application class = iota // a program's own fault, or corrected: the GPU is well
	suspect                  // may pass by itself: out for a while
	reset                    // the GPU or its host must be reset
)

// quarantine is how long a GPU with no better way to tell stays out after an Xid of class suspect or reset. Drivers from 570 on
// tell themselves whether a reset is still needed.
const (
	suspectFor = 2 * time.Minute
	resetFor   = 10 * time.Minute
)

// classify sorts Xids by the immediate action that NVIDIA's catalogue of them names
// (https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html, for Ampere and newer, read in November 2026). Those that it
// has no action for or that it doesn't know are suspect: NVIDIA adds new ones with every driver, and a GPU that is out for two minutes
// costs less than jobs that fail on it.
func classify(xid uint64) (class, string) {
	switch xid {
	case 8, 11, 13, 25, 31, 32, 39, 40, 41, 60, 68, 69, 70, 71, 72, 75, 76, 77, 80, 82, 83, 84, 85, 86, 88, 89,
		94, // hits only the program that read it; the pending remap itself is read from the GPU
		96, 97, 98, 99, 100, 101, 102, 103, 104, 105, 126, 127, 128, 129, 130, 131, 132, 133, 134, 135, 139:
		return application, "" // RESTART_APP: no reset is deemed necessary
	case 14, 37, 38, 43, 44, 63, 66, 67, 92, 93, 106, 107, 108, 121, 137, 141, 152, 153, 157, 160, 161:
		return application, "" // IGNORE
	case 45:
		return application, "" // WORKFLOW_XID_45: ends with another Xid that counts, or with a program
	case 147, 148:
		return application, "" // WORKFLOW_NVLINK5_ERR: IGNORE, whatever their details say
	case 162, 163, 164, 165:
		return application, "" // of power smoothing: no reset is required
	}
	what, ok := resets()[xid]
	if ok {
		return reset, what
	}
	return suspect, "no action known"
}

// resets are the Xids that a reset of the GPU or its host ends, by NVIDIA's words for them. All are RESET_GPU but where said.
func resets() map[uint64]string {
	return map[uint64]string{
		46: "GPU stopped processing",
		48: "double-bit ECC error", // WORKFLOW_XID_48: RESET_GPU
		62: "micro-controller halt",
		64: "memory remapping failed", // whether for good is read from the GPU
		74: "NVLink error",            // WORKFLOW_NVLINK_ERR: "a GPU reset or node reboot is needed to clear this"
		79: "fallen off the bus",      // RESTART_BM
		95: "uncontained memory error",
		// NVIDIA's Kubernetes plugin takes 109 for a program's fault; the driver says from 570 on which it was.
		109: "context switch timeout",
		110: "security fault",
		119: "GSP firmware timeout",
		120: "GSP firmware error",
		136: "NVLink training failed",
		140: "unrecovered ECC error",
		143: "GPU initialisation failed",
		// WORKFLOW_NVLINK5_ERR of 144 to 150 is RESET_GPU or IGNORE by numbers in the kernel's log that NVML does not pass on. 150 is always
		// RESET_GPU and 149 mostly. Each driver that knows them says itself whether a reset is needed, which ends them in seconds.
		144: "NVLink SAW error",
		145: "NVLink RLW error",
		146: "NVLink TLW error",
		149: "NVLink down",
		150: "NVLink management error",
		151: "key rotation error",     // RESTART_VM
		154: "recovery action needed", // as the driver says
		155: "NVLink down by software",
		156: "resource retired",
		158: "GPU timeout",
		159: "error of the link to the CPU", // CHECK_UVM: RESET_GPU where unified memory is used, as CUDA does
	}
}

func xidReason(xid uint64, what string) string { return fmt.Sprintf("Xid %d: %s", xid, what) }
