package driver

import (
	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/fsisolation"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
)

const (
	// pluginName is what jobs write: driver = "runc".
	pluginName    = "runc"
	pluginVersion = "0.1.0"
	// handleVersion is the version of what DriverState holds.
	handleVersion = 1

	defaultStateDir = "/var/lib/pangaea/driver"
	defaultPids     = 4096
	// defaultIDStart is the start of the identifiers that systemd's documentation calls unused, up to 2^31: room
	// for 4,096 tasks of 65,536.
	defaultIDStart = 0x70000000
	defaultIDCount = 0x10000000
	// idRegistry is on a file system that a reboot empties, as it ends all tasks.
	idRegistry = "/run/pangaea/idranges"
)

func pluginInfo() *base.PluginInfoResponse {
	return &base.PluginInfoResponse{
		Type:              base.PluginTypeDriver,
		PluginApiVersions: []string{drivers.ApiVersion010},
		PluginVersion:     pluginVersion,
		Name:              pluginName,
	}
}

func capabilities() *drivers.Capabilities {
	return &drivers.Capabilities{
		SendSignals: true,
		Exec:        true,
		FSIsolation: fsisolation.Image,
		NetIsolationModes: []drivers.NetIsolationMode{
			drivers.NetIsolationModeHost, drivers.NetIsolationModeGroup, drivers.NetIsolationModeTask,
		},
		MountConfigs: drivers.MountConfigSupportAll,
	}
}

// Config is the operator's: plugin "pangaea-driver" { config { ... } }. Every option may be left out.
type Config struct {
	StateDir    string `codec:"state_dir"`
	RuntimePath string `codec:"runtime_path"`
	ShimPath    string `codec:"shim_path"`

	InsecureRegistries []string `codec:"insecure_registries"`
	AllowedRegistries  []string `codec:"allowed_registries"`
	Mirrors            []Mirror `codec:"mirror"`
	Auth               struct {
		Config string `codec:"config"`
	} `codec:"auth"`
	Signatures   []Signature `codec:"signature"`
	PullTimeout  string      `codec:"pull_timeout"`
	StallTimeout string      `codec:"stall_timeout"`
	MaxImageSize string      `codec:"max_image_size"`
	GC           GC          `codec:"gc"`

	DriverRoot string `codec:"driver_root"`
	HoldsDir   string `codec:"holds_dir"` // /run/pangaea/gpus: who has which GPU, see package hold
	PidsLimit  int64  `codec:"pids_limit"`
	DiskLimit  string `codec:"disk_limit"`
	Userns     struct {
		Start int64 `codec:"start"`
		Count int64 `codec:"count"`
	} `codec:"userns"`
	DNS struct {
		Servers  []string `codec:"servers"`
		Searches []string `codec:"searches"`
		Options  []string `codec:"options"`
	} `codec:"dns"`
	ExtraLabels          []string `codec:"extra_labels"`
	DisableLogCollection bool     `codec:"disable_log_collection"`

	// Egress is the network of tasks whose group has none.
	Egress Egress `codec:"egress"`
	// RefuseGroupNetworks closes what Nomad's own networks leave open: a task in a bridge or CNI network reaches whatever
	// the host reaches, its LAN, its services and a cloud's metadata, unless egress.police_namespaces names its namespace.
	RefuseGroupNetworks bool `codec:"refuse_group_networks"`

	Runtimes       map[string]OtherRuntime `codec:"runtime"`
	DefaultRuntime string                  `codec:"default_runtime"`
	RequireRuntime []RequireRuntime        `codec:"require_runtime"`

	// AppArmor is the profile of tasks whose job names none: a loaded one, "unconfined", or "" for the driver's own where
	// the host has AppArmor.
	AppArmor string `codec:"apparmor_profile"`

	AllowCaps            []string `codec:"allow_caps"`
	AllowHostNetwork     bool     `codec:"allow_host_network"`
	AllowHostUsers       bool     `codec:"allow_userns_host"`
	AllowVolumes         bool     `codec:"allow_volumes"`
	AllowSysctls         []string `codec:"allow_sysctls"`
	AllowImageDirs       []string `codec:"allow_image_dirs"`
	AllowDevices         []string `codec:"allow_devices"`
	AllowSeccompProfiles string   `codec:"allow_seccomp_profiles"`
	AllowAppArmor        []string `codec:"allow_apparmor_profiles"` // loaded ones, and "unconfined"
	AllowSwap            bool     `codec:"allow_swap"`
	AllowUnlimitedMemory bool     `codec:"allow_unlimited_memory"`
	AllowEgress          []string `codec:"allow_egress"`
	// AllowFirewallException lets the driver add rules for its tasks' own interfaces to a firewall of the host's, such as
	// Docker's, that drops what it does not know.
	AllowFirewallException bool `codec:"allow_firewall_exception"`
	// AllowCrossNamespaceGPUs lets tasks of several namespaces have shares of one GPU.
	AllowCrossNamespaceGPUs bool `codec:"allow_cross_namespace_gpus"`
}

