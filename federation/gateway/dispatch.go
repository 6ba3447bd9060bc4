package gateway

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/nomad/structs"
)

// maxPayload is Nomad's own bound of what a dispatch may carry.
const maxPayload = 16 << 10

// isParent reports whether a job runs nothing by itself, but only what is dispatched from it.
func isParent(spec *api.Job) bool { return spec != nil && spec.IsParameterized() }

// dispatchJob makes a child of a parameterized job, with the caller's payload and metadata, and submits it. The child is
// a pool job like any other from then on.
func (g *Gateway) dispatchJob(_ http.ResponseWriter, c *call) (any, error) {
	var request api.JobDispatchRequest
	err := decode(c, &request)
	if err != nil {
		return nil, err
	}
	key, err := g.find(c)
	if err != nil {
		return nil, err
	}
	err = g.canWrite(c, key.namespace) // before anything is told about other dispatches
	if err != nil {
		return nil, err
	}
	parent, _, _, err := g.copyOf(key)
	if err != nil {
		return nil, err
	}
	err = checkDispatch(parent, request)
	if err != nil {
		return nil, fail(http.StatusBadRequest, "%s", err)
	}
	token := c.URL.Query().Get("idempotency_token")
	if token != "" {
		g.dispatching.Lock() // a retry that comes while the first try is still being written must find it
		defer g.dispatching.Unlock()
		if earlier := g.dispatched(key, token); earlier != nil {
			return &api.JobDispatchResponse{DispatchedJobID: *earlier.ID, JobCreateIndex: deref(earlier.CreateIndex)}, nil
		}
	}
	child := g.child(parent, request, token)
	out, err := g.submit(c, child, submission{enforce: true, trigger: "job-register"})
	if err != nil {
		return nil, err
	}
	reply := &api.JobDispatchResponse{DispatchedJobID: *child.ID}
	if registered, ok := out.(*api.JobRegisterResponse); ok {
		reply.EvalID, reply.EvalCreateIndex, reply.JobCreateIndex = registered.EvalID, registered.EvalCreateIndex, registered.JobModifyIndex
	}
	return reply, nil
}

// dispatched returns the child of an earlier dispatch with the same token, nil for none.
func (g *Gateway) dispatched(parent jobKey, token string) *api.Job {
	g.mu.Lock()
	defer g.mu.Unlock()
	for key, j := range g.jobs {
		spec := j.record.Job
		if j.known && key.namespace == parent.namespace && deref(spec.ParentID) == parent.id && deref(spec.DispatchIdempotencyToken) == token {
			return spec
		}
	}
	return nil
}

func (g *Gateway) child(parent *api.Job, request api.JobDispatchRequest, token string) *api.Job {
	child := *parent
	id := structs.DispatchedID(*parent.ID, request.IdPrefixTemplate, g.settings.now())
	child.ID, child.Name, child.ParentID = &id, &id, parent.ID
	child.Dispatched, child.Payload, child.VersionTag = true, request.Payload, nil
	if token != "" {
		child.DispatchIdempotencyToken = &token
	}
	if request.Priority != 0 {
		child.Priority = &request.Priority
	}
	child.Meta = maps.Clone(parent.Meta)
	if child.Meta == nil {
		child.Meta = map[string]string{}
	}
	maps.Copy(child.Meta, request.Meta)
	return &child
}

// checkDispatch refuses what the parent does not allow, in Nomad's words.
func checkDispatch(parent *api.Job, request api.JobDispatchRequest) error {
	switch {
	case !isParent(parent):
		return fmt.Errorf("Specified job %q is not a parameterized job", *parent.ID) //nolint:staticcheck // Nomad's words
	case deref(parent.Stop):
		return fmt.Errorf("Specified job %q is stopped", *parent.ID) //nolint:staticcheck // likewise
	case parent.ParameterizedJob.Payload == structs.DispatchPayloadRequired && len(request.Payload) == 0:
		return errors.New("Payload is not provided but required by parameterized job") //nolint:staticcheck // likewise
	case parent.ParameterizedJob.Payload == structs.DispatchPayloadForbidden && len(request.Payload) > 0:
		return errors.New("Payload provided but forbidden by parameterized job") //nolint:staticcheck // likewise
	case len(request.Payload) > maxPayload:
		return fmt.Errorf("Payload exceeds maximum size; %d > %d", len(request.Payload), maxPayload) //nolint:staticcheck // likewise
	}
	return checkDispatchMeta(parent.ParameterizedJob, request.Meta)
}

func checkDispatchMeta(allowed *api.ParameterizedJobConfig, meta map[string]string) error {
	var unpermitted, missing []string
	for _, key := range slices.Sorted(maps.Keys(meta)) {
		if !slices.Contains(allowed.MetaRequired, key) && !slices.Contains(allowed.MetaOptional, key) {
			unpermitted = append(unpermitted, key)
		}
	}
	if len(unpermitted) > 0 {
		return fmt.Errorf("Dispatch request included unpermitted metadata keys: %v", unpermitted) //nolint:staticcheck // Nomad's words
	}
	for _, key := range allowed.MetaRequired {
		if _, ok := meta[key]; !ok {
			missing = append(missing, key)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("Dispatch did not provide required meta keys: %v", missing) //nolint:staticcheck // likewise
	}
	return nil
}

// undispatched makes of a dispatched job one that any Nomad takes: a server refuses to register what only it could have
// dispatched, and a payload. The payload comes to the task's directory as a template instead.
func undispatched(spec *api.Job) *api.Job {
	if !spec.Dispatched {
		return spec
	}
	out := *spec
	out.ParameterizedJob, out.Dispatched, out.Payload, out.DispatchIdempotencyToken, out.ParentID = nil, false, nil, nil, nil
	out.TaskGroups = nil
	for _, tg := range spec.TaskGroups {
		group := *tg
		group.Tasks = nil
		for _, task := range tg.Tasks {
			own := *withPayload(task, spec.Payload)
			own.Env = maps.Clone(task.Env)
			if own.Env == nil {
				own.Env = map[string]string{}
			}
			own.Env["NOMAD_JOB_PARENT_ID"] = deref(spec.ParentID) // a server sets it for what it dispatched itself
			group.Tasks = append(group.Tasks, &own)
		}
		out.TaskGroups = append(out.TaskGroups, &group)
	}
	return &out
}

func withPayload(task *api.Task, payload []byte) *api.Task {
	if task.DispatchPayload == nil {
		return task
	}
	out := *task
	file := out.DispatchPayload.File
	out.DispatchPayload = nil
	if file == "" || len(payload) == 0 {
		return &out
	}
	text := fmt.Sprintf(`{{ %q | base64Decode }}`, base64.StdEncoding.EncodeToString(payload))
	template := &api.Template{
		EmbeddedTmpl: &text, DestPath: ptr("local/" + strings.TrimPrefix(file, "/")), ChangeMode: ptr("noop"), Perms: ptr("0755"),
	}
	template.Canonicalize()
	out.Templates = append(slices.Clone(task.Templates), template)
	return &out
}

// children counts a parent's jobs by their status. The caller holds mu.
func (g *Gateway) children(parent *job) *api.JobChildrenSummary {
	out := &api.JobChildrenSummary{}
	if !isParent(parent.record.Job) {
		return out
	}
	for key, j := range g.jobs {
		if !j.known || key.namespace != parent.key.namespace || deref(j.record.Job.ParentID) != parent.key.id {
			continue
		}
		switch g.status(j) {
		case "pending":
			out.Pending++
		case "running":
			out.Running++
		default:
			out.Dead++
		}
	}
	return out
}
