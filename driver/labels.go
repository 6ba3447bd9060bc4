package driver

import (
	"maps"
	"path"

	"github.com/hashicorp/nomad/plugins/drivers"
)

// labelPrefix is Nomad's own: a job can't say of itself that it is another one.
const labelPrefix = "com.hashicorp.nomad."

// labels are the job's and, over them, what Nomad says of the task, as far as the operator wants it. The allocation is
// always named, so that whoever finds the sandbox can tell whose it is.
func labels(cfg *drivers.TaskConfig, job *JobConfig, s *settings) map[string]string {
	all := maps.Clone(map[string]string(job.Labels))
	if all == nil {
		all = map[string]string{}
	}
	facts := map[string]string{
		"job_name": cfg.JobName, "job_id": cfg.JobID, "parent_job_id": cfg.ParentJobID, "task_group_name": cfg.TaskGroupName,
		"task_name": cfg.Name, "namespace": cfg.Namespace, "node_name": cfg.NodeName, "node_id": cfg.NodeID,
	}
	for name, value := range facts {
		delete(all, labelPrefix+name)
		for _, pattern := range s.ExtraLabels {
			matches, err := path.Match(pattern, name)
			if err == nil && matches && value != "" {
				all[labelPrefix+name] = value
			}
		}
	}
	all[labelPrefix+"alloc_id"] = cfg.AllocID
	return all
}
