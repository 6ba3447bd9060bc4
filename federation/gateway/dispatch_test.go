package gateway

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

// sayJob is a parameterized job.
func sayJob(payload string) *api.Job {
	job := testJob("say", "batch", 1)
	job.ParameterizedJob = &api.ParameterizedJobConfig{Payload: payload, MetaRequired: []string{"who"}, MetaOptional: []string{"how"}}
	job.TaskGroups[0].Tasks[0].DispatchPayload = &api.DispatchPayloadConfig{File: "in/put.txt"}
	job.Meta = map[string]string{"how": "softly", "kept": "yes"}
	return job
}

// TestDispatch runs what is dispatched from a job that itself runs nothing.
func TestDispatch(t *testing.T) {
	p := newPool(t, france())
	fr := p.members["fr-par-1"]
	reply, _, err := p.client.Jobs().Register(sayJob("optional"), nil)
	must.NoError(t, err)
	must.Eq(t, "", reply.EvalID)
	must.Eq(t, "running", p.statusOf("say"))
	must.MapEmpty(t, p.live("say"))
	_, _, err = p.client.Jobs().ForceEvaluate("say", nil)
	must.ErrorContains(t, err, "can't evaluate parameterized job")

	payload := []byte("hello \x00\xff {{ world }}")
	out, _, err := p.client.Jobs().Dispatch("say", map[string]string{"who": "me", "how": "loudly"}, payload, "night", nil)
	must.NoError(t, err)
	must.RegexMatch(t, regexp.MustCompile(`^say/dispatch-night-\d+-[0-9a-f]{8}$`), out.DispatchedJobID)
	must.Greater(t, 0, out.JobCreateIndex)
	must.Eq(t, "complete", p.await(out.EvalID).Status)
	must.Eq(t, map[string]int{"fr-par-1": 1}, p.live(out.DispatchedJobID))
	child, _, err := p.client.Jobs().Info(out.DispatchedJobID, nil)
	must.NoError(t, err)
	must.Eq(t, "say", *child.ParentID)
	must.True(t, child.Dispatched)
	must.Eq(t, payload, child.Payload)
	must.Eq(t, map[string]string{"who": "me", "how": "loudly", "kept": "yes"}, child.Meta)

	fr.mu.Lock()
	given := fr.runs[jobKey{"default", out.DispatchedJobID}].Job
	fr.mu.Unlock()
	must.False(t, given.Dispatched)
	must.Nil(t, given.ParameterizedJob)
	must.SliceEmpty(t, given.Payload)
	task := given.TaskGroups[0].Tasks[0]
	must.Nil(t, task.DispatchPayload)
	must.Eq(t, map[string]string{"NOMAD_JOB_PARENT_ID": "say"}, task.Env)
	must.Len(t, 1, task.Templates)
	must.Eq(t, "local/in/put.txt", *task.Templates[0].DestPath)
	must.Eq(t, `{{ "aGVsbG8gAP8ge3sgd29ybGQgfX0=" | base64Decode }}`, *task.Templates[0].EmbeddedTmpl)
	parent, _, err := p.client.Jobs().Info("say", nil)
	must.NoError(t, err)
	must.Eq(t, "softly", parent.Meta["how"])

	p.restart() // a dispatched job lives on, and its parent stays one
	p.eventually("the child runs", func() bool { return len(p.gateway.members["fr-par-1"].allocs) == 1 })
	summary, _, err := p.client.Jobs().Summary("say", nil)
	must.NoError(t, err)
	must.Eq(t, api.JobChildrenSummary{Running: 1}, *summary.Children)
	evalID, _, err := p.client.Jobs().Deregister("say", false, nil)
	must.NoError(t, err)
	must.Eq(t, "", evalID)
	must.Eq(t, "running", p.statusOf(out.DispatchedJobID))
	_, _, err = p.client.Jobs().Dispatch("say", map[string]string{"who": "me"}, nil, "", nil)
	must.ErrorContains(t, err, `Specified job "say" is stopped`)
}

// A dispatch that is tried again, even at the same time, makes one job.
func TestDispatchOnce(t *testing.T) {
	p := newPool(t, france())
	_, _, err := p.client.Jobs().Register(sayJob("optional"), nil)
	must.NoError(t, err)
	ids := make([]string, 4)
	var group sync.WaitGroup
	for i := range ids {
		group.Go(func() {
			out, _, err := p.client.Jobs().Dispatch("say", map[string]string{"who": "me"}, nil, "", &api.WriteOptions{IdempotencyToken: "one"})
			if err == nil {
				ids[i] = out.DispatchedJobID
			}
		})
	}
	group.Wait()
	must.NotEq(t, "", ids[0])
	for _, id := range ids {
		must.Eq(t, ids[0], id)
	}
	out, _, err := p.client.Jobs().Dispatch("say", map[string]string{"who": "me"}, nil, "", &api.WriteOptions{IdempotencyToken: "two"})
	must.NoError(t, err)
	must.NotEq(t, ids[0], out.DispatchedJobID)
}

// A parameterized job that is purged leaves nothing behind in memory, though it was never placed.
func TestPurgedParentIsForgotten(t *testing.T) {
	p := newPool(t, france())
	_, _, err := p.client.Jobs().Register(sayJob("optional"), nil)
	must.NoError(t, err)
	_, _, err = p.client.Jobs().Deregister("say", true, nil)
	must.NoError(t, err)
	p.eventually("forgotten", func() bool { return p.gateway.jobs[jobKey{"default", "say"}] == nil })
}

