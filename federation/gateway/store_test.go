package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"pangaea/federation/pool"
	"pangaea/federation/state"
)

// fakeStore is Consul in a map: check-and-set, one fence, and tokens by name.
type fakeStore struct {
	mu         sync.Mutex
	index      uint64
	jobs       map[jobKey]state.Job
	sets       map[jobKey]state.Placements
	members    map[string]pool.MemberRecord
	fence      state.Fence
	denied     map[string]bool // tokens that may do nothing
	readOnly   map[string]bool // tokens that may read
	down       error
	jobWrites  int
	setWrites  int
	beforePut  func() // runs once, before the next job is written
	afterWrite func() // runs once, between the next write of a job and its caller's hearing of it
	onRead     func() // runs whenever a right to read is asked for
	maxJobSize int
}

func newFakeStore() *fakeStore {
	return &fakeStore{
		jobs: map[jobKey]state.Job{}, sets: map[jobKey]state.Placements{}, members: map[string]pool.MemberRecord{},
		denied: map[string]bool{}, readOnly: map[string]bool{}, fence: state.Fence{Key: pool.KeyLeader, Session: "one"},
	}
}

func clone[T any](v T) T {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	var out T
	err = json.Unmarshal(data, &out)
	if err != nil {
		panic(err)
	}
	return out
}

func (s *fakeStore) PutJob(_ context.Context, token string, record *pool.JobRecord, cas uint64) (uint64, error) {
	s.mu.Lock()
	hook := s.beforePut
	s.beforePut = nil
	s.mu.Unlock()
	if hook != nil {
		hook()
	}
	defer s.written()
	s.mu.Lock()
	defer s.mu.Unlock()
	data, _ := json.Marshal(record)
	key := jobKey{*record.Job.Namespace, *record.Job.ID}
	switch {
	case s.down != nil:
		return 0, s.down
	case s.denied[token] || s.readOnly[token]:
		return 0, state.ErrPermission
	case s.maxJobSize > 0 && len(data) > s.maxJobSize:
		return 0, fmt.Errorf("job %q is %w", key.id, state.ErrTooLarge)
	case s.jobs[key].Index != cas:
		return 0, state.ErrConflict
	}
	s.index++
	s.jobWrites++
	s.jobs[key] = state.Job{Value: clone(*record), Index: s.index}
	return s.index, nil
}

func (s *fakeStore) written() {
	s.mu.Lock()
	hook := s.afterWrite
	s.afterWrite = nil
	s.mu.Unlock()
	if hook != nil {
		hook()
	}
}

func (s *fakeStore) GetJob(_ context.Context, namespace, id string) (state.Job, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entry, ok := s.jobs[jobKey{namespace, id}]
	if !ok {
		return entry, state.ErrNotFound
	}
	return clone(entry), s.down
}

func (s *fakeStore) ListJobs(context.Context, string) ([]state.Job, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []state.Job
	for _, entry := range s.jobs {
		out = append(out, clone(entry))
	}
	return out, s.down
}

func (s *fakeStore) DeleteJob(_ context.Context, token, namespace, id string, _ uint64) error {
	defer s.written()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.denied[token] || s.readOnly[token] {
		return state.ErrPermission
	}
	delete(s.jobs, jobKey{namespace, id})
	return s.down
}

func (s *fakeStore) PutPlacements(_ context.Context, fence state.Fence, writes ...state.PlacementWrite) ([]uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return nil, s.down
	}
	if fence != s.fence {
		return nil, state.ErrFenced
	}
	var out []uint64
	for _, w := range writes {
		key := jobKey{w.Set.Namespace, w.Set.JobID}
		if s.sets[key].Index != w.CAS {
			return nil, state.ErrConflict
		}
		s.index++
		s.setWrites++
		if w.Delete {
			delete(s.sets, key)
		} else {
			s.sets[key] = state.Placements{Value: clone(w.Set), Index: s.index}
		}
		out = append(out, s.index)
	}
	return out, nil
}

func (s *fakeStore) ListPlacements(context.Context) ([]state.Placements, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []state.Placements
	for _, entry := range s.sets {
		out = append(out, clone(entry))
	}
	return out, s.down
}

func (s *fakeStore) PutMember(_ context.Context, record pool.MemberRecord) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members[record.Alias] = record
	return s.down
}

func (s *fakeStore) ListMembers(context.Context) ([]state.Member, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []state.Member
	for _, record := range s.members {
		out = append(out, state.Member{Value: record})
	}
	return out, s.down
}

func (s *fakeStore) CanRead(_ context.Context, token, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.onRead != nil {
		s.onRead()
	}
	if s.denied[token] {
		return state.ErrPermission
	}
	return s.down
}

func (s *fakeStore) CanWrite(_ context.Context, token, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.denied[token] || s.readOnly[token] {
		return state.ErrPermission
	}
	return s.down
}

func (s *fakeStore) set(id string) pool.PlacementSet {
	s.mu.Lock()
	defer s.mu.Unlock()
	return clone(s.sets[jobKey{"default", id}].Value)
}

var errDown = fmt.Errorf("cannot read the pool's state: %w at 127.0.0.1:8500: start it", errors.Join(state.ErrUnavailable))
