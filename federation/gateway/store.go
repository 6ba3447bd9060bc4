package gateway

import (
	"context"

	"pangaea/federation/pool"
	"pangaea/federation/state"
)

// Store is the part of the pool's state that a gateway uses; *state.Store is one.
type Store interface {
	PutJob(ctx context.Context, token string, record *pool.JobRecord, cas uint64) (uint64, error)
	GetJob(ctx context.Context, namespace, id string) (state.Job, error)
	ListJobs(ctx context.Context, namespace string) ([]state.Job, error)
	DeleteJob(ctx context.Context, token, namespace, id string, cas uint64) error
	PutPlacements(ctx context.Context, fence state.Fence, writes ...state.PlacementWrite) ([]uint64, error)
	ListPlacements(ctx context.Context) ([]state.Placements, error)
	PutMember(ctx context.Context, record pool.MemberRecord) error
	ListMembers(ctx context.Context) ([]state.Member, error)
	CanRead(ctx context.Context, token, namespace string) error
	CanWrite(ctx context.Context, token, namespace string) error
}

var _ Store = (*state.Store)(nil)