// OtherRuntime is an OCI runtime besides the driver's own, under the name that jobs ask for it by.
type OtherRuntime struct {
	Path           string   `codec:"path"`
	Kind           string   `codec:"kind"`
	Args           []string `codec:"args"`
	AllowHostStack bool     `codec:"allow_host_stack"`
}

// RequireRuntime demands a runtime for the jobs of some namespaces, which may be patterns such as pool-*.
type RequireRuntime struct {
	Namespaces []string `codec:"namespaces"`
	Runtime    string   `codec:"runtime"`
}

// Mirror is a registry's stand-ins, asked in order before it.
type Mirror struct {
	Registry string   `codec:"registry"`
	Hosts    []string `codec:"hosts"`
}

// Signature says that images must be signed with cosign, by one of the keys. Once there are such blocks, the first
// that covers an image decides, and what none covers is refused.
type Signature struct {
	// Images are globs like those of allowed_registries; none means all images.
	Images []string `codec:"images"`
	// Keys are files with public keys.
	Keys []string `codec:"keys"`
	// AllowUnsigned lets these images run unsigned.
	AllowUnsigned bool `codec:"allow_unsigned"`
}

// Egress is the way out of tasks' own networks: the public internet, nothing of what is near, and nothing in. Disabled
// leaves them a loopback interface only. Subnet is where their addresses come from; Deny is forbidden beyond the usual.
// What is near can be opened by allow_egress, with ranges such as 10.0.5.0/24 or 10.0.5.0/24:443.
//
// PoliceNamespaces are Nomad's namespaces, or patterns such as pool-*, whose jobs have the same way out, and no other, by
// the network of their group. It is still reached from outside as Nomad arranges it, and may answer.
type Egress struct {
	Disabled       bool     `codec:"disabled"`
	Subnet         string   `codec:"subnet"`
	Deny           []string `codec:"deny"`
	MaxConnections int64    `codec:"max_connections"`
	ConnectionRate int64    `codec:"connection_rate"`

	PoliceNamespaces []string `codec:"police_namespaces"`
}

// GC says when unused images go.
type GC struct {
	Disabled      bool   `codec:"disabled"`
	Interval      string `codec:"interval"`
	MaxAge        string `codec:"max_age"`
	HighWatermark int    `codec:"high_watermark"`
	LowWatermark  int    `codec:"low_watermark"`
}

