package gateway

import (
	"net/http"
	"strings"
)

// routes is Nomad's API as far as the pool has it. Everything else gets an answer that says so.
func (g *Gateway) routes() http.Handler {
	mux := http.NewServeMux()
	for pattern, h := range map[string]handler{
		"GET /v1/jobs":                         g.listJobs,
		"PUT /v1/jobs":                         g.registerJob,
		"PUT /v1/validate/job":                 g.validateJob,
		"GET /v1/job/{id}":                     g.read(g.showJob),
		"PUT /v1/job/{id}":                     g.registerJob,
		"DELETE /v1/job/{id}":                  g.stopJob,
		"PUT /v1/job/{id}/plan":                g.planJob,
		"PUT /v1/job/{id}/evaluate":            g.evaluateJob,
		"PUT /v1/job/{id}/dispatch":            g.dispatchJob,
		"PUT /v1/job/{id}/revert":              g.revertJob,
		"GET /v1/job/{id}/scale":               g.read(g.showScale),
		"PUT /v1/job/{id}/scale":               g.scaleJob,
		"GET /v1/job/{id}/summary":             g.read(g.showSummary),
		"GET /v1/job/{id}/allocations":         g.read(g.showAllocs),
		"GET /v1/job/{id}/evaluations":         g.read(g.showEvals),
		"GET /v1/job/{id}/versions":            g.read(g.showVersions),
		"GET /v1/job/{id}/deployment":          g.jobDeployment,
		"GET /v1/job/{id}/deployments":         g.jobDeployments,
		"GET /v1/job/{id}/submission":          g.getSubmission,
		"GET /v1/evaluations":                  g.listEvals,
		"GET /v1/evaluation/{id}":              g.getEval,
		"GET /v1/evaluation/{id}/allocations":  g.evalAllocs,
		"GET /v1/deployments":                  g.listDeployments,
		"GET /v1/deployment/{id}":              g.getDeployment,
		"GET /v1/deployment/allocations/{id}":  g.deploymentAllocs,
		"GET /v1/allocations":                  g.listAllocs,
		"GET /v1/allocation/{id}":              g.getAlloc,
		"PUT /v1/allocation/{id}/stop":         g.stopAlloc,
		"GET /v1/allocation/{id}/services":     g.allocProxy(false),
		"GET /v1/allocation/{id}/checks":       g.allocProxy(false),
		"/v1/client/allocation/{id}/{command}": g.allocCommand,
		"GET /v1/client/fs/{op}/{id}":          g.allocProxy(false),
		"GET /v1/client/stats":                 g.nodeProxy,
		"GET /v1/nodes":                        g.listNodes,
		"GET /v1/node/{id}":                    g.nodeProxy,
		"GET /v1/node/{id}/allocations":        g.nodeAllocs,
		"GET /v1/agent/self":                   g.self,
		"GET /v1/agent/members":                g.agentMembers,
		"GET /v1/agent/health":                 g.health,
		"GET /v1/status/leader":                g.statusLeader,
		"GET /v1/status/peers":                 g.statusPeers,
		"GET /v1/regions":                      g.regions,
		"GET /v1/namespaces":                   g.listNamespaces,
		"GET /v1/namespace/{id}":               g.getNamespace,
		"PUT /v1/search":                       g.search,
	} {
		mux.HandleFunc(pattern, g.handle(h))
		// Nomad takes POST wherever it takes PUT, and its Go client sends either.
		if rest, ok := strings.CutPrefix(pattern, "PUT "); ok {
			mux.HandleFunc("POST "+rest, g.handle(h))
		}
	}
	mux.HandleFunc("/", g.handle(func(_ http.ResponseWriter, c *call) (any, error) { return nil, unknownPath(c) }))
	return mux
}

func unknownPath(c *call) error {
	if strings.HasPrefix(c.URL.Path, "/ui") || c.URL.Path == "/" {
		return fail(http.StatusNotFound, "the pool's gateway has no web UI yet: use the nomad CLI")
	}
	return fail(http.StatusNotImplemented, "the pool does not answer %s %s: ask the member's own Nomad", c.Method, c.URL.Path)
}