func TestDispatchRefusals(t *testing.T) {
	p := newPool(t, france())
	who := map[string]string{"who": "me"}
	for _, one := range []struct {
		name, payload string
		kind          string
		meta          map[string]string
		data          []byte
		prefix        string
		want          string
	}{
		{name: "payload needed", payload: "required", meta: who, want: "Payload is not provided but required by parameterized job"},
		{name: "payload not wanted", payload: "forbidden", meta: who, data: []byte("x"), want: "Payload provided but forbidden by parameterized job"},
		{name: "payload too large", payload: "optional", meta: who, data: make([]byte, maxPayload+1), want: "Payload exceeds maximum size; 16385 > 16384"},
		{name: "meta missing", payload: "optional", want: "Dispatch did not provide required meta keys: [who]"},
		{name: "meta unknown", payload: "optional", meta: map[string]string{"who": "me", "b": "", "a": ""}, want: "Dispatch request included unpermitted metadata keys: [a b]"},
		{name: "a space in the ID", payload: "optional", meta: who, prefix: "a b", want: "Job ID contains a space"},
		{name: "nothing to dispatch from", payload: "plain", meta: who, want: `Specified job "say" is not a parameterized job`},
	} {
		t.Run(one.name, func(t *testing.T) {
			job := sayJob(one.payload)
			if one.payload == "plain" {
				job = testJob("say", "batch", 1)
			}
			_, _, err := p.client.Jobs().Register(job, nil)
			must.NoError(t, err)
			defer func() { _, _, _ = p.client.Jobs().Deregister("say", true, nil) }()
			_, _, err = p.client.Jobs().Dispatch("say", one.meta, one.data, one.prefix, nil)
			must.ErrorContains(t, err, one.want)
		})
	}
	_, _, err := p.client.Jobs().Dispatch("none", who, nil, "", nil)
	must.ErrorContains(t, err, "job not found")

	_, _, err = p.client.Jobs().Register(sayJob("optional"), nil)
	must.NoError(t, err)
	_, _, err = p.client.Jobs().Register(testJob("say", "batch", 1), nil)
	must.ErrorContains(t, err, "purge it first")
	forged := testJob("forged", "batch", 1)
	forged.Payload = []byte("x")
	_, _, err = p.client.Jobs().Register(forged, nil)
	must.ErrorContains(t, err, "only dispatched")
	forged = sayJob("optional") // who says that it was dispatched gets a parent all the same
	forged.ID, forged.Dispatched, forged.ParentID = ptr("forged"), true, ptr("say")
	reply, _, err := p.client.Jobs().Register(forged, nil)
	must.NoError(t, err)
	must.Eq(t, "", reply.EvalID)
	service := sayJob("optional")
	service.ID, service.Type = ptr("service"), ptr("service")
	_, _, err = p.client.Jobs().Register(service, nil)
	must.ErrorContains(t, err, "Parameterized job can only be used with")

	p.store.mu.Lock()
	p.store.readOnly["reader"], p.store.denied["none"] = true, true
	p.store.mu.Unlock()
	for _, token := range []string{"reader", "none"} {
		status, text, _ := p.do("PUT", "/v1/job/say/dispatch", token, api.JobDispatchRequest{Meta: who})
		must.Eq(t, 403, status)
		must.Eq(t, "Permission denied", text)
	}
}

const saySpec = `
job "say" {
  type = "batch"
  parameterized {
    payload       = "required"
    meta_required = ["who"]
  }
  group "g" {
    task "t" {
      driver = "raw_exec"
      dispatch_payload { file = "input" }
      config {
        command = "/bin/sh"
        args    = ["-c", "echo $NOMAD_META_who says in $NOMAD_JOB_PARENT_ID; cat local/input"]
      }
      resources {
        cpu    = 10
        memory = 10
      }
    }
  }
}`

// TestDispatchCLI drives the unmodified CLI.
func TestDispatchCLI(t *testing.T) {
	p := newPool(t, france())
	dir := t.TempDir()
	file, input := filepath.Join(dir, "say.nomad.hcl"), filepath.Join(dir, "input")
	must.NoError(t, os.WriteFile(file, []byte(strings.Replace(saySpec, "raw_exec", "runc", 1)), 0o600))
	must.NoError(t, os.WriteFile(input, []byte("hello"), 0o600))
	for _, one := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"job", "plan", file}, 0, `(?s)\+ Job: "say"`},
		{[]string{"job", "run", file}, 0, `Job registration successful`},
		{[]string{"job", "dispatch", "-meta", "who=me", "say"}, 1, `Payload is not provided but required`},
		{[]string{"job", "dispatch", "-meta", "who=me", "say", input}, 0, `(?s)Dispatched Job ID += say/dispatch-.*finished with status "complete"`},
		{[]string{"job", "dispatch", "-detach", "-idempotency-token", "x", "-meta", "who=me", "say", input}, 0, `Evaluation ID`},
		{[]string{"job", "dispatch", "-idempotency-token", "x", "-meta", "who=me", "say", input}, 0, `Dispatched Job ID += say/dispatch-[^ ]*\n*$`},
		{[]string{"job", "status", "say"}, 0, `(?s)Parameterized += true.*Dispatched Jobs.*say/dispatch-.*say/dispatch-`},
		{[]string{"job", "status"}, 0, `batch/parameterized`},
		{[]string{"job", "stop", "say"}, 0, `^$`},
	} {
		output, status := p.cli(one.args...)
		must.Eq(t, one.status, status, must.Sprint(output))
		must.RegexMatch(t, regexp.MustCompile(one.want), output)
	}
}