// JobConfig is the job's: task { config { ... } }.
type JobConfig struct {
	Image        string   `codec:"image"`
	PullPolicy   string   `codec:"image_pull_policy"`
	PullTimeout  string   `codec:"image_pull_timeout"`
	Auth         JobAuth  `codec:"auth"`
	AuthSoftFail bool     `codec:"auth_soft_fail"`
	Entrypoint   []string `codec:"entrypoint"`
	Command      string   `codec:"command"`
	Args         []string `codec:"args"`
	WorkDir      string   `codec:"work_dir"`

	Hostname       string             `codec:"hostname"`
	NetworkMode    string             `codec:"network_mode"`
	UsernsMode     string             `codec:"userns_mode"`
	ReadonlyRootfs bool               `codec:"readonly_rootfs"`
	Mounts         []JobMount         `codec:"mount"`
	Volumes        []string           `codec:"volumes"`
	ShmSize        string             `codec:"shm_size"`
	DiskLimit      string             `codec:"disk_limit"`
	PidsLimit      int64              `codec:"pids_limit"`
	CPUHardLimit   bool               `codec:"cpu_hard_limit"`
	CPUPeriod      int64              `codec:"cpu_cfs_period"`
	MemorySwap     string             `codec:"memory_swap"`
	Swappiness     *int64             `codec:"memory_swappiness"`
	OOMScoreAdj    int                `codec:"oom_score_adj"`
	Init           bool               `codec:"init"`
	TTY            bool               `codec:"tty"`
	Interactive    bool               `codec:"interactive"`
	SeccompProfile string             `codec:"seccomp_profile"`
	AppArmor       string             `codec:"apparmor_profile"`
	GroupAdd       []string           `codec:"group_add"`
	Devices        []JobDevice        `codec:"devices"`
	Ports          []string           `codec:"ports"`
	DNSServers     []string           `codec:"dns_servers"`
	DNSSearches    []string           `codec:"dns_search_domains"`
	DNSOptions     []string           `codec:"dns_options"`
	Ulimit         hclutils.MapStrStr `codec:"ulimit"`
	Sysctl         hclutils.MapStrStr `codec:"sysctl"`
	CapAdd         []string           `codec:"cap_add"`
	CapDrop        []string           `codec:"cap_drop"`
	ExtraHosts     []string           `codec:"extra_hosts"`
	Labels         hclutils.MapStrStr `codec:"labels"`
	Lease          JobLease           `codec:"lease"`
	Health         JobHealth          `codec:"healthchecks"`
	Runtime        string             `codec:"runtime"`

	// What other drivers know and this one refuses, with a reason that is better than "unsupported argument".
	Privileged bool               `codec:"privileged"`
	PIDMode    string             `codec:"pid_mode"`
	IPCMode    string             `codec:"ipc_mode"`
	UTSMode    string             `codec:"uts_mode"`
	CgroupNS   string             `codec:"cgroupns"`
	PortMap    hclutils.MapStrInt `codec:"port_map"`

	ForcePull       bool               `codec:"force_pull"`
	Load            string             `codec:"load"`
	Logging         *JobLogging        `codec:"logging"`
	SecurityOpt     []string           `codec:"security_opt"`
	StorageOpt      hclutils.MapStrStr `codec:"storage_opt"`
	NetworkAliases  []string           `codec:"network_aliases"`
	MacAddress      string             `codec:"mac_address"`
	IPv4Address     string             `codec:"ipv4_address"`
	IPv6Address     string             `codec:"ipv6_address"`
	CpusetCpus      string             `codec:"cpuset_cpus"`
	MemoryHardLimit int64              `codec:"memory_hard_limit"`
	VolumeDriver    string             `codec:"volume_driver"`
}

// JobHealth overrides the image's HEALTHCHECK, whole or in part.
type JobHealth struct {
	Disable     bool     `codec:"disable"`
	Test        []string `codec:"test"`
	Interval    string   `codec:"interval"`
	Timeout     string   `codec:"timeout"`
	StartPeriod string   `codec:"start_period"`
	Retries     int      `codec:"retries"`
}

// JobLogging is what Docker's and Podman's drivers know.
type JobLogging struct {
	Type   string             `codec:"type"`
	Driver string             `codec:"driver"`
	Config hclutils.MapStrStr `codec:"config"`
}

// JobDevice is a node of the host's that the job asks for.
type JobDevice struct {
	HostPath    string `codec:"host_path"`
	Path        string `codec:"container_path"`
	Permissions string `codec:"cgroup_permissions"`
}

// JobAuth is the job's own credentials for its image's registry.
type JobAuth struct {
	Username string `codec:"username"`
	Password string `codec:"password"`
}

// JobMount is a mount that the job asks for.
type JobMount struct {
	Type     string `codec:"type"`
	Source   string `codec:"source"`
	Target   string `codec:"target"`
	ReadOnly bool   `codec:"readonly"`
	Size     string `codec:"size"`
	Mode     string `codec:"mode"`
	// Propagation is private or host-to-task, for type bind.
	Propagation string `codec:"propagation"`
}

