package member

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/hashicorp/nomad/api"

	"pangaea/federation/pool"
	"pangaea/federation/relay"
	"pangaea/federation/tunnel"
)

var errNoWorker = errors.New("no running allocation holds that index")

// dialRank reaches rank 0 of a gang for one of our workers: here if we hold it, else through a gateway.
func (a *Agent) dialRank(ctx context.Context, key relay.Key) (relay.Stream, error) {
	near, err := a.dialHere(ctx, key, 0)
	if err == nil || !errors.Is(err, errNoWorker) {
		return near, err
	}
	query := url.Values{
		pool.DialNamespace: {key.Namespace}, pool.DialJob: {key.Job}, pool.DialGroup: {key.Group},
		pool.DialIndex: {"0"}, pool.DialPort: {key.Port},
	}
	failure := errors.New("cannot reach rank 0: no gateway is connected")
	for _, session := range a.liveSessions() {
		far, err := session.OpenStream(ctx, pool.PathRelay, query)
		if err == nil {
			return far, nil
		}
		failure = err
	}
	return nil, failure
}

func (a *Agent) liveSessions() []*tunnel.Session {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := make([]*tunnel.Session, 0, len(a.sessions))
	for session := range a.sessions {
		list = append(list, session)
	}
	return list
}

// dialHere connects to a port of the allocation that holds an index of a placed group. The address is the one that
// Nomad gave the allocation: nothing in a request can name another.
func (a *Agent) dialHere(ctx context.Context, key relay.Key, index int) (*net.TCPConn, error) {
	snapshot, _ := a.watcher.Current()
	if snapshot == nil {
		return nil, errors.New("the member's own Nomad does not answer")
	}
	holder := snapshot.holder(a.words, key.Namespace, key.Job, key.Group, index)
	if holder == nil {
		return nil, errNoWorker
	}
	address, err := portAddress(holder.AllocatedResources, key.Port)
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot dial allocation %s: %w", holder.ID, err)
	}
	return conn.(*net.TCPConn), nil
}

func portAddress(resources *api.AllocatedResources, label string) (string, error) {
	if resources != nil {
		for _, port := range resources.Shared.Ports {
			if port.Label == label && port.HostIP != "" {
				return net.JoinHostPort(port.HostIP, strconv.Itoa(port.Value)), nil
			}
		}
	}
	return "", fmt.Errorf("the allocation has no port %q", label)
}

// serveDial gives a gateway a raw stream to a port of one of the pool's allocations.
func (a *Agent) serveDial(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	index, err := strconv.Atoi(query.Get(pool.DialIndex))
	if err != nil || index < 0 {
		http.Error(w, "index is not a number", http.StatusBadRequest)
		return
	}
	key := relayKey(query.Get(pool.DialNamespace), query.Get(pool.DialJob), query.Get(pool.DialGroup), query.Get(pool.DialPort))
	near, err := a.dialHere(r.Context(), key, index)
	if err != nil {
		status := http.StatusBadGateway
		if errors.Is(err, errNoWorker) {
			status = http.StatusNotFound
		}
		http.Error(w, err.Error(), status)
		return
	}
	defer func() { _ = near.Close() }()
	far, err := tunnel.AcceptStream(w, r)
	if err != nil {
		a.logger.Debug("cannot take over a stream", "error", err)
		return
	}
	session, ok := tunnel.FromContext(r.Context())
	if !ok {
		_ = far.Close()
		return
	}
	// The request's own context ends when its connection is taken over; the session's does not.
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	go func() { // ends with the stream or the session
		select {
		case <-session.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	count, err := relay.Splice(ctx, near, far, 12*time.Hour)
	a.logger.Debug("stream to a worker has ended", "job", key.Job, "bytes_out", count.Out, "bytes_in", count.In, "error", err)
}
