package member

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/hashicorp/nomad/api"

	"pangaea/federation/nomad"
)

// passthrough serves the part of Nomad's API that the pool may use on this cluster. What is not listed here does not
// exist for the pool. The owner's objects answer as if they were not there.
func (a *Agent) passthrough() http.Handler {
	mux := http.NewServeMux()
	rewritten := a.forward(a.rewriteResponse)
	raw := a.forward(a.scrubHeaders)
	g := &gate{agent: a}

	// Lists and jobs are asked for in the pool's namespace; what comes back from others is left out as well.
	for _, path := range []string{"allocations", "evaluations", "deployments", "jobs"} {
		mux.Handle("GET /v1/"+path, g.inNamespace(rewritten))
	}
	mux.Handle("GET /v1/job/", g.inNamespace(g.jobRead(rewritten)))
	// Nodes belong to nobody's namespace; addresses are taken out of the answer.
	mux.Handle("GET /v1/nodes", g.plain(rewritten))
	mux.Handle("GET /v1/node/{id}", g.plain(g.uuid(rewritten)))
	mux.Handle("GET /v1/node/{id}/allocations", g.plain(g.uuid(rewritten)))
	mux.Handle("GET /v1/client/stats", g.plain(g.nodeQuery(raw)))
	// Objects by ID are looked up first: they must be the pool's.
	for kind, owner := range map[string]ownerFunc{
		"allocation": g.ownerOfAllocation, "evaluation": g.ownerOfEvaluation, "deployment": g.ownerOfDeployment,
	} {
		mux.Handle("GET /v1/"+kind+"/{id}", g.owned(owner, rewritten))
	}
	mux.Handle("GET /v1/evaluation/{id}/allocations", g.owned(g.ownerOfEvaluation, rewritten))
	mux.Handle("GET /v1/deployment/allocations/{id}", g.owned(g.ownerOfDeployment, rewritten))
	mux.Handle("GET /v1/allocation/{id}/services", g.owned(g.ownerOfAllocation, rewritten))
	for _, path := range []string{
		"GET /v1/client/fs/logs/{id}", "GET /v1/client/fs/ls/{id}", "GET /v1/client/fs/stat/{id}", "GET /v1/client/fs/cat/{id}",
		"GET /v1/client/fs/readat/{id}", "GET /v1/client/fs/stream/{id}",
		"GET /v1/client/allocation/{id}/stats", "GET /v1/client/allocation/{id}/checks", "GET /v1/client/allocation/{id}/exec",
		"PUT /v1/client/allocation/{id}/signal", "PUT /v1/client/allocation/{id}/restart",
		"POST /v1/client/allocation/{id}/signal", "POST /v1/client/allocation/{id}/restart",
		"PUT /v1/allocation/{id}/stop", "POST /v1/allocation/{id}/stop",
	} {
		mux.Handle(path, g.owned(g.ownerOfAllocation, raw))
	}
	for _, verb := range []string{"promote", "fail", "pause", "unblock", "allocation-health"} {
		mux.Handle("PUT /v1/deployment/"+verb+"/{id}", g.owned(g.ownerOfDeployment, raw))
		mux.Handle("POST /v1/deployment/"+verb+"/{id}", g.owned(g.ownerOfDeployment, raw))
	}
	return g.clean(mux)
}

// gate judges requests before they are passed on. Each check ends in a 404 that tells no more than Nomad would.
type gate struct{ agent *Agent }

// ownerFunc finds the member's namespace of an object.
type ownerFunc func(ctx context.Context, id string) (namespace string, err error)

// clean refuses paths that mean something else to Nomad than to the patterns above.
func (g *gate) clean(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, part := range strings.Split(r.URL.Path, "/")[1:] {
			if part == ".." || part == "." {
				http.Error(w, "path is not clean", http.StatusBadRequest)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// withQuery passes a request on with another query, without what would choose a region or a node's own server.
func withQuery(next http.Handler, w http.ResponseWriter, r *http.Request, change func(url.Values)) {
	query := r.URL.Query()
	query.Del("region")
	query.Del("token")
	query.Del("namespace")
	change(query)
	out := r.Clone(r.Context())
	out.URL.RawQuery = query.Encode()
	next.ServeHTTP(w, out)
}

func (g *gate) plain(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		withQuery(next, w, r, func(url.Values) {})
	})
}

// inNamespace asks in the pool's namespace, or in all for "*", whose answer is then filtered.
func (g *gate) inNamespace(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		namespace := r.URL.Query().Get("namespace")
		switch namespace {
		case "":
			namespace = g.agent.words.toMember(api.DefaultNamespace)
		case api.AllNamespacesNamespace:
			if strings.HasPrefix(r.URL.Path, "/v1/job/") {
				notFound(w)
				return
			}
		default:
			namespace = g.agent.words.toMember(namespace)
		}
		withQuery(next, w, r, func(query url.Values) { query.Set("namespace", namespace) })
	})
}

// jobRead keeps out the one read below a job that is a door: running a command in it.
func (g *gate) jobRead(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(strings.TrimRight(r.URL.Path, "/"), "/action") {
			notFound(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (g *gate) uuid(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isUUID(r.PathValue("id")) {
			notFound(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// nodeQuery asks for a node by its ID: without one, Nomad would answer for the server's own host.
func (g *gate) nodeQuery(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isUUID(r.URL.Query().Get("node_id")) {
			notFound(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// owned passes a request on when the object that its path names is the pool's, with that object's namespace: Nomad
// itself then refuses anything else that the request may name.
func (g *gate) owned(owner ownerFunc, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.PathValue("id")
		if !isUUID(id) {
			notFound(w)
			return
		}
		namespace, err := owner(r.Context(), id)
		if err != nil && !nomad.NotFound(err) {
			http.Error(w, "member cannot reach its Nomad", http.StatusBadGateway)
			return
		}
		_, ours := g.agent.words.toPool(namespace)
		if err != nil || !ours {
			notFound(w)
			return
		}
		withQuery(next, w, r, func(query url.Values) { query.Set("namespace", namespace) })
	})
}

// ownerOfAllocation finds most allocations in the snapshot, which spares Nomad a request for each page of logs.
func (g *gate) ownerOfAllocation(ctx context.Context, id string) (string, error) {
	snapshot, _ := g.agent.watcher.Current()
	if snapshot != nil {
		for _, a := range snapshot.allocations {
			if a.ID == id {
				return a.Namespace, nil
			}
		}
	}
	allocation, err := g.agent.cluster.Allocation(ctx, id)
	if err != nil {
		return "", err
	}
	return allocation.Namespace, nil
}

func (g *gate) ownerOfEvaluation(ctx context.Context, id string) (string, error) {
	evaluation, err := g.agent.cluster.Evaluation(ctx, id)
	if err != nil {
		return "", err
	}
	return evaluation.Namespace, nil
}

func (g *gate) ownerOfDeployment(ctx context.Context, id string) (string, error) {
	deployment, err := g.agent.cluster.Deployment(ctx, id)
	if err != nil {
		return "", err
	}
	return deployment.Namespace, nil
}

func notFound(w http.ResponseWriter) { http.Error(w, "not found", http.StatusNotFound) }

// isUUID tells whether an ID is a whole one: a prefix could name an object of the owner's.
func isUUID(id string) bool {
	if len(id) != 36 {
		return false
	}
	for i, r := range id {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		hex := (r >= '0' && r <= '9') || (r >= 'a' && r <= 'f')
		if dash != (r == '-') || (!dash && !hex) {
			return false
		}
	}
	return true
}