// JobLease is the task's dead-man's switch: it starts when the file, in the task's directory but outside what the
// task sees, changes, and is killed when the file stops changing for TTL.
type JobLease struct {
	File string `codec:"file"`
	TTL  string `codec:"ttl"`
}

func configSpec() *hclspec.Spec {
	strings := func(name string) *hclspec.Spec { return hclspec.NewAttr(name, "list(string)", false) }
	text := func(name string) *hclspec.Spec { return hclspec.NewAttr(name, "string", false) }
	number := func(name string) *hclspec.Spec { return hclspec.NewAttr(name, "number", false) }
	flag := func(name string) *hclspec.Spec { return hclspec.NewAttr(name, "bool", false) }
	block := func(name string, body map[string]*hclspec.Spec) *hclspec.Spec {
		return hclspec.NewBlock(name, false, hclspec.NewObject(body))
	}
	return hclspec.NewObject(map[string]*hclspec.Spec{
		"state_dir": text("state_dir"), "runtime_path": text("runtime_path"), "shim_path": text("shim_path"),
		"insecure_registries": strings("insecure_registries"), "allowed_registries": strings("allowed_registries"),
		"mirror": hclspec.NewBlockList("mirror", hclspec.NewObject(map[string]*hclspec.Spec{
			"registry": hclspec.NewAttr("registry", "string", true), "hosts": hclspec.NewAttr("hosts", "list(string)", true),
		})),
		"auth": block("auth", map[string]*hclspec.Spec{"config": text("config")}),
		"signature": hclspec.NewBlockList("signature", hclspec.NewObject(map[string]*hclspec.Spec{
			"images": strings("images"), "keys": strings("keys"), "allow_unsigned": flag("allow_unsigned"),
		})),
		"pull_timeout": text("pull_timeout"), "stall_timeout": text("stall_timeout"),
		"max_image_size": text("max_image_size"),
		"gc": block("gc", map[string]*hclspec.Spec{
			"disabled": flag("disabled"), "interval": text("interval"), "max_age": text("max_age"),
			"high_watermark": number("high_watermark"), "low_watermark": number("low_watermark"),
		}),
		"egress": block("egress", map[string]*hclspec.Spec{
			"disabled": flag("disabled"), "subnet": text("subnet"), "deny": strings("deny"),
			"max_connections": number("max_connections"), "connection_rate": number("connection_rate"),
			"police_namespaces": strings("police_namespaces"),
		}),
		"refuse_group_networks": flag("refuse_group_networks"), "allow_egress": strings("allow_egress"),
		"allow_firewall_exception": flag("allow_firewall_exception"),
		"driver_root":              text("driver_root"), "holds_dir": text("holds_dir"), "pids_limit": number("pids_limit"), "disk_limit": text("disk_limit"),
		"userns": block("userns", map[string]*hclspec.Spec{"start": number("start"), "count": number("count")}),
		"dns": block("dns", map[string]*hclspec.Spec{
			"servers": strings("servers"), "searches": strings("searches"), "options": strings("options"),
		}),
		"extra_labels": strings("extra_labels"), "disable_log_collection": flag("disable_log_collection"),
		"apparmor_profile": text("apparmor_profile"), "allow_apparmor_profiles": strings("allow_apparmor_profiles"),
		"allow_devices": strings("allow_devices"), "allow_swap": flag("allow_swap"), "allow_seccomp_profiles": text("allow_seccomp_profiles"), "allow_unlimited_memory": flag("allow_unlimited_memory"),
		"runtime": hclspec.NewBlockMap("runtime", []string{"name"}, hclspec.NewObject(map[string]*hclspec.Spec{
			"path": text("path"), "kind": text("kind"), "args": strings("args"), "allow_host_stack": flag("allow_host_stack"),
		})),
		"default_runtime": text("default_runtime"),
		"require_runtime": hclspec.NewBlockList("require_runtime", hclspec.NewObject(map[string]*hclspec.Spec{
			"namespaces": strings("namespaces"), "runtime": text("runtime"),
		})),
		"allow_caps": strings("allow_caps"), "allow_host_network": flag("allow_host_network"),
		"allow_userns_host": flag("allow_userns_host"), "allow_volumes": flag("allow_volumes"), "allow_sysctls": strings("allow_sysctls"),
		"allow_image_dirs": strings("allow_image_dirs"), "allow_cross_namespace_gpus": flag("allow_cross_namespace_gpus"),
	})
}

