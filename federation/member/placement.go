package member

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"

	"pangaea/federation/nomad"
	"pangaea/federation/pool"
	"pangaea/federation/relay"
	"pangaea/federation/state"
)

// Refusals that a gateway tells apart by status.
var (
	errStale  = errors.New("a higher epoch of this placement is known here")
	errPolicy = errors.New("refused by the member's owner")
)

const (
	reserveDefault = 10 * time.Second
	reserveMax     = time.Minute
	// committedHold is how long a committed placement's room is held while its allocations are on their way.
	committedHold = 15 * time.Second
)

// placements carries out the gateways' commands against the member's own Nomad. Commands for one job are taken one at
// a time, so that a late commit cannot overtake a stop.
type placements struct {
	config  Config
	words   words
	cluster Cluster
	watcher *watcher
	book    *reservations
	relay   *relay.Relay
	now     func() time.Time
	logger  hclog.Logger

	mu      sync.Mutex
	locks   map[jobKey]*sync.Mutex
	stopped tombstones
	spaces  map[string]bool // namespaces known to be there
}

// lock serialises the commands for one job.
func (p *placements) lock(key jobKey) func() {
	p.mu.Lock()
	one := p.locks[key]
	if one == nil {
		one = &sync.Mutex{}
		p.locks[key] = one
	}
	p.mu.Unlock()
	one.Lock()
	return one.Unlock
}

func (p *placements) keyOf(ref pool.PlacementRef) jobKey {
	return jobKey{namespace: p.words.toMember(ref.Namespace), id: ref.JobID}
}

// Reserve checks a share of a job with the owner's policy and with Nomad's own plan, and holds room for it.
func (p *placements) Reserve(ctx context.Context, request pool.ReserveRequest) (pool.ReserveReply, error) {
	key := p.keyOf(request.PlacementRef)
	defer p.lock(key)()
	snapshot, _ := p.watcher.Current()
	if snapshot == nil {
		return pool.ReserveReply{Reason: "the member's own Nomad does not answer"}, nil
	}
	job, err := p.prepare(ctx, request.PlacementRef, request.Job, request.Groups)
	if err != nil {
		return pool.ReserveReply{Reason: err.Error()}, nil
	}
	plan, err := p.cluster.Plan(ctx, job)
	if err != nil {
		return pool.ReserveReply{Reason: err.Error()}, nil
	}
	if len(plan.FailedTGAllocs) > 0 {
		return pool.ReserveReply{Reason: "the member's own Nomad cannot place it now", Failed: plan.FailedTGAllocs}, nil
	}
	ttl := request.TTL
	if ttl <= 0 {
		ttl = reserveDefault
	}
	want := reservation{
		key: key, ref: request.PlacementRef, groups: demands(job), deadline: p.now().Add(min(ttl, reserveMax)),
	}
	if !p.book.try(snapshot, want) {
		return pool.ReserveReply{Reason: "what is free is held for another placement"}, nil
	}
	p.watcher.wake()
	return pool.ReserveReply{Granted: true}, nil
}

func demands(job *api.Job) map[string]held {
	groups := make(map[string]held, len(job.TaskGroups))
	for _, group := range job.TaskGroups {
		groups[*group.Name] = held{demand: demandOf(group), count: *group.Count}
	}
	return groups
}

// Release gives held room back.
func (p *placements) Release(ref pool.PlacementRef) {
	p.book.release(p.keyOf(ref), ref.Epoch)
	p.watcher.wake()
}

// prepare turns a pool job into what this member would register, after asking the owner's policy.
func (p *placements) prepare(ctx context.Context, ref pool.PlacementRef, source *api.Job, groups map[string]pool.GroupShare) (*api.Job, error) {
	if !state.ValidNamespace(p.words.toMember(ref.Namespace)) || !state.ValidNamespace(ref.Namespace) {
		return nil, fmt.Errorf("%w: namespace %q is not one", errPolicy, ref.Namespace)
	}
	if source == nil || deref(source.ID, "") != ref.JobID {
		return nil, fmt.Errorf("%w: the job is not the one that the placement names", errPolicy)
	}
	job, err := p.words.job(ref.Namespace, source, groups, *p.config.Policy)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPolicy, err)
	}
	err = p.config.Policy.Check(ref.Namespace, job)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPolicy, err)
	}
	err = p.ensureNamespace(ctx, *job.Namespace)
	if err != nil {
		return nil, err
	}
	t := tagOf(ref, groups)
	for _, group := range job.TaskGroups {
		if after := stopAfter(group); after > 0 {
			t.Stops[*group.Name] = int(after.Milliseconds())
			addLease(job, group)
			oneTime(group)
		} else if lost := lostAfter(group); lost > 0 {
			t.Holds[*group.Name] = int(lost.Milliseconds())
			addHold(job, group)
		}
	}
	mark(job, t)
	return job, nil
}

func tagOf(ref pool.PlacementRef, groups map[string]pool.GroupShare) tag {
	t := tag{
		Namespace: ref.Namespace, PlacementID: ref.PlacementID, Epoch: ref.Epoch,
		Offsets: map[string]int{}, Relays: map[string]int{}, Stops: map[string]int{}, Holds: map[string]int{},
	}
	for name, share := range groups {
		if share.Count > 0 {
			t.Offsets[name] = share.Offset
		}
	}
	return t
}

func (p *placements) ensureNamespace(ctx context.Context, name string) error {
	p.mu.Lock()
	known := p.spaces[name]
	p.mu.Unlock()
	if known {
		return nil
	}
	err := p.cluster.EnsureNamespace(ctx, name, "Jobs that the pool places on this cluster")
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spaces[name] = true
	return nil
}

