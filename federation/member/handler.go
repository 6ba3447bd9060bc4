package member

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"pangaea/federation/nomad"
	"pangaea/federation/pool"
)

// handler serves the gateway's commands. None is obeyed before the session is synchronised: a gateway that does not
// know yet what runs here could ask for something that contradicts it.
func (a *Agent) handler(l *link) http.Handler {
	mux := http.NewServeMux()
	p := a.placements
	mux.Handle("PUT "+pool.PathReserve, l.command(handle(p.Reserve)))
	mux.Handle("PUT "+pool.PathRelease, l.command(handle(func(_ context.Context, ref pool.PlacementRef) (struct{}, error) {
		p.Release(ref)
		return struct{}{}, nil
	})))
	mux.Handle("PUT "+pool.PathCommit, l.command(handle(p.Commit)))
	mux.Handle("PUT "+pool.PathStop, l.command(handle(p.Stop)))
	mux.Handle("GET "+pool.PathDial, http.HandlerFunc(a.serveDial))
	mux.Handle(pool.PathNomad, a.passthrough())
	return mux
}

func (l *link) command(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !l.synced.Load() {
			http.Error(w, "member is not synchronised yet", http.StatusServiceUnavailable)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// handle makes an HTTP handler of a function from one JSON message to another.
func handle[Request, Reply any](do func(context.Context, Request) (Reply, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var request Request
		err := json.NewDecoder(r.Body).Decode(&request)
		if err != nil {
			http.Error(w, "cannot read the request: "+err.Error(), http.StatusBadRequest)
			return
		}
		reply, err := do(r.Context(), request)
		if err != nil {
			http.Error(w, err.Error(), statusFor(err))
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(reply) // a gateway that left needs no answer
	})
}

func statusFor(err error) int {
	switch {
	case errors.Is(err, errStale):
		return http.StatusConflict
	case errors.Is(err, errPolicy):
		return http.StatusUnprocessableEntity
	case errors.Is(err, nomad.ErrUnavailable):
		return http.StatusServiceUnavailable
	}
	return http.StatusBadGateway
}
