package member

import (
	"fmt"
	"slices"

	"github.com/hashicorp/nomad/api"
)

// Policy is the owner's last word on what pool jobs may be. Its zero value allows the sandboxed driver alone and
// nothing that touches the owner's own volumes, secrets or services.
type Policy struct {
	AllowDrivers     []string `hcl:"allow_drivers,optional"` // default ["runc"]
	AllowHostVolumes []string `hcl:"allow_host_volumes,optional"`
	AllowNodePools   []string `hcl:"allow_node_pools,optional"` // default any
	AllowVault       bool     `hcl:"allow_vault,optional"`
	AllowConsul      bool     `hcl:"allow_consul,optional"` // services in, and keys of, the owner's Consul
	AllowCSI         bool     `hcl:"allow_csi,optional"`
	AllowArtifacts   bool     `hcl:"allow_artifacts,optional"` // downloads by the host, which reach whatever it reaches
	AllowIdentity    bool     `hcl:"allow_identity,optional"`  // tokens of the owner's Nomad in a task's hands
	DenyNamespaces   []string `hcl:"deny_namespaces,optional"` // of the pool
	// DenyGroupNetworks takes no jobs that want a bridge or CNI network, in which a stranger's task reaches whatever the
	// node reaches. Without one the driver lets it reach the internet only. The price: no ports, so no services, no gangs.
	DenyGroupNetworks bool `hcl:"deny_group_networks,optional"`
	MaxPriority       int  `hcl:"max_priority,optional"`  // higher is lowered to it; default 50
	MaxCount          int  `hcl:"max_count,optional"`     // allocations of one job, default no limit
	MaxCPU            int  `hcl:"max_cpu,optional"`       // MHz of one allocation, default no limit
	MaxMemoryMB       int  `hcl:"max_memory_mb,optional"` // of one allocation, default no limit
}

func (p Policy) withDefaults() Policy {
	if p.AllowDrivers == nil {
		p.AllowDrivers = []string{"runc"}
	}
	if p.MaxPriority <= 0 {
		p.MaxPriority = api.JobDefaultPriority
	}
	return p
}

// Check returns why the owner does not want a pool job, in a sentence for the job's user, or nil.
func (p Policy) Check(namespace string, job *api.Job) error {
	if slices.Contains(p.DenyNamespaces, namespace) {
		return fmt.Errorf("the owner takes no jobs of namespace %q", namespace)
	}
	err := checkKind(job)
	if err != nil {
		return err
	}
	if nodePool := deref(job.NodePool, ""); nodePool != "" && p.AllowNodePools != nil && !slices.Contains(p.AllowNodePools, nodePool) {
		return fmt.Errorf("the owner does not lend node pool %q", nodePool)
	}
	if job.Periodic != nil || job.ParameterizedJob != nil {
		return fmt.Errorf("jobs that make other jobs are not taken: the pool would not know of those")
	}
	total := 0
	for _, group := range job.TaskGroups {
		total += deref(group.Count, 1)
		err = p.checkGroup(group)
		if err != nil {
			return fmt.Errorf("group %q: %w", deref(group.Name, ""), err)
		}
	}
	if p.MaxCount > 0 && total > p.MaxCount {
		return fmt.Errorf("%d allocations are more than the owner's max_count %d", total, p.MaxCount)
	}
	return nil
}

func checkKind(job *api.Job) error {
	kind := deref(job.Type, api.JobTypeService)
	if kind != api.JobTypeService && kind != api.JobTypeBatch {
		return fmt.Errorf("jobs of type %q are not taken: use service or batch", kind)
	}
	if job.Periodic != nil || job.ParameterizedJob != nil {
		return fmt.Errorf("jobs that make other jobs are not taken: the pool would not know of those")
	}
	return nil
}

func (p Policy) checkGroup(group *api.TaskGroup) error {
	err := p.checkVolumes(group.Volumes)
	if err != nil {
		return err
	}
	err = p.checkServices(group.Services)
	if err != nil {
		return err
	}
	err = p.checkNetworks(group.Networks)
	if err != nil {
		return err
	}
	if group.Consul != nil && !p.AllowConsul {
		return fmt.Errorf("the owner does not lend Consul")
	}
	for _, task := range group.Tasks {
		err = p.checkTask(task)
		if err != nil {
			return fmt.Errorf("task %q: %w", task.Name, err)
		}
	}
	return p.checkSize(group.Tasks)
}

