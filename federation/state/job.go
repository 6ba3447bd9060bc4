package state

import (
	"context"
	"fmt"
	"slices"

	"github.com/hashicorp/consul/api"

	"pangaea/federation/pool"
)

// Job is a pool job as kept in Consul.
type Job = Entry[pool.JobRecord]

// PutJob writes a job with the user's token and returns its new index. The job's Namespace and ID say where. cas is the
// index that the job must still have, 0 that it must not exist yet, and AnyIndex that it does not matter.
func (s *Store) PutJob(ctx context.Context, token string, record *pool.JobRecord, cas uint64) (uint64, error) {
	namespace, id := nameOf(record)
	key, err := jobKey(pool.KeyJobs, namespace, id)
	if err != nil {
		return 0, err
	}
	what := fmt.Sprintf("job %q", id)
	value, err := encode(what, record)
	if err != nil {
		return 0, err
	}
	indexes, err := s.commit(ctx, "write "+what, userToken(token), nil, []*api.KVTxnOp{setOp(key, value, cas)})
	if err != nil {
		return 0, err
	}
	return indexes[0], nil
}

// AnyIndex as a cas index writes whatever is there.
const AnyIndex = ^uint64(0)

// GetJob reads a job with the gateway's token, after [Store.CanRead]. A job that is not there is ErrNotFound.
func (s *Store) GetJob(ctx context.Context, namespace, id string) (Job, error) {
	key, err := jobKey(pool.KeyJobs, namespace, id)
	if err != nil {
		return Job{}, err
	}
	job, err := get[pool.JobRecord](ctx, s, key)
	if err != nil {
		return Job{}, err
	}
	err = trust(job)
	if err != nil {
		return Job{}, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return job, nil
}

// ListJobs reads the jobs of a namespace, or all when it is empty or "*", with the gateway's token.
func (s *Store) ListJobs(ctx context.Context, namespace string) ([]Job, error) {
	prefix, err := namespacePrefix(pool.KeyJobs, namespace)
	if err != nil {
		return nil, err
	}
	jobs, _, err := list[pool.JobRecord](ctx, s, prefix, 0)
	return s.trusted(jobs), err
}

// trusted leaves out the jobs that cannot be trusted.
func (s *Store) trusted(jobs []Job) []Job {
	return slices.DeleteFunc(jobs, func(job Job) bool {
		err := trust(job)
		if err != nil {
			s.logger.Error("leaving out a job that cannot be trusted", "key", job.Key, "error", err)
		}
		return err != nil
	})
}

// WatchJobs calls fn with all jobs now and after every change, until the context ends. It rides out a Consul that is
// away for a while.
func (s *Store) WatchJobs(ctx context.Context, fn func([]Job)) error {
	return watch(ctx, s, pool.KeyJobs, func(jobs []Job) { fn(s.trusted(jobs)) })
}

// DeleteJob removes a job with the user's token, if it still has the index cas (AnyIndex: whatever it has).
func (s *Store) DeleteJob(ctx context.Context, token, namespace, id string, cas uint64) error {
	key, err := jobKey(pool.KeyJobs, namespace, id)
	if err != nil {
		return err
	}
	_, err = s.commit(ctx, fmt.Sprintf("delete job %q", id), userToken(token), nil, []*api.KVTxnOp{deleteOp(key, cas)})
	return err
}

func nameOf(record *pool.JobRecord) (namespace, id string) {
	if record.Job == nil {
		return "", ""
	}
	namespace = defaultNamespace
	if record.Job.Namespace != nil && *record.Job.Namespace != "" {
		namespace = *record.Job.Namespace
	}
	if record.Job.ID != nil {
		id = *record.Job.ID
	}
	return namespace, id
}

const defaultNamespace = "default"