// existing reads what is registered for a job, nil if nothing is.
func (p *placements) existing(ctx context.Context, key jobKey) (*api.Job, tag, error) {
	job, err := p.cluster.Job(ctx, key.namespace, key.id)
	if nomad.NotFound(err) {
		return nil, tag{}, nil
	}
	if err != nil {
		return nil, tag{}, err
	}
	label, err := readTag(job)
	if err != nil {
		return nil, tag{}, fmt.Errorf("%w: %w: the owner registered a job of that name", errPolicy, err)
	}
	return job, label, nil
}

// Commit registers a share of a job. It is idempotent, and refuses an epoch below the highest that is known.
func (p *placements) Commit(ctx context.Context, request pool.CommitRequest) (pool.CommitReply, error) {
	key := p.keyOf(request.PlacementRef)
	defer p.lock(key)()
	current, label, err := p.existing(ctx, key)
	if err != nil {
		return pool.CommitReply{}, err
	}
	if p.stopped.refuses(key, request.PlacementRef) || (current != nil && label.Epoch > request.Epoch) {
		return pool.CommitReply{}, fmt.Errorf("cannot commit epoch %d: %w", request.Epoch, errStale)
	}
	index := uint64(0)
	if current != nil {
		index = deref(current.JobModifyIndex, 0)
		// A stopped job of this epoch that the pool did not stop was stopped by the guard: it is registered again.
		if label.Epoch == request.Epoch && !deref(current.Stop, false) {
			return p.replyFor(ctx, key, index), nil
		}
	}
	job, err := p.prepare(ctx, request.PlacementRef, request.Job, request.Groups)
	if err != nil {
		return pool.CommitReply{}, err
	}
	err = p.dress(job, request, label)
	if err != nil {
		return pool.CommitReply{}, err
	}
	response, err := p.cluster.Register(ctx, job, index)
	if err != nil {
		return pool.CommitReply{}, err
	}
	p.book.extend(key, p.now().Add(committedHold))
	p.watcher.Refresh()
	p.logger.Info("placement is registered", "namespace", request.Namespace, "job", request.JobID,
		"placement", request.PlacementID, "epoch", request.Epoch, "eval", response.EvalID)
	return pool.CommitReply{EvalID: response.EvalID, JobModifyIndex: response.JobModifyIndex}, nil
}

// replyFor finds the evaluation of a registration that was done before, so that a repeated commit answers alike.
func (p *placements) replyFor(ctx context.Context, key jobKey, index uint64) pool.CommitReply {
	reply := pool.CommitReply{JobModifyIndex: index}
	evaluations, err := p.cluster.Evaluations(ctx, key.namespace, key.id)
	if err != nil {
		return reply // the registration stands; its evaluation is only for show
	}
	for _, evaluation := range evaluations {
		if evaluation.JobModifyIndex == index {
			reply.EvalID = evaluation.ID
		}
	}
	return reply
}

// dress adds what the workers of gangs need beside the user's job: their environment and relay.
func (p *placements) dress(job *api.Job, request pool.CommitRequest, before tag) error {
	t, err := readTag(job)
	if err != nil {
		return fmt.Errorf("internal error: %w", err)
	}
	for _, group := range job.TaskGroups {
		if isGang(job, group) {
			name := *group.Name
			label := rendezvousPort(group)
			port := 0
			if label != "" {
				port, err = p.relay.Open(relayKey(request.Namespace, request.JobID, name, label), before.Relays[name])
				if err != nil {
					return err
				}
				t.Relays[name] = port
			}
			joinGang(group, request.Groups[name], label, p.relay.Address(), port)
		}
	}
	mark(job, t)
	return nil
}

func relayKey(namespace, job, group, port string) relay.Key {
	return relay.Key{Namespace: namespace, Job: job, Group: group, Port: port}
}

// Stop ends a placement and, with Purge, makes Nomad forget it. A stop of a lower epoch than the registered one is
// refused; one of a placement that is not there is remembered, so that its late commit does nothing.
func (p *placements) Stop(ctx context.Context, request pool.StopRequest) (pool.CommitReply, error) {
	key := p.keyOf(request.PlacementRef)
	defer p.lock(key)()
	current, label, err := p.existing(ctx, key)
	if err != nil {
		return pool.CommitReply{}, err
	}
	if current != nil && label.Epoch > request.Epoch {
		return pool.CommitReply{}, fmt.Errorf("cannot stop epoch %d: %w", request.Epoch, errStale)
	}
	p.stopped.add(key, request)
	p.book.release(key, request.Epoch)
	if current == nil {
		p.closeRelays(request.Namespace, request.JobID) // of a commit that got no further
		return pool.CommitReply{}, nil
	}
	return p.deregister(ctx, key, label, request.Purge, "the pool asked")
}

func (p *placements) deregister(ctx context.Context, key jobKey, label tag, purge bool, reason string) (pool.CommitReply, error) {
	evaluation, err := p.cluster.Deregister(ctx, key.namespace, key.id, purge)
	if err != nil && !nomad.NotFound(err) {
		return pool.CommitReply{}, err
	}
	p.closeRelays(label.Namespace, key.id)
	p.watcher.Refresh()
	p.logger.Info("placement is stopped", "namespace", label.Namespace, "job", key.id,
		"placement", label.PlacementID, "epoch", label.Epoch, "reason", reason)
	return pool.CommitReply{EvalID: evaluation}, nil
}

// closeRelays gives back the ports of a job, which is named in the pool's words.
func (p *placements) closeRelays(namespace, job string) {
	for _, open := range p.relay.Keys() {
		if open.Namespace == namespace && open.Job == job {
			p.relay.CloseKey(open)
		}
	}
}
