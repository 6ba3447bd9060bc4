package nomad

import (
	"context"

	"github.com/hashicorp/nomad/api"
)

// Jobs lists the jobs of all namespaces that pass Nomad's own filter, with their summaries.
func (c *Client) Jobs(ctx context.Context, filter string) ([]*api.JobListStub, error) {
	options := query(ctx, api.AllNamespacesNamespace)
	options.Filter = filter
	jobs, _, err := c.api.Jobs().List(options)
	return jobs, c.wrap("list jobs", err)
}

// Job reads one job; [NotFound] tells that there is none.
func (c *Client) Job(ctx context.Context, namespace, id string) (*api.Job, error) {
	job, _, err := c.api.Jobs().Info(id, query(ctx, namespace))
	return job, c.wrap("read job "+id, err)
}

// Plan asks what registering a job would do now, without doing it.
func (c *Client) Plan(ctx context.Context, job *api.Job) (*api.JobPlanResponse, error) {
	response, _, err := c.api.Jobs().PlanOpts(job, &api.PlanOptions{}, write(ctx, *job.Namespace))
	return response, c.wrap("plan job "+*job.ID, err)
}

// Register writes a job if its modify index is still the given one (0: if there is none), which makes a repeated or
// racing registration harmless: Nomad checks it again inside its state store.
func (c *Client) Register(ctx context.Context, job *api.Job, modifyIndex uint64) (*api.JobRegisterResponse, error) {
	options := &api.RegisterOptions{EnforceIndex: true, ModifyIndex: modifyIndex}
	response, _, err := c.api.Jobs().RegisterOpts(job, options, write(ctx, *job.Namespace))
	return response, c.wrap("register job "+*job.ID, err)
}

// Deregister stops a job, and forgets it with purge. It returns the evaluation.
func (c *Client) Deregister(ctx context.Context, namespace, id string, purge bool) (string, error) {
	evaluation, _, err := c.api.Jobs().DeregisterOpts(id, &api.DeregisterOptions{Purge: purge}, write(ctx, namespace))
	return evaluation, c.wrap("stop job "+id, err)
}

// Evaluations lists a job's evaluations, newest first.
func (c *Client) Evaluations(ctx context.Context, namespace, id string) ([]*api.Evaluation, error) {
	evaluations, _, err := c.api.Jobs().Evaluations(id, query(ctx, namespace))
	return evaluations, c.wrap("list evaluations of job "+id, err)
}

// Variable reads a Nomad variable; [NotFound] or api.ErrVariablePathNotFound tells that there is none.
func (c *Client) Variable(ctx context.Context, namespace, path string) (*api.Variable, error) {
	variable, _, err := c.api.Variables().Peek(path, query(ctx, namespace))
	return variable, c.wrap("read variable "+path, err)
}

// SetVariable writes a Nomad variable whatever was there.
func (c *Client) SetVariable(ctx context.Context, namespace, path string, items map[string]string) error {
	variable := &api.Variable{Namespace: namespace, Path: path, Items: items}
	_, _, err := c.api.Variables().Update(variable, write(ctx, namespace))
	return c.wrap("write variable "+path, err)
}

// DeleteVariable removes a Nomad variable if it is there.
func (c *Client) DeleteVariable(ctx context.Context, namespace, path string) error {
	_, err := c.api.Variables().Delete(path, write(ctx, namespace))
	return c.wrap("delete variable "+path, err)
}