func jobSpec() *hclspec.Spec {
	body := map[string]*hclspec.Spec{
		"image": hclspec.NewAttr("image", "string", true),
		"auth": hclspec.NewBlock("auth", false, hclspec.NewObject(map[string]*hclspec.Spec{
			"username": hclspec.NewAttr("username", "string", false), "password": hclspec.NewAttr("password", "string", false),
		})),
		"mount": hclspec.NewBlockList("mount", hclspec.NewObject(map[string]*hclspec.Spec{
			"type": hclspec.NewAttr("type", "string", false), "source": hclspec.NewAttr("source", "string", false),
			"target": hclspec.NewAttr("target", "string", true), "readonly": hclspec.NewAttr("readonly", "bool", false),
			"size": hclspec.NewAttr("size", "string", false), "mode": hclspec.NewAttr("mode", "string", false),
			"propagation": hclspec.NewAttr("propagation", "string", false),
		})),
		"healthchecks": hclspec.NewBlock("healthchecks", false, hclspec.NewObject(map[string]*hclspec.Spec{
			"disable": hclspec.NewAttr("disable", "bool", false), "test": hclspec.NewAttr("test", "list(string)", false),
			"interval": hclspec.NewAttr("interval", "string", false), "timeout": hclspec.NewAttr("timeout", "string", false),
			"start_period": hclspec.NewAttr("start_period", "string", false), "retries": hclspec.NewAttr("retries", "number", false),
		})),
		"devices": hclspec.NewBlockList("devices", hclspec.NewObject(map[string]*hclspec.Spec{
			"host_path": hclspec.NewAttr("host_path", "string", true), "container_path": hclspec.NewAttr("container_path", "string", false),
			"cgroup_permissions": hclspec.NewAttr("cgroup_permissions", "string", false),
		})),
		"logging": hclspec.NewBlock("logging", false, hclspec.NewObject(map[string]*hclspec.Spec{
			"type": hclspec.NewAttr("type", "string", false), "driver": hclspec.NewAttr("driver", "string", false),
			"config": hclspec.NewAttr("config", "list(map(string))", false),
		})),
		"lease": hclspec.NewBlock("lease", false, hclspec.NewObject(map[string]*hclspec.Spec{
			"file": hclspec.NewAttr("file", "string", true), "ttl": hclspec.NewAttr("ttl", "string", true),
		})),
	}
	kinds := map[string][]string{
		"string": {
			"image_pull_policy", "image_pull_timeout", "command", "work_dir", "hostname", "network_mode", "userns_mode", "shm_size", "disk_limit", "memory_swap",
			"pid_mode", "ipc_mode", "uts_mode", "cgroupns", "seccomp_profile", "apparmor_profile", "runtime",
			"load", "mac_address", "ipv4_address", "ipv6_address", "cpuset_cpus", "volume_driver",
		},
		"list(string)": {
			"entrypoint", "args", "volumes", "cap_add", "cap_drop", "extra_hosts", "group_add", "ports",
			"dns_servers", "dns_search_domains", "dns_options", "security_opt", "network_aliases",
		},
		"list(map(string))": {"ulimit", "sysctl", "labels", "storage_opt"},
		"list(map(number))": {"port_map"},
		"bool":              {"readonly_rootfs", "cpu_hard_limit", "privileged", "init", "tty", "interactive", "auth_soft_fail", "force_pull"},
		"number":            {"pids_limit", "cpu_cfs_period", "memory_swappiness", "oom_score_adj", "memory_hard_limit"},
	}
	for kind, names := range kinds {
		for _, name := range names {
			body[name] = hclspec.NewAttr(name, kind, false)
		}
	}
	return hclspec.NewObject(body)
}
