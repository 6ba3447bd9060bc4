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
	for {
		leadership, err := s.campaignOnce(ctx, record, value)
		if leadership != nil || ctx.Err() != nil {
			return leadership, ctx.Err()
		}
		s.logger.Warn("cannot campaign for leadership, trying again", "error", err)
		pause(ctx, time.Second)
	}
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
	options := (&api.WriteOptions{}).WithContext(ctx)
	// Releasing before destroying spares the successor the lock delay.
	_, _, _ = l.store.client.KV().Release(&api.KVPair{Key: l.Fence.Key, Session: l.Fence.Session}, options)
	_, err := l.store.client.Session().Destroy(l.Fence.Session, options)
	if err != nil {
		l.store.logger.Debug("cannot destroy the leader's session", "error", err)
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
