package state

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"pangaea/federation/pool"
)

// GatewayRecord is what a gateway tells the others about itself.
type GatewayRecord struct {
	ID         string // unique for one run of one gateway
	HTTPAddr   string // where it serves Nomad's API, host:port
	TunnelAddr string // where it accepts members, host:port
	Version    string
}

// Fence proves leadership in a transaction: the lock's key and the session that held it.
type Fence struct {
	Key     string
	Session string
}

// Leadership is held from [Store.Campaign] until Lost is closed or Resign is called.
type Leadership struct {
	Fence Fence

	store  *Store
	lost   chan struct{}
	cancel context.CancelFunc
	group  sync.WaitGroup
}

// Lost is closed when leadership has ended for any reason. The fence, not this channel, is what makes a late write
// harmless: the channel may close seconds after another gateway leads.
func (l *Leadership) Lost() <-chan struct{} { return l.lost }

// Campaign waits until this gateway leads or the context ends. The leader's record becomes what [Store.Leader]
// returns. The context bounds the waiting and then the whole leadership; call Resign in either case.
func (s *Store) Campaign(ctx context.Context, record GatewayRecord) (*Leadership, error) {
	value, err := encode("the gateway's record", record)
	if err != nil {
		return nil, err
	}
	s.succeed.Do(func() { s.deposePredecessor(ctx, record) })
	for {
		leadership, err := s.campaignOnce(ctx, record, value)
		if leadership != nil || ctx.Err() != nil {
			return leadership, ctx.Err()
		}
		s.logger.Warn("cannot campaign for leadership, trying again", "error", err)
		pause(ctx, time.Second)
	}
}

// deposePredecessor frees the lock if its holder is this gateway's own earlier run, killed so that it could not resign:
// it had the same addresses, whose ports are ours now. Without this the pool would have no leader until Consul ends
// the old session, 10 to 20 s later. Should the holder be alive after all, its fence is gone and its writes fail. It
// is done once in a run, so that two gateways that were given the same addresses do not depose each other for ever.
func (s *Store) deposePredecessor(ctx context.Context, record GatewayRecord) {
	pair, _, err := s.client.KV().Get(pool.KeyLeader, read(ctx))
	if err != nil || pair == nil || pair.Session == "" {
		return
	}
	holder, err := entryOf[GatewayRecord](pair)
	same := holder.Value.HTTPAddr == record.HTTPAddr && holder.Value.TunnelAddr == record.TunnelAddr && record.HTTPAddr != ""
	if err != nil || !same || holder.Value.ID == record.ID {
		return
	}
	s.logger.Info("taking over from this gateway's earlier run", "earlier", holder.Value.ID)
	s.endSession(ctx, Fence{Key: pool.KeyLeader, Session: pair.Session})
}

func (s *Store) campaignOnce(ctx context.Context, record GatewayRecord, value []byte) (*Leadership, error) {
	entry := &api.SessionEntry{
		Name: "pangaea gateway " + record.ID, TTL: s.config.SessionTTL.String(),
		LockDelay: s.config.LockDelay, Behavior: api.SessionBehaviorRelease,
	}
	// No health checks: serf's opinion of the node would end a healthy leader's session.
	session, _, err := s.client.Session().CreateNoChecks(entry, (&api.WriteOptions{}).WithContext(ctx))
	if err != nil {
		return nil, s.translate("create a session", err)
	}
	own, cancel := context.WithCancel(ctx)
	l := &Leadership{
		Fence: Fence{Key: pool.KeyLeader, Session: session}, store: s, lost: make(chan struct{}), cancel: cancel,
	}
	l.group.Go(func() { l.renew(own) })
	err = s.acquire(own, session, value)
	if err != nil {
		l.end()
		return nil, err
	}
	lock, err := s.client.LockOpts(&api.LockOptions{
		Key: pool.KeyLeader, Value: value, Session: session, LockWaitTime: 10 * time.Second,
		MonitorRetries: 5, MonitorRetryTime: time.Second, LockDelay: s.config.LockDelay,
	})
	if err != nil {
		l.end()
		return nil, s.translate("prepare the leader's lock", err)
	}
	gone, err := lock.Lock(own.Done())
	if err != nil || gone == nil {
		l.end()
		return nil, s.translate("take the leader's lock", err)
	}
	l.group.Go(func() { l.watch(own, gone) })
	return l, nil
}

// acquireEvery is how often the lock is tried while its delay keeps it from everybody.
const acquireEvery = 100 * time.Millisecond

// acquire waits for the leader's lock and takes it. Consul's library would rest for 5 s when it is refused during the
// lock's delay, as it always is after a leader that was killed; it finds the lock already ours and only watches it.
func (s *Store) acquire(ctx context.Context, session string, value []byte) error {
	index := uint64(0)
	for {
		options := read(ctx)
		options.WaitIndex, options.WaitTime = index, 10*time.Second
		pair, meta, err := s.client.KV().Get(pool.KeyLeader, options)
		if err != nil {
			return s.translate("wait for the leader's lock", err)
		}
		if pair != nil && pair.Session != "" {
			index = meta.LastIndex
			continue
		}
		entry := &api.KVPair{Key: pool.KeyLeader, Value: value, Session: session, Flags: api.LockFlagValue}
		taken, _, err := s.client.KV().Acquire(entry, (&api.WriteOptions{}).WithContext(ctx))
		if err != nil {
			return s.translate("take the leader's lock", err)
		}
		if taken {
			return nil
		}
		index = 0
		pause(ctx, acquireEvery)
	}
}

// renew keeps the session alive until the context ends, and ends the context if the session cannot be kept.
func (l *Leadership) renew(ctx context.Context) {
	defer l.cancel()
	_ = l.store.client.Session().RenewPeriodic(l.store.config.SessionTTL.String(), l.Fence.Session, nil, ctx.Done())
}

func (l *Leadership) watch(ctx context.Context, gone <-chan struct{}) {
	defer close(l.lost)
	defer l.cancel()
	select {
	case <-ctx.Done():
	case <-gone:
	}
}

// Resign gives leadership up at once, so that another gateway need not wait for the session's end. It may be called
// more than once.
func (l *Leadership) Resign() { l.end() }

func (l *Leadership) end() {
	l.cancel()
	l.group.Wait() // RenewPeriodic destroys the session on its way out
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	l.store.endSession(ctx, l.Fence)
}

// endSession releases the lock before it destroys the session, which spares the successor the lock delay.
func (s *Store) endSession(ctx context.Context, fence Fence) {
	options := (&api.WriteOptions{}).WithContext(ctx)
	_, _, err := s.client.KV().Release(&api.KVPair{Key: fence.Key, Session: fence.Session, Flags: api.LockFlagValue}, options)
	if err == nil {
		_, err = s.client.Session().Destroy(fence.Session, options)
	}
	if err != nil {
		s.logger.Debug("cannot end a leader's session", "error", err)
	}
}

// Leader returns the leading gateway's record, ErrNotFound while nobody leads.
func (s *Store) Leader(ctx context.Context) (GatewayRecord, error) {
	pair, _, err := s.client.KV().Get(pool.KeyLeader, read(ctx))
	if err != nil {
		return GatewayRecord{}, s.translate("find the leading gateway", err)
	}
	if pair == nil || pair.Session == "" {
		return GatewayRecord{}, fmt.Errorf("cannot find the leading gateway: %w", ErrNotFound)
	}
	entry, err := entryOf[GatewayRecord](pair)
	return entry.Value, err
}