func (p Policy) checkNetworks(networks []*api.NetworkResource) error {
	for _, network := range networks {
		if p.DenyGroupNetworks && network.Mode != "" && network.Mode != "host" && network.Mode != "none" {
			return fmt.Errorf("the owner takes no jobs with a network of mode %q: leave it out, and the task gets one that leads to the internet", network.Mode)
		}
	}
	return nil
}

func (p Policy) checkVolumes(volumes map[string]*api.VolumeRequest) error {
	for name, volume := range volumes {
		switch {
		case volume.Type == "csi" && !p.AllowCSI:
			return fmt.Errorf("volume %q: the owner lends no CSI volumes", name)
		case volume.Type != "csi" && !slices.Contains(p.AllowHostVolumes, volume.Source):
			return fmt.Errorf("volume %q: the owner does not lend host volume %q", name, volume.Source)
		}
	}
	return nil
}

// checkSize looks at what one allocation may use at most.
func (p Policy) checkSize(tasks []*api.Task) error {
	cpu, memory := 0, 0
	for _, task := range tasks {
		if task.Resources != nil {
			if p.MaxCPU > 0 && deref(task.Resources.Cores, 0) > 0 {
				return fmt.Errorf("whole cores are not taken: ask for cpu, at most the owner's max_cpu %d", p.MaxCPU)
			}
			if p.MaxMemoryMB > 0 && deref(task.Resources.MemoryMaxMB, 0) < 0 {
				return fmt.Errorf("unlimited memory is more than the owner's max_memory_mb %d", p.MaxMemoryMB)
			}
			cpu += deref(task.Resources.CPU, 0)
			memory += max(deref(task.Resources.MemoryMB, 0), deref(task.Resources.MemoryMaxMB, 0))
		}
	}
	if p.MaxCPU > 0 && cpu > p.MaxCPU {
		return fmt.Errorf("%d MHz are more than the owner's max_cpu %d", cpu, p.MaxCPU)
	}
	if p.MaxMemoryMB > 0 && memory > p.MaxMemoryMB {
		return fmt.Errorf("%d MiB are more than the owner's max_memory_mb %d", memory, p.MaxMemoryMB)
	}
	return nil
}

func (p Policy) checkTask(task *api.Task) error {
	if !slices.Contains(p.AllowDrivers, task.Driver) {
		return fmt.Errorf("the owner does not allow driver %q, only %q", task.Driver, p.AllowDrivers)
	}
	if task.Vault != nil && !p.AllowVault {
		return fmt.Errorf("the owner does not lend Vault")
	}
	if (task.Consul != nil || task.Kind != "") && !p.AllowConsul {
		return fmt.Errorf("the owner does not lend Consul")
	}
	if task.CSIPluginConfig != nil {
		return fmt.Errorf("CSI plugins are not taken")
	}
	err := p.checkReach(task)
	if err != nil {
		return err
	}
	err = p.checkSecrets(task.Secrets)
	if err != nil {
		return err
	}
	return p.checkServices(task.Services)
}

// checkServices refuses services in the owner's Consul; Nomad's own service catalog is per namespace and harmless.
func (p Policy) checkServices(services []*api.Service) error {
	for _, service := range services {
		if service.Provider != "nomad" && !p.AllowConsul {
			return fmt.Errorf("service %q: the owner does not lend Consul: set provider = \"nomad\"", service.Name)
		}
		if service.Address != "" && len(service.Checks) > 0 { // the host asks there, and its answer is shown to the user
			return fmt.Errorf("service %q: checks of an address of one's own are not taken", service.Name)
		}
		if service.Identity != nil && !p.AllowIdentity {
			return fmt.Errorf("service %q: the owner does not lend identities", service.Name)
		}
	}
	return nil
}

// deref returns what a pointer points to, or a default for nil.
func deref[T any](pointer *T, fallback T) T {
	if pointer == nil {
		return fallback
	}
	return *pointer
}

func ptr[T any](value T) *T { return &value }
