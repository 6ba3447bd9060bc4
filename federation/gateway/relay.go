package gateway

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"pangaea/federation/pool"
	"pangaea/federation/relay"
	"pangaea/federation/tunnel"
)

// onRelay joins a worker at one member with a worker of the same job at another: the gateway finds who holds the
// wanted rank, asks that member to dial it, and copies bytes both ways until both sides have ended or fallen silent. Only a member that
// runs part of the job may ask, so that a tunnel is no way into others' jobs.
func (g *Gateway) onRelay(w http.ResponseWriter, r *http.Request) {
	from, ok := tunnel.FromContext(r.Context())
	if !ok {
		http.Error(w, "internal error: no session", http.StatusInternalServerError)
		return
	}
	query := r.URL.Query()
	index, err := strconv.Atoi(query.Get(pool.DialIndex))
	if err != nil || index < 0 {
		http.Error(w, "cannot relay: "+pool.DialIndex+" must be the index of an allocation", http.StatusBadRequest)
		return
	}
	key := jobKey{query.Get(pool.DialNamespace), query.Get(pool.DialJob)}
	sets, err := g.placements(r.Context())
	if err != nil {
		writeStoreError(w, err)
		return
	}
	to, status, text := route(sets[key], from.Peer(), query.Get(pool.DialGroup), index)
	if status != 0 {
		http.Error(w, text, status)
		return
	}
	g.mu.Lock()
	target, ok := g.member(to).session.(*tunnel.Session)
	g.mu.Unlock()
	if !ok || target == nil {
		http.Error(w, "cannot relay: member "+to+" is not connected", http.StatusBadGateway)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
	defer cancel()
	far, err := target.OpenStream(ctx, pool.PathDial, query)
	if err != nil {
		writeRelayError(w, err)
		return
	}
	near, err := tunnel.AcceptStream(w, r)
	if err != nil {
		g.logger.Debug("cannot take over a relay", "member", from.Peer(), "error", err)
		_ = far.Close()
		return
	}
	// The request's own context ends when its connection is taken over; the streams end with their sessions.
	count, err := relay.Splice(context.WithoutCancel(r.Context()), near, far, g.settings.relayIdle)
	g.logger.Debug("relay ended", "job", key.String(), "from", from.Peer(), "to", to, "sent", count.Out, "received", count.In, "error", err)
}

func writeRelayError(w http.ResponseWriter, err error) {
	var refused *tunnel.StreamError
	if errors.As(err, &refused) {
		http.Error(w, refused.Text, refused.Status)
		return
	}
	http.Error(w, "cannot relay: "+err.Error(), http.StatusBadGateway)
}

// route finds the member that runs the allocation with an index of the whole group.
func route(set pool.PlacementSet, from, group string, index int) (to string, status int, text string) {
	member := false
	for _, p := range set.Placements {
		if p.State != pool.PlacementCommitted && p.State != pool.PlacementRegistered {
			continue
		}
		member = member || p.Member == from
		share, ok := p.Groups[group]
		if ok && index >= share.Offset && index < share.Offset+share.Count {
			to = p.Member
		}
	}
	switch {
	case !member: // the same words whether the job exists or not
		return "", http.StatusForbidden, "cannot relay: this member runs no part of the job"
	case to == "":
		return "", http.StatusNotFound, "cannot relay: no member runs allocation " + strconv.Itoa(index) + " of the group"
	}
	return to, 0, ""
}
