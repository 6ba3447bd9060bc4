package state_test

import (
	"encoding/json"
	"testing"

	consul "github.com/hashicorp/consul/api"
	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/federation/pool"
	"pangaea/federation/state"
)

func TestWhole(t *testing.T) {
	for name, one := range map[string]struct{ text, path string }{
		"a job":           {text: `{"ID":"a","Meta":{"k":""},"TaskGroups":[{"Tasks":[{"Config":{"x":null,"y":[null]}}],"Count":null}]}`},
		"a group":         {text: `{"TaskGroups":[{},null]}`, path: "job.TaskGroups[1]"},
		"a task":          {text: `{"TaskGroups":[{"Tasks":[null]}]}`, path: "job.TaskGroups[0].Tasks[0]"},
		"a constraint":    {text: `{"Constraints":[null]}`, path: "job.Constraints[0]"},
		"a volume":        {text: `{"TaskGroups":[{"Volumes":{"v":null}}]}`, path: "job.TaskGroups[0].Volumes[v]"},
		"a service":       {text: `{"TaskGroups":[{"Services":[null]}]}`, path: "job.TaskGroups[0].Services[0]"},
		"a region":        {text: `{"Multiregion":{"Regions":[null]}}`, path: "job.Multiregion.Regions[0]"},
		"a template":      {text: `{"TaskGroups":[{"Tasks":[{"Templates":[null]}]}]}`, path: "Templates[0]"},
		"nothing at all":  {text: `null`},
		"an empty object": {text: `{}`},
	} {
		t.Run(name, func(t *testing.T) {
			var job *api.Job
			must.NoError(t, json.Unmarshal([]byte(one.text), &job))
			err := state.Whole(job)
			if one.path == "" {
				must.NoError(t, err)
				return
			}
			must.ErrorIs(t, err, state.ErrInvalid)
			must.ErrorContains(t, err, one.path)
		})
	}
}

// TestRealForgedJobs checks that what a user writes past the gateway, with rights of their own, is no other namespace's
// job, and that nothing that could stop a gateway is handed to it.
func TestRealForgedJobs(t *testing.T) {
	r := newRig(t)
	client := r.consul.Client(r.bob)
	for _, text := range []string{
		`{"Job":{"ID":"a","Namespace":"default"}}`, `{"Job":{"ID":"b","Namespace":"team-b"}}`, `{}`, `null`,
		`{"Job":{"ID":"a","Namespace":"team-b","TaskGroups":[null]}}`, `{"Job":{"ID":"a","Namespace":"team-b"},"Versions":[null]}`,
	} {
		_, err := client.KV().Put(&consul.KVPair{Key: pool.KeyJobs + "team-b/a", Value: []byte(text)}, nil)
		must.NoError(t, err)
		jobs, err := r.store.ListJobs(t.Context(), "*")
		must.NoError(t, err)
		must.Len(t, 0, jobs, must.Sprint(text))
		_, err = r.store.GetJob(t.Context(), "team-b", "a")
		must.ErrorIs(t, err, state.ErrNotFound, must.Sprint(text))
	}
}
