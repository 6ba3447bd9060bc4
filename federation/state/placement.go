package state

import (
	"context"
	"fmt"
	"net/url"

	"github.com/hashicorp/consul/api"

	"pangaea/federation/pool"
)

// Placements is what the leader decided about one job, as kept in Consul.
type Placements = Entry[pool.PlacementSet]

// PlacementWrite is one change in a transaction of placements.
type PlacementWrite struct {
	Set    pool.PlacementSet
	CAS    uint64 // the index that the set must still have, 0 for a new one, AnyIndex for whatever there is
	Delete bool   // remove the set instead; only its Namespace and JobID matter
}

// PutPlacements writes placements of one or more jobs in one transaction that fails whole with ErrFenced unless the
// fence's session still leads, and with ErrConflict if a set changed meanwhile. It returns the new index of each set.
func (s *Store) PutPlacements(ctx context.Context, fence Fence, writes ...PlacementWrite) ([]uint64, error) {
	if len(writes) == 0 {
		return nil, nil
	}
	ops := make([]*api.KVTxnOp, 0, len(writes))
	for i := range writes {
		op, err := writes[i].op()
		if err != nil {
			return nil, err
		}
		ops = append(ops, op)
	}
	return s.commit(ctx, fmt.Sprintf("write placements of job %q", writes[0].Set.JobID), "", &fence, ops)
}

func (w *PlacementWrite) op() (*api.KVTxnOp, error) {
	key, err := jobKey(pool.KeyPlacements, w.Set.Namespace, w.Set.JobID)
	if err != nil {
		return nil, err
	}
	if w.Delete {
		return deleteOp(key, w.CAS), nil
	}
	value, err := encode(fmt.Sprintf("the placements of job %q", w.Set.JobID), w.Set)
	if err != nil {
		return nil, err
	}
	return setOp(key, value, w.CAS), nil
}

// GetPlacements reads what was decided about a job; ErrNotFound if nothing was.
func (s *Store) GetPlacements(ctx context.Context, namespace, jobID string) (Placements, error) {
	key, err := jobKey(pool.KeyPlacements, namespace, jobID)
	if err != nil {
		return Placements{}, err
	}
	return get[pool.PlacementSet](ctx, s, key)
}

// ListPlacements reads the placements of all jobs.
func (s *Store) ListPlacements(ctx context.Context) ([]Placements, error) {
	sets, _, err := list[pool.PlacementSet](ctx, s, pool.KeyPlacements, 0)
	return sets, err
}

// WatchPlacements calls fn with all placements now and after every change, until the context ends.
func (s *Store) WatchPlacements(ctx context.Context, fn func([]Placements)) error {
	return watch(ctx, s, pool.KeyPlacements, fn)
}

// Member is a member as kept in Consul.
type Member = Entry[pool.MemberRecord]

// PutMember writes what the pool keeps about a member. Only a change costs a write.
func (s *Store) PutMember(ctx context.Context, record pool.MemberRecord) error {
	what := "member " + record.Alias
	value, err := encode(what, record)
	if err != nil {
		return err
	}
	op := setOp(pool.KeyMembers+url.PathEscape(record.Alias), value, AnyIndex)
	_, err = s.commit(ctx, "write "+what, "", nil, []*api.KVTxnOp{op})
	return err
}

// ListMembers reads the members that ever joined.
func (s *Store) ListMembers(ctx context.Context) ([]Member, error) {
	members, _, err := list[pool.MemberRecord](ctx, s, pool.KeyMembers, 0)
	return members, err
}

// WatchMembers calls fn with all members now and after every change, until the context ends.
func (s *Store) WatchMembers(ctx context.Context, fn func([]Member)) error {
	return watch(ctx, s, pool.KeyMembers, fn)
}
