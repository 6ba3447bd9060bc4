package sandbox

import "github.com/opencontainers/runtime-spec/specs-go"

// IDRangeSize is how many user and group identifiers every task has: the size that images expect.
const IDRangeSize = 65536

// Task is what one task gets. Everything in it was already checked against the operator's rules.
type Task struct {
	// Hostname is the sandbox's host name.
	Hostname string
	// Rootfs is the host path of the task's root file system; ReadonlyRootfs makes it unwritable.
	Rootfs         string
	ReadonlyRootfs bool

	// Init is the host path of a program that runs Args as its only child; "" runs them as the first process.
	Init string
	// Args is the program and its arguments, Cwd its directory, a clean absolute path.
	Args []string
	Cwd  string
	// Terminal gives the program a terminal.
	Terminal bool
	// ImageEnv comes first and Env, the task's own, wins over it. NVIDIA_VISIBLE_DEVICES is taken from neither.
	ImageEnv []string
	Env      map[string]string
	User     User

	// IDStart is where the task's range of host identifiers starts.
	IDStart uint32
	// HostUsers leaves the user namespace out. Only an operator's allow_userns_host gives it.
	HostUsers bool
	// Netns is a network namespace to join; "" makes a new one with a loopback interface only.
	Netns string
	// HostNetwork joins the host's network. Only an operator's allow_host_network gives it.
	HostNetwork bool
	// Sysfs is a host directory with the network namespace's own sysfs, which a task that joins a namespace
	// can't mount itself: the namespace belongs to the host's users.
	Sysfs string

	// Capabilities are given beyond none, in the form CAP_CHOWN. Only an operator's allow_caps gives them.
	Capabilities []string
	// Seccomp is a profile in Docker's form that replaces the default one; only an operator's allow_seccomp_profiles
	// gives it.
	Seccomp string
	// AppArmor is a loaded profile that the program runs under; "" leaves it under the one of who starts it.
	AppArmor string
	// Sysctls are written into the task's own namespaces.
	Sysctls map[string]string
	// Rlimits are soft and hard limits by name, in the form RLIMIT_NOFILE.
	Rlimits map[string]Limit

	// CgroupsPath is the task's cgroup below each controller's mount point.
	CgroupsPath string
	Resources   Resources
	// OOMScoreAdj makes the kernel prefer the task when memory is short: 0 to 1000.
	OOMScoreAdj int

	Binds  []Bind
	Tmpfs  []Tmpfs
	Device []Device
	GPUs   GPUs
	// ShmBytes sizes /dev/shm.
	ShmBytes int64
	// Labels become annotations.
	Labels map[string]string
}

// User is who the task's program runs as, inside the sandbox.
type User struct {
	UID, GID uint32
	Groups   []uint32
}

// Limit is a resource limit.
type Limit struct{ Soft, Hard uint64 }

// Resources are the task's limits.
type Resources struct {
	// CPUShares is the weight of the task's CPU time.
	CPUShares int64
	// CPUQuota is a hard limit in microseconds per CPUPeriod; 0 means none.
	CPUQuota, CPUPeriod int64
	// Cpus are the cores that Nomad reserved for the task; "" leaves the choice to Nomad's cgroups.
	Cpus string
	// MemoryBytes is the limit of memory.
	MemoryBytes int64
	// MemoryReservation is what the task was promised, if that is less than the limit.
	MemoryReservation int64
	// MemorySwapBytes is the limit of memory and swap together; 0 means that of memory alone. Only an operator's
	// allow_swap gives more.
	MemorySwapBytes int64
	// Swappiness is how readily the task is swapped, in percent; nil leaves it to the host.
	Swappiness *uint64
	// Pids is the most processes and threads. It is never unlimited.
	Pids int64
}

// Bind is a host path in the sandbox.
type Bind struct {
	Source, Target string
	ReadOnly       bool
	// Mapped shows the files' owners as they are on the host's disk: what root owns there, the task's root owns.
	Mapped bool
	// Propagation is private, the default, or rslave.
	Propagation string
}

// Tmpfs is a file system in memory, counted against the task's memory.
type Tmpfs struct {
	Target    string
	SizeBytes int64
	Mode      uint32
}

// Device is a node of the host's that the task may use.
type Device struct {
	// Source is the node on the host, Target where the task sees it.
	Source, Target string
	// Type is c or b.
	Type         string
	Major, Minor int64
	// Access is of r, w and m.
	Access string
}

// GPUs is what was granted.
type GPUs struct {
	// Visible is the value of NVIDIA_VISIBLE_DEVICES; "" means that nothing was granted.
	Visible string
	// Driver is a prepared host directory with the driver's libraries (lib64) and programs (bin).
	Driver string
	// Masked are kernel files about GPUs that were not granted.
	Masked []string
}

// Host is what this machine can do.
type Host struct {
	// Capabilities is what the driver itself may hand on: a runtime fails on one that it lacks.
	Capabilities []string
	// Rlimits are the driver's own limits, by name: without CAP_SYS_RESOURCE no hard limit can be raised.
	Rlimits map[string]Limit
	// CgroupV2 says that there is one unified cgroup hierarchy.
	CgroupV2 bool
	// MemoryBytes is all the memory that there is.
	MemoryBytes int64
	// MapsMemory says that id-mapped mounts work for file systems in memory too.
	MapsMemory bool
	// OOMScoreAdj is the driver's own value, which a task may exceed but not always go below.
	OOMScoreAdj int
	// MaskedPaths and ReadonlyPaths are kernel files beyond the usual ones.
	MaskedPaths []string
}

// applier makes one part of a specification.
type applier struct {
	name  string
	apply func(*specs.Spec, *Task, *Host) error
}
