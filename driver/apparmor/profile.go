package apparmor

// OwnProfile is the name of the driver's own profile.
const OwnProfile = "pangaea-task"

// abi pins what the rules mean: without it a newer parser denies what an older one did not know of. The file is of the
// parser's package, from its version 3 on.
const (
	abi     = "abi <abi/3.0>,\n"
	abiFile = "/etc/apparmor.d/abi/3.0"
)

// rules is the profile. Capabilities are bounded by the sandbox's sets, devices by its cgroup, the network by its
// namespace. Of /proc and /sys a task writes its own processes' files only, as in the sandbox without a profile. Signals
// come from outside only of who may do everything there (the shim, the runtime, the operator's shell), and of a runtime
// that Ubuntu gives a profile by name.
const rules = `profile ` + OwnProfile + ` flags=(attach_disconnected,mediate_deleted) {
  capability,
  file,
  network,
  unix,

  deny mount,
  deny remount,
  deny umount,
  deny pivot_root,

  signal (receive) peer=unconfined,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
  signal (send,receive) peer=` + OwnProfile + `,
  ptrace (trace,read,tracedby,readby) peer=` + OwnProfile + `,

  deny /proc/* wklx,
  deny /proc/{kcore,kmem,mem,kallsyms,kpagecount,kpageflags,kpagecgroup} r,
  deny /proc/{acpi,asound,bus,driver,fs,irq,scsi,sys,tty}/** wklx,
  deny /sys/** wklx,
  deny /sys/firmware/** r,
  deny /sys/kernel/{debug,security,tracing}/** r,
  deny /sys/kernel/{boot_params/**,vmcoreinfo} r,
  deny /sys/devices/virtual/powercap/** r,
}
`
