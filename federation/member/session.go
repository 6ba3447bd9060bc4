package member

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"pangaea/federation/pool"
	"pangaea/federation/tunnel"
)

// errRefused is a gateway's answer that it lives but cannot take a message, since it does not lead or has lost Consul.
// The session is kept, with the logs and commands that pass through it, but it is no contact with the pool, because the
// one who would place our work elsewhere may not hear us.
var errRefused = errors.New("the gateway takes no messages now")

// exchangeTimeout bounds one message to a gateway.
const exchangeTimeout = 10 * time.Second

// link is the agent's side of one session.
type link struct {
	agent     *Agent
	session   *tunnel.Session
	client    *http.Client
	report    reporter
	sequence  uint64
	lastOffer []byte
	heartbeat time.Duration
	synced    atomic.Bool
	told      string // the refusal that was logged last
}

// Serve speaks to one gateway until the session or the context ends.
func (a *Agent) Serve(ctx context.Context, session *tunnel.Session) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := &link{
		agent: a, session: session, heartbeat: heartbeatDefault, report: reporter{words: a.words},
		client: &http.Client{Transport: session.Transport()},
	}
	a.track(session, true)
	defer a.track(session, false)
	served := make(chan struct{})
	go func() { // ends with the session, which is closed below at the latest
		defer close(served)
		_ = session.Serve(ctx, a.handler(l))
	}()
	err := l.talk(ctx)
	if err != nil && ctx.Err() == nil {
		a.logger.Info("session has ended", "gateway", session.RemoteAddr(), "reason", err)
	}
	_ = session.Close()
	<-served
}

func (a *Agent) track(session *tunnel.Session, on bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if on {
		a.sessions[session] = true
		return
	}
	delete(a.sessions, session)
}

// talk sends what is new, at the latest every heartbeat, until the session fails.
func (l *link) talk(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		snapshot, changed := l.agent.watcher.Current()
		// A member whose own Nomad does not answer falls silent: it can run nothing, and the pool must not think so.
		if snapshot != nil {
			err := l.tell(ctx, snapshot)
			if err != nil && !errors.Is(err, errRefused) {
				return err
			}
			if err != nil {
				changed = nil // nothing is urgent for a gateway that takes no messages
			}
		}
		timer.Reset(l.untilNext())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.session.Done():
			return errors.New("the connection was lost")
		case <-changed:
		case <-timer.C:
			l.lastOffer = nil // a heartbeat sends the offer though nothing changed
		}
	}
}

// untilNext is the pause before the next message: a heartbeat, or less when held room is given back before.
func (l *link) untilNext() time.Duration {
	ends, ok := l.agent.book.next()
	if ok {
		return min(l.heartbeat, max(time.Until(ends), time.Millisecond)+time.Millisecond)
	}
	return l.heartbeat
}

// tell synchronises first, then sends status and offer if they changed. Status goes first: the pool should see
// what became of its work before it thinks about what is free.
func (l *link) tell(ctx context.Context, s *snapshot) error {
	if !l.synced.Load() {
		err := l.sync(ctx, s)
		if err != nil {
			return err
		}
	}
	status, news := l.report.next(s)
	if news {
		for _, part := range parts(status) {
			err := l.put(ctx, pool.PathStatus, part, nil)
			if err != nil {
				l.report.failed()
				return err
			}
		}
	}
	return l.offer(ctx, s)
}

// sync tells the gateway what runs here and stops what it says is no longer wanted.
func (l *link) sync(ctx context.Context, s *snapshot) error {
	request := pool.SyncRequest{
		Version: l.agent.Version, Place: l.agent.config.place(), Price: l.agent.config.Price, Placements: s.refs(),
	}
	var reply pool.SyncReply
	sent := l.agent.contact.now()
	err := l.put(ctx, pool.PathSync, request, &reply)
	if err != nil {
		return err
	}
	for _, ref := range reply.Stop {
		_, err = l.agent.placements.Stop(ctx, pool.StopRequest{PlacementRef: ref})
		if err != nil && !errors.Is(err, errStale) {
			return fmt.Errorf("cannot stop what the pool has given to others: %w", err)
		}
	}
	// Only now: what the pool has given to others must not be allowed to start.
	l.agent.contact.made(sent)
	if reply.Heartbeat > 0 {
		l.heartbeat = min(reply.Heartbeat, time.Minute)
	}
	l.report.failed()
	l.synced.Store(true)
	l.agent.logger.Info("joined the pool", "gateway", l.session.RemoteAddr(), "placements", len(request.Placements), "stopped", len(reply.Stop))
	return nil
}

func (l *link) offer(ctx context.Context, s *snapshot) error {
	list := rooms(s)
	l.agent.book.apply(s, list)
	offer := offerOf(l.agent.config, list)
	text, err := json.Marshal(offer)
	if err != nil {
		return fmt.Errorf("cannot encode an offer: %w", err)
	}
	if bytes.Equal(text, l.lastOffer) {
		return nil
	}
	l.sequence++
	offer.Sequence = l.sequence
	err = l.put(ctx, pool.PathOffer, offer, nil)
	if err == nil {
		l.lastOffer = text
	}
	return err
}

// put sends one message and notes the contact when the leader has taken it, unless there is more to do first.
func (l *link) put(ctx context.Context, path string, message, reply any) error {
	body, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("cannot encode a message for %s: %w", path, err)
	}
	sent := l.agent.contact.now()
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://gateway"+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("cannot make a message for %s: %w", path, err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := l.client.Do(request)
	if err != nil {
		return fmt.Errorf("cannot send to %s: %w", path, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 4<<20))
	if err != nil {
		return fmt.Errorf("cannot read the answer of %s: %w", path, err)
	}
	switch {
	case response.StatusCode == http.StatusServiceUnavailable:
		l.synced.Store(false) // whoever leads next must hear everything
		return errRefused
	case response.StatusCode >= http.StatusInternalServerError:
		l.tellOnce(path, string(text))
		return errRefused
	case response.StatusCode >= http.StatusMultipleChoices:
		return fmt.Errorf("gateway answered %d to %s: %.200s", response.StatusCode, path, text)
	}
	if path != pool.PathSync {
		l.agent.contact.made(sent)
	}
	l.told = ""
	if reply == nil {
		return nil
	}
	err = json.Unmarshal(text, reply)
	if err != nil {
		return fmt.Errorf("cannot read the answer of %s: %w", path, err)
	}
	return nil
}

// tellOnce logs a gateway's refusal unless it is the same as the last.
func (l *link) tellOnce(path, text string) {
	if l.told == text {
		return
	}
	l.told = text
	l.agent.logger.Warn("gateway cannot take a message, trying again", "gateway", l.session.RemoteAddr(), "path", path, "answer", strings.TrimSpace(text))
}
